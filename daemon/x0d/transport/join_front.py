"""The join port's TCP and TLS, in front of gRPC: what strangers may take up is bounded before gRPC reads a byte.

gRPC copies every header that it is sent, also past its own limit: 60 KB of crafted HTTP/2 cost it a gigabyte.  Here
come callers who have proved nothing, so everything of theirs is counted first: connections, of one source and in all;
handshakes, by budgets; seconds; bytes; and what their header blocks would cost (``header_guard``).  What passes goes
to gRPC by a private unix socket in a directory of mode 0700.  gRPC knows such a connection by the name that its socket
is bound to; ``place_of_peer`` gives back where the caller really is, and nothing for a name that is not this front's.

Order a caller keeps, any number of times::

    front.bind()
    server.add_insecure_port(f"unix:{front.backend}"); await server.start()
    front.start(context_of)
    front.close_listener(); await server.stop(grace_s); await front.stop()
"""

import asyncio
import contextlib
import errno
import itertools
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from OpenSSL import SSL

from x0d.errors import AddressUnavailable, IdentityRefused, InvalidInput
from x0d.identity.budget import Budget, Budgets
from x0d.identity.model import Reason
from x0d.transport.free_port import port_text
from x0d.transport.front import check_path
from x0d.transport.header_guard import HeaderGuard
from x0d.transport.join_tls import READ_BYTES, Secured

CONNECTIONS_MAX: Final = 16
"""Open at a time; the next is closed at once, unless one of them is older than ``ROOM_S``: that one goes."""
CONNECTIONS_PER_SOURCE_MAX: Final = 4
ROOM_S: Final = 5.0
"""A join takes a fraction of a second; who takes longer keeps nobody else out."""
LIFE_S_MAX: Final = 30.0
BYTES_MAX: Final = 65_536
"""From a caller in a connection's life, on the wire; a join takes about three thousand."""
SOURCE_RATE_PER_S: Final = 1.0
SOURCE_BURST: Final = 16
"""Connections of one source at once, then one a second."""
TOTAL_RATE_PER_S: Final = 100.0
TOTAL_BURST: Final = 128
"""Of all together: a handshake costs the daemon about half a millisecond."""
DRAIN_S: Final = 1.0
"""At a stop, for answers that gRPC has given and callers have not taken."""

_BACKLOG: Final = 64
_REST_S: Final = 0.1
"""Pause of the listener where no descriptor is free."""
_ROUNDS_MAX: Final = 16
"""Connections taken in one turn of the loop."""

Told = Callable[[IdentityRefused, str], None]
"""Gets what was refused before gRPC, and where it came from."""


@dataclass(slots=True)
class _Connection:
    """One that is open."""

    place: str
    source: str
    began_s: float
    is_relayed: bool = False
    """Whether gRPC knows of it."""


class JoinFront:
    """The TCP port in front of gRPC's private socket, ``backend``."""

    def __init__(
        self,
        address: str,
        port: int,
        private: Path,
        *,
        handshake_timeout_ms: int,
        monotonic_s: Callable[[], float],
        on_refusal: Told,
    ) -> None:
        """Nothing is touched yet; ``private`` is ours alone.  ``port`` 0, in tests: any."""
        self._address = address
        self._port = port
        self._private = private.absolute()
        self._handshake_s = handshake_timeout_ms / 1e3
        self._monotonic_s = monotonic_s
        self._on_refusal = on_refusal
        self._numbers = itertools.count(1)
        self._listener: socket.socket | None = None
        self._context_of: Callable[[], SSL.Context] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: dict[asyncio.Task[None], _Connection] = {}
        """The oldest first; without those that are being cut."""
        self._places: dict[str, str] = {}
        self._sources = Budgets(SOURCE_RATE_PER_S, SOURCE_BURST)
        self._total = Budget(TOTAL_RATE_PER_S, TOTAL_BURST)
        self.backend = self._private / "grpc.sock"
        """Where gRPC listens."""

    @property
    def connections(self) -> int:
        """Open now, those among them that have not shaken hands."""
        return len(self._open)

    def place_of_peer(self, peer: str) -> str | None:
        """Where the caller behind gRPC's peer text is, such as ``192.0.2.1:4711``; None: not behind this front now."""
        return self._places.get(unquote(peer))

    def bind(self) -> int:
        """Make the private directory and take the port, which then queues callers; gives the port.

        Raises:
            AddressUnavailable: the address is not of this host, the port is in use, or the directory is not ours.
        """
        assert self._listener is None, "bound"
        self._prepare()
        try:
            self._listener = _listen(self._address, self._port)
        except OSError as error:
            text = port_text("join", self._address, self._port, error.strerror or str(error))
            raise AddressUnavailable(text, in_use=error.errno == errno.EADDRINUSE) from error
        return int(self._listener.getsockname()[1])

    def start(self, context_of: Callable[[], SSL.Context]) -> None:
        """Take callers; ``context_of`` is asked at each handshake."""
        assert self._listener is not None, "bound first"
        self._context_of = context_of
        self._watch(self._listener)

    def close_listener(self) -> None:
        """Take no new connection; those that exist go on."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None

    async def stop(self) -> None:
        """Stop listening, and end all connections once what gRPC has said is sent."""
        self.close_listener()
        if relayed := [task for task, connection in self._open.items() if connection.is_relayed]:
            await asyncio.wait(relayed, timeout=DRAIN_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.backend.unlink(missing_ok=True)

    def _prepare(self) -> None:
        check_path(self._private / "c99999999999")
        try:
            self._private.mkdir(mode=0o700, exist_ok=True)
            if self._private.is_symlink() or self._private.stat().st_uid != os.geteuid():
                raise AddressUnavailable(f"{self._private} belongs to somebody else; remove it")
            self._private.chmod(0o700)
            for entry in self._private.iterdir():  # of an earlier life; there is one x0d in a runtime directory
                entry.unlink(missing_ok=True)
        except OSError as error:
            raise AddressUnavailable(f"{self._private}: {error.strerror}") from error

    # ---- who may come in ----

    def _watch(self, listener: socket.socket) -> None:
        if self._listener is listener:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_ROUNDS_MAX):
            if self._listener is None:
                return
            try:
                tcp, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:
                # it left before we looked, or no descriptor is free: the backlog keeps it; try again later
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener.fileno())
                loop.call_later(_REST_S, self._watch, self._listener)
                return
            self._take(tcp, str(address[0]), int(address[1]))

    def _take(self, tcp: socket.socket, host: str, port: int) -> None:
        """Serve a connection, or close it at once."""
        source, place = source_of(host), place_of(host, port)
        if excess := self._excess(source):
            tcp.close()
            self._on_refusal(IdentityRefused(Reason.POLICY, excess), place)
            return
        tcp.setblocking(False)
        connection = _Connection(place, source, self._monotonic_s())
        task = asyncio.get_running_loop().create_task(self._serve(tcp, connection))
        self._tasks.add(task)
        self._open[task] = connection
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._open.pop(task, None)

    def _excess(self, source: str) -> str:
        """Say why one more of this source is too many; empty: it is not."""
        now_s = self._monotonic_s()
        if sum(each.source == source for each in self._open.values()) >= CONNECTIONS_PER_SOURCE_MAX:
            return f"{CONNECTIONS_PER_SOURCE_MAX} connections of {source} are open"
        if not self._sources.take(source, now_s) or not self._total.take(now_s):
            return "too many connections to the join port in a short time"
        if len(self._open) < CONNECTIONS_MAX:
            return ""
        oldest, connection = next(iter(self._open.items()))
        if now_s - connection.began_s < ROOM_S:
            return f"{CONNECTIONS_MAX} connections are open"
        del self._open[oldest]
        oldest.cancel()
        return ""

    # ---- one connection ----

    async def _serve(self, tcp: socket.socket, connection: _Connection) -> None:
        try:
            async with asyncio.timeout(LIFE_S_MAX):
                await self._secure_and_relay(tcp, connection)
        except IdentityRefused as refused:
            self._on_refusal(refused, connection.place)
        except InvalidInput as flood:
            self._on_refusal(IdentityRefused(Reason.POLICY, str(flood)), connection.place)
        except TimeoutError:
            self._on_refusal(IdentityRefused(Reason.TIMEOUT, f"not done within {LIFE_S_MAX:g} s"), connection.place)
        except OSError:
            pass  # the caller has left, or gRPC is stopping: the connection ends
        finally:
            tcp.close()

    async def _secure_and_relay(self, tcp: socket.socket, connection: _Connection) -> None:
        assert self._context_of is not None, "started"
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secured = Secured(tcp, self._context_of(), BYTES_MAX)
        try:
            async with asyncio.timeout(self._handshake_s):
                await secured.shake_hands()
        except TimeoutError:
            raise IdentityRefused(Reason.TIMEOUT, f"no TLS handshake within {self._handshake_s:g} s") from None
        name = self._private / f"c{next(self._numbers)}"
        peer = f"unix:{name}"
        with socket.socket(socket.AF_UNIX) as backend:
            backend.setblocking(False)
            backend.bind(str(name))
            try:
                self._places[peer], connection.is_relayed = connection.place, True
                await asyncio.get_running_loop().sock_connect(backend, str(self.backend))
                await _relay(secured, backend)
            finally:
                self._places.pop(peer, None)
                name.unlink(missing_ok=True)


async def _relay(secured: Secured, backend: socket.socket) -> None:
    """Pass bytes both ways until gRPC ends the connection, which it does when the caller does."""
    loop = asyncio.get_running_loop()
    up, down = loop.create_task(_pump_up(secured, backend)), loop.create_task(_pump_down(backend, secured))
    try:
        await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        if up.done():
            up.result()
        await down
    finally:
        up.cancel()
        down.cancel()
        await asyncio.gather(up, down, return_exceptions=True)


async def _pump_up(secured: Secured, backend: socket.socket) -> None:
    """Caller to gRPC; the caller's end is passed on as one.  Raises InvalidInput for a flood, before gRPC sees it."""
    guard = HeaderGuard(is_server_side=True)
    loop = asyncio.get_running_loop()
    async for data in secured.received():
        guard.feed(data)
        await loop.sock_sendall(backend, data)
    with contextlib.suppress(OSError):
        backend.shutdown(socket.SHUT_WR)


async def _pump_down(backend: socket.socket, secured: Secured) -> None:
    """Read from gRPC for the caller, as fast as the caller reads."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(backend, READ_BYTES):
        await secured.send(data)
    await secured.say_goodbye()


def _listen(address: str, port: int) -> socket.socket:
    """Open the TCP port; ``::`` takes IPv4 too, and on a host without IPv6 stands for 0.0.0.0.  Raises OSError."""
    family = socket.AF_INET6 if ip_address(address.partition("%")[0]).version == 6 else socket.AF_INET
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT or address != "::":
            raise
        address, family = "0.0.0.0", socket.AF_INET  # noqa: S104 - what the configuration says
        listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        where: Any = socket.getaddrinfo(address, port, family, socket.SOCK_STREAM)[0][4]
        listener.bind(where)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def place_of(host: str, port: int) -> str:
    """``192.0.2.1:4711`` or ``[fe80::1%eth0]:4711``; an IPv4 caller of a socket for both families is given as IPv4."""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address):
        return f"{address.ipv4_mapped}:{port}" if address.ipv4_mapped else f"[{host}]:{port}"
    return f"{host}:{port}"


def source_of(host: str) -> str:
    """What shares limits and budgets: an IPv4 address, or the /64 of an IPv6 one."""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or IPv6Network((address, 64), strict=False))
    return str(address)
