"""Latencies: of the run queue, and of system calls while a measurement runs."""

import asyncio
import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kernel.namespaces import run
from kernel.trace_world import OBJECTS_DIR, STEADY, build, tracer, until
from x0d.errors import Busy, InvalidInput, NotSupported
from x0d.kernel import bpf_maps, objects, trace_attach, trace_layout, trace_syscalls
from x0d.kernel.libbpf import Libbpf, read_object
from x0d.kernel.tracing import SYSCALL_PROGRAMS, SYSCALLS_FILE, KernelTracer
from x0d.ports import Log2Histogram

pytestmark = pytest.mark.kernel

CALLS = 500


@pytest.fixture(autouse=True)
def _built() -> None:
    build()


@contextmanager
def alone_on_a_cpu() -> Iterator[None]:
    """Keep the calling thread on one CPU: sampling counts there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def call_getppid(times: int) -> None:
    """System calls that nothing else makes in such numbers."""
    for _ in range(times):
        os.getppid()


def count(histogram: Log2Histogram | None) -> int:
    return sum(histogram.counts) if histogram else 0


async def getppid_count(of: KernelTracer) -> int:
    return count((await of.read()).syscalls.get("getppid"))


def test_waiting_threads_are_timed() -> None:
    """The histogram of the run queue grows while threads sleep and wake, and its sum lies within its buckets."""

    async def main() -> None:
        async with tracer(("runqueue",)) as running:
            before = (await running.read()).run_queue
            after = (await until(running, lambda seen: count(seen.run_queue) >= count(before) + 50)).run_queue
        assert count(after) >= count(before) + 50
        assert sum(n << i >> 1 for i, n in enumerate(after.counts)) <= after.sum_ns
        assert after.sum_ns < sum(n << i for i, n in enumerate(after.counts))

    asyncio.run(main())


def test_every_call_is_counted() -> None:
    """One in one: as many calls as were made, each within the time that all of them took."""

    async def main() -> None:
        async with tracer(()) as idle:
            await idle.start_syscalls(30.0, 1)
            begun_ns = time.monotonic_ns()
            await asyncio.to_thread(call_getppid, CALLS)
            took_ns = time.monotonic_ns() - begun_ns
            seen = (await idle.read()).syscalls["getppid"]
            assert count(seen) >= CALLS
            assert 0 < seen.sum_ns < took_ns * 2

    asyncio.run(main())


def test_one_in_so_many_is_counted() -> None:
    """One in ten: a tenth of the calls of a CPU, give or take those of others there."""

    def work() -> None:
        with alone_on_a_cpu():
            call_getppid(CALLS * 20)

    async def main() -> None:
        async with tracer(()) as idle:
            await idle.start_syscalls(30.0, 10)
            await asyncio.to_thread(work)
            assert CALLS * 2 == pytest.approx(await getppid_count(idle), rel=0.1)

    asyncio.run(main())


def test_kernel_part_ends_by_itself() -> None:
    """Past the deadline nothing is counted, though nobody has stopped the measurement."""

    async def main() -> None:
        async with tracer(()) as idle:
            await idle.start_syscalls(0.2, 1)
            call_getppid(CALLS)
            assert await getppid_count(idle) >= CALLS
            await asyncio.sleep(0.25)  # tidy: the kernel's clock decides
            call_getppid(1)  # the first call past the deadline ends it
            at_the_end = await getppid_count(idle)
            call_getppid(CALLS)
            assert at_the_end == await getppid_count(idle)
            await idle.start_syscalls(30.0, 1)  # no longer busy

    asyncio.run(main())


def test_what_was_measured_stays_readable() -> None:
    """Two measurements add up, also once their programs are gone; in between nothing is counted."""

    async def main() -> None:
        async with tracer(()) as idle:
            for _ in range(2):
                await idle.start_syscalls(30.0, 1)
                call_getppid(CALLS)
                await idle.stop_syscalls()
                call_getppid(CALLS)
            assert 2 * CALLS == pytest.approx(await getppid_count(idle), abs=CALLS / 2)
            assert [] == list(idle.maps())
            states = {program.name: program.state for program in idle.programs()}
            assert {"off"} == {states[name] for name in SYSCALL_PROGRAMS}

    asyncio.run(main())


def test_ending_processes_leave_nothing_behind() -> None:
    """A call that never returns is not begun, so that no later thread of that number ends it."""
    never = [n for n, name in trace_syscalls.names().items() if name in trace_syscalls.NEVER_RETURNING]
    elf = read_object(OBJECTS_DIR / SYSCALLS_FILE)
    info = objects.inspect(elf, SYSCALLS_FILE)
    attached = trace_attach.load(Libbpf(), elf, info, SYSCALL_PROGRAMS)
    try:
        box = trace_layout.encode_timebox(time.monotonic_ns() + 30_000_000_000, 1, never)
        bpf_maps.update(attached.map_fds[trace_layout.TIMEBOX_MAP], bytes(4), box)
        trace_attach.attach(attached, info)
        for _ in range(20):
            run("true")
        calls = bpf_maps.entries(attached.map_fds["x0d_t_calls"], 4, trace_layout.CALL.size)
        assert not {trace_layout.CALL.unpack(value)[1] for _thread, value in calls} & set(never)
    finally:
        attached.close()


def test_unknown_numbers_count_in_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that no table names shows as one; numbers past the table share its last row."""
    monkeypatch.setattr(trace_syscalls, "names", dict)
    libc = ctypes.CDLL(None, use_errno=True)

    async def main() -> None:
        async with tracer(()) as idle:
            await idle.start_syscalls(30.0, 1)
            for _ in range(CALLS):
                libc.syscall(ctypes.c_long(400))
                libc.syscall(ctypes.c_long(5000))
            syscalls = (await idle.read()).syscalls
            assert count(syscalls.get("syscall_400")) >= CALLS
            assert count(syscalls.get("other")) >= CALLS

    asyncio.run(main())


def test_refused_measurements() -> None:
    """One at a time, of some duration, by a sampling that exists; an object that is missing is named."""

    async def main() -> None:
        async with tracer(()) as idle:
            for duration_s, sample_every in ((0.0, 1), (1.0, 0), (1.0, 1 << 32)):
                with pytest.raises(InvalidInput):
                    await idle.start_syscalls(duration_s, sample_every)
            await idle.start_syscalls(30.0, 1)
            with pytest.raises(Busy):
                await idle.start_syscalls(1.0, 1)
        async with tracer((), objects_dir=Path("/nonexistent")) as nothing:
            with pytest.raises(NotSupported, match="trace_syscalls"):
                await nothing.start_syscalls(1.0, 1)
            assert ["refused", "refused"] == [p.state for p in nothing.programs() if p.name in SYSCALL_PROGRAMS]

    asyncio.run(main())


def test_closing_ends_all() -> None:
    """A closed tracer has no descriptor left: nothing is pinned, so nothing is in the kernel."""

    async def main() -> None:
        async with tracer(STEADY) as made:
            await made.start_syscalls(30.0, 1)
            assert len(bpf_descriptors()) > len(before)

    before = bpf_descriptors()
    asyncio.run(main())
    assert before == bpf_descriptors()


def bpf_descriptors() -> list[str]:
    """What of this process is a program, map or link."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the directory itself
            found.append(f"{entry.name} {entry.readlink()}")
    return sorted(target for target in found if "bpf" in target)
