"""Routes that follow the link states: the order of things on a fault, adoption, refusals, repair."""

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address, ip_network

import pytest

from fakes.clock import FakeClock, passes, run_virtual, until
from fakes.routes import FakeRouteTable
from service.nodes import ADOPTED_MAX_S, BASE, FakeMesh, FakeNode, message_of, prefix_of
from x0d.actions import DeleteNexthop, InstallRoutes, ObservedRoutes, PutNexthop, PutRoute, RouteChange, SetLinkCost
from x0d.errors import InvalidInput, KernelRefused
from x0d.mapek.events import Event, LinkSymptom, PeerReport, RoutesMoved, TopologySeen
from x0d.mesh.model import LinkKey, LinkState, Prefix
from x0d.service import mesh as mesh_service
from x0d.service import sealed
from x0d.service.fib import ROUTES_ALERT

TRIANGLE = (("n1", "n2"), ("n2", "n3"), ("n1", "n3"))
Scenario = Callable[[FakeMesh, FakeNode], Awaitable[None]]


@dataclass
class BrittleTable(FakeRouteTable):
    """A route table that refuses and forgets on demand."""

    refuses_apply: bool = False
    refuses_read: bool = False
    reads: int = 0
    applies: int = 0
    order: list[str] = field(default_factory=list)

    async def read(self) -> ObservedRoutes:
        self.reads += 1
        if self.refuses_read:
            raise KernelRefused("read routes", errno.ENOBUFS)
        return await super().read()

    async def apply(self, changes: Sequence[RouteChange]) -> None:
        self.applies += 1
        self.order.append("install")
        if self.refuses_apply:
            raise KernelRefused(str(changes[0]), errno.EPERM)
        await super().apply(changes)


def brittle(node: FakeNode) -> BrittleTable:
    """The node's table, as such."""
    assert isinstance(node.table, BrittleTable)
    return node.table


def play(scenario: Scenario, pairs: Sequence[tuple[str, str]] = TRIANGLE, *, install_routes: bool = True) -> FakeMesh:
    """Run a scenario on n1 of a mesh in step."""
    mesh = FakeMesh(FakeClock(), pairs)
    n1 = mesh.nodes["n1"]
    n1.table = BrittleTable()
    n1.start(install_routes=install_routes)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            for node in mesh.nodes.values():
                await stack.enter_async_context(node.alive())
            await until(lambda: len(n1.fib.routes) == len(mesh.nodes) - 1)
            await until(lambda: all(unit.state is LinkState.UP for unit in n1.links.units))
            await passes(1)
            await scenario(mesh, n1)

    run_virtual(mesh.clock, main())
    return mesh


def test_fault_is_flooded_then_installed_then_told() -> None:
    """On a fault the neighbours are told first, then one batch goes to the kernel, and the record comes last."""

    async def scenario(mesh: FakeMesh, n1: FakeNode) -> None:
        order = brittle(n1).order
        socket = n1.mesh._links[n1.key("n3")][1]
        send, report = socket.send, n1.mesh._report

        def sending(payload: bytes) -> bool:
            order.append("flood")
            return send(payload)

        def reporting(event: Event) -> None:
            order.append(type(event).__name__)
            report(event)

        socket.send = sending  # type: ignore[method-assign]
        n1.mesh._report = reporting
        order.clear()
        mesh.carrier("n1", "n2", present=False)
        assert ["flood"] == order, "at once, in the call that told of it"
        await until(lambda: "RoutesMoved" in order, 0.01)
        assert ["flood", "install", "RoutesMoved"] == [
            word for word in dict.fromkeys(order) if word not in ("TopologySeen", "PeerReport")
        ]
        assert 1 == order.count("install")

    play(scenario)


def test_reroute_is_told_with_its_cause() -> None:
    """The healing loop learns which incident moved which prefixes, how it went and what stays unreachable."""

    async def scenario(mesh: FakeMesh, n1: FakeNode) -> None:
        n1.events.clear()
        mesh.carrier("n1", "n2", present=False)
        await until(lambda: bool(n1.told(RoutesMoved)))
        moved = n1.told(RoutesMoved)[0]
        assert ((n1.told(LinkSymptom)[0].link, 1),) == moved.incidents
        assert ((prefix_of("n2"),), (), True, False) == (
            moved.moved,
            moved.unreachable,
            moved.outcome.done,
            moved.observed_only,
        )
        assert [] != n1.told(TopologySeen)

    play(scenario)


def test_far_fault_is_reported() -> None:
    """A fault between others is passed on as their report, with their generation."""

    async def scenario(mesh: FakeMesh, n1: FakeNode) -> None:
        key = mesh.nodes["n2"].key("n3")
        mesh.cut("n2", "n3")
        await until(lambda: bool(n1.told(PeerReport)))
        assert (key, 1) == (n1.told(PeerReport)[0].link, n1.told(PeerReport)[0].generation)

    play(scenario)


def adopted(node: FakeNode) -> None:
    """Leave in the kernel what an earlier life has installed, and a route to a node that is gone."""
    gateway = node.entries[0].address
    node.table.perform(
        [PutNexthop(BASE + 5, gateway, 100), PutRoute(prefix_of("n2"), BASE + 5), PutRoute(prefix_of("n9"), BASE + 5)]
    )
    node.table.changes.clear()


def test_adopted_routes_do_not_flap() -> None:
    """Where all daemons restart at once no route of an earlier life is touched that turns out right; others go."""
    mesh = FakeMesh(FakeClock(), (("n1", "n2"),))
    n1, n2 = mesh.nodes["n1"], mesh.nodes["n2"]
    adopted(n1)

    async def main() -> None:
        async with n1.alive(), n2.alive():
            assert 2 == len(n1.fib.observed.routes)
            await until(lambda: n1.unit("n2").state is LinkState.UP)
            await passes(1)

    run_virtual(mesh.clock, main())
    assert ["delete route 10.255.0.9/32"] == [str(change) for change in n1.table.changes]


def test_adopted_routes_are_held_for_a_time_only() -> None:
    """Where no other node is heard of, what an earlier life has left is removed after ``ADOPTED_MAX_S``."""
    mesh = FakeMesh(FakeClock(), (("n1", "n2"),))
    n1 = mesh.nodes["n1"]
    adopted(n1)

    async def main() -> None:
        async with n1.alive():
            n1.mesh.set_prefixes((prefix_of("n1"), ip_network("192.0.2.0/24")))
            n1.mesh.carrier_lost(4711)
            await passes(ADOPTED_MAX_S - 1)
            assert [] == n1.table.changes
            await passes(2)
            assert {} == n1.table.routes

    run_virtual(mesh.clock, main())


def test_refused_route_raises_an_alert_until_it_is_mended() -> None:
    """A refusal is an outcome and an alert; the table is read again, and tried again until it holds."""

    async def scenario(mesh: FakeMesh, n1: FakeNode) -> None:
        table = brittle(n1)
        table.refuses_apply, reads = True, table.reads
        mesh.carrier("n1", "n2", present=False)
        await until(lambda: bool(n1.told(RoutesMoved)))
        assert not n1.told(RoutesMoved)[-1].outcome.done
        assert (ROUTES_ALERT,) == n1.alerts.names()
        assert reads < table.reads
        await passes(2)
        table.refuses_apply = False
        await until(lambda: n1.next_node("n2") == "n3", 12)
        assert () == n1.alerts.names()

    play(scenario)


def test_table_that_cannot_be_read_ends_nothing() -> None:
    """A read that the kernel refuses is an alert and a verification that does not hold; it ends with the next read."""

    async def scenario(mesh: FakeMesh, n1: FakeNode) -> None:
        table = brittle(n1)
        table.refuses_apply = table.refuses_read = True
        mesh.carrier("n1", "n2", present=False)
        await until(lambda: bool(n1.told(RoutesMoved)))
        key = n1.told(LinkSymptom)[0].link
        assert (False, "the kernel's routes cannot be read: read routes: ENOBUFS") == await n1.mesh.verify(key)
        await passes(25)
        assert (ROUTES_ALERT,) == n1.alerts.names()
        table.refuses_apply = table.refuses_read = False
        await until(lambda: () == n1.alerts.names(), 25)
        assert "n3" == n1.next_node("n2")

    play(scenario)


def test_what_somebody_else_has_changed_is_repaired() -> None:
    """The table is read back every ``REPAIR_S`` and mended; an alert of a failed read ends though nothing was wrong."""

    async def scenario(_: FakeMesh, n1: FakeNode) -> None:
        brittle(n1).perform([DeleteNexthop(next(iter(n1.table.nexthops)))])
        assert 1 == len(n1.table.routes)
        await until(lambda: len(n1.table.routes) == 2, mesh_service.REPAIR_S + 1)
        brittle(n1).refuses_read = True
        await until(lambda: (ROUTES_ALERT,) == n1.alerts.names(), mesh_service.REPAIR_S + 1)
        brittle(n1).refuses_read = False
        await until(lambda: () == n1.alerts.names(), mesh_service.REPAIR_S + 1)

    play(scenario)


def test_carrier_loss_is_a_loss_of_routes() -> None:
    """The kernel flushes an interface's routes without a word, so after carrier they are put again."""

    async def scenario(mesh: FakeMesh, n1: FakeNode) -> None:
        mesh.carrier("n1", "n2", present=False)
        await until(lambda: n1.next_node("n2") == "n3")
        mesh.carrier("n1", "n2", present=True)
        await until(lambda: n1.next_node("n2") == "n2")

    play(scenario)


def test_verify_reads_the_kernel() -> None:
    """A verification tells how many routes hold, or which are missing and which lead astray; then they are mended."""

    async def scenario(mesh: FakeMesh, n1: FakeNode) -> None:
        dead = n1.key("n2")
        assert (False, "missing [], astray ['10.255.0.2/32 still by n1-n2.1451']") == await n1.mesh.verify(dead)
        mesh.carrier("n1", "n2", present=False)
        await until(lambda: n1.next_node("n2") == "n3")
        assert (True, f"2 routes read back from the kernel, none by {dead}") == await n1.mesh.verify(dead)
        del n1.table.routes[prefix_of("n2")]
        n1.table.routes[prefix_of("n9")] = n1.table.routes[prefix_of("n3")]
        expected = "missing ['10.255.0.2/32'], astray ['10.255.0.9/32']"
        assert (False, expected) == await n1.mesh.verify(dead)
        await until(lambda: {prefix_of("n2"), prefix_of("n3")} == n1.table.routes.keys(), 1)

    play(scenario)


def test_observed_only() -> None:
    """Without ``install_routes`` routes are computed and told, and the kernel is left alone."""

    async def scenario(mesh: FakeMesh, n1: FakeNode) -> None:
        key = n1.key("n2")
        mesh.carrier("n1", "n2", present=False)
        await until(lambda: bool(n1.told(RoutesMoved)))
        assert n1.told(RoutesMoved)[0].observed_only
        assert (True, "mesh.install_routes is false: nothing was installed") == await n1.mesh.verify(key)
        assert ("n3", 0) == (
            next(iter(n1.fib.routes.values())).next_hop.neighbour,
            n1.fib.observed.routes.get(prefix_of("n2"), 0),
        )

    mesh = play(scenario, install_routes=False)
    assert 0 == brittle(mesh.nodes["n1"]).applies


def test_two_nodes_of_one_address_raise_an_alert() -> None:
    """Who announces another node's stable address is named until it no longer does."""

    async def scenario(mesh: FakeMesh, n1: FakeNode) -> None:
        n3 = mesh.nodes["n3"]
        n3.mesh.set_prefixes((prefix_of("n2"),))
        await until(lambda: bool(n1.alerts.names()))
        (text,) = n1.alerts.texts()
        assert "duplicate_address: n2 and n3 both have 10.255.0.2/32: give each node an address of its own" == text
        n3.mesh.set_prefixes((prefix_of("n3"),))
        await until(lambda: not n1.alerts.names())

    play(scenario)


def test_refused_datagrams_are_counted_and_seldom_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """A flood of datagrams that are none is counted in full; each kind is logged once, and no more than so many."""

    async def scenario(mesh: FakeMesh, n1: FakeNode) -> None:
        for _number in range(500):
            n1.mesh.receive(n1.key("n2"), mesh.nodes["n2"].seal("n1", b"nonsense"))
        assert 500 == n1.mesh.refused["malformed"]
        assert 1 == capsys.readouterr().out.count("datagram_refused")
        for number in range(200):
            n1.mesh.receive(LinkKey("n1", str(number), "n2", ""), b"")
        assert 700 == n1.mesh.refused["malformed"]
        assert sealed.REFUSALS_LOGGED_MAX - 1 == capsys.readouterr().out.count("datagram_refused")

    play(scenario)


def test_flood_of_datagrams_does_not_keep_the_core_from_its_ticks() -> None:
    """Datagrams faster than a thousand a second do not stop this node's HELLOs: no neighbour takes it for dead."""

    async def scenario(mesh: FakeMesh, n1: FakeNode) -> None:
        async def flood() -> None:
            hello = message_of(n2.on_wire("n1")[-1])
            while True:
                n1.mesh.receive(n1.key("n2"), n2.seal("n1", hello))
                await passes(0.0004)

        n2 = mesh.nodes["n2"]
        async with asyncio.TaskGroup() as group:
            flooding = group.create_task(flood())
            await passes(4)
            flooding.cancel()
        assert LinkState.UP is n2.unit("n1").state

    play(scenario)


def test_cost_of_a_link_that_is_not_there_is_refused() -> None:
    """A remedy or its undo may come after the interface has gone: it fails as an outcome, and later succeeds."""

    async def scenario(_: FakeMesh, n1: FakeNode) -> None:
        key = n1.key("n2")
        n1.remove(100)
        with pytest.raises(InvalidInput, match="no link of this node"):
            n1.mesh.set_cost(key, 5)
        outcome = await n1.executor.perform(SetLinkCost(key, 5))
        assert not outcome.done

    play(scenario)


def test_stop_is_announced_and_routes_flushed_on_demand() -> None:
    """A stopping node is avoided by the others; its routes stay unless the configuration wants them flushed."""

    async def scenario(mesh: FakeMesh, n1: FakeNode) -> None:
        n2 = mesh.nodes["n2"]
        n2.mesh.set_cost(n2.key("n3"), 1000)
        await until(lambda: n2.next_node("n3") == "n1")
        n1.mesh.announce_stop()
        await until(lambda: n2.next_node("n3") == "n3")
        assert {} != n1.table.routes
        await n1.fib.flush()
        assert ({}, {}) == (n1.table.routes, n1.table.nexthops)

    play(scenario)


def test_generations_go_on_after_a_restart() -> None:
    """The first incident of a new life is numbered after the last one on record."""
    mesh = FakeMesh(FakeClock(), (("n1", "n2"),))
    n1, n2 = mesh.nodes["n1"], mesh.nodes["n2"]
    key = LinkKey.between("n1", ip_address("10.0.0.1"), "n2", ip_address("10.0.0.2"))
    n1.start(generations={str(key): 41})

    async def main() -> None:
        async with n1.alive(), n2.alive():
            await until(mesh.in_step)
            mesh.cut("n1", "n2")
            await until(lambda: bool(n1.told(LinkSymptom) and n2.told(LinkSymptom)))

    run_virtual(mesh.clock, main())
    assert [42, 42] == [node.told(LinkSymptom)[0].generation for node in (n1, n2)]


def test_executor_answers_with_outcomes() -> None:
    """What is done and what is refused is said, timed and counted; a refusal is no exception."""

    async def scenario(_: FakeMesh, n1: FakeNode) -> None:
        executor = n1.executor
        brittle(n1).refuses_apply = True
        action = InstallRoutes((DeleteNexthop(BASE + 77),))
        refused = await executor.perform(action)
        assert (action, False, "delete nexthop 2016411725: EPERM") == (refused.action, refused.done, refused.error)
        brittle(n1).refuses_apply = False
        done = await executor.perform(action)
        assert (True, "", n1.clock.now_ns) == (done.done, done.error, done.ended_at_ns)
        cost = await executor.perform(SetLinkCost(n1.key("n2"), 300))
        assert (True, 300) == (cost.done, n1.mesh.link_view(n1.key("n2")).cost)
        counted = n1.counted.registry.get_sample_value
        assert 1.0 == counted("x0d_actions_total", {"action": "install_routes", "outcome": "failed"})
        assert 1.0 == counted("x0d_actions_total", {"action": "set_link_cost", "outcome": "done"})

    play(scenario)


def test_the_nodes_address_is_put_back() -> None:
    """The stable address that somebody took off lo returns with the next look at the table."""

    async def scenario(_: FakeMesh, n1: FakeNode) -> None:
        n1.table.addresses.clear()
        await until(lambda: {prefix_of("n1")} == n1.table.addresses, mesh_service.REPAIR_S + 1)

    play(scenario)


def test_what_becomes_reachable_is_told_without_a_fault() -> None:
    """A recovery has no incident of its own, and still ends those that its fault had escalated."""

    async def scenario(_: FakeMesh, n1: FakeNode) -> None:
        told: list[tuple[Prefix, ...]] = []
        for unreachable in ((prefix_of("n9"),), ()):
            n1.mesh.core.unreachable = partial(tuple, unreachable)  # type: ignore[method-assign]
            n1.mesh._dirty.set()
            told.append(unreachable)
            await until(lambda: told == [moved.unreachable for moved in n1.told(RoutesMoved)])
        assert [(), ()] == [moved.incidents for moved in n1.told(RoutesMoved)]

    play(scenario)
