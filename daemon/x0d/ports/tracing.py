"""The tracepoint programs as services see them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from x0d.ports.plane import MapStatus, ObjectStatus, ProgramStatus, Upgraded


@dataclass(frozen=True, slots=True)
class Log2Histogram:
    """Observations by power of two: ``counts[i]`` of durations in [2^(i-1), 2^i) ns, ``counts[0]`` of 0."""

    counts: tuple[int, ...]
    sum_ns: int


@dataclass(frozen=True, slots=True)
class TraceSample:
    """What the tracepoints have counted since the daemon started; empty for those that are not loaded."""

    drops: Mapping[str, int]
    """Packets by the kernel's reason, in lower case, such as ``no_socket``."""
    retransmits: Mapping[str, int]
    """TCP segments sent again, by the peer's /24 or /48."""
    resets_sent: Mapping[str, int]
    resets_received: Mapping[str, int]
    socket_states: Mapping[tuple[str, str, str], int]
    """By family (``ipv4``, ``ipv6``), state before and after (``established``, ...)."""
    run_queue: Log2Histogram
    syscalls: Mapping[str, Log2Histogram]
    """By name of the system call; of all measurements since the start."""


class Tracer(Protocol):
    """The tracepoint programs; each is loaded or refused by itself, and ends with the daemon."""

    async def open(self) -> None:
        """Load what the configuration names; what is refused is told by ``programs``."""

    async def check_objects(self) -> None:
        """Look into the objects as they are on disk now, without loading anything of them.

        Raises:
            NotSupported: one that was there is missing.
            InvalidInput: one cannot be loaded here.
        """

    async def upgrade(self) -> Upgraded:
        """Load the steady programs anew if their object's bytes are others than those read last.

        Each loads or is refused by itself, as in ``open``, and they count from 0.  Those of system calls are loaded
        for each measurement: the next one takes the new object.
        """

    async def unload(self) -> None:
        """Take every program out of the kernel; ``open`` loads them again, and they count from 0."""

    def programs(self) -> Sequence[ProgramStatus]:
        """Every program of the object."""

    def maps(self) -> Sequence[MapStatus]:
        """Maps of the loaded ones."""

    def objects(self) -> Sequence[ObjectStatus]:
        """The object; empty if none could be read."""

    async def read(self) -> TraceSample:
        """One pass over all maps."""

    async def start_syscalls(self, duration_s: float, sample_every: int) -> None:
        """Measure one system call in so many, for so long and no longer; the kernel part stops by itself.

        Raises:
            Busy: a measurement is under way.
            KernelRefused, NotSupported: it cannot be loaded here.
        """

    async def stop_syscalls(self) -> None:
        """End the measurement; nothing happens if there is none."""
