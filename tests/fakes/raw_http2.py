"""A caller that is no gRPC: one HTTP/2 request in bytes, over whatever TLS it likes.

It speaks just enough to reach a handler where the server lets it: preface, settings, one POST with an empty message.
Answers are read for their frames' kinds only, not for what their headers say.
"""

import contextlib
import socket
import ssl
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fakes.authority import CA, Issued

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS: Final = 1
SETTINGS: Final = 4
PING: Final = 6
ACK: Final = 1
END_STREAM: Final = 1
END_HEADERS: Final = 4
TIMEOUT_S: Final = 10.0


def request(method: str) -> bytes:
    """Preface, settings, and a POST of ``method`` with one empty message."""
    return PREFACE + _frame(SETTINGS, 0, 0, b"") + _headers(method, 1) + _frame(0, END_STREAM, 1, bytes(5))


def hold(connection: socket.socket, method: str, calls: int) -> None:
    """Begin so many calls whose request never comes; returns when the server has taken all of them."""
    begun = b"".join(_headers(method, 1 + 2 * number) for number in range(calls))
    connection.sendall(PREFACE + _frame(SETTINGS, 0, 0, b"") + begun + _frame(PING, 0, 0, bytes(8)))
    next(kind for kind, flags, _ in frames(connection) if (kind, flags) == (PING, ACK))


def frames(connection: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Kind, flags and payload of each frame until the connection's end."""
    held = b""
    while True:
        while len(held) >= 9 and len(held) >= 9 + (size := int.from_bytes(held[:3])):
            yield held[3], held[4], held[9 : 9 + size]
            held = held[9 + size :]
        try:
            data = connection.recv(65_536)
        except (ssl.SSLError, ConnectionError):
            return
        if not data:
            return
        held += data


def answered(connection: socket.socket) -> bool:
    """Whether the server answers the request with the headers of a response."""
    return any(kind == HEADERS for kind, _, _ in frames(connection))


def ask(connection: socket.socket, method: str) -> bool:
    """Send a request; whether it was answered, well or badly."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        connection.sendall(request(method))
        return answered(connection)
    return False


def context_of(ca: CA, shown: Issued | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client of this version alone; the library's OpenSSL 3.0 knows no post-quantum group."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=ca.pem.decode())
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    if shown is not None:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "shown.pem"
            file.write_bytes(shown.key_pem + shown.certificates_pem)
            context.load_cert_chain(file)
    return context


@contextlib.contextmanager
def tcp(port: int) -> Iterator[socket.socket]:
    """A plain connection to the loopback."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        yield connection


@contextlib.contextmanager
def tls(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Iterator[ssl.SSLSocket]:
    """A TLS connection; with ``session`` it resumes an earlier one where the server lets it."""
    with tcp(port) as plain, context.wrap_socket(plain, session=session) as connection:
        yield connection


def _headers(method: str, stream: int) -> bytes:
    fields = [
        (":method", "POST"), (":scheme", "https"), (":path", method), (":authority", "x"),
        ("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "100S"),
    ]  # fmt: skip
    return _frame(HEADERS, END_HEADERS, stream, b"".join(_literal(name, value) for name, value in fields))


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    """A header field without indexing, each string shorter than 127 bytes (RFC 7541 section 6.2.2)."""
    return b"\0" + b"".join(len(text).to_bytes(1) + text.encode() for text in (name, value))
