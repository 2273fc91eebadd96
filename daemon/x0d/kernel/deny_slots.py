"""Which element of ``x0d_deny_hits`` belongs to which entry.

An entry keeps its slot as long as it exists, so that no hit is lost when the list around it is
replaced.  The lowest free slots are given out first, so that a short list is read in a short time.
Whoever gives slots back has set their hits to zero.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from x0d.policy.model import PrefixKey


@dataclass(frozen=True, slots=True)
class Allotted:
    """Which slots a new list has."""

    of: dict[PrefixKey, int]
    taken: list[int]
    """Of these, those that were free."""
    shared: list[int]
    """Of these, those of entries that the old list has and the new one has not."""
    gone: list[int]
    """Those of the old list that are free after it."""


class DenySlots:
    """The slots of one hits map."""

    def __init__(self, slots_max: int, used: Collection[int] = ()) -> None:
        """``used`` are given out already."""
        self._slots_max = slots_max
        self._untouched = max(used, default=-1) + 1  # this and all above are free
        self._below = sorted(set(range(self._untouched)).difference(used), reverse=True)  # free ones, the lowest last

    @property
    def free(self) -> int:
        """How many can be given out."""
        return len(self._below) + self._slots_max - self._untouched

    def all_free(self) -> Iterator[int]:
        """Every slot that can be given out."""
        return chain(self._below, range(self._untouched, self._slots_max))

    def take(self, count: int) -> list[int]:
        """Give out slots."""
        assert count <= self.free
        below = min(count, len(self._below))
        taken = self._below[len(self._below) - below :][::-1]
        del self._below[len(self._below) - below :]
        fresh = range(self._untouched, self._untouched + count - below)
        self._untouched = fresh.stop
        return [*taken, *fresh]

    def allot(self, before: Mapping[PrefixKey, int], entries: Mapping[PrefixKey, int]) -> Allotted:
        """Give out slots for a list that follows another, whose entries have those in ``before``.

        Where there is no room for both lists, new entries take the slots of those that leave, and the
        old list's last hits between zeroing and flip are counted for the new entry.
        """
        new = [prefix for prefix in entries if prefix not in before]
        kept = {prefix: before[prefix] for prefix in entries if prefix in before} if len(new) < len(entries) else {}
        gone = [slot for prefix, slot in before.items() if prefix not in kept] if kept else list(before.values())
        taken = self.take(min(len(new), self.free))
        shared = gone[: len(new) - len(taken)]
        slot_of = dict(entries)  # of its size already: one that grows to it takes twice the time
        slot_of.update(kept)
        slot_of.update(zip(new, taken + shared, strict=True))
        return Allotted(slot_of, taken, shared, gone[len(shared) :])

    def give_back(self, slots: Iterable[int]) -> None:
        """Their entries are gone."""
        self._below += slots
        self._below.sort(reverse=True)
