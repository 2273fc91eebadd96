"""What the daemon puts in force as soon as its programs are loaded: the limit on SYNs to its ports."""

import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from kernel.plane_objects import build, put
from kernel.plane_world import PlaneWorld, new_plane_world
from kernel.xdp_frames import syn
from x0d.config import load
from x0d.kernel.clock import SystemClock
from x0d.kernel.dataplane import OBJECT_FILE
from x0d.node.kernel_parts import KernelParts
from x0d.service.alerts import Alerts

pytestmark = pytest.mark.kernel

FILE = """
[node]
name = "n1"
address = "10.255.0.1/32"
production = false
state_dir = "{directory}/state"
bpffs_dir = "{bpffs}"
[listen]
control_port = 19470
[ebpf]
objects_dir = "{directory}/objects"
trace = []
syn_rate = {rate}
syn_burst = 3
"""
PORTS = (19470, 9471, 9472, 9476)
SOURCE = IPv4Address("10.9.0.2")


class Daemon:
    """The kernel parts of one, in a world with an interface."""

    def __init__(self, world: PlaneWorld, directory: Path) -> None:
        self.world = world
        self.directory = directory
        self.index = world.world.add_veth("va", "vb")
        self.alerts = Alerts()

    def live(self, work: Callable[[KernelParts], Coroutine[None, None, None]], rate: int = 1) -> None:
        """Open the parts, attach, and do something with them."""
        file = self.directory / "x0d.toml"
        file.write_text(FILE.format(directory=self.directory, bpffs=self.world.bpffs_dir, rate=rate))
        (self.directory / "state").mkdir(exist_ok=True)

        async def whole() -> None:
            parts = KernelParts(load(file), SystemClock(), self.alerts, session=7)
            async with AsyncExitStack() as stack:
                await parts.open(stack)
                await parts.plane.attach("va", self.index)
                await work(parts)

        self.world.world.wait(whole)

    def dropped(self, parts: KernelParts, port: int) -> int:
        """Send five SYNs from inside the world; how many are dropped."""
        before = parts.plane.limited()
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("vb", 0))
            for _ in range(5):
                raw.send(syn(SOURCE, port))
        return parts.plane.limited() - before


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Nothing is loaded yet; the installed object is the shipped one."""
    with new_plane_world(tmp_path) as world:
        put(OBJECT_FILE.parent, tmp_path / "objects")
        yield Daemon(world, tmp_path)


def test_every_port_of_ours_is_limited(daemon: Daemon) -> None:
    """Control, peer, peer HTTP and join port, as configured, share a source's burst; others are free."""

    async def look(parts: KernelParts) -> None:
        assert [2, 5, 5, 5] == [daemon.dropped(parts, port) for port in PORTS]
        assert [0, 0, 0] == [daemon.dropped(parts, port) for port in (9470, 9473, 22)]

    daemon.live(look)
    assert () == daemon.alerts.texts()


def test_each_start_puts_its_configuration_in_force(daemon: Daemon) -> None:
    """What an earlier life has set does not outlive a start with rate 0."""

    async def look(parts: KernelParts) -> None:
        assert 2 == daemon.dropped(parts, 9471)

    async def look_again(parts: KernelParts) -> None:
        assert 0 == daemon.dropped(parts, 9471)

    daemon.live(look)
    daemon.live(look_again, rate=0)


def test_limit_after_everything_was_removed(daemon: Daemon) -> None:
    """Between removal and attaching again there is none, and no alert; then it is in force with empty buckets."""

    async def remove_and_reopen(parts: KernelParts) -> None:
        assert 2 == daemon.dropped(parts, 9471)
        await parts.release()
        await parts.plane.detach_all()
        assert (0, ()) == (daemon.dropped(parts, 9471), daemon.alerts.texts())
        await parts.reopen()
        await parts.plane.attach("va", daemon.index)
        assert 2 == daemon.dropped(parts, 9471)

    daemon.live(remove_and_reopen)


def test_programs_of_before_end_no_start(daemon: Daemon) -> None:
    """With an object that knows no limit the daemon starts and says so; an upgrade puts the limit in force."""
    put(build(daemon.directory / "before", before_syn=True), daemon.directory / "objects")

    async def upgrade(parts: KernelParts) -> None:
        assert 0 == daemon.dropped(parts, 9471)
        assert ("programs_refused",) == daemon.alerts.names()
        assert "SYNs to x0d's own ports are not limited" in daemon.alerts.texts()[0]
        put(OBJECT_FILE.parent, daemon.directory / "objects")
        await parts.plane.upgrade()
        assert (2, ()) == (daemon.dropped(parts, 9471), daemon.alerts.names())

    daemon.live(upgrade)
