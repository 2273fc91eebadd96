"""Tracepoint programs in memory: a test does what the kernel would, and the tracer counts it.

Not modelled: several CPUs, tables that are full, which network namespace a packet belongs to, sampling (every call of a
measurement counts).  ``tests/contract/test_tracer.py`` holds it and the kernel to one contract.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from x0d.errors import Busy, InvalidInput, KernelRefused, NotSupported
from x0d.ports import Clock, Log2Histogram, MapStatus, ObjectStatus, ProgramStatus, TraceSample, Upgraded

BUCKETS = 40
STEADY = ("x0d_t_drop", "x0d_t_state", "x0d_t_switch")
SYSCALLS = ("x0d_t_sys_enter", "x0d_t_sys_exit")


@dataclass
class FakeTracer:
    """``ports.Tracer``."""

    clock: Clock
    refusal: KernelRefused | NotSupported | None = None
    """Of the system calls' programs."""
    drops: dict[str, int] = field(default_factory=dict)
    retransmits: dict[str, int] = field(default_factory=dict)
    resets_sent: dict[str, int] = field(default_factory=dict)
    resets_received: dict[str, int] = field(default_factory=dict)
    socket_states: dict[tuple[str, str, str], int] = field(default_factory=dict)
    run_queue: list[int] = field(default_factory=list)
    """Durations in ns."""
    syscalls: dict[str, list[int]] = field(default_factory=dict)
    """Durations in ns of the calls that were measured."""
    is_open: bool = False
    is_loaded: bool = False
    """The system calls' programs are in the kernel."""
    until_ns: int = 0
    reads: int = 0
    is_changed: bool = False
    """The object on disk is another than when it was read."""
    object_fault: NotSupported | InvalidInput | None = None
    """What is wrong with it."""

    async def open(self) -> None:
        self.is_open = True

    async def check_objects(self) -> None:
        if self.object_fault is not None:
            raise self.object_fault

    async def upgrade(self) -> Upgraded:
        if not self.is_changed:
            return Upgraded((), 1.0)
        self.is_changed = False
        self._forget_counts()
        return Upgraded(STEADY, 1.0, ("trace.bpf.o",))

    async def unload(self) -> None:
        await self.stop_syscalls()
        self.is_open = False
        self._forget_counts()

    def _forget_counts(self) -> None:
        for counts in (self.drops, self.retransmits, self.resets_sent, self.resets_received):
            counts.clear()
        self.socket_states.clear()
        self.run_queue.clear()

    def programs(self) -> Sequence[ProgramStatus]:
        states = dict.fromkeys(STEADY, "loaded" if self.is_open else "off")
        states |= dict.fromkeys(SYSCALLS, "loaded" if self.is_loaded else "off")
        return [ProgramStatus(name, "trace", "tracepoint", state) for name, state in states.items()]

    def maps(self) -> Sequence[MapStatus]:
        return [MapStatus("x0d_t_drops", "percpu_hash", 512, 50_048)] if self.is_open else []

    def objects(self) -> Sequence[ObjectStatus]:
        return [ObjectStatus("trace.bpf.o", "00" * 32, "GPL", 2, True, 0)] if self.is_open else []

    async def read(self) -> TraceSample:
        self.reads += 1
        return TraceSample(
            dict(self.drops),
            dict(self.retransmits),
            dict(self.resets_sent),
            dict(self.resets_received),
            dict(self.socket_states),
            histogram(self.run_queue),
            {name: histogram(durations) for name, durations in self.syscalls.items()},
        )

    async def start_syscalls(self, duration_s: float, sample_every: int) -> None:
        if duration_s <= 0 or sample_every < 1:
            raise InvalidInput("no such measurement")
        if self.clock.monotonic_ns() < self.until_ns:
            raise Busy("a measurement is under way")
        if self.refusal is not None:
            raise self.refusal
        self.is_loaded = True
        self.until_ns = self.clock.monotonic_ns() + round(duration_s * 1e9)

    async def stop_syscalls(self) -> None:
        self.is_loaded = False
        self.until_ns = 0

    def call(self, name: str, *durations_ns: int) -> None:
        """Let programs make system calls; they count while a measurement runs."""
        if self.is_loaded and self.clock.monotonic_ns() < self.until_ns:
            self.syscalls.setdefault(name, []).extend(durations_ns)


def histogram(durations_ns: Sequence[int]) -> Log2Histogram:
    """Count as the kernel does."""
    counts = [0] * BUCKETS
    for duration_ns in durations_ns:
        counts[min(duration_ns.bit_length(), BUCKETS - 1)] += 1
    return Log2Histogram(tuple(counts), sum(durations_ns))
