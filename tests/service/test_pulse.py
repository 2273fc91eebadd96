"""The pulse: how late the event loop wakes, and that only a loop that wakes keeps the watchdog quiet."""

import asyncio
import itertools

from fakes.clock import FakeClock, passes, run_virtual
from x0d.service.pulse import BEAT_S, Pulse
from x0d.telemetry import Telemetry


def beat(interval_s: float | None, hang_s: float = 0.0) -> tuple[list[float], Telemetry]:
    """Let the pulse beat for ten seconds, with a hang after five; the instants of the watchdog's pings."""
    clock, counted = FakeClock(), Telemetry()
    began_ns = clock.now_ns
    pings: list[float] = []
    pulse = Pulse(clock, counted, lambda: pings.append(round((clock.now_ns - began_ns) / 1e9, 1)), interval_s)

    async def main() -> None:
        task = asyncio.create_task(pulse.run())
        await passes(5)
        clock.hang(hang_s)
        await passes(5)
        task.cancel()

    run_virtual(clock, main())
    return pings, counted


def test_watchdog_is_pinged_in_time() -> None:
    """Pings come at once and then never further apart than the interval that systemd wants."""
    pings, _ = beat(2.0)
    assert pings[0] <= BEAT_S
    assert all(late - early <= 2.0 for early, late in itertools.pairwise(pings))
    assert 5 <= len(pings) <= 7


def test_loop_that_hangs_does_not_ping() -> None:
    """While the loop hangs nobody pings for it, so systemd restarts the daemon; the lag is observed afterwards."""
    pings, counted = beat(0.5, hang_s=3.0)
    assert [] == [at_s for at_s in pings if 5.0 < at_s < 8.0]
    assert any(at_s >= 8.0 for at_s in pings)
    value = counted.registry.get_sample_value
    slow = (value("x0d_loop_lag_seconds_count") or 0) - (value("x0d_loop_lag_seconds_bucket", {"le": "1.0"}) or 0)
    assert 1 == slow
    assert 2.8 <= (value("x0d_loop_lag_seconds_sum") or 0) <= 3.2


def test_without_watchdog_nobody_is_pinged() -> None:
    """A unit without WatchdogSec= gets no ping, and the lag is observed all the same."""
    pings, counted = beat(None)
    assert [] == pings
    assert 90 <= (counted.registry.get_sample_value("x0d_loop_lag_seconds_count") or 0) <= 101
