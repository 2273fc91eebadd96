"""The story: a link breaks in one of the ways links break, and the mesh heals itself and tells what it did."""

import itertools

import pytest

from integration.lone_daemon import fill, small_disk
from integration.mesh_lab import MeshLab, expect
from lab import control

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(90)]
STEPS = ["detect", "decide", "act", "verify"]


def test_silent_cut(ring: MeshLab) -> None:
    """A silent cut is routed around, and both ends and an observer record it under one id with every step."""
    with ring.calm_stream("n1", "n3") as stream:
        assert ("n1", "n2", "n3") == ring.lab.path("n1", "n3")
        fault = ring.lab.cut("n2-n3")
        expect("all routes to avoid the link", lambda: ring.avoided("n2-n3"))
        ring.loses_nothing(stream)
        told = {node: ring.incident(node, "n2-n3", fault) for node in ring.nodes}
        report = stream.report(fault.at_ns)
    path = ring.lab.path("n1", "n3")
    assert "n3" == path[-1]
    assert ("n2", "n3") not in itertools.pairwise(path)
    assert report.lost > 0, "the fault was not in force"
    assert {told["n2"].id} == {each.id for each in told.values()}
    assert ["observer", "end", "end", "observer"] == [told[node].role for node in ring.nodes]
    assert {"link_dead"} == {each.cause for each in told.values()}
    for end in ("n2", "n3"):
        assert STEPS == sorted({step.step for step in told[end].steps}, key=STEPS.index), end
        assert "done" == told[end].actions[0].outcome
        assert told[end].explanation
    assert any(told[end].probes_lost for end in ("n2", "n3")), "one end was first, the other may have heard of it"
    # An end that hears of the fault before it sees it counts the losses a little later.
    expect("n2 to count what it sent into the fault", lambda: ring.incidents("n2", "n2-n3", fault)[-1].packets_lost > 0)


def test_carrier_loss_and_return(ring: MeshLab) -> None:
    """The kernel flushes objects and routes at carrier loss without a word; each is counted back in, and again after.

    At every moment at which the mesh is settled each node has one route to each other node.
    """
    before = ring.all_routes()
    assert {3} == {len(table) for table in before.values()}
    fault = ring.lab.carrier("n1-n2", up=False)
    expect("all routes back, none by the dead link", lambda: ring.avoided("n1-n2"))
    told = ring.incident("n1", "n1-n2", fault)
    assert "link_dead" == told.cause
    assert "carrier_lost" in [evidence.kind for evidence in told.evidence]
    assert told.id == ring.incident("n2", "n1-n2", fault).id
    ring.lab.carrier("n1-n2", up=True)
    expect("the routes of before", lambda: ring.all_routes() == before)
    objects = ring.lab.run("n1", "ip", "nexthop").splitlines()
    assert len(set(before["n1"].values())) == len([line for line in objects if "proto 120" in line])


def test_one_way_fault(ring: MeshLab) -> None:
    """A link that carries in one direction only is dead for both ends, under one incident."""
    fault = ring.lab.oneway("n3-n4")
    expect("all routes to avoid the link", lambda: ring.avoided("n3-n4"))
    assert ring.incident("n3", "n3-n4", fault).id == ring.incident("n4", "n3-n4", fault).id
    for node, neighbour in (("n3", "n4"), ("n4", "n3")):
        assert "down" == ring.link(node, neighbour).state
    ring.lab.heal("n3-n4")
    expect("the link in use again", lambda: not ring.avoided("n3-n4"))


def test_lossy_link(ring: MeshLab) -> None:
    """A link that loses a fifth of its packets is costed out or dead; healed, it has its cost and its routes again."""
    before = ring.all_routes()
    with ring.calm_stream("n1", "n4") as stream:
        fault = ring.lab.loss("n1-n4", 0.2)
        expect("traffic to leave the link", lambda: ring.avoided("n1-n4"))
        ring.loses_nothing(stream)
        told = ring.incident("n1", "n1-n4", fault, "open", "acting", "verifying", "closed")
        assert told.cause in ("link_degraded", "link_dead")
        ring.lab.heal("n1-n4")
        expect(
            "the cost restored", lambda: ring.link("n1", "n4").cost == 100 and ring.link("n1", "n4").state == "up", 40
        )
        expect("the routes of before", lambda: ring.all_routes() == before)
    # The end that judges the loss itself costs the link out; one that only hears of it, or finds it dead, need not.
    told_at_ends = [each for node in ("n1", "n4") for each in ring.incidents(node, "n1-n4", fault)]
    if "loss" in {evidence.kind for each in told_at_ends for evidence in each.evidence}:
        assert "set_link_cost" in {action.action for each in told_at_ends for action in each.actions}


def test_node_gone(ring: MeshLab) -> None:
    """A node that no link reaches any more is told as gone by its neighbours, not as so many dead links."""
    links = [link.name for link in ring.lab.topology.links_of("n4")]
    fault = ring.lab.cut(links[0])
    for link in links[1:]:
        ring.lab.cut(link)

    def causes() -> set[str]:
        return {
            incident.cause
            for node, link in (("n1", "n1-n4"), ("n3", "n3-n4"))
            for incident in ring.incidents(node, link, fault)
        }

    expect("both neighbours to name the node", lambda: causes() == {"node_gone"})
    expect("no route to it", lambda: all("10.255.0.4" not in ring.routes(node) for node in ("n1", "n2", "n3")))


def test_full_disk(ring: MeshLab) -> None:
    """A full disk delays no reroute: an alert is raised, incidents are listed, and stored once there is room."""
    daemon = ring.lab.daemons["n1"]
    daemon.stop()
    with small_disk(daemon.directory / "state", "512k"):
        try:
            ring.lab.start("n1")
            ring.settle()
            filler = fill(daemon.directory / "state")
            fault = ring.lab.cut("n1-n2")
            expect("routes to avoid the link", lambda: ring.avoided("n1-n2"))
            assert ring.incident("n1", "n1-n2", fault).steps

            def alerts() -> str:
                with control.connect(ring.lab, "n1") as client:
                    return " ".join(client.status().alerts)

            expect("the alert", lambda: "knowledge_store: incidents are not stored" in alerts())
            filler.unlink()
            expect("the alert to end", lambda: not alerts())
            daemon.stop()
            ring.lab.start("n1")
            expect("the incident to be known to the next life", lambda: bool(ring.incidents("n1", "n1-n2", fault)))
        finally:
            daemon.stop()
