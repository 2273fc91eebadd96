"""What a connector meets in tests: TLS servers with every defect, and the identities and loops to dial them with.

``HostileServer`` is the standard library's TLS on a thread, so nothing of ours judges on its side; ``seen`` is what its
application was given.  It has no post-quantum group, which is one of its defects.

Not modelled: HTTP/2 beyond a client's first bytes; the real server is in the tests that use gRPC's.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop
from cryptography import x509

from fakes.authority import CA, Issued
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.spiffe.bundles import Bundles
from x0d.spiffe.snapshot import Snapshot, Svid
from x0d.transport.connector import Connector, Expect

DOMAIN: Final = "dev.x0d.test"
OWN_ID: Final = f"spiffe://{DOMAIN}/node/n1"
PEER_ID: Final = f"spiffe://{DOMAIN}/node/n2"
PREFACE: Final = b"PRI * HTTP/2.0"
"""What gRPC's client says first."""
SETTINGS: Final = b"\0\0\0\4\0\0\0\0\0"
"""An empty SETTINGS frame, with which a server of HTTP/2 begins."""
PATIENCE_S: Final = 10.0

LOOPS: Final = {"stdlib": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
Result = TypeVar("Result")


def run_on(loop: str, work: Coroutine[Any, Any, Result]) -> Result:
    """Run on one of LOOPS; whatever the loop complains about fails the test."""
    complaints: list[object] = []
    with asyncio.Runner(loop_factory=LOOPS[loop], debug=False) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
        result = runner.run(work)
    assert [] == complaints
    return result


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  threads change it
            await asyncio.sleep(0.005)  # tidy: looks again, other threads work meanwhile


def svid_of(issued: Issued, spiffe_id: str = OWN_ID) -> Svid:
    """Our own SVID from a fixture CA; its span is the certificate's."""
    leaf = x509.load_der_x509_certificate(issued.leaf_der)
    return Svid(
        spiffe_id=SpiffeId.parse(spiffe_id),
        leaf_der=issued.leaf_der,
        chain_ders=issued.chain_ders,
        key_der=issued.key_der,
        not_before_unix_s=leaf.not_valid_before_utc.timestamp(),
        not_after_unix_s=leaf.not_valid_after_utc.timestamp(),
        serial=f"{leaf.serial_number:x}",
    )


class FakeSource:
    """Keeps a snapshot that a test changes; subscribers are called at once."""

    def __init__(self, current: Snapshot | None) -> None:
        self._current = current
        self._subscribers: list[Callable[[], None]] = []

    @property
    def current(self) -> Snapshot | None:
        return self._current

    def subscribe(self, on_change: Callable[[], None]) -> None:
        self._subscribers.append(on_change)

    def set(self, svid: Svid, bundles: Bundles) -> None:
        self._current = Snapshot((self._current.generation if self._current else 0) + 1, svid, bundles)
        for on_change in self._subscribers:
            on_change()


def new_ca(trust_domain: str = DOMAIN, parent: CA | None = None) -> CA:
    """Make a CA that is valid now, by the machine's clock."""
    return CA(trust_domain, parent=parent, start_unix_s=time.time())


def bundles_of(*authorities: CA) -> Bundles:
    """Bundles by the trust domain of each authority."""
    found: dict[TrustDomain, list[bytes]] = {}
    for authority in authorities:
        found.setdefault(TrustDomain(authority.trust_domain), []).append(authority.der)
    return Bundles.of(found)


def source_of(ca: CA, *others: CA, own: Issued | None = None) -> FakeSource:
    """We are OWN_ID of ``ca``; ``others`` are trusted each for its own domain."""
    return FakeSource(Snapshot(1, svid_of(own or ca.issue(OWN_ID)), bundles_of(ca, *others)))


@contextlib.asynccontextmanager
async def connecting(port: int, expect: Expect, **more: Any) -> AsyncIterator[Connector]:  # noqa: ANN401  options
    """Run a connector to a port of loopback, in a directory that must be empty afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        options: dict[str, Any] = {"host": "127.0.0.1", "interface": "", "unix_s": time.time} | more
        connector = Connector(port=port, expect=expect, directory=Path(directory), **options)
        await connector.start()
        try:
            yield connector
        finally:
            await connector.stop()
        left = Path(directory).iterdir()  # noqa: ASYNC240  an empty directory
        assert [] == list(left)


def tls_context(
    issued: Issued,
    *,
    also: Sequence[bytes] = (),
    alpn: Sequence[str] = ("h2",),
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    client_ca: CA | None = None,
) -> ssl.SSLContext:
    """Make a server's context; ``also``: DERs to show after the chain, ``client_ca``: whom clients must come from."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(alpn)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_ca.pem.decode())
    with tempfile.NamedTemporaryFile() as file:
        file.write(issued.key_pem + issued.certificates_pem + b"".join(map(_pem, also)))
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()


class HostileServer:
    """Accepts connections on loopback, and keeps what its application reads from them."""

    def __init__(
        self,
        context: ssl.SSLContext | None,
        *,
        is_silent: bool = False,
        delay_s: float = 0.0,
        first_words: bytes = SETTINGS,
        resets: bool = False,
        listener: socket.socket | None = None,
    ) -> None:
        """Listen.

        Args:
            context: None: it speaks plain TCP.
            is_silent: it never answers a handshake.
            delay_s: before it answers one.
            first_words: of its application, once TLS is up.
            resets: it resets the connection after its first words.
            listener: a socket that listens already, elsewhere than on loopback.
        """
        self._context = context
        self._is_silent = is_silent
        self._delay_s = delay_s
        self._first_words = first_words
        self._resets = resets
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        """TCP connections that were accepted."""
        self.seen = b""
        """Bytes of the application, of all connections."""
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                connection.settimeout(PATIENCE_S)
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            if self._is_silent:
                while connection.recv(4096):
                    pass
            elif self._context is None:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                while data := connection.recv(4096):
                    self.seen += data
            else:
                time.sleep(self._delay_s)  # tidy: a slow peer is what is tested
                with self._context.wrap_socket(connection, server_side=True) as tls:
                    tls.sendall(self._first_words)
                    if self._resets:
                        tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        return
                    while data := tls.recv(4096):
                        self.seen += data

    def stop(self) -> None:
        """Stop listening, and wait until every connection has ended."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in list(self._threads):
            thread.join(PATIENCE_S)


@contextlib.contextmanager
def hostile(context: ssl.SSLContext | None, **more: Any) -> Iterator[HostileServer]:  # noqa: ANN401  options
    server = HostileServer(context, **more)
    try:
        yield server
    finally:
        server.stop()
