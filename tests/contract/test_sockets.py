"""What the sockets of a link promise: those in memory that tests use, and UDP on real interfaces."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Protocol

import pytest

from fakes.clock import FakeClock, run_virtual
from fakes.dataplane import FakeDataPlane
from fakes.sockets import MESH_PORT, PROBE_PORT, FakeSockets, OnDatagram, join
from kernel.namespaces import Namespace, namespace, veth
from x0d.errors import AddressUnavailable
from x0d.mesh.model import Address
from x0d.ports import DatagramSocket
from x0d.service.link import SocketOpener
from x0d.transport.datagram import DatagramSockets

NEAR, FAR = ip_address("10.1.0.1"), ip_address("10.1.0.2")


class Wire(Protocol):
    """Two openers, and the interface that joins them, called ``eth0`` at both ends."""

    near: SocketOpener
    far: SocketOpener

    async def take_carrier(self) -> None:
        """Take carrier from the near end."""

    def missing(self) -> None:
        """Take the near end's address away."""


class FakeWire:
    def __init__(self, clock: FakeClock) -> None:
        self.fake_near = FakeSockets(clock, FakeDataPlane(clock, 1), ifindexes={"eth0": 1})
        self.fake_far = FakeSockets(clock, FakeDataPlane(clock, 2), ifindexes={"eth0": 1})
        join(self.fake_near, "eth0", self.fake_far, "eth0")
        self.near: SocketOpener = self.fake_near
        self.far: SocketOpener = self.fake_far

    async def take_carrier(self) -> None:
        self.fake_near.dark.add("eth0")

    def missing(self) -> None:
        self.fake_near.refused["eth0", MESH_PORT] = AddressUnavailable("the address is not on this host")


class Inside:
    """Opens sockets in another namespace: they stay there, the thread returns home."""

    def __init__(self, there: Namespace, home: Namespace) -> None:
        self._there = there
        self._home = home
        self._sockets = DatagramSockets()

    def open(
        self, interface: str, local: Address, port: int, neighbour: Address, on_datagram: OnDatagram | None
    ) -> DatagramSocket:
        self._there._enter()
        try:
            return self._sockets.open(interface, local, port, neighbour, on_datagram)
        finally:
            self._home._enter()


class KernelWire:
    def __init__(self, near: Namespace, far: Namespace) -> None:
        self._namespace = near
        self.near: SocketOpener = DatagramSockets()
        self.far: SocketOpener = Inside(far, near)

    async def take_carrier(self) -> None:
        self._namespace.ip("link set eth0 down")

    def missing(self) -> None:
        self._namespace.ip(f"addr del {NEAR}/24 dev eth0")


Scenario = Callable[[Wire], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.kernel)])
def play(request: pytest.FixtureRequest) -> Iterator[Play]:
    """Run a scenario on two ends of a wire."""

    async def on(scenario: Scenario, wire: Wire) -> None:
        await scenario(wire)

    if request.param == "fake":
        clock = FakeClock()
        yield lambda scenario: run_virtual(clock, on(scenario, FakeWire(clock)))
        return
    with ExitStack() as stack:
        near, far = stack.enter_context(namespace("near")), stack.enter_context(namespace("far"))
        veth(near, far, ("eth0", "eth0"))
        near.ip(f"addr add {NEAR}/24 dev eth0")
        far.ip(f"addr add {FAR}/24 dev eth0")
        yield lambda scenario: near.run_loop(lambda: on(scenario, KernelWire(near, far)))


async def next_of(inbox: asyncio.Queue[bytes]) -> bytes:
    """Wait for the next datagram."""
    async with asyncio.timeout(10):
        return await inbox.get()


def test_what_is_sent_arrives(play: Play) -> None:
    """Datagrams reach the neighbour's callback whole and in both directions."""

    async def scenario(wire: Wire) -> None:
        near_in: asyncio.Queue[bytes] = asyncio.Queue()
        far_in: asyncio.Queue[bytes] = asyncio.Queue()
        near = wire.near.open("eth0", NEAR, MESH_PORT, FAR, near_in.put_nowait)
        far = wire.far.open("eth0", FAR, MESH_PORT, NEAR, far_in.put_nowait)
        assert (True, b"there") == (near.send(b"there"), await next_of(far_in))
        assert (True, b"back" * 308) == (far.send(b"back" * 308), await next_of(near_in))
        near.close()
        far.close()

    play(scenario)


def test_closed_is_closed(play: Play) -> None:
    """After ``close`` nothing is sent and nothing called back; closing twice is no error; the place is free again."""

    async def scenario(wire: Wire) -> None:
        inbox: asyncio.Queue[bytes] = asyncio.Queue()
        late: asyncio.Queue[bytes] = asyncio.Queue()
        far = wire.far.open("eth0", FAR, MESH_PORT, NEAR, None)
        first = wire.near.open("eth0", NEAR, MESH_PORT, FAR, inbox.put_nowait)
        for _ in range(2):
            first.close()
        assert not first.send(b"too late")
        second = wire.near.open("eth0", NEAR, MESH_PORT, FAR, late.put_nowait)
        assert far.send(b"anew")
        assert (b"anew", True) == (await next_of(late), inbox.empty())
        second.close()
        far.close()

    play(scenario)


def test_no_carrier_is_no_exception(play: Play) -> None:
    """What the kernel does not take is answered with False."""

    async def scenario(wire: Wire) -> None:
        near = wire.near.open("eth0", NEAR, PROBE_PORT, FAR, None)
        await wire.take_carrier()
        assert not near.send(b"x" * 48)
        near.close()

    play(scenario)


def test_missing_address_is_address_unavailable(play: Play) -> None:
    """A socket on an address that is not there is refused, and not as a port in use."""

    async def scenario(wire: Wire) -> None:
        wire.missing()
        with pytest.raises(AddressUnavailable) as refused:
            wire.near.open("eth0", NEAR, MESH_PORT, FAR, None)
        assert not refused.value.in_use

    play(scenario)
