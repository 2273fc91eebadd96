"""Shared readings, measurements that end, and histograms in seconds."""

import asyncio
import math
from collections.abc import Coroutine
from contextlib import aclosing
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.clock import FakeClock, passes, run_virtual
from fakes.tracing import FakeTracer, histogram
from x0d.errors import Busy, KernelRefused
from x0d.ports import Log2Histogram
from x0d.service import histograms
from x0d.service.tracing import TracingService
from x0d.service.views_dataplane import TraceProgress

Result = TypeVar("Result")
US, MS, S = 1_000, 1_000_000, 1_000_000_000


class Bench:
    """A service over a fake tracer, in virtual time."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.tracer = FakeTracer(self.clock)
        self.service = TracingService(self.tracer, self.clock)

    def run(self, work: Coroutine[None, None, Result]) -> Result:
        return run_virtual(self.clock, work)

    async def measure(self, duration_s: float) -> list[TraceProgress]:
        async with aclosing(self.service.trace(duration_s, 1)) as measurement:
            return [progress async for progress in measurement]


@pytest.fixture
def bench() -> Bench:
    """One for each test."""
    return Bench()


def test_readers_of_one_moment_share_a_pass(bench: Bench) -> None:
    """Metrics, API and loop that ask within 100 ms are given one reading; later ones a new one."""

    async def work() -> list[int]:
        bench.tracer.drops["no_socket"] = 1
        samples = await asyncio.gather(*(bench.service.read() for _ in range(3)))
        passes_made = [bench.tracer.reads]
        bench.tracer.drops["no_socket"] = 5
        await passes(0.11)
        samples.append(await bench.service.read())
        assert [1, 1, 1, 5] == [sample.drops["no_socket"] for sample in samples]
        return [*passes_made, bench.tracer.reads]

    assert [1, 2] == bench.run(work())


def test_measurement_tells_every_second_and_ends(bench: Bench) -> None:
    """2.5 seconds give three progresses, the last one done, and the programs are gone."""
    progress = bench.run(bench.measure(2.5))
    assert [(1.0, False), (2.0, False), (2.5, True)] == [(round(p.elapsed_s, 3), p.done) for p in progress]
    assert not bench.tracer.is_loaded


def test_measurement_shows_only_its_own(bench: Bench) -> None:
    """What an earlier measurement counted is not in a later one; the rows are sorted by time in sum."""

    async def work() -> TraceProgress:
        bench.clock.at(0.5, lambda: bench.tracer.call("futex", *[9 * S] * 7))
        await bench.measure(1)
        bench.clock.at(0.5, lambda: bench.tracer.call("read", *[100 * US] * 98, 40 * MS, 40 * MS))
        bench.clock.at(0.6, lambda: bench.tracer.call("getpid", 2 * US, 2 * US))
        return (await bench.measure(1))[-1]

    last = bench.run(work())
    rows = [(row.name, row.count, round(row.mean_s, 9), row.p99_s) for row in last.syscalls]
    assert [("read", 100, 898e-6, 2**26 / 1e9), ("getpid", 2, 2e-6, 2**11 / 1e9)] == rows
    assert last.total is not None
    assert 102 == sum(last.total.counts)


def test_watcher_goes_away(bench: Bench) -> None:
    """A watcher that closes the measurement early ends it in the kernel."""

    async def work() -> bool:
        async with aclosing(bench.service.trace(60, 1)) as measurement:
            await anext(measurement)
            assert bench.tracer.is_loaded
        return bench.tracer.is_loaded

    assert not bench.run(work())


def test_watcher_is_cancelled(bench: Bench) -> None:
    """A cancelled watcher ends the measurement, and the next one may begin."""

    async def work() -> int:
        task = asyncio.create_task(bench.measure(60))
        await passes(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not bench.tracer.is_loaded
        return len(await bench.measure(1))

    assert 1 == bench.run(work())


def test_second_measurement_is_refused_and_harms_nothing(bench: Bench) -> None:
    """While one runs another is Busy, and the first goes on to its end."""

    async def work() -> list[TraceProgress]:
        task = asyncio.create_task(bench.measure(3))
        await passes(1.5)
        with pytest.raises(Busy):
            await bench.measure(1)
        assert bench.tracer.is_loaded
        return await task

    assert bench.run(work())[-1].done


def test_refused_programs_end_nothing(bench: Bench) -> None:
    """What the kernel refuses reaches the caller, and a later measurement works."""

    async def work() -> int:
        bench.tracer.refusal = KernelRefused("load program x0d_t_sys_enter", 1)
        with pytest.raises(KernelRefused):
            await bench.measure(1)
        bench.tracer.refusal = None
        return len(await bench.measure(1))

    assert 1 == bench.run(work())


# ---- histograms ----

durations = st.lists(st.integers(0, 2**50), max_size=30)


@given(durations)
def test_no_observation_is_lost(observed_ns: list[int]) -> None:
    """The shown counts add up to the observations, and each lies at or under its bound."""
    shown = histograms.to_histogram(histogram(observed_ns))
    assert len(observed_ns) == sum(shown.counts)
    assert len(shown.upper_bounds) == len(shown.counts)
    assert math.isclose(sum(observed_ns) / 1e9, shown.sum)
    for i, bound in enumerate(shown.upper_bounds):
        at_most = sum(shown.counts[: i + 1])
        assert at_most == sum(duration / 1e9 < bound for duration in observed_ns)


def test_bounds_are_fixed() -> None:
    """From 1.024 us to 17.2 s and infinity, whatever was observed; nothing observed shows zeros."""
    empty = histograms.to_histogram(Log2Histogram((), 0))
    assert (1.024e-06, 17.179869184, math.inf) == (
        empty.upper_bounds[0],
        empty.upper_bounds[-2],
        empty.upper_bounds[-1],
    )
    assert {0} == set(empty.counts)
    assert 26 == len(empty.counts)


@given(durations.filter(bool), st.floats(0.01, 1.0))
def test_percentile_is_the_bound_of_its_bucket(observed_ns: list[int], share: float) -> None:
    """It is never below the exact value, and less than twice as much where the buckets reach."""
    limited = [min(duration, 2**38) for duration in observed_ns]
    exact = sorted(limited)[max(math.ceil(share * len(limited)) - 1, 0)]
    shown_ns = histograms.percentile_s(histogram(limited), share) * 1e9
    assert exact < round(shown_ns) <= max(2 * exact, 1)


def test_percentile_of_nothing() -> None:
    """Without observations it is 0."""
    assert 0.0 == histograms.percentile_s(Log2Histogram((), 0), 0.99)


@given(durations, durations)
def test_difference_is_what_came(before_ns: list[int], came_ns: list[int]) -> None:
    """A difference has what came in between and nothing else; names with nothing new are left out."""
    before, now = {"read": histogram(before_ns)}, {"read": histogram([*before_ns, *came_ns])}
    expected = {"read": histogram(came_ns)} if came_ns else {}
    assert expected == histograms.since(now, before)
    assert expected == histograms.since(expected, {})
