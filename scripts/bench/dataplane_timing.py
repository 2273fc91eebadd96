"""How a program's time is taken: BPF_PROG_TEST_RUN, the programs taking turns, medians with their spread.

*One source*: the same frame a hundred thousand times and more, everything in the caches.  *Many sources*: a small
program writes the next source address of a list into the frame and calls the program under test
(``dataplane_sources.bpf.c``); what that costs in front of an empty program is taken off, so both kinds of figures
compare.  All figures include what an empty program takes (the floor).

The machine's speed changes from one moment to the next: other work on it, a neighbour on the same core.  So a round
is cut in slices of a few milliseconds, short enough that most are not interrupted, and the cases take turns
slice by slice.  A round is worth the median of its slices; ratios are taken within a round.
"""

import gc
import platform
import statistics
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.dataplane_bpf import ATTACH_TYPES, XDP_FRAGS_FLAG, Loaded, TestRun, load_object, update
from lab.machine import LabError, run

SHUFFLER = Path(__file__).with_name("dataplane_sources.bpf.c")
SOURCES_MAX = 65_536
WARM_UP = 2_000


@dataclass(slots=True)
class Case:
    """One program with one kind of packet, and what it took in each round."""

    name: str
    measure: Callable[[], float]
    """One slice, in nanoseconds a packet."""
    rounds: list[float] = field(default_factory=list)
    """Median of each round's slices."""

    def less(self, *costs: tuple["Case", int]) -> list[float]:
        """The rounds without what belongs to the measurement: each of ``costs`` is added so many times."""
        return [own + sum(sign * cost.rounds[at] for cost, sign in costs) for at, own in enumerate(self.rounds)]


def take_turns(cases: Iterable[Case], rounds: int, slices: int) -> None:
    """Measure every case in each round."""
    chosen = list(cases)
    gc.collect()
    for _ in range(rounds):
        found = [[case.measure() for case in chosen] for _ in range(slices)]
        for case, values in zip(chosen, zip(*found, strict=True), strict=True):
            case.rounds.append(statistics.median(values))


def one_source(name: str, program_fd: int, frame: bytes, ifindex: int, verdict: int, repeat: int) -> Case:
    """A case of the same frame again and again, ``repeat`` times a slice.

    Raises:
        WrongVerdict: the program decides otherwise: what would be measured is another path.
    """
    test_run = TestRun(program_fd, frame, ifindex)
    _check(name, test_run.run(WARM_UP)[0], verdict)
    return Case(name, lambda: float(test_run.run(repeat)[1]))


class Shuffler:
    """Frames of many sources in front of any program."""

    def __init__(self, directory: Path) -> None:
        """Compile it into ``directory``."""
        self._object = directory / "dataplane_sources.bpf.o"
        # The BPF target has no asm/ directory of its own: Debian keeps it under the machine's triplet.
        headers = f"/usr/include/{platform.machine()}-linux-gnu"
        flags = ("-O2", "-g", "-target", "bpf", "-mcpu=v2", "-idirafter", headers)
        run(["clang", *flags, "-c", str(SHUFFLER), "-o", str(self._object)])

    def many_sources(
        self,
        name: str,
        program_fd: int,
        frame: bytes,
        sources: Sequence[bytes],
        ifindex: int,
        verdict: int,
        repeat: int,
    ) -> Case:
        """A case of frames from each of ``sources`` in turn (a power of two of them, at most ``SOURCES_MAX``).

        The time has the shuffler's own in it: take off what it adds in front of an empty program.

        Raises:
            WrongVerdict: as ``one_source``, for any of the first sources.
        """
        count = len(sources)
        assert count & (count - 1) == 0
        assert count <= SOURCES_MAX
        loaded = self._before(program_fd)
        for at, source in enumerate(sources):
            update(loaded.map_fds["sources"], struct.pack("=I", at), source.ljust(16, b"\0"))
        update(loaded.map_fds["state"], bytes(4), struct.pack("=III", 0, count - 1, len(sources[0]) == 16))
        return one_source(name, loaded.program_fd, frame, ifindex, verdict, repeat)

    def _before(self, program_fd: int) -> Loaded:
        """The shuffler with this program behind it; both must agree on frags and attach type."""
        refusal: OSError | None = None
        for flags in (XDP_FRAGS_FLAG, 0):
            for attach_type in ATTACH_TYPES:
                loaded = load_object(self._object, "next_source", flags, attach_type)
                try:
                    update(loaded.map_fds["target"], bytes(4), struct.pack("=I", program_fd))
                except OSError as error:
                    refusal = error
                    continue
                return loaded
        assert refusal is not None
        raise refusal


class WrongVerdict(LabError):
    """A program does not do with a packet what the benchmark is about to time."""


def _check(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise WrongVerdict(f"{name}: the program answers {found}, not {expected}")
