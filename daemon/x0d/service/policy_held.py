"""A list as it holds: what was asked for by prefix, and when each entry that expires is due.

On disk an expiry is a wall-clock instant, in the kernel one of CLOCK_MONOTONIC.  It is converted once,
when the entry is added or when the daemon starts; after that the monotonic instant counts, so setting
the clock does not lengthen what runs.  Across a restart the earlier of the two instants counts: the
file's and the one that the kernel still has.

After a boot the wall clock may be wrong until it is set, and the conversion with it.  So an entry that
was read from the file is over when either clock says so.  One that was added since has been timed by
the monotonic clock from its beginning, and the wall clock has no say in it; when that is set, the
instant on disk follows.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, ParamSpec, Protocol, TypeVar, overload

from x0d.policy.model import DenyEntry, PackedPrefix, PrefixKey, Terms
from x0d.ports import Clock
from x0d.service.views_policy import DenyRow

P = ParamSpec("P")
T = TypeVar("T")
MS_NS = 1_000_000
AT_ONCE_MAX = 2_000
"""Entries that are worked through on the event loop, a millisecond or two; more are given to a thread."""
SLACK_NS = 1_000 * MS_NS
"""Two conversions of one expiry differ by rounding and by how the clock was slewed: no reason to touch the kernel."""


async def aside(entries: int, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Do something with so many entries without holding up the event loop; they must not change meanwhile."""
    if entries <= AT_ONCE_MAX:
        return work(*args, **options)
    return await asyncio.to_thread(work, *args, **options)


class Expiring(Protocol):
    """Something that holds until an instant."""

    @property
    def expires_unix_ms(self) -> int:
        """0: never."""


Entry = TypeVar("Entry", bound=Expiring)


@dataclass(frozen=True, slots=True)
class Now:
    """Both clocks, read together."""

    unix_ms: int
    at_ns: int
    """CLOCK_MONOTONIC."""

    @classmethod
    def read(cls, clock: Clock) -> "Now":
        """Read both clocks."""
        return cls(clock.unix_ms(), clock.monotonic_ns())

    @property
    def offset_ms(self) -> int:
        """How far the clocks are apart: changes by much only when the wall clock is set."""
        return self.unix_ms - self.at_ns // MS_NS

    def due_ns(self, expires_unix_ms: int) -> int:
        """The monotonic instant of a wall-clock one; 0 for 0, which is never."""
        if not expires_unix_ms:
            return 0
        return max(1, self.at_ns + (expires_unix_ms - self.unix_ms) * MS_NS)

    def expires_unix_ms(self, due_ns: int) -> int:
        """The wall-clock instant of a monotonic one; 0 for 0."""
        return max(1, self.unix_ms + (due_ns - self.at_ns) // MS_NS) if due_ns else 0


@dataclass(slots=True)
class Held(Generic[Entry]):
    """Entries by prefix; ``due`` has the monotonic instants of those that expire."""

    entries: dict[PrefixKey, Entry] = field(default_factory=dict)
    due: dict[PrefixKey, int] = field(default_factory=dict)
    """Nanoseconds, never 0."""
    until_unix_ms: dict[PrefixKey, int] = field(default_factory=dict)
    """Wall-clock instants that count beside ``due``: of entries that were read from the file."""
    _next_due_ns: int | None = None
    _next_unix_ms: int | None = None

    @classmethod
    def from_entries(cls, entries: dict[PrefixKey, Entry], now: Now) -> "Held[Entry]":
        """Take a whole list as it was just given."""
        due = {prefix: now.due_ns(entry.expires_unix_ms) for prefix, entry in entries.items() if entry.expires_unix_ms}
        held = cls(entries, due)
        held._note_next()
        return held

    @classmethod
    def from_store(
        cls, entries: Iterable[tuple[PrefixKey, Entry]], in_kernel: Mapping[PrefixKey, int], now: Now
    ) -> "tuple[Held[Entry], list[PrefixKey]]":
        """Take what is on disk, beside the instants that the kernel has; also the prefixes that have expired."""
        held: Held[Entry] = cls()
        expired: list[PrefixKey] = []
        for prefix, entry in entries:
            due_ns = _earlier(now.due_ns(entry.expires_unix_ms), in_kernel.get(prefix, 0))
            if due_ns and due_ns <= now.at_ns:
                expired.append(prefix)
                continue
            held.entries[prefix] = entry
            if due_ns:
                held.due[prefix] = due_ns
                held.until_unix_ms[prefix] = entry.expires_unix_ms
        held._note_next()
        return held, expired

    def put(self, entries: Mapping[PrefixKey, Entry], now: Now) -> None:
        """Add or replace some."""
        for prefix, entry in entries.items():
            self.entries[prefix] = entry
            self._forget_due(prefix)
            if entry.expires_unix_ms:
                self.due[prefix] = now.due_ns(entry.expires_unix_ms)
        self._note_next()

    def remove(self, prefixes: Iterable[PrefixKey]) -> None:
        """Forget some."""
        for prefix in prefixes:
            self.entries.pop(prefix, None)
            self._forget_due(prefix)
        self._note_next()

    def expired(self, now: Now) -> list[PrefixKey]:
        """Give those that are due by either clock."""
        if (wait_ns := self.wait_ns(now)) is None or wait_ns > 0:
            return []
        over = {prefix: None for prefix, due_ns in self.due.items() if due_ns <= now.at_ns}
        over.update((prefix, None) for prefix, until in self.until_unix_ms.items() if until <= now.unix_ms)
        return list(over)

    def wait_ns(self, now: Now) -> int | None:
        """How long until something is due, if nobody sets the wall clock; None if nothing expires."""
        waits = []
        if self._next_due_ns is not None:
            waits.append(self._next_due_ns - now.at_ns)
        if self._next_unix_ms is not None:
            waits.append((self._next_unix_ms - now.unix_ms) * MS_NS)
        return min(waits, default=None)

    def timed_here(self, now: Now) -> dict[PrefixKey, int]:
        """Prefix to the wall-clock instant, as of now, of what only the monotonic clock ends."""
        return {
            prefix: now.expires_unix_ms(due_ns) for prefix, due_ns in self.due.items()
            if prefix not in self.until_unix_ms
        }  # fmt: skip

    def instants(self) -> dict[PrefixKey, int]:
        """Prefix to monotonic expiry, 0 for never: what the kernel is to have."""
        instants = dict.fromkeys(self.entries, 0)
        instants.update(self.due)
        return instants

    def _forget_due(self, prefix: PrefixKey) -> None:
        self.due.pop(prefix, None)
        self.until_unix_ms.pop(prefix, None)

    def _note_next(self) -> None:
        self._next_due_ns = min(self.due.values(), default=None)
        self._next_unix_ms = min(self.until_unix_ms.values(), default=None)


class DenyEntries(Collection[DenyEntry]):
    """A list's entries, made one by one for whoever walks through them: the list itself keeps none."""

    def __init__(self, entries: Mapping[PrefixKey, Terms]) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[DenyEntry]:
        for prefix, (expires_unix_ms, comment) in self._entries.items():
            yield DenyEntry(PackedPrefix(*prefix), expires_unix_ms, comment)

    def __contains__(self, entry: object) -> bool:
        return isinstance(entry, DenyEntry) and self._entries.get(entry.prefix) == (
            entry.expires_unix_ms,
            entry.comment,
        )


class DenyRows(Sequence[DenyRow]):
    """Rows of a list as it was, made when they are asked for: 100,000 at once would be 50 MB and a long pause."""

    def __init__(
        self, prefixes: Sequence[PrefixKey], entries: Mapping[PrefixKey, Terms], hits: Mapping[PrefixKey, int]
    ) -> None:
        self._prefixes = prefixes
        self._entries = entries
        self._hits = hits

    def __len__(self) -> int:
        return len(self._prefixes)

    @overload
    def __getitem__(self, index: int) -> DenyRow: ...

    @overload
    def __getitem__(self, index: slice) -> "Sequence[DenyRow]": ...

    def __getitem__(self, index: int | slice) -> "DenyRow | Sequence[DenyRow]":
        if isinstance(index, slice):
            return DenyRows(self._prefixes[index], self._entries, self._hits)
        prefix = self._prefixes[index]
        return DenyRow(DenyEntry(PackedPrefix(*prefix), *self._entries[prefix]), self._hits.get(prefix, 0))


def _earlier(due_ns: int, kernel_due_ns: int) -> int:
    """The instant that counts after a restart; what the kernel has, if it is as good as the same."""
    if not due_ns or not kernel_due_ns:
        return due_ns
    return kernel_due_ns if abs(due_ns - kernel_due_ns) <= SLACK_NS else min(due_ns, kernel_due_ns)
