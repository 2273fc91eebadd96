"""What every tracer promises: the fake that tests use, and the tracepoint programs in the kernel."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import pytest

from fakes.clock import FakeClock
from fakes.tracing import FakeTracer
from kernel.trace_world import build
from x0d.errors import Busy, InvalidInput
from x0d.kernel.tracing import KernelTracer
from x0d.ports import Tracer

CALLS = 300


class Machine(Protocol):
    """A tracer, and a program of the machine that makes system calls."""

    tracer: Tracer

    def call_getppid(self, times: int) -> None:
        """Make system calls."""

    def pass_time(self, for_s: float) -> None:
        """Let time go by."""


class FakeMachine:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.fake = FakeTracer(self.clock)
        self.tracer: Tracer = self.fake

    def call_getppid(self, times: int) -> None:
        self.fake.call("getppid", *[200] * times)

    def pass_time(self, for_s: float) -> None:
        self.clock.advance(for_s)


class KernelMachine:
    def __init__(self, tracer: KernelTracer) -> None:
        self.tracer: Tracer = tracer

    @staticmethod
    def call_getppid(times: int) -> None:
        for _ in range(times):
            os.getppid()

    @staticmethod
    def pass_time(for_s: float) -> None:
        time.sleep(for_s)  # tidy: the kernel keeps the deadline by its own clock


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.kernel)])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The fake, and the kernel's."""
    if request.param == "fake":
        yield FakeMachine()
        return
    build()
    tracer = KernelTracer(("drops", "sockets"), None, None)
    try:
        yield KernelMachine(tracer)
    finally:
        tracer.close()


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await scenario()

    asyncio.run(whole())


async def getppid_count(machine: Machine) -> int:
    observed = (await machine.tracer.read()).syscalls.get("getppid")
    return sum(observed.counts) if observed else 0


def state(machine: Machine, program: str) -> str:
    return next(status.state for status in machine.tracer.programs() if status.name == program)


def test_programs_are_loaded_by_open(machine: Machine) -> None:
    """Before it everything is off and nothing is counted; after it maps and objects are told."""

    async def scenario() -> None:
        tracer = machine.tracer
        assert ("off", [], []) == (state(machine, "x0d_t_sys_enter"), list(tracer.maps()), list(tracer.objects()))
        assert {} == (await tracer.read()).drops
        await tracer.open()
        assert "loaded" == state(machine, "x0d_t_drop")
        assert "x0d_t_drops" in {row.name for row in tracer.maps()}
        assert ["trace.bpf.o"] == [row.path.rpartition("/")[2] for row in tracer.objects()]

    play(scenario)


def test_measurement_counts_until_it_is_stopped(machine: Machine) -> None:
    """Calls count while it runs; what was counted stays; a stop more does nothing."""

    async def scenario() -> None:
        await machine.tracer.open()
        machine.call_getppid(CALLS)
        assert 0 == await getppid_count(machine)
        await machine.tracer.start_syscalls(60.0, 1)
        assert "loaded" == state(machine, "x0d_t_sys_exit")
        machine.call_getppid(CALLS)
        await machine.tracer.stop_syscalls()
        await machine.tracer.stop_syscalls()
        counted = await getppid_count(machine)
        assert counted >= CALLS
        assert "off" == state(machine, "x0d_t_sys_exit")
        machine.call_getppid(CALLS)
        assert counted == await getppid_count(machine)

    play(scenario)


def test_measurement_ends_by_itself(machine: Machine) -> None:
    """Past its time nothing counts, and another may begin; until then another is Busy."""

    async def scenario() -> None:
        await machine.tracer.start_syscalls(0.2, 1)
        with pytest.raises(Busy):
            await machine.tracer.start_syscalls(0.2, 1)
        machine.pass_time(0.25)
        machine.call_getppid(1)
        counted = await getppid_count(machine)
        machine.call_getppid(CALLS)
        assert counted == await getppid_count(machine)
        await machine.tracer.start_syscalls(60.0, 1)
        machine.call_getppid(CALLS)
        assert await getppid_count(machine) >= counted + CALLS
        await machine.tracer.stop_syscalls()

    play(scenario)


@pytest.mark.parametrize(("duration_s", "sample_every"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_impossible_measurements_are_refused(machine: Machine, duration_s: float, sample_every: int) -> None:
    """No duration and no sampling is invalid, and nothing is loaded."""

    async def scenario() -> None:
        with pytest.raises(InvalidInput):
            await machine.tracer.start_syscalls(duration_s, sample_every)
        assert "off" == state(machine, "x0d_t_sys_enter")

    play(scenario)


def test_unloaded_programs_load_again(machine: Machine) -> None:
    """Unloaded, nothing is left in the kernel and nothing counts; opened again it counts from 0."""

    async def scenario() -> None:
        tracer = machine.tracer
        await tracer.open()
        await tracer.start_syscalls(60.0, 1)
        await tracer.unload()
        assert ("off", "off", []) == (
            state(machine, "x0d_t_drop"),
            state(machine, "x0d_t_sys_enter"),
            list(tracer.maps()),
        )
        assert {} == (await tracer.read()).drops
        await tracer.open()
        assert "loaded" == state(machine, "x0d_t_drop")

    play(scenario)


def test_upgrade_to_the_same_is_none(machine: Machine) -> None:
    """Objects that are those in force replace nothing and leave what was counted."""

    async def scenario() -> None:
        await machine.tracer.open()
        before = [status.program_id for status in machine.tracer.programs()]
        await machine.tracer.check_objects()
        upgraded = await machine.tracer.upgrade()
        assert ((), ()) == (upgraded.replaced, upgraded.objects)
        assert before == [status.program_id for status in machine.tracer.programs()]

    play(scenario)
