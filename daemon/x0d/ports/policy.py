"""The lists that XDP asks, what it tracks of sources, sampled packets, and the lists on disk."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from x0d.policy.model import DenyEntry, Limit, PackedPrefix, PrefixKey, Terms


class Source(NamedTuple):
    """What XDP tracks of one source address; the least recently seen are forgotten.

    A tuple, because there may be millions.
    """

    address: bytes
    """4 or 16 bytes in network order."""
    packets: int
    bytes: int
    limited: int
    """Of the packets, those dropped by a limit."""


@dataclass(frozen=True, slots=True)
class LimitRate:
    """A limit as XDP holds it."""

    rate_pps: int
    burst: int
    expires_at_ns: int = 0


class PolicyPlane(Protocol):
    """The lists that XDP asks.  Times are CLOCK_MONOTONIC nanoseconds, 0 for never.

    All that is put here survives the daemon; ``deny`` and ``limits`` tell what an earlier life left.
    While it is suspended nothing is in force: changes do nothing, and answers are empty.
    """

    async def suspend(self) -> None:
        """Let go of everything in the kernel, after what is under way; nothing happens if that is done.

        Whoever opens the plane again puts in force again what shall hold.
        """

    async def replace_deny(self, entries: Mapping[PrefixKey, int]) -> None:
        """Put a whole list in force, prefix to expiry: every packet sees the old list or the new one.

        Entries that were there keep their hits.  ``entries`` must not change meanwhile.

        Raises:
            TooMany: more entries than the configuration allows; nothing has changed.
            KernelRefused: such as ENOMEM; nothing has changed.
        """

    async def prepare_deny(self, entries: Mapping[PrefixKey, int]) -> None:
        """Build a list beside the one in force; ``replace_deny`` by the same object, not a copy, is quick then.

        Nothing else is promised: any other change abandons it, and ``replace_deny`` begins anew.

        Raises:
            TooMany, KernelRefused: ``replace_deny`` would be refused for it.
        """

    async def abandon_deny(self) -> None:
        """Drop what was prepared; nothing happens if nothing was."""

    async def put_deny(self, entries: Mapping[PrefixKey, int]) -> None:
        """Add entries, or change their expiry.  Raises as ``replace_deny``."""

    async def delete_deny(self, prefixes: Collection[PrefixKey]) -> None:
        """Remove entries; those that are not there are passed over."""

    async def deny(self) -> Mapping[PrefixKey, int]:
        """Prefix to expiry of every entry."""

    async def deny_hits(self) -> Mapping[PrefixKey, int]:
        """Packets dropped by each entry."""

    async def replace_limits(self, limits: Mapping[PackedPrefix, LimitRate]) -> None:
        """Put these limits in force and no others.  Raises as ``replace_deny``."""

    async def limits(self) -> Mapping[PackedPrefix, LimitRate]:
        """What is in force."""

    async def limit_hits(self) -> Mapping[PackedPrefix, int]:
        """Packets dropped by each limit."""

    async def sources(self) -> Sequence[Source]:
        """Every tracked source, in no order."""


@dataclass(frozen=True, slots=True)
class PacketEvent:
    """A sampled packet."""

    at_ns: int
    ifindex: int
    length: int
    source: bytes
    """4 or 16 bytes in network order; empty if the packet was not IP."""
    destination: bytes
    source_port: int
    destination_port: int
    protocol: int
    protocol_class: str
    verdict: str
    vlan_tags: int


class PacketEvents(Protocol):
    """The sampled events."""

    def subscribe(self, on_events: Callable[[Sequence[PacketEvent]], None]) -> Callable[[], None]:
        """Call back on the event loop with what came in; XDP samples while anybody is subscribed.

        Returns the function that ends the subscription.

        Raises:
            NotSupported: this machine cannot read the events.
        """

    @property
    def sample_every(self) -> int:
        """One packet in so many becomes an event."""


class PolicyStore(Protocol):
    """Deny-list and limits on disk: what a reboot must not forget.  Every method raises StorageFailed."""

    async def load(self) -> tuple[Sequence[DenyEntry], Sequence[Limit]]:
        """Everything, expired entries included."""

    async def replace_deny(self, entries: Mapping[PrefixKey, Terms]) -> None:
        """Put a whole list in place of the old one, in one transaction."""

    async def save_deny(self, entries: Collection[DenyEntry]) -> None:
        """Insert or replace."""

    async def delete_deny(self, prefixes: Collection[PrefixKey]) -> None:
        """Remove; those that are not there are passed over."""

    async def save_limit(self, limit: Limit) -> None:
        """Insert or replace."""

    async def delete_limits(self, prefixes: Collection[PrefixKey]) -> None:
        """Remove; those that are not there are passed over."""
