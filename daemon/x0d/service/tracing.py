"""Tracing as metrics, API and loop share it, and measurements that cost too much to run always.

All who ask at the same time share one pass over the maps.  A measurement shows what came since its own start.  It ends
with its time, with its watcher, and in any case by a deadline that the kernel part keeps itself.  Satisfies
``views_dataplane.TracingView``.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final

from x0d.errors import Busy
from x0d.ports import Clock, Log2Histogram, MapStatus, ObjectStatus, ProgramStatus, Tracer, TraceSample, Upgraded
from x0d.service import histograms
from x0d.service.views_dataplane import TraceProgress

SHARED_FOR_NS: Final = 100_000_000
"""A reading this young is given again: several ask at once, and a reading takes the loop's thread a millisecond."""
PROGRESS_EVERY_S: Final = 1.0
SYSCALL_ROWS_MAX: Final = 20
_S: Final = 1_000_000_000


class TracingService:
    """What the tracepoints count, for whoever asks."""

    def __init__(self, tracer: Tracer, clock: Clock) -> None:
        self._tracer = tracer
        self._clock = clock
        self._reading = asyncio.Lock()
        self._sample: TraceSample | None = None
        self._sampled_at_ns = 0
        self._is_measuring = False

    async def open(self) -> None:
        """Load what the configuration names; what is refused is told by ``programs``."""
        await self._tracer.open()

    async def check_objects(self) -> None:
        """Look into the objects on disk.  Raises NotSupported, InvalidInput."""
        await self._tracer.check_objects()

    async def upgrade(self) -> Upgraded:
        """Load the steady programs anew if their object is another; they count from 0 then."""
        async with self._reading:
            self._sample = None
            return await self._tracer.upgrade()

    async def unload(self) -> None:
        """Take every program out of the kernel; ``open`` loads them again."""
        await self._tracer.unload()

    def programs(self) -> Sequence[ProgramStatus]:
        """Every program, loaded or not."""
        return self._tracer.programs()

    def maps(self) -> Sequence[MapStatus]:
        """Maps of the loaded ones."""
        return self._tracer.maps()

    def objects(self) -> Sequence[ObjectStatus]:
        """Objects that were read."""
        return self._tracer.objects()

    async def read(self) -> TraceSample:
        """What has been counted, at most ``SHARED_FOR_NS`` ago."""
        async with self._reading:
            age_ns = self._clock.monotonic_ns() - self._sampled_at_ns
            if self._sample is None or age_ns >= SHARED_FOR_NS:
                return await self._read_anew()
            return self._sample

    async def trace(self, duration_s: float, sample_every: int) -> AsyncGenerator[TraceProgress, None]:
        """Measure system calls; gives a progress about once a second and ends with one that is ``done``.

        Closing the generator early ends the measurement.

        Raises:
            Busy: a measurement is under way.
            InvalidInput: no duration, or no such sampling.
            KernelRefused, NotSupported: it cannot be loaded here.
        """
        if self._is_measuring:
            raise Busy("a measurement of the system calls is under way; try again when it has ended")
        self._is_measuring = True
        try:
            before = await self._syscalls()
            await self._tracer.start_syscalls(duration_s, sample_every)
            started_at_ns, elapsed_s = self._clock.monotonic_ns(), 0.0
            while elapsed_s < duration_s:
                await asyncio.sleep(min(PROGRESS_EVERY_S, duration_s - elapsed_s))
                elapsed_s = (self._clock.monotonic_ns() - started_at_ns) / _S
                grown = histograms.since(await self._syscalls(), before)
                yield TraceProgress(
                    elapsed_s=elapsed_s,
                    done=elapsed_s >= duration_s,
                    total=histograms.to_histogram(histograms.total(grown)),
                    syscalls=histograms.slowest(grown, SYSCALL_ROWS_MAX),
                )
        finally:
            # A watcher that is cancelled twice must not leave every system call of the machine slower.
            await asyncio.shield(self._tracer.stop_syscalls())
            self._is_measuring = False

    async def _syscalls(self) -> Mapping[str, Log2Histogram]:
        async with self._reading:
            return (await self._read_anew()).syscalls

    async def _read_anew(self) -> TraceSample:
        """The caller holds ``_reading``."""
        sample = await self._tracer.read()
        self._sample, self._sampled_at_ns = sample, self._clock.monotonic_ns()
        return sample
