"""Objects that differ from the shipped one in named programs, made by compiling changed copies of its source."""

import re
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

from kernel.xdp_world import REPOSITORY

SPECIALITIES = """
__attribute__((unused)) static __always_inline void mark(void)
{
	asm volatile("r0 = 7" ::: "r0");
}
__attribute__((unused)) static __always_inline int broken(struct xdp_md *ctx)
{
	return *(char *)(long)ctx->data;
}

"""


def build(
    directory: Path,
    marked: Collection[str] = (),
    broken: Collection[str] = (),
    layout_version: int = 2,
    *,
    before_syn: bool = False,
) -> Path:
    """Compile into ``directory``/objects; returns that directory.

    Args:
        directory: Empty or not there.
        marked: Parts (``root`` or a stage) with one instruction more, which changes nothing but the tag.
        broken: Parts that the verifier refuses.
        layout_version: What the object says that its maps follow.
        before_syn: As in the version before the SYN stage: without it, its maps, and the root's question for it.
    """
    source = directory / "ebpf"
    shutil.copytree(REPOSITORY / "ebpf", source)
    file, header = source / "xdp.bpf.c", source / "x0d.h"
    text = file.read_text()
    for part in marked:
        text = _change(text, part, r"(mark(), \1)")
    for part in broken:
        text = _change(text, part, r"(broken(ctx) ? : \1)")
    if before_syn:
        text = _without(text, r"^PROGRAM\(x0d_syn,.*\n")
        text = _without(text, r"^\tif \(view->syn_port .*\n.*X0D_STAGE_SYN\);\n")
        text = _without(text, r'^#include "xdp_syn.h"\n')
        maps = source / "xdp_maps.h"
        maps.write_text(_without(maps.read_text(), r"^struct \{\n(\t.*\n)+\} x0d_syn_\w+ SEC.*\n", 3))
    file.write_text(text.replace("#define PROGRAM(", SPECIALITIES + "#define PROGRAM(", 1))
    header.write_text(header.read_text().replace("X0D_LAYOUT_VERSION 2", f"X0D_LAYOUT_VERSION {layout_version}"))
    built = directory / "objects"
    make = ["make", "-s", "-C", str(source), f"OBJECTS_DIR={built}", f"{built}/xdp.bpf.o"]
    subprocess.run(make, check=True)
    return built


def _without(text: str, pattern: str, times: int = 1) -> str:
    changed, count = re.subn(pattern, "", text, flags=re.MULTILINE)
    assert times == count, f"{pattern} is not there as expected"
    return changed


def _change(text: str, part: str, call: str) -> str:
    pattern = rf"^PROGRAM\(x0d_{part}, (run_{part}\(.*\)), (run_{part}\(.*\))\)$"
    changed, count = re.subn(
        pattern,
        lambda found: f"PROGRAM(x0d_{part}, {call}, {call})".replace(r"\1", found[1], 1).replace(r"\1", found[2], 1),
        text,
        flags=re.MULTILINE,
    )
    assert count == 1, f"{part} is not declared as expected"
    return changed


def put(objects: Path, directory: Path) -> None:
    """Make ``objects`` what lies in ``directory``, as an installation would: whole at every moment."""
    directory.mkdir(exist_ok=True)
    beside = directory / "xdp.bpf.o.tmp"
    shutil.copyfile(objects / "xdp.bpf.o", beside)
    beside.rename(directory / "xdp.bpf.o")
