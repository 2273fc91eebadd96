"""Whole nodes, joined by wires in memory and driven by one virtual clock, heal what is done to them."""

import re
from contextlib import AsyncExitStack

import pytest

from fakes.clock import FakeClock, passes, run_virtual, until
from service.nodes import FakeMesh
from x0d.mapek.events import LinkRecovered, LinkSymptom
from x0d.mapek.model import Cause, IncidentState, Role
from x0d.mesh.model import LinkState

TRIANGLE = (("n1", "n2"), ("n2", "n3"), ("n1", "n3"))


async def all_alive(mesh: FakeMesh, stack: AsyncExitStack) -> None:
    """Start every daemon and wait until each node reaches each other one."""
    for node in mesh.nodes.values():
        await stack.enter_async_context(node.alive())
    await until(mesh.in_step)
    await until(lambda: all(unit.state is LinkState.UP for node in mesh.nodes.values() for unit in node.links.units))


def healed(mesh: FakeMesh) -> tuple[object, ...]:
    """What one run has left: the incidents, to the last digit."""
    return tuple(tuple(map(repr, node.incidents())) for node in mesh.nodes.values())


def run_cut(clock: FakeClock) -> FakeMesh:
    """Cut n1-n2 of a triangle without a word from carrier, let it heal, and mend it."""
    mesh = FakeMesh(clock, TRIANGLE)
    n1, n2, _ = mesh.nodes.values()

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await all_alive(mesh, stack)
            assert ("n2", "n1") == (n1.next_node("n2"), n2.next_node("n1"))
            await passes(1)
            cut_ns = clock.now_ns
            mesh.cut("n1", "n2")
            await until(lambda: ("n3", "n3") == (n1.next_node("n2"), n2.next_node("n1")))
            assert 100_000_000 <= clock.now_ns - cut_ns <= 200_000_000
            await until(lambda: all(one.state is IncidentState.CLOSED for one in n1.incidents() + n2.incidents()))
            await passes(1)
            mesh.cut("n1", "n2", is_cut=False)
            await until(lambda: ("n2", "n1") == (n1.next_node("n2"), n2.next_node("n1")))
            await passes(3)
            assert [0.0, 0.0] == [n1.unit("n2").quality.loss_out, n2.unit("n1").quality.loss_in]

    run_virtual(clock, scenario())
    return mesh


def test_silent_cut_heals_on_both_sides() -> None:
    """A cut that only probes can see moves the routes within 200 ms, as one incident of one generation at both ends."""
    mesh = run_cut(FakeClock())
    n1, n2, n3 = mesh.nodes.values()
    for node, peer in ((n1, "n2"), (n2, "n1")):
        (incident,) = node.incidents()
        (symptom,), (recovery,) = node.told(LinkSymptom), node.told(LinkRecovered)
        assert (f"{symptom.link}:1", Cause.LINK_DEAD, Role.END) == (str(incident.id), incident.cause, incident.role)
        assert ["detect", "decide", "act", "verify"] == [step.name for step in incident.steps]
        assert IncidentState.CLOSED is incident.state
        assert ("probes_unanswered", peer, 1) == (symptom.kind, symptom.neighbour, symptom.generation)
        assert (symptom.link, 1) == (recovery.link, recovery.generation)
        assert () == node.alerts.names()
    assert [Role.OBSERVER] == [incident.role for incident in n3.incidents()]
    assert [] == n3.told(LinkSymptom)


def test_healing_is_deterministic() -> None:
    """The same cut at the same instant leaves the same records, to the last microsecond."""
    assert healed(run_cut(FakeClock())) == healed(run_cut(FakeClock()))


def test_carrier_loss_heals_at_once() -> None:
    """Carrier loss moves the routes in the instant it is told, and the far end follows by probes or by the flood."""
    clock = FakeClock()
    mesh = FakeMesh(clock, TRIANGLE)
    n1, n2, _ = mesh.nodes.values()

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await all_alive(mesh, stack)
            await passes(1)
            at_ns = clock.now_ns
            mesh.cut("n1", "n2")
            mesh.carrier("n1", "n2", present=False)
            await until(lambda: n1.next_node("n2") == "n3")
            assert clock.now_ns - at_ns <= 2_000_000
            await until(lambda: n2.next_node("n1") == "n3")
            assert clock.now_ns - at_ns <= 10_000_000, "the flood over n3 is faster than the probes"
            await passes(2)
            (incident,) = n1.incidents()
            assert ("carrier_lost", IncidentState.CLOSED) == (incident.evidence[0].kind, incident.state)
            mesh.cut("n1", "n2", is_cut=False)
            mesh.carrier("n1", "n2", present=True)
            await until(lambda: n1.next_node("n2") == "n2" and n2.next_node("n1") == "n1")

    run_virtual(clock, scenario())
    assert [1] == [recovery.generation for recovery in n1.told(LinkRecovered)]


def test_a_loop_that_hangs_invents_no_fault() -> None:
    """All daemons stand still for two seconds while the kernels answer: no link goes down, no route moves."""
    clock = FakeClock()
    mesh = FakeMesh(clock, TRIANGLE)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await all_alive(mesh, stack)
            await passes(1)
            changes = [len(node.table.changes) for node in mesh.nodes.values()]
            for _ in range(3):
                clock.hang(1.9)
                await passes(1)
            assert changes == [len(node.table.changes) for node in mesh.nodes.values()]

    run_virtual(clock, scenario())
    assert [] == [event for node in mesh.nodes.values() for event in node.told(LinkSymptom)]


def test_lossy_link_is_costed_out_and_in_again() -> None:
    """A link that loses every fifth packet is avoided as long as it does, and both ends call it degraded once."""
    clock = FakeClock()
    mesh = FakeMesh(clock, TRIANGLE)
    n1, n2, _ = mesh.nodes.values()

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await all_alive(mesh, stack)
            await passes(2)
            mesh.wires["n1", "n2"].loss = 0.2
            await until(lambda: n1.next_node("n2") == "n3" and n2.next_node("n1") == "n3", 20)
            assert LinkState.DEGRADED is n1.unit("n2").state
            mesh.wires["n1", "n2"].loss = 0.0
            await until(lambda: n1.next_node("n2") == "n2" and n2.next_node("n1") == "n1", 60)
            assert 100 == n1.mesh.link_view(n1.key("n2")).cost

    run_virtual(clock, scenario())
    assert {"loss"} == {symptom.kind for symptom in n1.told(LinkSymptom)}
    losses = r"(\d+ of the last \d+ probes lost (out|in)( and )?)+"
    assert all(re.fullmatch(losses, symptom.detail) for symptom in n1.told(LinkSymptom))
    assert n1.told(LinkRecovered)[0].detail.startswith("clean again after 1")


@pytest.mark.parametrize("daemon", ["n1", "n3"])
def test_daemon_that_dies_moves_no_route(daemon: str) -> None:
    """A node whose daemon is gone goes on forwarding: its neighbours name the cause and leave the routes alone."""
    clock = FakeClock()
    mesh = FakeMesh(clock, (("n1", "n2"), ("n2", "n3")))
    n2 = mesh.nodes["n2"]

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(n2.alive())
            other = next(node for name, node in mesh.nodes.items() if name not in (daemon, "n2"))
            await stack.enter_async_context(other.alive())
            async with mesh.nodes[daemon].alive():
                await until(mesh.in_step)
                await passes(1)
            await until(lambda: n2.unit(daemon).state is LinkState.CONTROL_GONE)
            assert daemon == n2.next_node(daemon)
            mesh.nodes[daemon].start()
            async with mesh.nodes[daemon].alive():
                await until(lambda: n2.unit(daemon).state is LinkState.UP)
                await passes(1)
                assert mesh.in_step()

    run_virtual(clock, scenario())
    assert ["control_silent"] == [symptom.kind for symptom in n2.told(LinkSymptom)]
    assert Cause.CONTROL_PLANE_GONE is n2.incidents()[0].cause
    assert 1 == len(n2.told(LinkRecovered))


def test_stop_that_was_announced_is_explained_so() -> None:
    """A daemon that floods its stop before it falls silent is no riddle: the incident says that it announced it."""
    clock = FakeClock()
    mesh = FakeMesh(clock, (("n1", "n2"), ("n2", "n3")))
    n2, n3 = mesh.nodes["n2"], mesh.nodes["n3"]

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(mesh.nodes["n1"].alive())
            await stack.enter_async_context(n2.alive())
            async with n3.alive():
                await until(mesh.in_step)
                n3.mesh.announce_stop()
                await passes(0.5)
            await until(lambda: n2.unit("n3").state is LinkState.CONTROL_GONE)
            await passes(1)

    run_virtual(clock, scenario())
    assert ["announced_stop"] == [symptom.kind for symptom in n2.told(LinkSymptom)]
    incident = n2.incidents()[0]
    assert Cause.CONTROL_PLANE_GONE is incident.cause
    assert incident.explanation.startswith("n3 announced its stop; its data plane still forwards")


def test_task_that_fails_ends_the_test() -> None:
    """What the fixture promises: an error inside a service is not passed over."""
    clock = FakeClock()
    mesh = FakeMesh(clock, (("n1", "n2"),))

    async def scenario() -> None:
        n1 = mesh.nodes["n1"]
        n1.links.judge = None  # type: ignore[assignment, method-assign]
        async with n1.alive():
            await passes(1)

    with pytest.raises(ExceptionGroup):
        run_virtual(clock, scenario())
