"""The compiled XDP programs as a file: read, looked into, and what it is without.

An object must have the root and every stage that its layout began with.  Stages that were added to the
layout later (``layout.LATER_STAGES``) an older object may lack; they are then refused by us, as the kernel
refuses others, and the rest works.
"""

import errno
import time
from dataclasses import dataclass
from pathlib import Path

from x0d.errors import InvalidInput, KernelRefused
from x0d.kernel import layout, objects
from x0d.kernel.libbpf import read_object
from x0d.kernel.pipeline import ROOT, program_name
from x0d.ports import ObjectStatus


@dataclass(frozen=True, slots=True)
class PlaneObject:
    """An object file that may be given to the kernel."""

    elf: bytes
    status: ObjectStatus
    lacking: frozenset[str]
    """Names of programs that it is of before."""

    def require(self, name: str) -> None:
        """Refuse a program that is not in here.

        Raises:
            KernelRefused: ENOENT.
        """
        if name in self.lacking:
            detail = f"{self.status.path} is of an earlier version, which had no such program"
            raise KernelRefused(f"load program {name}", errno.ENOENT, detail)


def read_plane_object(file: Path) -> PlaneObject:
    """Read the object and look into it.

    Raises:
        NotSupported: the file is missing.
        InvalidInput: it is not an object, of another layout, or lacks a program that this layout always had.
    """
    elf = read_object(file)
    info = objects.inspect(elf, str(file))
    present = {function for _section, function in info.programs}
    lacking = _names(ROOT, *layout.STAGES) - present
    if missing := sorted(lacking - _names(*layout.LATER_STAGES)):
        reason = f"{file}: it lacks the program {missing[0]}"
        raise InvalidInput(reason)
    now_ms = time.time_ns() // 1_000_000
    status = ObjectStatus(str(file), info.sha256, info.license, info.layout_version, info.has_btf, now_ms)
    return PlaneObject(elf, status, lacking)


def _names(*parts: str) -> frozenset[str]:
    return frozenset(program_name(part, frags=frags) for part in parts for frags in (True, False))
