"""A network namespace and a bpf filesystem of a test's own; both go with it."""

import asyncio
import ctypes
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from x0d.kernel.dataplane import OBJECT_FILE, PlaneSettings, XdpDataPlane

REPOSITORY = Path(__file__).resolve().parents[2]
CLONE_NEWNET = 0x40000000
T = TypeVar("T")


class World:
    """One thread in a namespace without a name; what it starts is in there with it."""

    def __init__(self, bpffs: Path) -> None:
        self.bpffs_dir = bpffs / "x0d"
        self._thread = ThreadPoolExecutor(max_workers=1)
        self.run(_enter_new_namespace)

    def run(self, work: Callable[[], T]) -> T:
        """Call in the namespace."""
        return self._thread.submit(work).result()

    def wait(self, make: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine in the namespace, on a loop of its own."""

        async def whole() -> T:
            return await make()

        return self.run(lambda: asyncio.run(whole()))

    def command(self, *words: str) -> None:
        """Run a command in the namespace."""
        self.run(lambda: subprocess.run(words, check=True, capture_output=True))

    def index(self, interface: str) -> int:
        """Index of an interface of the namespace."""
        return self.run(lambda: socket.if_nametoindex(interface))

    def add_veth(self, one: str, other: str, mtu: int = 1500) -> int:
        """Make a pair, both up; returns the index of the first."""
        self.command("ip", "link", "add", one, "mtu", str(mtu), "type", "veth", "peer", "name", other, "mtu", str(mtu))
        for name in (one, other):
            self.command("ip", "link", "set", name, "up")
        return self.index(one)

    def open_plane(self, **changes: object) -> XdpDataPlane:
        """Open a data plane here; the caller closes it."""
        settings: dict[str, object] = {
            "allow_skb_mode": False,
            "probe_port": 9474,
            "probe_rate_pps": 1000,
            "probe_burst": 100,
            "session": 77,
        }
        chosen = PlaneSettings(**{**settings, **changes})  # type: ignore[arg-type]  # the test names them
        plane = XdpDataPlane(self.bpffs_dir, chosen)
        self.wait(plane.open)
        return plane

    def close(self) -> None:
        """Leave; the namespace goes with its last thread and link."""
        self._thread.shutdown(wait=True)


def _enter_new_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@contextmanager
def new_world(directory: Path) -> Iterator[World]:
    """Mount a bpf filesystem in ``directory``, enter a new namespace, and undo both."""
    subprocess.run(["make", "-s", "-C", REPOSITORY / "ebpf"], check=True)
    assert OBJECT_FILE.exists()
    bpffs = directory / "bpf"
    bpffs.mkdir()
    subprocess.run(["mount", "-t", "bpf", "x0dt-bpf", bpffs], check=True)
    world = None
    try:
        world = World(bpffs)
        yield world
    finally:
        if world is not None:
            world.close()
        subprocess.run(["umount", "-l", bpffs], check=True)
        bpffs.rmdir()
