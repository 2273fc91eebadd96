"""What the services need from the outside world, as Protocols.  Adapters satisfy them; so do the fakes.

Methods that may take longer than some microseconds are coroutines: their adapters work in a thread
of their own.  Plain methods are safe to call on the event loop.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from typing import Protocol

from x0d.actions import ObservedRoutes, RouteChange
from x0d.mapek.model import Incident
from x0d.mesh.model import Address, Prefix, ProbeRecord


class Clock(Protocol):
    """Time, as an argument."""

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC, the clock that XDP stamps with."""

    def unix_ms(self) -> int:
        """Wall-clock milliseconds."""


# ---- data plane ----


@dataclass(frozen=True, slots=True)
class RefusedMode:
    """An XDP mode that the kernel refused on the way to the one in force."""

    mode: str
    errno: int


@dataclass(frozen=True, slots=True)
class Attachment:
    """Our program on one interface."""

    interface: str
    ifindex: int
    mode: str
    """``native`` or ``skb``."""
    frags: bool
    adopted: bool
    """The link was pinned by an earlier life of the daemon, and nothing was missed in between."""
    refused: tuple[RefusedMode, ...]


@dataclass(frozen=True, slots=True)
class PacketCounter:
    ifindex: int
    protocol_class: str
    verdict: str
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ProbeCounter:
    ifindex: int
    event: str
    packets: int


class DataPlane(Protocol):
    """The XDP program, its attachments and its maps."""

    async def attach(self, interface: str, ifindex: int) -> Attachment:
        """Adopt or attach.

        Raises:
            ForeignProgram: somebody else's program is there; it stays.
            KernelRefused: no allowed mode works; ``refused`` modes are in its ``detail``.
        """

    async def detach(self, ifindex: int) -> None:
        """Take our program off an interface, with what is recorded of it; nothing happens if it is not there."""

    def attached_ifindexes(self) -> frozenset[int]:
        """Interfaces that our program is on, those of an earlier life included."""

    async def collect(self, ifindexes: frozenset[int]) -> None:
        """Unpin what belongs to interfaces that no longer exist; ``ifindexes`` are those that do."""

    def put_link(self, ifindex: int, neighbour: Address, local: Address) -> None:
        """Let XDP answer and accept this neighbour's probes; the record of an adopted link stays."""

    def delete_link(self, ifindex: int, neighbour: Address) -> None:
        """Forget a neighbour; nothing happens if it is not there."""

    def links(self) -> Mapping[tuple[int, Address], Address]:
        """Neighbours that XDP knows, (ifindex, neighbour) to own address; those of an earlier life included."""

    def probe_record(self, ifindex: int, neighbour: Address) -> ProbeRecord | None:
        """Read the kernel's record of a neighbour; None if there is none."""

    def packet_counters(self) -> Sequence[PacketCounter]:
        """Sum over the CPUs."""

    def probe_counters(self) -> Sequence[ProbeCounter]:
        """Sum over the CPUs."""


# ---- netlink ----


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


# ---- datagrams ----


class DatagramSocket(Protocol):
    """A UDP socket of one interface; hop limit 255 out, and only 255 in."""

    def send(self, payload: bytes) -> bool:
        """Send to the neighbour; False when the kernel took it not (no carrier, full queue)."""

    def close(self) -> None:
        """Close; no callback comes after."""


# ---- knowledge ----


class KnowledgeStore(Protocol):
    """Incidents on disk."""

    async def save(self, incident: Incident) -> None:
        """Insert or replace.

        Raises:
            StorageFailed: the disk is full, read-only or failing.
        """

    async def load(self, incident_id: str) -> Incident | None:
        """One incident, whole; None if unknown.  Raises StorageFailed."""

    async def list(self, limit: int, *, open_only: bool) -> Sequence[Incident]:
        """Newest first.  Raises StorageFailed."""
