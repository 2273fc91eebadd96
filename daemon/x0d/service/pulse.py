"""The event loop's own pulse: how late it wakes, and the watchdog's ping.

The ping comes from the loop, never from a thread: when the loop hangs, systemd restarts the daemon.
"""

import asyncio
from collections.abc import Callable

from x0d.ports import Clock
from x0d.telemetry import Telemetry

BEAT_S = 0.1


class Pulse:
    """Measures the loop's lag and feeds the watchdog."""

    def __init__(
        self, clock: Clock, counted: Telemetry, watchdog: Callable[[], None], watchdog_interval_s: float | None
    ) -> None:
        self._clock = clock
        self._counted = counted
        self._watchdog = watchdog
        self._interval_ns = None if watchdog_interval_s is None else int(watchdog_interval_s * 1e9)

    async def run(self) -> None:
        """Beat for ever."""
        pinged_ns = 0
        while True:
            before_ns = self._clock.monotonic_ns()
            await asyncio.sleep(BEAT_S)
            now_ns = self._clock.monotonic_ns()
            self._counted.loop_lag.observe(max(0.0, (now_ns - before_ns) / 1e9 - BEAT_S))
            if self._interval_ns is not None and now_ns - pinged_ns >= self._interval_ns - BEAT_S * 1e9:
                pinged_ns = now_ns
                self._watchdog()
