"""Our routes in a real kernel: carrier loss and return, other people's routes, adoption, many routes at once."""

import asyncio
import errno
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network

import pytest
from pyroute2.netlink import NLM_F_CREATE
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from kernel.namespaces import Namespace, namespace, veth
from x0d.actions import DeleteNexthop, DeleteRoute, ObservedRoutes, PutNexthop, PutRoute
from x0d.errors import KernelRefused
from x0d.kernel.interfaces import KernelInterfaces
from x0d.kernel.netlink import (
    BATCH_MESSAGES_MAX,
    RTM_NEWNEXTHOP,
    NetlinkSocket,
    NexthopMessage,
    RouteMessage,
    encode,
    typed,
)
from x0d.kernel.routes import ROUTE_METRIC, KernelRouteTable
from x0d.mesh.model import Address, NextHop, Prefix
from x0d.ports import InterfaceEvent
from x0d.reconcile import after_changes, forget_interface, plan_routes

pytestmark = pytest.mark.kernel

BASE = 0x78300000
PROTOCOL = 120
BY_11 = NextHop("near11", 11, ip_address("fe80::11"), "n2")
BY_12 = NextHop("near12", 12, ip_address("fe80::12"), "n3")
MANY: list[Prefix] = [ip_network(f"10.2.{number // 256}.{number % 256}/32") for number in range(499)]
MANY.append(ip_network("fd02::/64"))


@pytest.fixture
def far() -> Iterator[Namespace]:
    """The other side."""
    with namespace("far") as made:
        yield made


@pytest.fixture
def near(far: Namespace) -> Iterator[Namespace]:
    """A namespace with interfaces near11 and near12, whose other ends far11 and far12 are in ``far``."""
    with namespace("near") as made:
        veth(made, far, ("near11", "far11"), (11, 21))
        veth(made, far, ("near12", "far12"), (12, 22))
        yield made


@asynccontextmanager
async def route_table(source_addresses: tuple[Address, ...] = ()) -> AsyncIterator[KernelRouteTable]:
    """A table of ours, closed at the end."""
    table = KernelRouteTable(PROTOCOL, BASE, source_addresses)
    try:
        yield table
    finally:
        table.close()


@asynccontextmanager
async def carrier_notice(ifindex: int, *, present: bool) -> AsyncIterator[None]:
    """Leave the block when the kernel has told of the carrier."""
    told = asyncio.Event()

    def on_event(event: InterfaceEvent) -> None:
        if event.ifindex == ifindex and event.interface and event.interface.carrier is present:
            told.set()

    interfaces = KernelInterfaces()
    interfaces.subscribe(on_event)
    try:
        yield
        async with asyncio.timeout(10):
            await told.wait()
    finally:
        interfaces.close()


def by_interface(observed: ObservedRoutes) -> dict[int, int]:
    """Number of routes by interface index."""
    counts: dict[int, int] = {}
    for number in observed.routes.values():
        ifindex = observed.nexthops[number].ifindex
        counts[ifindex] = counts.get(ifindex, 0) + 1
    return counts


def test_routes_are_counted_through_carrier_loss_replace_and_return(near: Namespace, far: Namespace) -> None:
    """Carrier loss takes 500 routes silently, a replace moves none of them, the plan brings all back, both ways."""

    async def main() -> None:
        async with route_table() as table:
            outward = dict.fromkeys(MANY, BY_11) | {ip_network("10.3.0.0/24"): BY_12}
            await table.apply(plan_routes(outward, await table.read(), BASE))
            observed = await table.read()
            assert {11: 500, 12: 1} == by_interface(observed)

            async with carrier_notice(11, present=False):
                far.ip("link set far11 down")
            lost = await table.read()
            assert {12: 1} == by_interface(lost)
            assert forget_interface(observed, 11) == lost

            gone = next(iter(observed.nexthops.keys() - lost.nexthops.keys()))
            await table.apply([PutNexthop(gone, BY_12.gateway, BY_12.ifindex)])
            assert {12: 1} == by_interface(await table.read())

            around = dict.fromkeys(outward, BY_12)
            await table.apply(plan_routes(around, await table.read(), BASE))
            assert {12: 501} == by_interface(await table.read())

            async with carrier_notice(11, present=True):
                far.ip("link set far11 up")
            changes = plan_routes(outward, await table.read(), BASE)
            expected = after_changes(await table.read(), changes)
            await table.apply(changes)
            assert expected == await table.read()
            assert {11: 500, 12: 1} == by_interface(expected)

    near.run_loop(main)


def test_link_set_down_flushes_as_well(near: Namespace) -> None:
    """An interface that is set down and up again has lost its routes, as forget_interface says."""

    async def main() -> None:
        async with route_table() as table:
            await table.apply(plan_routes(dict.fromkeys(MANY[:5], BY_11), await table.read(), BASE))
            expected = forget_interface(await table.read(), 11)
            near.ip("link set near11 down")
            near.ip("link set near11 up")
            assert expected == await table.read()

    near.run_loop(main)


def test_one_replacement_moves_500_routes(near: Namespace, record_property: Callable[[str, object], None]) -> None:
    """One message moves every route of a dead neighbour; the times are recorded, not judged."""

    async def main() -> None:
        async with route_table() as table:
            figures = {}
            changes = plan_routes(dict.fromkeys(MANY, BY_11), await table.read(), BASE)
            for name, batch in (("put_500_ms", changes), ("put_500_again_ms", changes)):
                started_at = time.perf_counter()
                await table.apply(batch)
                figures[name] = (time.perf_counter() - started_at) * 1e3
            observed = await table.read()
            moves = plan_routes(dict.fromkeys(MANY, BY_12), observed, BASE, frozenset({(11, BY_11.gateway)}))
            assert (PutNexthop(BASE, BY_12.gateway, 12),) == moves
            started_at = time.perf_counter()
            await table.apply(moves)
            figures["move_500_ms"] = (time.perf_counter() - started_at) * 1e3
            assert {12: 500} == by_interface(await table.read())
            for name, value in figures.items():
                record_property(name, round(value, 2))
            print(figures)

    near.run_loop(main)


def test_foreign_routes_and_objects_are_untouched(near: Namespace) -> None:
    """Routes at another metric live beside ours; a holder of our metric, or of an id in our range, is named."""
    near.ip("route add 10.2.0.0/32 dev near12 metric 5 proto static")
    near.ip(f"route add 10.2.0.1/32 dev near12 metric {ROUTE_METRIC} proto bird")
    near.ip(f"-6 route add fd02::/64 dev near12 metric {ROUTE_METRIC} proto static")
    near.ip(f"nexthop add id {BASE} via fe80::99 dev near12 proto static")
    near.ip(f"nexthop add id {BASE - 1} via fe80::99 dev near12 proto {PROTOCOL}")
    before = [near.ip("route show proto static"), near.ip("route show proto bird"), near.ip("-6 route show fd02::/64")]
    objects = near.ip("nexthop")

    async def main() -> None:
        async with route_table() as table:
            assert ObservedRoutes({}, {}) == await table.read()
            mine = PutNexthop(BASE + 1, BY_11.gateway, 11)
            await table.apply([mine, PutRoute(MANY[0], BASE + 1)])
            for prefix, words in ((MANY[1], "a route of protocol 12 holds"), (MANY[-1], "a route of protocol 4 holds")):
                for change in (PutRoute(prefix, BASE + 1), PutRoute(prefix, BASE + 1)):
                    with pytest.raises(KernelRefused, match=words) as refused:
                        await table.apply([change])
                    assert errno.EEXIST == refused.value.errno
            for taken in (PutNexthop(BASE, BY_11.gateway, 11), DeleteNexthop(BASE)):
                with pytest.raises(KernelRefused, match="belongs to protocol 4"):
                    await table.apply([taken])
            await table.apply([DeleteRoute(prefix) for prefix in (MANY[0], MANY[1], MANY[-1])])
            await table.apply([DeleteNexthop(BASE + 1)])

    near.run_loop(main)
    after = [near.ip("route show proto static"), near.ip("route show proto bird"), near.ip("-6 route show fd02::/64")]
    assert before == after
    assert objects == near.ip("nexthop")


def test_restarted_daemon_adopts(near: Namespace) -> None:
    """What an earlier daemon left is what the next one reads, and leaves nothing to do."""
    wanted = dict.fromkeys(MANY[:20], BY_11) | dict.fromkeys(MANY[20:30], BY_12)

    async def first() -> None:
        async with route_table() as table:
            await table.apply(plan_routes(wanted, await table.read(), BASE))

    async def second() -> None:
        async with route_table() as table:
            assert () == plan_routes(wanted, await table.read(), BASE)

    near.run_loop(first)
    near.run_loop(second)


def test_own_traffic_carries_the_stable_address(near: Namespace) -> None:
    """With source addresses, routes of each family prefer the node's own as source."""

    async def main() -> None:
        sources = (ip_address("10.255.0.1"), ip_address("fd00::1"))
        async with route_table(source_addresses=sources) as table:
            await table.put_address(ip_network("10.255.0.1/32"))
            await table.put_address(ip_network("fd00::1/128"))
            await table.apply(plan_routes({MANY[0]: BY_11, MANY[-1]: BY_11}, await table.read(), BASE))

    near.run_loop(main)
    assert "src 10.255.0.1" in near.ip("route get 10.2.0.0")
    assert "src fd00::1" in near.ip("-6 route get fd02::5")


def test_kernel_says_why(near: Namespace) -> None:
    """A refusal carries the kernel's own explanation."""

    async def main() -> None:
        async with route_table() as table:
            with pytest.raises(KernelRefused) as refused:
                await table.apply([PutNexthop(BASE, BY_11.gateway, 4711)])
            assert (errno.EINVAL, "Invalid device index") == (refused.value.errno, refused.value.detail)

    near.run_loop(main)


def test_iproute2_reads_the_same(near: Namespace) -> None:
    """A decoder that is not pyroute2 finds in the kernel what we have put there."""

    async def main() -> None:
        async with route_table() as table:
            await table.apply(plan_routes({MANY[0]: BY_11, MANY[-1]: BY_11}, await table.read(), BASE))

    near.run_loop(main)
    common = {"protocol": str(PROTOCOL), "metric": ROUTE_METRIC, "nhid": BASE, "dev": "near11"}
    for family, prefix in (("-4", "10.2.0.0"), ("-6", "fd02::/64")):
        [route] = json.loads(near.ip(f"-j {family} route show {prefix}"))
        assert {"dst": prefix} | common == {key: route[key] for key in ("dst", *common)}
    [nexthop] = json.loads(near.ip(f"-j nexthop show id {BASE}"))
    actual = (nexthop["id"], nexthop["gateway"], nexthop["dev"], nexthop["protocol"])
    assert (BASE, "fe80::11", "near11", str(PROTOCOL)) == actual


def test_every_refusal_of_a_full_batch_arrives(near: Namespace) -> None:
    """More refusals than fit one send, each with request and explanation, are all told apart and none is lost."""

    def refuse() -> list[KernelRefused | None]:
        netlink = NetlinkSocket()
        operations = []
        for number in range(3 * BATCH_MESSAGES_MAX):
            message = typed(NexthopMessage(), RTM_NEWNEXTHOP, NLM_F_CREATE)
            message.update(family=2, protocol=PROTOCOL, attrs=[("NHA_ID", BASE + number), ("NHA_OIF", 4711)])
            operations.append((number, message))
        results = netlink.batch(operations)
        netlink.close()
        return results

    expected = [f"{number}: EINVAL: Invalid device index" for number in range(3 * BATCH_MESSAGES_MAX)]
    assert expected == [str(refused) for refused in near.call(refuse)]


def test_route_message_is_not_bent_by_rtmsg() -> None:
    """The nexthop id is encoded and decoded also when pyroute2's own route message was used before."""
    rtmsg()
    message = RouteMessage()
    message.update(family=2, attrs=[("RTA_NH_ID", BASE)])
    decoded = RouteMessage(encode(message, 1, 0))
    decoded.decode()
    assert BASE == decoded.get_attr("RTA_NH_ID")
