"""A unix socket of ours in front of gRPC's: who calls is asked of the kernel, and the bytes are passed on.

grpc.aio shows nothing of a unix peer but the name that its socket is bound to.  So the socket that clients connect to
is ours: it reads the peer's credentials (SO_PEERCRED) and groups (SO_PEERGROUPS), dials gRPC's private socket from a
name of its own such as ``u1000-p4711-17`` (uid, pid, number), and relays bytes both ways with bounded buffers.  What a
client sends passes a ``HeaderGuard`` first: anyone may connect, and gRPC reads headers before it asks who calls.
``caller_of(context.peer())`` gives back who that is, with the groups, from the table of the connections relayed now:
a name that the front has not made is nobody.  The private socket and the names are in a directory of mode 0700.

The public socket's mode is 0666: anyone may connect and *roles* decide, so that a stranger is told what is missing
(PERMISSION_DENIED) instead of a bare EACCES, and so that the daemon, which is not root, need not own the viewers'
group.  What strangers may take up is limited instead.  Where nobody needs to be told anything (the Workload API), a
caller of standing ``REFUSED`` is closed at once and counted in ``strangers_total``.

Order a caller keeps::

    front = Front(runtime_dir / "workload.sock", runtime_dir / "private-workload", gids=..., standing_of=...)
    front.prepare()                                      # the 0700 directory, emptied of an earlier life's sockets
    server.add_insecure_port(f"unix:{front.backend}"); await server.start()
    front.start()
    ... front.caller_of(context.peer()) -> Caller | None ...
    front.close_listener(); await server.stop(grace_s); await front.stop()
"""

import asyncio
import contextlib
import errno
import itertools
import os
import re
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import Enum
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from x0d.errors import AddressUnavailable, InvalidInput
from x0d.spiffe.unix_socket import PATH_BYTES_MAX, credentials
from x0d.transport.access import Caller
from x0d.transport.header_guard import HeaderGuard

CONNECTIONS_MAX: Final = 256
"""Beyond it a connection is closed at once."""
CONNECTIONS_RESERVED: Final = 32
"""Of these, kept for the privileged, so that nobody else can lock them out."""
CONNECTIONS_PER_UID_MAX: Final = 64
"""Of one uid that is not privileged."""
BUFFER_BYTES_MAX: Final = 65_536
"""Held for each direction of a connection; beyond it the sender is not read."""
STUCK_S_MAX: Final = 60.0
"""A client that takes no byte for so long is dropped; gRPC clients always read their socket."""
GROUPS_MAX: Final = 256
"""Supplementary groups read of a peer; of one with more only the primary group counts."""

_SO_PEERGROUPS: Final = 59
_BACKLOG: Final = 1024
_NAME: Final = re.compile(r"u\d+(-[gp]\d+)*-\d+")
_NAME_BYTES_MAX: Final = 40
"""Room for uid, pid and number in a relayed connection's name."""


class Standing(Enum):
    """What a front does with a connection."""

    REFUSED = "refused"
    """Closed at once."""
    ORDINARY = "ordinary"
    """Relayed, as far as there is room."""
    PRIVILEGED = "privileged"
    """Relayed; has room of its own, and no limit per uid."""


def peer_caller(connection: socket.socket, wanted_gids: frozenset[int]) -> Caller:
    """Ask the kernel who opened ``connection``; of its groups only ``wanted_gids`` are kept."""
    pid, uid, gid = credentials(connection)
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, GROUPS_MAX * 4)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        packed = b""
    groups = {gid, *struct.unpack(f"{len(packed) // 4}I", packed)}
    return Caller(pid, uid, wanted_gids.intersection(groups))


def check_path(path: Path) -> None:
    """Raise AddressUnavailable for a socket path that the kernel cannot hold."""
    size = len(os.fsencode(path))
    if size > PATH_BYTES_MAX:
        reason = f"{path}: a socket path has at most {PATH_BYTES_MAX} bytes, this one {size}"
        raise AddressUnavailable(f"{reason}; choose a shorter node.runtime_dir")


def clear_stale(path: Path) -> None:
    """Remove a socket that nobody listens on any more.

    Raises:
        AddressUnavailable: somebody answers there, or it is not a socket.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            if not path.is_socket():
                raise AddressUnavailable(f"{path} is in the way and is not a socket; move it") from None
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its backlog is full: somebody listens
        except OSError as error:
            raise AddressUnavailable(f"{path}: {error.strerror}") from error
    raise AddressUnavailable(f"{path}: another process answers there; is another x0d running?")


class Front:
    """The public socket ``path`` in front of gRPC's private one, ``backend``."""

    def __init__(
        self,
        path: Path,
        private: Path,
        *,
        gids: Callable[[], frozenset[int]],
        standing_of: Callable[[Caller], Standing],
        learn: Callable[[Caller], Awaitable[None]] | None = None,
    ) -> None:
        """Neither path is touched yet; ``private`` is ours alone, another directory for each front.

        ``gids``: groups that matter, asked at each connection; ``standing_of``: what to do with a caller.  Both are
        asked on the event loop and must not wait; ``learn`` may: what it looks up is known before the first call.
        """
        self._path = path.absolute()
        self._private = private.absolute()
        self._gids = gids
        self._standing_of = standing_of
        self._learn = learn
        self._numbers = itertools.count(1)
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_uid: Counter[int] = Counter()
        self._callers: dict[str, Caller] = {}
        self.backend = self._private / "grpc.sock"
        """Where gRPC listens."""
        self.refused_total = 0
        """Connections closed because a limit was reached: of connections, or of what headers cost."""
        self.strangers_total = 0
        """Connections closed because of who opened them."""

    @property
    def connections(self) -> int:
        """Connections relayed now."""
        return self._by_uid.total()

    def caller_of(self, peer: str) -> Caller | None:
        """Who is behind gRPC's peer text, such as ``unix:/run/x0d/private/u1000-p4711-17``.

        None for a peer that does not come through this front now.
        """
        caller = self._callers.get(peer)
        return caller if caller is not None or "%" not in peer else self._callers.get(unquote(peer))

    def prepare(self) -> None:
        """Make the directory that only our uid can enter, and empty it of an earlier life's sockets.

        Raises:
            AddressUnavailable: it is somebody else's, or somebody answers on the private socket.
        """
        check_path(self.backend)
        try:
            self._private.mkdir(mode=0o700, exist_ok=True)
            if self._private.is_symlink() or self._private.stat().st_uid != os.geteuid():
                raise AddressUnavailable(f"{self._private} belongs to somebody else; remove it")
            self._private.chmod(0o700)
            clear_stale(self.backend)
            for entry in self._private.iterdir():
                if _NAME.fullmatch(entry.name):
                    entry.unlink(missing_ok=True)
        except OSError as error:
            raise AddressUnavailable(f"{self._private}: {error.strerror}") from error

    def start(self) -> None:
        """Listen.

        Raises:
            AddressUnavailable: the path is too long, in use, or cannot be bound.
        """
        check_path(self._path)
        check_path(self._private / ("u" * _NAME_BYTES_MAX))
        clear_stale(self._path)
        listener = socket.socket(socket.AF_UNIX)
        listener.setblocking(False)
        try:
            listener.bind(str(self._path))
            self._path.chmod(0o666)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise AddressUnavailable(f"{self._path}: {error.strerror}") from error
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    def close_listener(self) -> None:
        """Take no new connection; those that exist go on."""
        if self._listener is None:
            return
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()
        self._listener = None
        self._path.unlink(missing_ok=True)

    async def stop(self) -> None:
        """Stop listening and end all connections."""
        self.close_listener()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> None:
        """Take at most a few waiting connections, then let others run."""
        for _ in range(16):
            if self._listener is None:
                return
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:
                # ECONNABORTED, or out of descriptors: the backlog keeps the caller; try again later.
                self._rest()
                return
            connection.setblocking(False)
            try:
                caller = peer_caller(connection, self._gids())
            except OSError:
                connection.close()
                continue
            standing = self._standing_of(caller)
            if standing is Standing.REFUSED:
                self.strangers_total += 1
                connection.close()
                continue
            if self._full(caller, standing):
                self.refused_total += 1
                connection.close()
                continue
            self._by_uid[caller.uid] += 1
            task = asyncio.get_running_loop().create_task(self._serve(connection, caller))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _rest(self) -> None:
        """Leave the listener alone for a moment, so that lack of descriptors is no busy loop."""
        loop = asyncio.get_running_loop()
        listener = self._listener
        if listener is None:
            return
        loop.remove_reader(listener.fileno())
        loop.call_later(0.1, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if self._listener is listener:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    def _full(self, caller: Caller, standing: Standing) -> bool:
        """Whether this caller's next connection is one too many."""
        if standing is Standing.PRIVILEGED:
            return self.connections >= CONNECTIONS_MAX
        others_max = CONNECTIONS_MAX - CONNECTIONS_RESERVED
        return self.connections >= others_max or self._by_uid[caller.uid] >= CONNECTIONS_PER_UID_MAX

    async def _serve(self, connection: socket.socket, caller: Caller) -> None:
        """Relay one connection until either end is gone."""
        name = self._private / f"u{caller.uid}-p{caller.pid}-{next(self._numbers)}"
        peer = f"unix:{name}"
        backend = socket.socket(socket.AF_UNIX)
        try:
            if self._learn is not None:
                await self._learn(caller)
            backend.setblocking(False)
            backend.bind(str(name))
            self._callers[peer] = caller
            await asyncio.get_running_loop().sock_connect(backend, str(self.backend))
            await _relay(connection, backend)
        except InvalidInput:
            self.refused_total += 1
        except OSError:
            pass  # the client left or is stuck, or gRPC is stopping or too busy: the connection ends
        finally:
            connection.close()
            backend.close()
            self._callers.pop(peer, None)
            name.unlink(missing_ok=True)
            self._by_uid -= Counter((caller.uid,))


async def _relay(connection: socket.socket, backend: socket.socket) -> None:
    """Pass bytes both ways until gRPC ends the connection, which it does when the client does.

    Raises:
        InvalidInput: the client sent what gRPC must not read; both ends are shut.
    """
    up = asyncio.get_running_loop().create_task(_pump_up(connection, backend))
    try:
        await _pump_down(backend, connection)
    finally:
        up.cancel()
        (ended,) = await asyncio.gather(up, return_exceptions=True)
        if isinstance(ended, InvalidInput):
            raise ended


async def _pump_up(connection: socket.socket, backend: socket.socket) -> None:
    """Client to gRPC; the client's end of file, or its loss, is passed on as one."""
    loop = asyncio.get_running_loop()
    guard = HeaderGuard(is_server_side=True)
    try:
        while data := await loop.sock_recv(connection, BUFFER_BYTES_MAX):
            guard.feed(data)
            await loop.sock_sendall(backend, data)
    except InvalidInput:
        for end in (connection, backend):  # a client that reads nothing must not keep the other direction waiting
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        raise
    finally:
        with contextlib.suppress(OSError):
            backend.shutdown(socket.SHUT_WR)


async def _pump_down(backend: socket.socket, connection: socket.socket) -> None:
    """Read from gRPC for the client, as fast as the client reads."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(backend, BUFFER_BYTES_MAX):
        async with asyncio.timeout(STUCK_S_MAX):
            await loop.sock_sendall(connection, data)
