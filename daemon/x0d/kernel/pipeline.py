"""The XDP programs of one variant, with multi-buffer frames or without: a root and the stages it calls.

Each program is loaded alone, so one that this kernel refuses leaves its slot of the array empty and
the others work; only the root is indispensable.  The programs share all maps but the array: each
``Pipeline`` has its own, because the kernel lets only programs of one kind into it.

An upgrade loads everything of the new object before any of it is in force (``load_renewal``).  There
are two ways to put it there:

- The root's code is the same (its tag, which the kernel computes over the instructions): what it
  hands to the stages means the same, so the stages whose tags differ take the old ones' slots,
  microseconds each.  They have been loaded with the array in force, since they call onward in it.
- The root is another: root, array and stages are new together and each attachment changes over in
  one LINK_UPDATE (some milliseconds, a grace period).  A packet goes all its way through old code or
  all its way through new code.

Where the kernel refuses a program of the object with which the daemon starts, and a pipeline of an
earlier life is attached that has what would be missing, that pipeline goes on as it is and serves
all interfaces (``former`` finds it, ``is_former``): a restart enforces nothing less than before.

A layout that differs is neither: the daemon reads the maps too, so it is refused before anything is
loaded, and a daemon of that layout adopts the attachments when it starts.
"""

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from x0d.errors import KernelRefused
from x0d.kernel import bpf, layout
from x0d.kernel.maps import STAGES
from x0d.kernel.refusals import reason_beside_errno
from x0d.ports import ProgramStatus

OBJECT_NAME = "xdp"
ROOT = "root"
WORD = struct.Struct("=I")
"""Key and value of an array of programs."""
NO_FD = -1
"""Of a stage of an earlier life, which is known by its number alone."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program in the kernel; whoever holds it closes ``fd``, unless it is ``NO_FD``."""

    name: str
    fd: int
    program_id: int
    tag: str
    """16 hexadecimal digits, equal for equal instructions; empty where there is no descriptor."""


ProgramLoader = Callable[[str, int | None], tuple[Program, int]]
"""Loads a program by name with an array of programs (None: make one); returns it and its array, a
descriptor of its own where one was made."""


def program_name(part: str, *, frags: bool) -> str:
    """``x0d_root``, ``x0d_deny_frags`` and so on; ``part`` is ``root`` or a stage."""
    return f"x0d_{part}_frags" if frags else f"x0d_{part}"


def array_pin(*, frags: bool) -> str:
    """Name under ``maps`` of the array in force."""
    return f"{STAGES}_frags" if frags else f"{STAGES}_plain"


@dataclass(slots=True)
class Pipeline:
    """A root, its stages and their array, in the kernel."""

    frags: bool
    root: Program
    array_fd: int
    stages: dict[str, Program] = field(default_factory=dict)
    """By name of ``layout.STAGES``; those that were refused are missing."""
    refused: dict[str, KernelRefused] = field(default_factory=dict)
    """By name of a stage, or ``root``; of a former pipeline: what is refused of the object that it stands in for."""
    is_former: bool = False
    """Of an earlier life of the daemon: it goes on as it is, until an upgrade replaces all of it."""

    def fill(self, stage: str, program: Program) -> Program | None:
        """Put a program in a stage's slot, at once for every packet; returns the one that was there."""
        bpf.update(self.array_fd, slot_key(stage), WORD.pack(program.fd))
        former = self.stages.get(stage)
        self.stages[stage] = program
        self.refused.pop(stage, None)
        return former

    def empty(self, stage: str) -> None:
        """Leave a stage out: packets pass it over."""
        bpf.delete(self.array_fd, slot_key(stage))
        self.stages.pop(stage, None)

    def statuses(self) -> list[ProgramStatus]:
        """Root and stages, in order."""
        found = [self._loaded(ROOT, self.root)]
        for stage in layout.STAGES:
            if stage in self.stages:
                found.append(self._loaded(stage, self.stages[stage]))
            else:
                refusal, reason = self.refused.get(stage), f"not among those {self.why_former()}"
                found.append(refused_status(stage, refusal, frags=self.frags, reason=reason))
        return found

    def why_former(self) -> str:
        """Why programs of an earlier life are in force; empty if they are of this one."""
        if not self.is_former:
            return ""
        refused = (
            f"{program_name(part, frags=self.frags)} is refused: {describe_refusal(part, refusal, frags=self.frags)}"
            for part, refusal in self.refused.items()
        )
        return f"of an earlier life, because {'; '.join(refused)}"

    def shortfall(self, stage: str) -> str:
        """Why a stage does nothing here; empty if it works."""
        if stage in self.stages:
            return ""
        refusal = self.refused.get(stage)
        if refusal is not None:
            return f"the {stage} stage is refused by the kernel: {describe_refusal(stage, refusal, frags=self.frags)}"
        return f"the {stage} stage is not among the programs {self.why_former()}"

    def _loaded(self, part: str, program: Program) -> ProgramStatus:
        refusal = self.refused.get(part)
        return ProgramStatus(
            program.name,
            OBJECT_NAME,
            ROOT if part == ROOT else "stage",
            "loaded",
            self.why_former(),
            log_tail=refusal.log_tail if refusal is not None else "",
            program_id=program.program_id,
            is_former=self.is_former,
        )

    def close(self) -> None:
        """Let go of the descriptors; attachments and pins hold what is in use."""
        for program in (self.root, *self.stages.values()):
            if program.fd != NO_FD:
                os.close(program.fd)
        os.close(self.array_fd)
        self.stages.clear()


def slot_key(stage: str) -> bytes:
    """Key of a stage's slot in the array of programs."""
    return WORD.pack(layout.STAGES.index(stage))


def describe_refusal(part: str, refusal: KernelRefused, *, frags: bool) -> str:
    """The refusal without the program's name, which whoever shows it has said."""
    return str(refusal).removeprefix(f"load program {program_name(part, frags=frags)}: ")


def refused_status(part: str, refusal: KernelRefused | None, *, frags: bool, reason: str = "") -> ProgramStatus:
    """Status of a program that is not in the kernel; ``refusal`` None: nobody has tried."""
    kind = ROOT if part == ROOT else "stage"
    name = program_name(part, frags=frags)
    if refusal is None:
        return ProgramStatus(name, OBJECT_NAME, kind, "off", reason)
    return ProgramStatus(
        name, OBJECT_NAME, kind, "refused", reason_beside_errno(name, refusal), refusal.errno, refusal.log_tail
    )


def describe_program(name: str, fd: int) -> Program:
    """Ask the kernel for id and tag of a program that was just loaded."""
    return Program(name, fd, bpf.program_id(fd), bpf.program_tag(fd))


def load_pipeline(load: ProgramLoader, *, frags: bool) -> Pipeline:
    """Load a whole variant.

    Raises:
        KernelRefused: the root does not load.
    """
    pipeline = _load_root(load, frags=frags)
    for stage in layout.STAGES:
        try:
            program, _array = load(program_name(stage, frags=frags), pipeline.array_fd)
        except KernelRefused as refusal:
            pipeline.refused[stage] = refusal
        else:
            pipeline.fill(stage, program)
    return pipeline


def _load_root(load: ProgramLoader, *, frags: bool) -> Pipeline:
    root, array_fd = load(program_name(ROOT, frags=frags), None)
    return Pipeline(frags, root, array_fd)


@dataclass(slots=True)
class Renewal:
    """What an upgrade would put in the place of a pipeline; nothing of it is in force yet."""

    former: Pipeline
    whole: Pipeline | None
    """Another root, with all that belongs to it; None: ``stages`` do."""
    stages: Mapping[str, Program]
    """Programs that differ from those in their slots."""
    _displaced: dict[str, Program | None] = field(default_factory=dict)

    def names(self) -> tuple[str, ...]:
        """Names of the programs whose code is another."""
        if self.whole is None:
            return tuple(program.name for program in self.stages.values())
        tags = {program.tag for program in (self.former.root, *self.former.stages.values())}
        fresh = (self.whole.root, *self.whole.stages.values())
        return tuple(program.name for program in fresh if program.tag not in tags)

    def swap_stages(self) -> None:
        """Put the stages in their slots; a refusal leaves what was done, for ``revert_stages``."""
        for stage, program in self.stages.items():
            self._displaced[stage] = self.former.fill(stage, program)

    def revert_stages(self) -> None:
        """Put back what ``swap_stages`` has displaced."""
        for stage, program in self._displaced.items():
            if program is None:
                self.former.empty(stage)
            else:
                self.former.fill(stage, program)
        self._displaced.clear()

    def settle(self) -> Pipeline:
        """Close what is no longer in force; returns what is."""
        for program in self._displaced.values():
            if program is not None:
                os.close(program.fd)
        if self.whole is None:
            return self.former
        self.former.close()
        return self.whole

    def discard(self) -> None:
        """Close what has not come into force."""
        for program in self.stages.values():
            os.close(program.fd)
        if self.whole is not None:
            self.whole.close()


def load_renewal(load: ProgramLoader, former: Pipeline) -> Renewal:
    """Load all programs of another object for a pipeline; ``load`` takes them from there.

    Raises:
        KernelRefused: of a program that is in force, or of the root; nothing has changed.
    """
    fresh = _load_root(load, frags=former.frags)
    is_same_root = fresh.root.tag == former.root.tag and not former.is_former
    try:
        for stage in layout.STAGES:
            try:
                array_fd = former.array_fd if is_same_root else fresh.array_fd
                program, _array = load(program_name(stage, frags=former.frags), array_fd)
            except KernelRefused as refusal:
                if stage in former.stages:
                    raise
                fresh.refused[stage] = refusal  # it was refused before; the kernel has not changed its mind
            else:
                fresh.stages[stage] = program
        if not is_same_root:
            for stage, program in fresh.stages.items():
                fresh.fill(stage, program)
            return Renewal(former, fresh, {})
    except KernelRefused:
        fresh.close()
        raise
    return Renewal(former, None, _keep_different(fresh, former))


def _keep_different(fresh: Pipeline, former: Pipeline) -> dict[str, Program]:
    """Close all of ``fresh`` but the stages whose code is another than in force."""
    different: dict[str, Program] = {}
    for stage, program in list(fresh.stages.items()):
        if stage not in former.stages or former.stages[stage].tag != program.tag:
            different[stage] = fresh.stages.pop(stage)
    fresh.close()
    return different
