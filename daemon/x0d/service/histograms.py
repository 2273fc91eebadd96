"""Histograms by powers of two as the kernel counts them, turned into seconds, percentiles and differences.

Pure functions.  A kernel bucket ``i`` holds durations from 2^(i-1) up to, and without, 2^i ns, so its upper bound is
2^i ns.  What is shown has the same bounds always, as Prometheus wants it: what is shorter than the first counts there,
what is longer than the last under infinity.
"""

import math
import operator
from collections.abc import Mapping
from itertools import zip_longest
from typing import Final

from x0d.ports import Log2Histogram
from x0d.service.views_dataplane import Histogram, SyscallLatency

FIRST_BUCKET: Final = 10
"""Up to 1.024 us."""
LAST_BUCKET: Final = 34
"""Up to 17.2 s."""
UPPER_BOUNDS: Final = (*(2**i / 1e9 for i in range(FIRST_BUCKET, LAST_BUCKET + 1)), math.inf)
"""Seconds."""

SLOW_SHARE: Final = 0.99
_NS: Final = 1_000_000_000


def to_histogram(observed: Log2Histogram) -> Histogram:
    """Seconds, with ``UPPER_BOUNDS``; counts are not cumulative."""
    counts = observed.counts
    shown = (
        sum(counts[: FIRST_BUCKET + 1]),
        *(counts[i] if i < len(counts) else 0 for i in range(FIRST_BUCKET + 1, LAST_BUCKET + 1)),
        sum(counts[LAST_BUCKET + 1 :]),
    )
    return Histogram(UPPER_BOUNDS, shown, observed.sum_ns / _NS)


def percentile_s(observed: Log2Histogram, share: float) -> float:
    """Upper bound, in seconds, of the bucket where ``share`` of the observations is reached; 0 without any."""
    wanted, below = share * sum(observed.counts), 0
    for i, count in enumerate(observed.counts):
        below += count
        if count and below >= wanted:
            return float(2**i / 1e9)
    return 0.0


def total(histograms: Mapping[str, Log2Histogram]) -> Log2Histogram:
    """Sum of all."""
    rows = zip_longest(*(each.counts for each in histograms.values()), fillvalue=0)
    return Log2Histogram(tuple(sum(row) for row in rows), sum(each.sum_ns for each in histograms.values()))


def since(now: Mapping[str, Log2Histogram], before: Mapping[str, Log2Histogram]) -> dict[str, Log2Histogram]:
    """What has come since; names under which nothing has come are left out."""
    grown: dict[str, Log2Histogram] = {}
    for name, later in now.items():
        earlier = before.get(name, Log2Histogram((0,) * len(later.counts), 0))
        counts = tuple(map(operator.sub, later.counts, earlier.counts))
        if any(counts):
            grown[name] = Log2Histogram(counts, later.sum_ns - earlier.sum_ns)
    return grown


def slowest(histograms: Mapping[str, Log2Histogram], rows_max: int) -> list[SyscallLatency]:
    """Those that took the most time in sum, first."""
    ranked = sorted(histograms.items(), key=lambda item: (-item[1].sum_ns, item[0]))[:rows_max]
    return [
        SyscallLatency(
            name,
            count := sum(observed.counts),
            observed.sum_ns / count / _NS if count else 0.0,
            percentile_s(observed, SLOW_SHARE),
        )
        for name, observed in ranked
    ]
