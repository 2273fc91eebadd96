"""Which element of ``x0d_deny_hits`` belongs to which entry.

An entry keeps its slot as long as it exists, so that no hit is lost when the list around it is
replaced.  The lowest free slots are given out first, so that a short list is read in a short time.
Whoever gives slots back has set their hits to zero.
"""

from collections.abc import Collection, Iterable, Iterator
from itertools import chain


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

    def give_back(self, slots: Iterable[int]) -> None:
        """Their entries are gone."""
        self._below += slots
        self._below.sort(reverse=True)
