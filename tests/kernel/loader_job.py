"""A daemon's data plane alone, as a process that a test can kill at any moment, or let run with few rights.

Arguments: mode, bpffs_dir, interface, objects directory, directories of objects to take turns with.

``loop``: open, attach, say ``attached`` with the seconds and CPU seconds since the process began, then upgrade to one
object after the other, and all over again.  ``once``: everything that a data plane does, with what came of it, as JSON.
"""

import asyncio
import json
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

from x0d import lean

lean.prepare()  # as the daemon does, before anything imports what it keeps out

from kernel.plane_objects import put  # noqa: E402
from kernel.plane_world import SETTINGS  # noqa: E402
from x0d.kernel.dataplane import XdpDataPlane  # noqa: E402

UPGRADES = 3


def process_age_s() -> float:
    """How long ago this process was started."""
    started_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / 100


async def loop(plane: XdpDataPlane, interface: str, installed: Path, objects: list[Path]) -> None:
    """One life: open, attach, upgrade some times, let go."""
    await plane.open()
    attachment = await plane.attach(interface, socket.if_nametoindex(interface))
    print("attached", attachment.adopted, f"{process_age_s():.3f} {time.process_time():.3f}", flush=True)
    for i in range(UPGRADES):
        put(objects[i % len(objects)], installed)
        await plane.upgrade()
    plane.close()


async def once(plane: XdpDataPlane, interface: str, installed: Path, objects: list[Path]) -> None:
    """Everything once, with one JSON object as the answer."""
    index = socket.if_nametoindex(interface)
    await plane.open()
    attachment = await plane.attach(interface, index)
    again = await plane.attach(interface, index)
    plane.sample()
    put(objects[0], installed)
    upgraded = await plane.upgrade()
    states = {program.name: program.state for program in plane.programs()}
    memory = {row.name: row.memory_bytes for row in plane.maps()}
    await plane.detach_all()
    left = [str(path) for path in plane.maps_dir.parent.parent.iterdir()]
    plane.close()
    answer = {
        "mode": attachment.mode,
        "frags": attachment.frags,
        "adopted": again.adopted,
        "replaced": upgraded.replaced,
        "states": states,
        "memory": memory,
        "left": left,
    }
    print(json.dumps(answer), flush=True)


def main(mode: str, bpffs_dir: str, interface: str, installed: str, *objects: str) -> None:
    """Run one mode; ``loop`` without an end."""
    directories = [Path(directory) for directory in objects]
    settings = replace(SETTINGS, objects_dir=Path(installed))
    if mode == "once":
        asyncio.run(once(XdpDataPlane(Path(bpffs_dir), settings), interface, Path(installed), directories))
        return
    while True:
        asyncio.run(loop(XdpDataPlane(Path(bpffs_dir), settings), interface, Path(installed), directories))


if __name__ == "__main__":
    main(*sys.argv[1:])
