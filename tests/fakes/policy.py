"""A policy plane in memory, and sampled events that a test makes.

Not modelled: expiry (entries stay until they are deleted), which packets a list would drop, memory
that runs out unless ``refusal`` says so.  ``tests/contract/test_policy_plane.py`` holds it and the
kernel to one contract.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from x0d.errors import KernelRefused, TooMany
from x0d.policy.model import LIMITS_MAX, PackedPrefix, PrefixKey
from x0d.ports.policy import LimitRate, PacketEvent, Source


@dataclass
class FakePolicyPlane:
    """``ports.PolicyPlane``; what is in force and what was counted are its fields."""

    deny_entries_max: int = 131_072
    entries: dict[PrefixKey, int] = field(default_factory=dict)
    rates: dict[PackedPrefix, LimitRate] = field(default_factory=dict)
    denied: dict[PrefixKey, int] = field(default_factory=dict)
    """Hits by entry; those of entries that are not there are not shown."""
    limited: dict[PrefixKey, int] = field(default_factory=dict)
    tracked: list[Source] = field(default_factory=list)
    refusal: KernelRefused | None = None
    """Raised by every change."""
    replacements: int = 0
    """Whole deny-lists that were put in force."""
    prepared: Mapping[PrefixKey, int] | None = None
    """What ``replace_deny`` would find built."""
    suspended: bool = False
    """A test that opens the plane again sets it to False."""

    async def suspend(self) -> None:
        self.suspended = True
        self.entries, self.rates, self.denied, self.limited, self.tracked = {}, {}, {}, {}, []
        self.prepared = None

    async def replace_deny(self, entries: Mapping[PrefixKey, int]) -> None:
        if self.suspended:
            return
        self._require_deny_room(len(entries))
        self.entries = dict(entries)
        self.prepared = None
        self.replacements += 1
        self._forget_hits()

    async def prepare_deny(self, entries: Mapping[PrefixKey, int]) -> None:
        if self.suspended:
            return
        self._require_deny_room(len(entries))
        self.prepared = entries

    async def abandon_deny(self) -> None:
        self.prepared = None

    async def put_deny(self, entries: Mapping[PrefixKey, int]) -> None:
        if self.suspended:
            return
        self._require_deny_room(len(self.entries.keys() | entries.keys()))
        self.prepared = None
        self.entries.update(entries)

    async def delete_deny(self, prefixes: Collection[PrefixKey]) -> None:
        if self.suspended:
            return
        self._require_kernel()
        self.prepared = None
        for prefix in prefixes:
            self.entries.pop(prefix, None)
        self._forget_hits()

    async def deny(self) -> Mapping[PrefixKey, int]:
        return dict(self.entries)

    async def deny_hits(self) -> Mapping[PrefixKey, int]:
        return {prefix: self.denied.get(prefix, 0) for prefix in self.entries}

    async def replace_limits(self, limits: Mapping[PackedPrefix, LimitRate]) -> None:
        if self.suspended:
            return
        self._require_kernel()
        if len(limits) > LIMITS_MAX:
            raise TooMany(f"{len(limits)} limits, and there is room for {LIMITS_MAX}")
        self.rates = dict(limits)
        self.limited = {prefix: count for prefix, count in self.limited.items() if prefix in self.rates}

    async def limits(self) -> Mapping[PackedPrefix, LimitRate]:
        return dict(self.rates)

    async def limit_hits(self) -> Mapping[PackedPrefix, int]:
        return {prefix: self.limited.get(prefix, 0) for prefix in self.rates}

    async def sources(self) -> Sequence[Source]:
        return list(self.tracked)

    def _require_kernel(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def _require_deny_room(self, count: int) -> None:
        if count > self.deny_entries_max:
            raise TooMany(
                f"{count} deny-list entries, more than [ebpf] deny_entries_max = {self.deny_entries_max} allows"
            )
        self._require_kernel()

    def _forget_hits(self) -> None:
        self.denied = {prefix: count for prefix, count in self.denied.items() if prefix in self.entries}


@dataclass
class FakePacketEvents:
    """``ports.PacketEvents``; a test calls ``happen``."""

    sample_every: int = 100
    subscribers: dict[object, Callable[[Sequence[PacketEvent]], None]] = field(default_factory=dict)

    @property
    def is_sampling(self) -> bool:
        """Whether anybody is subscribed."""
        return bool(self.subscribers)

    def subscribe(self, on_events: Callable[[Sequence[PacketEvent]], None]) -> Callable[[], None]:
        key = object()
        self.subscribers[key] = on_events

        def unsubscribe() -> None:
            self.subscribers.pop(key, None)

        return unsubscribe

    def happen(self, *events: PacketEvent) -> None:
        """Hand events on, as the kernel would while somebody is subscribed."""
        for on_events in list(self.subscribers.values()):
            on_events(events)
