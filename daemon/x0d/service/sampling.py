"""One pass over the counters, shared by everybody who asks at about the same time.

Metrics, API and the live view read the same numbers.  Whoever asks first within ``HELD_NS`` has the
maps read; the others get that reading.
"""

from typing import Final

from x0d.ports import Clock, DataPlane, PlaneSample

HELD_NS: Final = 5_000_000
"""Long enough for the readers of one moment, too short for anybody to see an old count."""


class PlaneReadings:
    """What XDP counts, read when it is asked for."""

    def __init__(self, plane: DataPlane, clock: Clock) -> None:
        self._plane = plane
        self._clock = clock
        self._read: PlaneSample | None = None
        self._read_at_ns = 0

    def sample(self) -> PlaneSample:
        """The latest reading, at most ``HELD_NS`` old."""
        now_ns = self._clock.monotonic_ns()
        if self._read is None or now_ns - self._read_at_ns > HELD_NS:
            self._read, self._read_at_ns = self._plane.sample(), now_ns
        return self._read
