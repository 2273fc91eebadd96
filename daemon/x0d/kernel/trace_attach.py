"""Programs of one object put to their tracepoints, each as far as this kernel takes it.

All wanted programs are loaded at once, because most of a loading is the reading of the kernel's BTF.  If that is
refused, each is loaded alone with the maps of those before it, so that one bad program ends no other.  Nothing is
pinned: a program leaves its tracepoint when its link's descriptor is closed.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from x0d.errors import InvalidInput, KernelRefused, NotSupported
from x0d.kernel import bpf_call
from x0d.kernel.libbpf import Libbpf
from x0d.kernel.objects import ObjectInfo
from x0d.kernel.refusals import Operation, refine

KERNEL_BTF: Final = Path("/sys/kernel/btf/vmlinux")
Refusal = KernelRefused | InvalidInput | NotSupported

_RAW_TRACEPOINT_OPEN: Final = 17
_RAW_SECTION: Final = "raw_tp/"


@dataclass(slots=True)
class Attached:
    """Programs in the kernel, their links and maps; ``close`` ends all of it."""

    program_fds: dict[str, int] = field(default_factory=dict)
    link_fds: dict[str, int] = field(default_factory=dict)
    map_fds: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    """By program: those that are not in the kernel, or not attached."""

    def drop(self, program: str) -> None:
        """Detach and unload one program."""
        for fds in (self.link_fds, self.program_fds):
            if (fd := fds.pop(program, None)) is not None:
                os.close(fd)

    def close(self) -> None:
        """Detach and unload everything; nothing happens the second time."""
        for fds in (self.link_fds, self.program_fds, self.map_fds):
            while fds:
                os.close(fds.popitem()[1])


def load(libbpf: Libbpf, elf: bytes, info: ObjectInfo, programs: Sequence[str]) -> Attached:
    """Load programs without attaching them; the maps of those that are refused are not made."""
    attached = Attached()
    try:
        loaded = libbpf.load_all(elf, programs, {}, skip_maps=info.unused_by(programs))
    except (KernelRefused, InvalidInput) as refusal:
        if len(programs) == 1 or _lacks_btf(info):
            explained = _explain(refusal, info)
            attached.refusals = dict.fromkeys(programs, explained)
        else:
            _load_each(libbpf, elf, info, programs, attached)
    else:
        attached.program_fds, attached.map_fds = dict(loaded.fds), dict(loaded.map_fds)
    return attached


def _load_each(libbpf: Libbpf, elf: bytes, info: ObjectInfo, programs: Sequence[str], attached: Attached) -> None:
    for program in programs:
        try:
            loaded = libbpf.load(elf, program, attached.map_fds, skip_maps=info.unused_by((program,)))
        except (KernelRefused, InvalidInput) as refusal:
            attached.refusals[program] = refusal
            continue
        attached.program_fds[program] = loaded.fd
        for name, fd in loaded.map_fds.items():
            if attached.map_fds.setdefault(name, fd) != fd:
                os.close(fd)  # a copy of one that was handed in


def attach(attached: Attached, info: ObjectInfo) -> None:
    """Put what is loaded to its tracepoints; what is refused there is unloaded and noted."""
    sections = {function: section for section, function in info.programs}
    for program, fd in tuple(attached.program_fds.items()):
        try:
            attached.link_fds[program] = open_raw_tracepoint(fd, _tracepoint(sections[program]))
        except KernelRefused as refusal:
            attached.refusals[program] = refusal
            attached.drop(program)


def open_raw_tracepoint(program_fd: int, tracepoint: str = "") -> int:
    """Attach; the attachment ends with the descriptor.  A BTF tracepoint's program knows its place: no name.

    Raises:
        KernelRefused: ENOENT if there is no such tracepoint.
    """
    name = tracepoint.encode() + b"\0"
    address = bpf_call.address_of(name) if tracepoint else 0
    attributes = struct.pack("=QI4xQ", address, program_fd, 0)
    try:
        return bpf_call.call(_RAW_TRACEPOINT_OPEN, attributes, f"attach to tracepoint {tracepoint}".rstrip())[0]
    except KernelRefused as refusal:
        raise refine(Operation.TRACE_ATTACH, refusal) from refusal


def _tracepoint(section: str) -> str:
    return section.removeprefix(_RAW_SECTION) if section.startswith(_RAW_SECTION) else ""


def _lacks_btf(info: ObjectInfo) -> bool:
    return info.has_core_relocations and not KERNEL_BTF.exists()


def _explain(refusal: KernelRefused | InvalidInput, info: ObjectInfo) -> Refusal:
    if not _lacks_btf(info):
        return refusal
    reason = f"this kernel shows no BTF in {KERNEL_BTF} (CONFIG_DEBUG_INFO_BTF), which tells where its fields are"
    explained = NotSupported("tracing by BTF tracepoints", reason)
    explained.__cause__ = refusal
    return explained
