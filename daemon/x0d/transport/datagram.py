"""UDP between direct neighbours: one socket per interface and local address, a view of it per neighbour.

Only a direct neighbour can deliver a datagram with hop limit 255, since every router takes one off (RFC 5082): the
sockets send with 255 and refuse all else, and they refuse sources that are not a neighbour.  A socket is bound to its
device, which needs no capability the first time; a device that was removed and made again needs a new socket.

Probe sockets only send: answers are taken by XDP.  They have no reader and the smallest receive buffer.
"""

import asyncio
import errno
import socket
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, ip_address

from x0d.errors import AddressUnavailable, errno_name
from x0d.mesh.model import Address

PAYLOAD_BYTES_MAX = 1232
"""What fits the smallest IPv6 MTU of 1,280 bytes; longer datagrams are refused."""
DATAGRAMS_PER_WAKE = 64
"""Read before the event loop gets its turn; the rest wakes it again."""
RECEIVE_BUFFER_BYTES = 262_144
HOP_LIMIT = 255
TRAFFIC_CLASS = 0xC0
"""CS6, network control: a queue that knows classes lets it pass first."""
PRIORITY = 6
"""TC_PRIO_INTERACTIVE, the highest that needs no capability; the first band of pfifo_fast."""
IP_RECVTTL = 12
REFUSED_REASONS = ("hop_limit", "stranger", "too_long")

_ANCILLARY_BYTES = socket.CMSG_SPACE(4)
_INT = struct.Struct("=i")
_Key = tuple[str, int, Address, int]
"""Interface, its index, local address, port."""


class InterfaceSocket:
    """One UDP socket, bound to a device, a local address of it and a port."""

    def __init__(
        self,
        interface: str,
        local: Address,
        port: int,
        on_datagram: Callable[[Address, bytes], None] | None,
        receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES,
    ) -> None:
        """Open and bind; with ``on_datagram`` read on the running event loop, without never.

        ``on_datagram`` gets the source address and the payload, of datagrams with hop limit 255 only.

        Raises:
            AddressUnavailable: the port is in use, or interface or address are not there.
        """
        self._port = port
        self._on_datagram = on_datagram
        self._loop: asyncio.AbstractEventLoop | None = None
        self.refused: dict[str, int] = dict.fromkeys(REFUSED_REASONS, 0)
        """Datagrams not passed on, by reason; read it, do not write it."""
        where = f"udp [{local}]:{port} on {interface}" if local.version == 6 else f"udp {local}:{port} on {interface}"
        key = "listen.mesh_port" if on_datagram else "listen.probe_port"
        family = socket.AF_INET if local.version == 4 else socket.AF_INET6
        try:
            self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            raise _unavailable(where, key, error) from error
        try:
            self._scope = self._prepare(interface, receive_buffer_bytes if on_datagram else 0)
            self._socket.bind(self._sockaddr(local))
        except OSError as error:
            self._socket.close()
            raise _unavailable(where, key, error) from error
        if on_datagram is not None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._socket.fileno(), self._on_readable)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._socket.fileno() < 0

    def send(self, neighbour: Address, payload: bytes) -> bool:
        """Send at once; False when the kernel took it not: no carrier, device gone, queue full, filtered."""
        assert len(payload) <= PAYLOAD_BYTES_MAX
        if self.closed:
            return False
        try:
            self._socket.sendto(payload, self._sockaddr(neighbour))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close; no callback comes after."""
        if self.closed:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _prepare(self, interface: str, receive_buffer_bytes: int) -> int:
        """Set the options and return the interface's index."""
        opened = self._socket
        scope = _interface_index(interface)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        if opened.family == socket.AF_INET:
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, HOP_LIMIT)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, TRAFFIC_CLASS)
            opened.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        else:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, HOP_LIMIT)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, TRAFFIC_CLASS)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, PRIORITY)  # after IP_TOS, which sets it too
        return scope

    def _sockaddr(self, address: Address) -> tuple[str, int] | tuple[str, int, int, int]:
        if isinstance(address, IPv6Address):
            return (str(address), self._port, 0, self._scope if address.is_link_local else 0)
        return (str(address), self._port)

    def _on_readable(self) -> None:
        for _ in range(DATAGRAMS_PER_WAKE):
            try:
                # One byte more than is allowed tells a datagram that is too long.
                payload, ancillary, _, source = self._socket.recvmsg(PAYLOAD_BYTES_MAX + 1, _ANCILLARY_BYTES)
            except OSError:  # nothing more to read, or an error of the device, which reading it has cleared
                return
            if len(payload) > PAYLOAD_BYTES_MAX:
                self.refused["too_long"] += 1
            elif not _came_directly(ancillary):
                self.refused["hop_limit"] += 1
            elif self._on_datagram is not None:
                self._on_datagram(ip_address(source[0].partition("%")[0]), payload)
            if self.closed:
                return


class NeighbourSocket:
    """``ports.DatagramSocket``: what one neighbour sees of an ``InterfaceSocket``."""

    def __init__(self, shared: InterfaceSocket, neighbour: Address, on_close: Callable[[], None]) -> None:
        self._shared = shared
        self._neighbour = neighbour
        self._on_close = on_close
        self._closed = False

    @property
    def refused(self) -> Mapping[str, int]:
        """Datagrams that the shared socket refused, by reason."""
        return self._shared.refused

    def send(self, payload: bytes) -> bool:
        """Send to the neighbour; False when the kernel took it not, or after ``close``."""
        return not self._closed and self._shared.send(self._neighbour, payload)

    def close(self) -> None:
        """Close; no callback comes after.  The last view closes the socket."""
        if not self._closed:
            self._closed = True
            self._on_close()


class DatagramSockets:
    """Opens sockets, one for all neighbours that share interface, local address and port."""

    def __init__(self) -> None:
        self._open: dict[_Key, _Shared] = {}
        self._refused_before: Counter[str] = Counter()

    @property
    def refused(self) -> Mapping[str, int]:
        """Datagrams refused so far, by reason, on sockets open and closed."""
        total = Counter(dict.fromkeys(REFUSED_REASONS, 0))
        total.update(self._refused_before)
        for shared in self._open.values():
            total.update(shared.socket.refused)
        return total

    def open(
        self,
        interface: str,
        local: Address,
        port: int,
        neighbour: Address,
        on_datagram: Callable[[bytes], None] | None,
        receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES,
    ) -> NeighbourSocket:
        """Open a socket to one neighbour; ``on_datagram`` gets the payloads that come from it, None: send only.

        The neighbour's earlier socket must be closed first.  A device that was made again has another index and
        gets a new socket, while views of the old one are closed by those who hold them.

        Raises:
            AddressUnavailable: the port is in use, or interface or address are not there.
        """
        key = (interface, _interface_index(interface), local, port)
        shared = self._open.get(key)
        if shared is None or (on_datagram is not None) != shared.reads:
            shared = _Shared(interface, local, port, receive_buffer_bytes, reads=on_datagram is not None)
            self._open[key] = shared
        assert neighbour not in shared.views, f"{neighbour} has a socket on {interface} already"
        shared.views[neighbour] = on_datagram
        return NeighbourSocket(shared.socket, neighbour, lambda: self._close(key, shared, neighbour))

    def _close(self, key: "_Key", shared: "_Shared", neighbour: Address) -> None:
        del shared.views[neighbour]
        if not shared.views:
            shared.socket.close()
            self._refused_before.update(shared.socket.refused)
            if self._open.get(key) is shared:
                del self._open[key]


class _Shared:
    """A socket and its views' callbacks by neighbour."""

    def __init__(self, interface: str, local: Address, port: int, receive_buffer_bytes: int, *, reads: bool) -> None:
        self.reads = reads
        self.views: dict[Address, Callable[[bytes], None] | None] = {}
        receiver = self._on_datagram if reads else None
        self.socket = InterfaceSocket(interface, local, port, receiver, receive_buffer_bytes)

    def _on_datagram(self, source: Address, payload: bytes) -> None:
        receiver = self.views.get(source)
        if receiver is None:
            self.socket.refused["stranger"] += 1
        else:
            receiver(payload)


def open_datagram(
    interface: str,
    local: Address,
    port: int,
    neighbour: Address,
    on_datagram: Callable[[bytes], None] | None,
    receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES,
) -> NeighbourSocket:
    """Open a socket for the only neighbour on its interface and local address; see ``DatagramSockets.open``."""
    return DatagramSockets().open(interface, local, port, neighbour, on_datagram, receive_buffer_bytes)


def _interface_index(interface: str) -> int:
    """Index of the interface; 0 if there is none."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0


def _came_directly(ancillary: list[tuple[int, int, bytes]]) -> bool:
    """Whether the hop limit in the control messages is 255: no router has passed the datagram on."""
    for level, kind, data in ancillary:
        if (level, kind) in {(socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)}:
            return len(data) >= _INT.size and _INT.unpack_from(data)[0] == HOP_LIMIT
    return False


def _unavailable(where: str, key: str, error: OSError) -> AddressUnavailable:
    """Say why, and for a port in use which ``key`` of the configuration chose it."""
    in_use = error.errno == errno.EADDRINUSE
    remedy = f"; free it, or change {key} on every node of the mesh" if in_use else ""
    return AddressUnavailable(f"{where}: {_explain(error)}{remedy}", in_use=in_use)


def _explain(error: OSError) -> str:
    reasons = {
        "EADDRINUSE": "the port is in use",
        "EADDRNOTAVAIL": "the address is not on this host, or not usable yet",
        "ENODEV": "the interface does not exist",
        "ENXIO": "the interface does not exist",
        "EINVAL": "the address cannot be bound on this interface",
    }
    name = errno_name(error.errno or 0)
    return reasons.get(name, f"{name}: {error.strerror}")
