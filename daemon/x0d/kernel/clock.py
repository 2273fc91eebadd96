"""The machine's clocks."""

import time


class SystemClock:
    """Satisfies ``ports.Clock``."""

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC, which ``bpf_ktime_get_ns`` reads too."""
        return time.monotonic_ns()

    def unix_ms(self) -> int:
        """Wall-clock milliseconds."""
        return time.time_ns() // 1_000_000
