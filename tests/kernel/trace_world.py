"""Two namespaces joined by a pair of interfaces, and tracers that each count one of them."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from kernel.namespaces import Namespace, namespace, run, veth
from x0d.kernel.tracing import KernelTracer
from x0d.ports import TraceSample

REPOSITORY = Path(__file__).resolve().parents[2]
OBJECTS_DIR = REPOSITORY / "daemon" / "x0d" / "kernel" / "objects"
STEADY = ("drops", "tcp", "sockets", "runqueue")
CLOSED_PORT = 9
NOBODY = "02:00:00:00:00:99"
"""A hardware address that no interface has: what is sent to it is not taken in."""


class Pair:
    """Namespaces ``one`` and ``other`` with an address of each family on their link."""

    def __init__(self, one: Namespace, other: Namespace) -> None:
        self.one, self.other = one, other

    @staticmethod
    def addresses(version: int) -> tuple[str, str]:
        """Of ``one`` and of ``other``."""
        return ("10.77.1.1", "10.77.1.2") if version == 4 else ("fd77:1:2:3::1", "fd77:1:2:3::2")

    @staticmethod
    def prefix(version: int) -> str:
        """What both addresses are counted under as peers."""
        return "10.77.1.0/24" if version == 4 else "fd77:1:2::/48"

    def open_socket(self, where: Namespace, version: int, kind: socket.SocketKind) -> socket.socket:
        """A socket that belongs to a namespace; it stays there wherever it is used."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        made = where.call(lambda: socket.socket(family, kind))
        made.settimeout(10)
        return made

    def listen(self, version: int) -> socket.socket:
        """A TCP socket that listens in ``other``."""
        listener = self.open_socket(self.other, version, socket.SOCK_STREAM)
        listener.bind((self.addresses(version)[1], 0))
        listener.listen()
        return listener

    def lose(self, version: int) -> None:
        """From now on nothing that ``one`` sends reaches ``other``, and nobody is told."""
        self.one.ip(f"neigh replace {self.addresses(version)[1]} lladdr {NOBODY} dev va nud permanent")


@contextmanager
def new_pair() -> Iterator[Pair]:
    """Make both namespaces; they go at the end.  The compiled objects are there."""
    build()
    with namespace("tra") as one, namespace("trb") as other:
        for each in (one, other):
            each.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        veth(one, other, ("va", "vb"))
        pair = Pair(one, other)
        for version, length in ((4, 24), (6, 64)):
            for each, device, address in zip((one, other), ("va", "vb"), pair.addresses(version), strict=True):
                each.ip(f"address add {address}/{length} dev {device}")
        yield pair


def build() -> None:
    """Compile what is out of date."""
    run("make", "-s", "-C", str(REPOSITORY / "ebpf"))


@asynccontextmanager
async def tracer(
    names: tuple[str, ...] = STEADY, where: Namespace | None = None, objects_dir: Path = OBJECTS_DIR
) -> AsyncIterator[KernelTracer]:
    """An opened tracer of one namespace (None: of all), closed at the end."""
    made = KernelTracer(names, objects_dir, where.path.stat().st_ino if where else None)
    try:
        await made.open()
        yield made
    finally:
        made.close()


async def until(of: KernelTracer, condition: Callable[[TraceSample], bool], within_s: float = 10.0) -> TraceSample:
    """Read again and again until a condition holds; at the end of the time give what there is."""
    sample = await of.read()
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while not condition(sample):
                await asyncio.sleep(0.01)  # tidy: the kernel counts by itself, and tells nobody
                sample = await of.read()
    return sample
