"""Interfaces, routes and datagrams: what netlink and sockets give, and the clock."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from typing import Protocol

from x0d.actions import ObservedRoutes, RouteChange
from x0d.mesh.model import Prefix


class Clock(Protocol):
    """Time, as an argument."""

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC, the clock that XDP stamps with."""

    def unix_ms(self) -> int:
        """Wall-clock milliseconds."""


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    ifindex: int
    up: bool
    """Administratively."""
    carrier: bool
    mtu: int
    addresses: tuple[IPv4Interface | IPv6Interface, ...]


@dataclass(frozen=True, slots=True)
class InterfaceEvent:
    """Something about an interface changed; ``interface`` is None once it is gone."""

    ifindex: int
    interface: Interface | None
    at_ns: int
    """CLOCK_MONOTONIC, when the message was read."""
    moved: bool | None = None
    """Of one that is gone: whether it is in another network namespace now; None: the kernel has not told."""


class InterfaceSource(Protocol):
    """Interfaces and their addresses, and what happens to them."""

    async def read(self) -> tuple[Interface, ...]:
        """All interfaces of this network namespace."""

    def subscribe(self, on_event: Callable[[InterfaceEvent], None]) -> None:
        """Call back on the event loop for each change, as soon as the kernel tells it."""

    def sent_packets(self) -> Mapping[str, int]:
        """Packets transmitted so far, by interface name (one read of the kernel's table)."""


class RouteTable(Protocol):
    """The kernel's routes of our protocol number.  Others are neither shown nor touched."""

    async def read(self) -> ObservedRoutes:
        """Dump our nexthop objects and routes."""

    async def apply(self, changes: Sequence[RouteChange]) -> None:
        """Perform in order, in one message.

        Raises:
            KernelRefused: naming the first change that failed; those after it were still tried.
        """

    async def put_address(self, prefix: Prefix) -> None:
        """Put the node's stable address on lo; nothing happens if it is there."""


class DatagramSocket(Protocol):
    """A UDP socket of one interface; hop limit 255 out, and only 255 in."""

    def send(self, payload: bytes) -> bool:
        """Send to the neighbour; False when the kernel took it not (no carrier, full queue)."""

    def close(self) -> None:
        """Close; no callback comes after."""
