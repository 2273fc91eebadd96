"""Token buckets: how much work strangers may cause, in all and each.

A budget fills at a rate up to its burst and is spent by what is done.  Sources that are not remembered, because there
are more of them than there is room for, share one budget: so nobody gets a new one by coming under many names, and
memory stays bounded.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

SOURCES_MAX: Final = 4_096


class Budget:
    """One bucket; full at first."""

    __slots__ = ("_burst", "_left", "_rate_per_s", "_seen_at_s")

    def __init__(self, rate_per_s: float, burst: float) -> None:
        assert rate_per_s > 0, f"rate {rate_per_s}"
        assert burst > 0, f"burst {burst}"
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._left = burst
        self._seen_at_s: float | None = None

    def take(self, now_s: float, cost: float = 1) -> bool:
        """Spend ``cost`` if it is there; a clock that goes back fills nothing and takes nothing away."""
        self._fill(now_s)
        if self._left < cost:
            return False
        self._left -= cost
        return True

    def is_full(self, now_s: float) -> bool:
        """Whether forgetting it would make no difference."""
        self._fill(now_s)
        return self._left >= self._burst

    def _fill(self, now_s: float) -> None:
        if self._seen_at_s is not None:
            self._left = min(self._burst, self._left + max(0.0, now_s - self._seen_at_s) * self._rate_per_s)
        self._seen_at_s = now_s


class Budgets:
    """One bucket for each source, and one for those for whom there is no room."""

    def __init__(self, rate_per_s: float, burst: float, sources_max: int = SOURCES_MAX) -> None:
        assert sources_max > 0, f"{sources_max} sources"
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._sources_max = sources_max
        self._budgets: OrderedDict[Hashable, Budget] = OrderedDict()  # the one that waited longest first
        self._others = Budget(rate_per_s, burst)

    def __len__(self) -> int:
        """Count the sources that are remembered."""
        return len(self._budgets)

    def take(self, source: Hashable, now_s: float, cost: float = 1) -> bool:
        """Spend ``cost`` of what a source has left, if it is there."""
        budget = self._budgets.get(source)
        if budget is None and self._has_room(now_s):
            budget = self._budgets[source] = Budget(self._rate_per_s, self._burst)
        if budget is None:
            return self._others.take(now_s, cost)
        self._budgets.move_to_end(source)
        return budget.take(now_s, cost)

    def _has_room(self, now_s: float) -> bool:
        """Make room by forgetting the source that waited longest, if its budget is full again."""
        if len(self._budgets) < self._sources_max:
            return True
        source, budget = next(iter(self._budgets.items()))
        if not budget.is_full(now_s):
            return False
        del self._budgets[source]
        return True
