"""Stages and whole pipelines replaced while packets flow: how long each takes, and that no packet is missed."""

import random
import struct
import time
from collections.abc import Callable
from pathlib import Path

from bench.dataplane_bpf import update
from bench.dataplane_effort import Effort
from bench.dataplane_flood import flooding
from bench.dataplane_ours import NEVER_BITES, Ours
from bench.dataplane_table import Row, Target
from kernel.plane_objects import build, put
from x0d.kernel.dataplane import OBJECT_FILE

SLOT_TARGET_MS = 1.0
BETWEEN_S = 0.01
"""Rest after each, so that packets flow between two of them."""
ARRIVAL_S = 1.0


def measure(directory: Path, _chance: random.Random, effort: Effort) -> list[Row]:
    """Swap the limit stage by its slot, then upgrade to another object with another root, each so many times."""
    installed, shipped = directory / "installed", OBJECT_FILE.parent
    put(shipped, installed)
    other_stage = build(directory / "stage", marked=["limit"])
    other_root = build(directory / "root", marked=["root"])
    with Ours("swap", objects_dir=installed) as ours:
        ours.limit(NEVER_BITES)
        first = ours.stage_fd("limit")
        put(other_stage, installed)
        ours.wait(ours.plane.upgrade)
        programs = [first, ours.stage_fd("limit")]
        slots, slot = ours.slots_fd, ours.slot("limit")

        def swap(number: int) -> None:
            update(slots, slot, struct.pack("=I", programs[number % 2]))

        def upgrade(number: int) -> None:
            put((other_root, shipped)[number % 2], installed)
            replaced = ours.wait(ours.plane.upgrade).replaced
            assert replaced, "nothing was replaced"

        return [
            *_under_flood("stage swapped by its slot", ours, swap, effort.replacements, Target(SLOT_TARGET_MS)),
            *_under_flood("whole upgrade, files to attachment", ours, upgrade, effort.replacements, None),
        ]


def _under_flood(what: str, ours: Ours, replace: Callable[[int], None], count: int, target: Target | None) -> list[Row]:
    before = sum(ours.received().values())
    took = []
    with flooding(ours.peer_interface) as flood:
        for number in range(count):
            begun = time.perf_counter()
            replace(number)
            took.append(1e3 * (time.perf_counter() - begun))
            time.sleep(BETWEEN_S)
    missed = flood.sent - _counted(ours, before, flood.sent)
    took.sort()
    return [
        Row(f"{count} times: {what}", took, target=target, unit="ms", digits=2),
        Row(f"{count} times: {what}: p99", [took[int(len(took) * 0.99)]], unit="ms", digits=2),
        Row(f"  packets missed of {flood.sent:,} sent meanwhile", [float(missed)], target=Target(0, least=0), unit=""),
    ]


def _counted(ours: Ours, before: int, expected: int) -> int:
    """Packets counted since ``before``, once all expected ones are, or after ``ARRIVAL_S``."""
    end = time.monotonic() + ARRIVAL_S
    while (counted := sum(ours.received().values()) - before) < expected and time.monotonic() < end:
        time.sleep(BETWEEN_S)
    return counted
