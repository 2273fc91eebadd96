"""A dial: TCP by the right interface, a TLS 1.3 handshake, the verdict; all before one deadline.

Sockets are plain ones that do not block, watched by the event loop, and OpenSSL reads and writes the TCP socket itself.
That spares the copies through memory BIOs and asyncio's transports, and it makes one promise simple: what is not read
cannot be forwarded.  (A transport whose reading is paused in ``connection_made`` delivers data under uvloop.)
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from OpenSSL import SSL

from x0d.errors import IdentityRefused, PeerUnreachable
from x0d.identity.model import Proof, Reason
from x0d.transport.connector_tls import Contexts, Expect, open_connection, refusal_of

DEADLINE_S: Final = 5.0
"""For names, TCP and TLS together."""
_SILENCE_MS_MAX: Final = 20_000
"""Bytes that the peer does not acknowledge for so long end the connection."""

SocketAddress = tuple[str | int, ...]
"""As the socket module takes it: host and port, of IPv6 its flow and scope too."""


class HandshakeTimeout(PeerUnreachable):
    """TCP came up, TLS did not in time."""


@dataclass(slots=True)
class Session:
    """A TLS connection whose peer was judged; nothing of the application has passed yet."""

    tcp: socket.socket
    tls: SSL.Connection
    proof: Proof

    def close(self) -> None:
        """Say goodbye if there is room for it, and close; the event loop watches ``tcp`` no more."""
        try:
            self.tls.shutdown()
        except SSL.Error:
            pass  # the peer is gone, or its buffer is full: closing tells the rest
        finally:
            self.tcp.close()


class Dialer:
    """Dials one endpoint for one expectation."""

    def __init__(self, host: str, port: int, interface: str, expect: Expect, unix_s: Callable[[], float]) -> None:
        self._host = host
        self._port = port
        self._interface = interface
        self.contexts = Contexts(expect, unix_s)

    @property
    def where(self) -> str:
        """The endpoint, for people."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}" + (f" by {self._interface}" if self._interface else "")

    async def dial(self) -> Session:
        """Connect, shake hands, judge.

        Raises:
            IdentityRefused: we have nothing to show, or who answers is not who was asked for.
            PeerUnreachable: nobody answers in time; HandshakeTimeout: somebody does, and does not speak.
        """
        context = self.contexts.begin()
        tcp: socket.socket | None = None
        try:
            async with asyncio.timeout(DEADLINE_S):
                tcp = await _connect_any(self._host, self._port, self._interface)
                tls = open_connection(context, tcp)
                await _shake_hands(tls, tcp)
            session = Session(tcp, tls, self.contexts.judge(tls))
        except TimeoutError as error:
            if tcp is None:
                raise PeerUnreachable(f"{self.where}: no answer within {DEADLINE_S:g} s") from error
            raise HandshakeTimeout(f"{self.where}: no TLS handshake within {DEADLINE_S:g} s") from error
        except IdentityRefused as refused:
            raise IdentityRefused(refused.reason, f"{self.where}: {refused}") from refused
        except OSError as error:
            raise PeerUnreachable(f"{self.where}: {error.strerror or error}") from error
        else:
            tcp = None
            return session
        finally:
            if tcp is not None:
                tcp.close()


async def ready(watched: socket.socket, *, to_write: bool) -> None:
    """Wait until ``watched`` can be read, or written to."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    watch, unwatch = (loop.add_writer, loop.remove_writer) if to_write else (loop.add_reader, loop.remove_reader)
    watch(watched.fileno(), _resolve, future)
    try:
        await future
    finally:
        unwatch(watched.fileno())


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _connect_any(host: str, port: int, interface: str) -> socket.socket:
    """Try the addresses of ``host`` in turn; each but the last gets half of the time that is left."""
    addresses = await _addresses(host, port, interface)
    loop = asyncio.get_running_loop()
    end_at = loop.time() + DEADLINE_S
    for family, address in addresses[:-1]:
        try:
            async with asyncio.timeout((end_at - loop.time()) / 2):
                return await _connect(family, address, interface)
        except OSError:
            continue  # the last one's error is told; TimeoutError is an OSError too
    return await _connect(*addresses[-1], interface)


async def _addresses(host: str, port: int, interface: str) -> list[tuple[socket.AddressFamily, SocketAddress]]:
    """Addresses of a literal, at once, or of a name, from the resolver in a thread."""
    bare, _, zone = host.partition("%")
    try:
        return [(socket.AF_INET, (str(IPv4Address(host)), port))]
    except AddressValueError:
        pass
    try:
        address = IPv6Address(bare)
    except AddressValueError:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            raise OSError(errno.EINVAL, f"{host[:70]!r} is no host name") from error
        return [(entry[0], (str(entry[4][0]), int(entry[4][1]), *map(int, entry[4][2:]))) for entry in found]
    device = zone or (interface if address.is_link_local else "")
    scope = (int(device) if device.isdecimal() else socket.if_nametoindex(device)) if device else 0
    return [(socket.AF_INET6, (str(address), port, 0, scope))]


async def _connect(family: socket.AddressFamily, address: SocketAddress, interface: str) -> socket.socket:
    tcp = socket.socket(family, socket.SOCK_STREAM)
    try:
        tcp.setblocking(False)
        if interface:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_MS_MAX)
        number = tcp.connect_ex(address)
        if number == errno.EINPROGRESS:
            await ready(tcp, to_write=True)
            number = tcp.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    except BaseException:  # whatever ends the connecting, a cancel too, leaves no descriptor; it goes on
        tcp.close()
        raise
    if number:
        tcp.close()
        raise OSError(number, os.strerror(number))
    return tcp


async def _shake_hands(tls: SSL.Connection, tcp: socket.socket) -> None:
    """Bring TLS up.

    Raises:
        IdentityRefused: the certificate does not hold, or the library gave up.
    """
    while True:
        try:
            tls.do_handshake()
        except SSL.WantReadError:
            await ready(tcp, to_write=False)
        except SSL.WantWriteError:
            await ready(tcp, to_write=True)
        except SSL.SysCallError as error:
            text = error.args[1] if len(error.args) > 1 else error
            raise IdentityRefused(Reason.HANDSHAKE, f"no TLS handshake: {text}") from error
        except SSL.Error as error:
            raise refusal_of(tls, error) from error
        else:
            return
