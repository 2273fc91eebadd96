"""Programs of an earlier life of the daemon, found by the pins of their attachments.

They are what goes on where the object of this life has a program that the kernel refuses.  Of the
root and the array there are pins; a stage is known by the number that its slot of the array shows,
which takes no privilege to read, but has no descriptor: one by number takes CAP_SYS_ADMIN.  So such
a pipeline can be attached, and replaced as a whole, and never be changed slot by slot.
"""

import os
from contextlib import ExitStack
from pathlib import Path

from x0d.kernel import bpf, bpf_maps, layout, pins
from x0d.kernel.pipeline import NO_FD, ROOT, WORD, Pipeline, Program, program_name, slot_key

_NAME = slice(64, 80)
"""Where the kernel's description of a program has its name, filled up with zeros."""


def stages_in_force(hook: Path) -> frozenset[str]:
    """Stages that the attachment of this directory calls; none where its pins do not tell."""
    with ExitStack() as held:
        found = _open_in_force(hook, held)
        return frozenset(_stages(found[1])) if found is not None else frozenset()


def find_former(directory: Path, *, frags: bool) -> Pipeline | None:
    """What runs on an interface of this namespace, of the most stages there are; the caller closes it."""
    best: Pipeline | None = None
    for _ifindex, hook in pins.hooks(directory):
        with ExitStack() as held:
            found = _open_in_force(hook, held)
            if found is None or _name(found[0]) != program_name(ROOT, frags=frags):
                continue
            stages = _stages(found[1])
            if best is not None and len(stages) <= len(best.stages):
                continue
            if best is not None:
                best.close()
            best = _describe(*found, stages, frags=frags)
    return best


def _describe(root_fd: int, array_fd: int, stages: dict[str, int], *, frags: bool) -> Pipeline:
    name = program_name(ROOT, frags=frags)
    root = Program(name, os.dup(root_fd), bpf.program_id(root_fd), bpf.program_tag(root_fd))
    known = {
        stage: Program(program_name(stage, frags=frags), NO_FD, number, tag="") for stage, number in stages.items()
    }
    return Pipeline(frags, root, os.dup(array_fd), known, is_former=True)


def _open_in_force(hook: Path, held: ExitStack) -> tuple[int, int] | None:
    """Root and array of an attachment; a swap that was cut short has left them under temporary names."""

    def opened(name: str) -> int | None:
        fd = bpf.open_pin(hook / name)
        return fd if fd is None else held.enter_context(bpf.closing(fd))

    link_fd = opened("link") or opened(f"link{pins.UNFINISHED}")
    if link_fd is None:
        return None
    info = bpf.link_info(link_fd)
    if info.link_type != bpf.LINK_TYPE_XDP or not info.ifindex:
        return None
    for suffix in ("", pins.UNFINISHED):
        root_fd = opened(f"program{suffix}")
        if root_fd is None or bpf.program_id(root_fd) != info.program_id:
            continue
        array_fd = opened(f"stages{suffix}") or opened("stages")  # the array is renamed before the program
        return None if array_fd is None else (root_fd, array_fd)
    return None


def _name(program_fd: int) -> str:
    return bpf_maps.object_info(program_fd, _NAME.stop)[_NAME].rstrip(b"\0").decode(errors="replace")


def _stages(array_fd: int) -> dict[str, int]:
    """Number of the program of each slot that is not empty, by stage."""
    found = {}
    for stage in layout.STAGES:
        value = bpf.lookup(array_fd, slot_key(stage), WORD.size)
        if value is not None:
            found[stage] = WORD.unpack(value)[0]
    return found
