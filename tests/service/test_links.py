"""The links of one node: sockets that come and go with interfaces, and verdicts that reach the mesh before anybody."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address

from fakes.clock import FakeClock, passes, run_virtual, until
from fakes.sockets import MESH_PORT, PROBE_PORT
from service.nodes import FakeMesh, FakeNode, interface, message_of
from x0d.errors import AddressUnavailable
from x0d.mapek.events import Event, LinkRecovered, LinkSymptom
from x0d.mesh.codec import StatePart, decode
from x0d.mesh.events import ControlBack, ControlGone
from x0d.mesh.model import AdjacencyState, LinkState
from x0d.service.link import NeighbourEntry, local_address

Scenario = Callable[[FakeMesh, FakeNode, FakeNode], Awaitable[None]]
TO_N2 = 100


def play(scenario: Scenario, *, wait_up: bool = True) -> tuple[FakeNode, FakeNode]:
    """Run a scenario on two nodes and the link between them."""
    clock = FakeClock()
    mesh = FakeMesh(clock, (("n1", "n2"),))
    n1, n2 = mesh.nodes["n1"], mesh.nodes["n2"]

    async def main() -> None:
        async with n1.alive(), n2.alive():
            if wait_up:
                await until(mesh.in_step)
                await passes(1)
            await scenario(mesh, n1, n2)

    run_virtual(clock, main())
    return n1, n2


def test_cut_is_flooded_before_it_is_told() -> None:
    """The mesh has sent the new link state when the healing loop hears of the symptom, once, with one generation."""
    clock = FakeClock()
    mesh = FakeMesh(clock, (("n1", "n2"), ("n1", "n3")))
    n1 = mesh.nodes["n1"]
    flooded: list[list[AdjacencyState]] = []

    def look(event: Event) -> None:
        if isinstance(event, LinkSymptom):
            socket = n1.sockets.open_sockets["to-n3", ip_address("10.0.1.1"), MESH_PORT, ip_address("10.0.1.2")]
            parts = [part for part in map(decode, map(message_of, socket.sent)) if isinstance(part, StatePart)]
            assert parts
            assert "n1" == parts[-1].version.origin
            own = n1.mesh.core.records()["n1"].record
            assert own.version == parts[-1].version.number
            flooded.append([adjacency.state for adjacency in own.adjacencies])
        report(event)

    report = n1.links._report
    n1.links._report = look

    async def main() -> None:
        async with n1.alive(), mesh.nodes["n2"].alive(), mesh.nodes["n3"].alive():
            await until(mesh.in_step)
            mesh.cut("n1", "n2")
            await until(lambda: n1.unit("n2").state is LinkState.DOWN)
            await passes(1)

    run_virtual(clock, main())
    assert [[AdjacencyState.DOWN, AdjacencyState.UP]] == flooded


def test_symptom_says_when_the_link_last_worked() -> None:
    """A silent cut is dated by the kernel's stamp of the last answer, and detected 110 to 200 ms after it."""

    async def scenario(mesh: FakeMesh, n1: FakeNode, _: FakeNode) -> None:
        mesh.cut("n1", "n2")
        await until(lambda: n1.unit("n2").state is LinkState.DOWN)

    n1, _ = play(scenario)
    (symptom,) = n1.told(LinkSymptom)
    assert ("probes_unanswered", 1, LinkState.DOWN) == (symptom.kind, symptom.generation, symptom.state)
    assert n1.unit("n2").record.reply_last_at_ns == symptom.fault_at_ns
    assert 110_000_000 <= symptom.detected_at_ns - symptom.fault_at_ns <= 200_000_000


def test_late_prober_sends_no_burst_and_invents_no_fault() -> None:
    """A second without the event loop costs the probes of that second: one is sent on waking, and no link goes down."""

    async def scenario(mesh: FakeMesh, n1: FakeNode, _: FakeNode) -> None:
        before = n1.unit("n2").sequence
        mesh.clock.hang(1.0)
        await passes(0.001)
        assert before + 1 == n1.unit("n2").sequence

    n1, n2 = play(scenario)
    assert [] == n1.told(LinkSymptom) + n2.told(LinkSymptom)
    assert LinkState.UP is n1.unit("n2").state


def test_interface_that_goes_takes_its_links_along() -> None:
    """Its removal is a fault at once; the sockets are closed; one made anew under its name gets new ones and heals."""

    async def scenario(_: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        opened = n1.sockets.opened
        n1.remove(TO_N2)
        assert (LinkState.WAITING, {}) == (n1.unit("n2").state, n1.sockets.open_sockets)
        assert "interface to-n2: was removed" == n1.unit("n2").reason
        await until(lambda: n2.unit("n1").state is LinkState.DOWN)
        n1.put(interface("to-n2", 200, "10.0.0.1/24"))
        await until(lambda: n1.unit("n2").state is LinkState.UP)
        assert opened + 2 == n1.sockets.opened
        assert {(200, ip_address("10.0.0.2")): ip_address("10.0.0.1")} == n1.plane.links()
        await until(lambda: n2.unit("n1").state is LinkState.UP)

    n1, _ = play(scenario)
    (symptom,), (recovery,) = n1.told(LinkSymptom), n1.told(LinkRecovered)
    assert ("interface_gone", symptom.generation) == (symptom.kind, recovery.generation)


def test_other_address_gets_other_sockets() -> None:
    """An own address that changes closes the sockets of the old one; an unrelated address changes nothing."""

    async def scenario(_: FakeMesh, n1: FakeNode, __: FakeNode) -> None:
        opened = n1.sockets.opened
        n1.put(interface("to-n2", TO_N2, "10.0.0.1/24", "192.0.2.1/24"))
        assert opened == n1.sockets.opened
        n1.put(interface("to-n2", TO_N2, "10.0.0.7/24"))
        assert {ip_address("10.0.0.7")} == {local for _, local, _, _ in n1.sockets.open_sockets}
        assert {(TO_N2, ip_address("10.0.0.2")): ip_address("10.0.0.7")} == n1.plane.links()
        n1.put(interface("to-n2", TO_N2, "192.0.2.1/24"))
        assert {} == n1.sockets.open_sockets
        assert "to-n2 has no address on the network of 10.0.0.2" == n1.unit("n2").reason
        assert LinkState.WAITING is n1.unit("n2").state

    play(scenario)


def test_carrier_that_is_lost_and_returns() -> None:
    """Carrier loss downs the link in the same instant; its return is believed once probes are answered for the hold."""

    async def scenario(mesh: FakeMesh, n1: FakeNode, _: FakeNode) -> None:
        mesh.carrier("n1", "n2", present=False)
        assert LinkState.DOWN is n1.unit("n2").state
        (symptom,) = n1.told(LinkSymptom)
        assert ("carrier_lost", mesh.clock.now_ns, mesh.clock.now_ns) == (
            symptom.kind,
            symptom.fault_at_ns,
            symptom.detected_at_ns,
        )
        assert {} == n1.fib.observed.routes, "the kernel has flushed them without a word"
        await passes(2)
        mesh.carrier("n1", "n2", present=True)
        back_ns = mesh.clock.now_ns
        assert LinkState.DOWN is n1.unit("n2").state
        await until(lambda: n1.unit("n2").state is LinkState.UP)
        assert 1_000_000_000 <= mesh.clock.now_ns - back_ns <= 1_200_000_000

    play(scenario)


def test_tentative_address_is_tried_again() -> None:
    """Sockets that cannot be opened yet block the link, raise an alert, and are tried again each second."""
    clock = FakeClock()
    mesh = FakeMesh(clock, (("n1", "n2"),))
    n1, n2 = mesh.nodes["n1"], mesh.nodes["n2"]
    n1.sockets.refused["to-n2", MESH_PORT] = AddressUnavailable("the address is not usable yet")

    async def main() -> None:
        async with n1.alive(), n2.alive():
            assert (LinkState.BLOCKED, "the address is not usable yet") == (n1.unit("n2").state, n1.unit("n2").reason)
            assert ("link_sockets to-n2 10.0.0.2",) == n1.alerts.names()
            assert {} == n1.sockets.open_sockets, "the first of the two is not left open"
            await passes(0.5)
            n1.sockets.refused.clear()
            await until(lambda: n1.unit("n2").state is LinkState.UP, 2)
            assert () == n1.alerts.names()

    run_virtual(clock, main())
    assert n1.links.port_in_use is None


def test_port_of_somebody_else_is_remembered() -> None:
    """A port in use, unlike an address that is still missing, is kept for the start to fail with."""
    clock = FakeClock()
    mesh = FakeMesh(clock, (("n1", "n2"),))
    n1 = mesh.nodes["n1"]
    taken = n1.sockets.refused["to-n2", PROBE_PORT] = AddressUnavailable("in use", in_use=True)

    async def main() -> None:
        async with n1.alive():
            assert taken is n1.links.port_in_use
            n1.remove(TO_N2)
            assert () == n1.alerts.names(), "an alert does not outlive what it is about"

    run_virtual(clock, main())


def test_blocked_interface_blocks_its_links() -> None:
    """Where our program may not run the link is blocked, with the reason."""

    async def scenario(_: FakeMesh, n1: FakeNode, __: FakeNode) -> None:
        n1.links.interface_lost("to-n2", n1.clock.now_ns, "another program", blocked=True)
        assert (LinkState.BLOCKED, "interface to-n2: another program") == (n1.unit("n2").state, n1.unit("n2").reason)

    play(scenario)


def test_neighbours_of_a_reload() -> None:
    """A reload takes neighbours up and drops others, with their sockets and XDP's knowledge of them."""

    async def scenario(_: FakeMesh, n1: FakeNode, __: FakeNode) -> None:
        new = NeighbourEntry("n9", "to-n2", ip_address("10.0.0.9"), 7)
        n1.links.configure([*n1.entries, new])
        assert ["n2", "n9"] == [unit.entry.node for unit in n1.links.units]
        assert LinkState.UP is n1.unit("n2").state, "what stays is not touched"
        assert {100, 7} == set(n1.loop._costs.values())
        n1.links.configure([new])
        assert ["n9"] == [unit.entry.node for unit in n1.links.units]
        assert {(TO_N2, ip_address("10.0.0.9"))} == n1.plane.links().keys()
        assert {ip_address("10.0.0.9")} == {place[3] for place in n1.sockets.open_sockets}
        await until(lambda: n1.next_node("n2") == "")
        n1.links.configure([replace(new, node="n8")])
        assert {"n8"} == {unit.entry.node for unit in n1.links.units}

    play(scenario)


def test_cost_of_a_reload_leaves_the_link_in_service() -> None:
    """Another cost is advertised without a probe's pause: sockets, state and routes stay."""

    async def scenario(_: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        opened, changes = n1.sockets.opened, len(n1.table.changes)
        n1.links.configure([replace(n1.entries[0], cost=250)])
        assert (LinkState.UP, opened) == (n1.unit("n2").state, n1.sockets.opened)
        assert 250 == n1.mesh.link_view(n1.key("n2")).cost
        assert {n1.key("n2"): 250} == n1.loop._costs
        await until(lambda: any(250 == route.metric for route in n2.fib.routes.values()))
        assert changes == len(n1.table.changes)

    play(scenario)


def test_former_neighbours_are_forgotten() -> None:
    """What XDP knows from an earlier configuration goes at the start; the records of today's neighbours stay."""

    async def scenario(_: FakeMesh, n1: FakeNode, __: FakeNode) -> None:
        known = n1.plane.links()
        n1.plane.put_link(TO_N2, ip_address("10.0.0.66"), ip_address("10.0.0.1"))
        n1.plane.put_link(99, ip_address("10.0.0.2"), ip_address("10.0.0.1"))
        n1.links.forget_former()
        assert known == n1.plane.links()

    play(scenario)


def test_packets_lost_are_what_left_into_the_fault() -> None:
    """Packets of others since the last sign are lost, x0d's own are not counted, and a healthy link loses none."""

    async def scenario(mesh: FakeMesh, n1: FakeNode, _: FakeNode) -> None:
        key, own_sent = n1.key("n2"), n1.mesh.own_sent
        n1.source.sent["to-n2"] = 1000
        await passes(1)
        assert 0 == n1.links.packets_lost(key)
        mesh.cut("n1", "n2")
        own = own_sent["to-n2"]
        await until(lambda: n1.unit("n2").state is LinkState.DOWN)
        await passes(0.3)
        n1.source.sent["to-n2"] += own_sent["to-n2"] - own + 30
        assert 29 <= n1.links.packets_lost(key) <= 30, "a probe sent in the tick of the last sign counts as ours"
        mesh.cut("n1", "n2", is_cut=False)
        await until(lambda: n1.unit("n2").state is LinkState.UP)
        assert 0 == n1.links.packets_lost(key)

    play(scenario)


def test_packets_are_not_counted_on_a_link_that_still_brings_probes_in() -> None:
    """Where only the way out is dead the neighbour's probes still come in, and the transmit counter says nothing."""

    async def scenario(mesh: FakeMesh, n1: FakeNode, _: FakeNode) -> None:
        mesh.wires["n1", "n2"].cut = True
        await until(lambda: n1.unit("n2").state is LinkState.DOWN)
        n1.source.sent["to-n2"] = 10**6
        assert 0 == n1.links.packets_lost(n1.key("n2"))

    play(scenario)


def test_control_gone_and_back() -> None:
    """A silent daemon is a symptom of the generation that the mesh gave it, its return a recovery; twice is once."""

    async def scenario(_: FakeMesh, n1: FakeNode, __: FakeNode) -> None:
        key = n1.key("n2")
        gone = ControlGone(key, "n2", 4, n1.clock.now_ns / 1e9 - 2)
        n1.links.control_changed(gone)
        n1.links.control_changed(gone)
        assert (LinkState.CONTROL_GONE, 4) == (n1.unit("n2").state, n1.unit("n2").generation)
        n1.links.control_changed(ControlBack(key, "n2", 4))
        n1.links.control_changed(ControlBack(key, "n2", 4))
        assert LinkState.UP is n1.unit("n2").state

    n1, _ = play(scenario)
    (symptom,), (recovery,) = n1.told(LinkSymptom), n1.told(LinkRecovered)
    assert ("control_silent", 4, 4) == (symptom.kind, symptom.generation, recovery.generation)


def test_link_that_is_lossy_when_it_returns_is_degraded_again() -> None:
    """Neither a cut nor a silent daemon makes a lossy link a clean one: it is degraded anew, as another incident."""

    async def scenario(mesh: FakeMesh, n1: FakeNode, _: FakeNode) -> None:
        n2 = n1.unit("n2")
        mesh.wires["n1", "n2"].loss = 0.3
        await until(lambda: n2.state is LinkState.DEGRADED, 30)
        key, first = n1.key("n2"), n2.generation
        n1.links.control_changed(ControlGone(key, "n2", first, 0.0))
        n1.links.control_changed(ControlBack(key, "n2", first))
        await until(lambda: n2.state is LinkState.DEGRADED, 0.2)
        mesh.carrier("n1", "n2", present=False)
        mesh.wires["n1", "n2"].loss = 0.0
        mesh.carrier("n1", "n2", present=True)
        await until(lambda: n2.state is LinkState.UP)
        await until(lambda: n2.state is LinkState.DEGRADED, 0.2)
        await until(lambda: n2.state is LinkState.UP, 60)
        assert AdjacencyState.UP is n1.mesh.link_view(key).state

    n1, _ = play(scenario)
    symptoms = n1.told(LinkSymptom)
    assert ["loss", "control_silent", "loss", "carrier_lost", "loss"] == [symptom.kind for symptom in symptoms]
    assert [1, 2, 4] == [symptom.generation for symptom in symptoms if symptom.kind == "loss"]


def test_own_address_is_the_one_on_the_neighbours_network() -> None:
    """The local address is of the neighbour's family and network, and never the neighbour's own."""
    found = interface("eth0", 1, "10.0.0.1/24", "10.1.0.2/24", "fe80::1/64")
    for neighbour, expected in {"10.1.0.9": "10.1.0.2", "fe80::2": "fe80::1", "10.2.0.1": None}.items():
        local = local_address(found, ip_address(neighbour))
        assert expected == (str(local) if local else None)
    assert local_address(found, ip_address("10.0.0.1")) is None


def test_close_leaves_the_kernel_answering() -> None:
    """A stopping daemon closes its sockets and leaves XDP's neighbours, so that probes are answered on."""

    async def scenario(_: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        n1.links.close()
        assert {} == n1.sockets.open_sockets
        assert 1 == len(n1.plane.links())
        await passes(1)
        assert LinkState.DOWN is not n2.unit("n1").state

    play(scenario)


def test_a_fault_told_by_the_other_end_is_counted_from_the_last_sign() -> None:
    """Where the peer's report comes first, the incident begins at this node's own last sign of the link."""
    mesh = FakeMesh(FakeClock(), (("n1", "n2"), ("n2", "n3"), ("n3", "n1")))
    n1, n2 = mesh.nodes["n1"], mesh.nodes["n2"]

    async def main() -> None:
        async with n1.alive(), n2.alive(), mesh.nodes["n3"].alive():
            await until(lambda: n1.unit("n2").state is n2.unit("n1").state is LinkState.UP)
            await passes(3)
            unit = n1.unit("n2")
            sign_ns = unit.detector.last_sign_ns
            assert sign_ns == n1.links.peer_reported(n1.key("n2"), AdjacencyState.DOWN)
            assert sign_ns == unit.fault_at_ns
            assert [unit.entry.address] == [address for _, address in n1.links.dead_next_hops()]
            await until(lambda: unit.fault_at_ns is None)
            assert frozenset() == n1.links.dead_next_hops(), "it answers: the report was wrong"
            assert None is n1.links.peer_reported(n2.key("n3"), AdjacencyState.DOWN), "no link of n1"

    run_virtual(mesh.clock, main())
