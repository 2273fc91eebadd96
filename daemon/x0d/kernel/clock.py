"""The machine's clocks."""

import time

_MONOTONIC_COARSE = 6
"""Steps by one jiffy; ``time`` has no name for it."""


class SystemClock:
    """Satisfies ``ports.Clock``."""

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC, which ``bpf_ktime_get_ns`` reads too."""
        return time.monotonic_ns()

    def unix_ms(self) -> int:
        """Wall-clock milliseconds."""
        return time.time_ns() // 1_000_000


def tick_ns() -> int:
    """Length of a jiffy of this kernel, 1 to 10 ms."""
    return round(time.clock_getres(_MONOTONIC_COARSE) * 1e9)
