"""What every route table promises: the fake that tests use, and the kernel."""

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from ipaddress import ip_address, ip_network
from typing import Protocol

import pytest

from fakes.routes import FakeRouteTable
from kernel.namespaces import Namespace, namespace, veth
from x0d.actions import DeleteNexthop, DeleteRoute, ObservedRoutes, PutNexthop, PutRoute, RouteChange
from x0d.errors import KernelRefused
from x0d.kernel.interfaces import KernelInterfaces
from x0d.kernel.routes import ROUTE_METRIC, KernelRouteTable
from x0d.mesh.model import Prefix
from x0d.ports import RouteTable

BASE = 0x78300000
VIA_11 = PutNexthop(BASE, ip_address("fe80::1"), 11)
VIA_12 = PutNexthop(BASE + 1, ip_address("fe80::2"), 12)
V4, OTHER_V4, V6 = ip_network("10.9.0.1/32"), ip_network("10.9.1.0/24"), ip_network("fd09::/64")


class World(Protocol):
    """What a scenario does to the machine beside the table."""

    async def carrier_down(self, ifindex: int) -> None: ...

    async def carrier_up(self, ifindex: int) -> None: ...

    def put_foreign(self, prefix: Prefix) -> None: ...


Scenario = Callable[[RouteTable, World], Awaitable[None]]
Play = Callable[[Scenario], None]


class FakeWorld:
    def __init__(self, table: FakeRouteTable) -> None:
        self.table = table

    async def carrier_down(self, ifindex: int) -> None:
        self.table.carrier_down(ifindex)

    async def carrier_up(self, ifindex: int) -> None:
        self.table.carrier_up(ifindex)

    def put_foreign(self, prefix: Prefix) -> None:
        self.table.foreign.add(prefix)


class KernelWorld:
    def __init__(self, near: Namespace, far: Namespace) -> None:
        self.near = near
        self.far = far

    async def carrier_down(self, ifindex: int) -> None:
        async with self._told(ifindex, carrier=False):
            self.far.ip(f"link set far{ifindex} down")

    async def carrier_up(self, ifindex: int) -> None:
        async with self._told(ifindex, carrier=True):
            self.far.ip(f"link set far{ifindex} up")

    def put_foreign(self, prefix: Prefix) -> None:
        self.near.ip(f"-{prefix.version} route add {prefix} dev near12 metric {ROUTE_METRIC} proto static")

    @asynccontextmanager
    async def _told(self, ifindex: int, *, carrier: bool) -> AsyncIterator[None]:
        """Leave the block once the kernel has told of the carrier: it has flushed by then."""
        told = asyncio.Event()
        interfaces = KernelInterfaces()
        interfaces.subscribe(
            lambda event: (
                told.set()
                if event.interface and event.ifindex == ifindex and event.interface.carrier is carrier
                else None
            )
        )
        try:
            yield
            async with asyncio.timeout(10):
                await told.wait()
        finally:
            interfaces.close()


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.kernel)])
def play(request: pytest.FixtureRequest) -> Iterator[Play]:
    """Run a scenario on an empty table that has interfaces 11 and 12."""
    if request.param == "fake":
        fake = FakeRouteTable()
        yield lambda scenario: asyncio.run(_await(scenario(fake, FakeWorld(fake))))
        return
    with ExitStack() as stack:
        near, far = stack.enter_context(namespace("near")), stack.enter_context(namespace("far"))
        for ifindex in (11, 12):
            veth(near, far, (f"near{ifindex}", f"far{ifindex}"), (ifindex, ifindex + 10))

        async def inside(scenario: Scenario) -> None:
            table = KernelRouteTable(120, BASE)
            try:
                await scenario(table, KernelWorld(near, far))
            finally:
                table.close()

        yield lambda scenario: near.run_loop(lambda: inside(scenario))


async def _await(work: Awaitable[None]) -> None:
    await work


def test_what_is_put_is_read(play: Play) -> None:
    """Objects and routes of both families come back as they were put; repeating a put changes nothing."""

    async def scenario(table: RouteTable, _: World) -> None:
        assert ObservedRoutes({}, {}) == await table.read()
        changes: list[RouteChange] = [
            VIA_11,
            VIA_12,
            PutRoute(V4, BASE),
            PutRoute(OTHER_V4, BASE + 1),
            PutRoute(V6, BASE),
        ]
        expected = ObservedRoutes({BASE: VIA_11, BASE + 1: VIA_12}, {V4: BASE, OTHER_V4: BASE + 1, V6: BASE})
        await table.apply(changes)
        assert expected == await table.read()
        await table.apply(changes)
        assert expected == await table.read()

    play(scenario)


def test_replaced_object_moves_its_routes(play: Play) -> None:
    """Routes stay on an object that gets another gateway and interface; a route can be moved to another object."""

    async def scenario(table: RouteTable, _: World) -> None:
        await table.apply([VIA_11, VIA_12, PutRoute(V4, BASE), PutRoute(V6, BASE)])
        moved = PutNexthop(BASE, ip_address("fe80::3"), 12)
        await table.apply([moved, PutRoute(V6, BASE + 1)])
        assert ObservedRoutes({BASE: moved, BASE + 1: VIA_12}, {V4: BASE, V6: BASE + 1}) == await table.read()

    play(scenario)


def test_deletion_takes_the_routes_along_and_may_be_repeated(play: Play) -> None:
    """Deleting an object deletes its routes; deleting what is gone is done already."""

    async def scenario(table: RouteTable, _: World) -> None:
        await table.apply([VIA_11, PutRoute(V4, BASE), PutRoute(OTHER_V4, BASE), DeleteRoute(V4), DeleteRoute(V4)])
        assert ObservedRoutes({BASE: VIA_11}, {OTHER_V4: BASE}) == await table.read()
        await table.apply([DeleteNexthop(BASE), DeleteNexthop(BASE), DeleteRoute(OTHER_V4)])
        assert ObservedRoutes({}, {}) == await table.read()

    play(scenario)


def test_carrier_loss_flushes_and_nothing_returns_by_itself(play: Play) -> None:
    """Carrier loss deletes the interface's objects and all their routes; a later put of the object brings none back."""

    async def scenario(table: RouteTable, world: World) -> None:
        await table.apply([VIA_11, VIA_12, PutRoute(V4, BASE), PutRoute(V6, BASE), PutRoute(OTHER_V4, BASE + 1)])
        await world.carrier_down(11)
        assert ObservedRoutes({BASE + 1: VIA_12}, {OTHER_V4: BASE + 1}) == await table.read()
        with pytest.raises(KernelRefused) as refused:
            await table.apply([VIA_11])
        assert errno.ENETDOWN == refused.value.errno
        await world.carrier_up(11)
        await table.apply([VIA_11])
        assert ObservedRoutes({BASE: VIA_11, BASE + 1: VIA_12}, {OTHER_V4: BASE + 1}) == await table.read()

    play(scenario)


def test_refusal_names_the_first_and_the_rest_is_tried(play: Play) -> None:
    """A route on an object that is not there is refused by name; changes after it are performed."""

    async def scenario(table: RouteTable, _: World) -> None:
        with pytest.raises(KernelRefused) as refused:
            await table.apply([VIA_11, PutRoute(V4, BASE + 7), PutRoute(OTHER_V4, BASE)])
        assert (str(PutRoute(V4, BASE + 7)), errno.EINVAL) == (refused.value.operation, refused.value.errno)
        assert ObservedRoutes({BASE: VIA_11}, {OTHER_V4: BASE}) == await table.read()

    play(scenario)


def test_ipv6_route_on_ipv4_gateway_is_refused(play: Play) -> None:
    """IPv4 goes by an IPv6 gateway, IPv6 never by an IPv4 one: neither a new route nor a replaced object."""

    async def scenario(table: RouteTable, _: World) -> None:
        by_v4 = PutNexthop(BASE + 1, ip_address("10.0.0.2"), 12)
        await table.apply([VIA_11, by_v4, PutRoute(V6, BASE)])
        refusals: list[RouteChange] = [PutRoute(V6, BASE + 1), PutNexthop(BASE, ip_address("10.0.0.2"), 11)]
        for change in refusals:
            with pytest.raises(KernelRefused) as refused:
                await table.apply([change])
            assert errno.EINVAL == refused.value.errno
        assert ObservedRoutes({BASE: VIA_11, BASE + 1: by_v4}, {V6: BASE}) == await table.read()

    play(scenario)


@pytest.mark.parametrize("prefix", [V4, V6])
def test_foreign_route_is_neither_shown_nor_replaced(play: Play, prefix: Prefix) -> None:
    """A route of somebody else to the same prefix at our metric stays, and our put is refused with EEXIST."""

    async def scenario(table: RouteTable, world: World) -> None:
        world.put_foreign(prefix)
        await table.apply([VIA_11])
        with pytest.raises(KernelRefused) as refused:
            await table.apply([PutRoute(prefix, BASE)])
        assert errno.EEXIST == refused.value.errno
        await table.apply([DeleteRoute(prefix)])
        assert ObservedRoutes({BASE: VIA_11}, {}) == await table.read()

    play(scenario)


def test_address_may_be_put_twice(play: Play) -> None:
    """Putting an address that is there does nothing."""

    async def scenario(table: RouteTable, _: World) -> None:
        for prefix in (ip_network("10.255.0.1/32"), ip_network("fd00::1/128")):
            await table.put_address(prefix)
            await table.put_address(prefix)

    play(scenario)
