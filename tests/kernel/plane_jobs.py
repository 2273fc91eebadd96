"""Processes beside the test, in its world: one that sends, one that loads and can be killed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kernel.plane_world import UDP_FRAME, PlaneWorld
from kernel.xdp_world import REPOSITORY

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'daemon'}:{REPOSITORY / 'tests'}"}


class Flood:
    """Frames on their way; ``sent`` once it has ended."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.sent = 0

    def stop(self) -> int:
        """End it; returns how many frames the device took."""
        if self._process.poll() is None:
            printed, _errors = self._process.communicate()
            self.sent = int(printed)
        return self.sent


@contextmanager
def flood(world: PlaneWorld, interface: str, burst: int = 32, pause_s: float = 0.0005) -> Iterator[Flood]:
    """Send out of an interface, in a process of its own, until the block ends or ``stop`` is called."""
    arguments = [interface, UDP_FRAME.hex(), str(burst), str(pause_s)]
    process = start(world, "flood_job.py", arguments, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert "ready\n" == process.stdout.readline()
    made = Flood(process)
    try:
        yield made
    finally:
        made.stop()


def start(
    world: PlaneWorld, job: str, arguments: list[str], bounds: tuple[str, ...] = (), stdin: int = subprocess.DEVNULL
) -> "subprocess.Popen[str]":
    """Start a module of this directory in the world, behind the commands of ``bounds``."""
    namespace = world.world.run(lambda: os.open("/proc/thread-self/ns/net", os.O_RDONLY))
    try:
        return subprocess.Popen(
            ["nsenter", f"--net=/proc/self/fd/{namespace}", *bounds, sys.executable, str(HERE / job), *arguments],
            env=ENVIRONMENT,
            pass_fds=[namespace],
            stdin=stdin,
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(namespace)
