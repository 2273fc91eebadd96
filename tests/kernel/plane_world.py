"""A world with the whole data plane in it: opened with settings, fed with packets, looked at from outside."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from kernel.xdp_packets import Packet
from kernel.xdp_world import World, new_world
from x0d.kernel import pins
from x0d.kernel.dataplane import PlaneSettings, XdpDataPlane
from x0d.kernel.xdp_query import XdpHook, read_xdp_hook
from x0d.ports import Attachment

NEIGHBOUR, LOCAL = ip_address("10.9.0.2"), ip_address("10.9.0.1")
SETTINGS = PlaneSettings(allow_skb_mode=False, probe_port=9474, probe_rate_pps=1000, probe_burst=100, session=77)
UDP_FRAME = Packet(NEIGHBOUR, LOCAL, b"x" * 20, destination_port=53).encode()


class PlaneWorld:
    """A ``World`` and what tests of the loader do in it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.bpffs_dir = world.bpffs_dir

    @property
    def directory(self) -> Path:
        """Where this namespace's pins are."""
        return self.bpffs_dir / str(self.world.run(pins.netns_inode))

    def plane(self, **changes: object) -> XdpDataPlane:
        """Make a data plane that is not opened yet."""
        return XdpDataPlane(self.bpffs_dir, replace(SETTINGS, **changes))  # type: ignore[arg-type]  # the test names them

    def open(self, **changes: object) -> XdpDataPlane:
        """Open one; the caller closes it."""
        plane = self.plane(**changes)
        self.world.wait(plane.open)
        return plane

    @contextmanager
    def opened(self, **changes: object) -> Iterator[XdpDataPlane]:
        """Open one and close it at the end; what is pinned stays."""
        plane = self.open(**changes)
        try:
            yield plane
        finally:
            plane.close()

    def attach(self, plane: XdpDataPlane, interface: str) -> Attachment:
        """Attach by name."""
        index = self.world.index(interface)
        return self.world.wait(lambda: plane.attach(interface, index))

    def hook(self, index: int) -> XdpHook:
        """Who holds an interface."""
        return self.world.run(lambda: read_xdp_hook(index))

    def send(self, interface: str, count: int, frame: bytes = UDP_FRAME) -> None:
        """Send a frame out of an interface, past the network stack."""

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind((interface, 0))
                for _ in range(count):
                    raw.send(frame)

        self.world.run(send)

    def hook_pins(self, index: int) -> list[str]:
        """Names of what is pinned for an interface."""
        return sorted(path.name for path in (self.directory / f"{index}-xdp").iterdir())


def udp_counted(plane: XdpDataPlane, index: int) -> int:
    """UDP packets that came in on an interface."""
    return sum(c.packets for c in plane.sample().packets if (c.ifindex, c.protocol_class) == (index, "udp"))


@contextmanager
def new_plane_world(directory: Path) -> Iterator[PlaneWorld]:
    """As ``new_world``."""
    with new_world(directory) as world:
        yield PlaneWorld(world)
