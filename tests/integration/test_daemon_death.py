"""What becomes of the mesh when a daemon dies, sleeps or stops, while the kernel under it goes on."""

import signal
import time

import pytest

from integration.mesh_lab import MeshLab, expect
from lab import control, pins
from lab.machine import wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(90)]
SLEEP_S = 5.0
STOP_S = 2.0


def test_killed_daemon(ring: MeshLab) -> None:
    """A transit node's daemon is killed: its kernel answers, counts and forwards on; its successor adopts it all."""
    before = ring.all_routes()
    with ring.calm_stream("n1", "n3") as stream:
        assert "n2" in ring.lab.path("n1", "n3")
        killed = ring.lab.kill("n2")
        for neighbour in ("n1", "n3"):
            ring.wait_link(neighbour, "n2", "control_gone")
        counted, replies = pins.packets_by_verdict(ring.lab, "n2"), ring.link("n1", "n2").replies_received

        def counts_rise() -> bool:
            now = pins.packets_by_verdict(ring.lab, "n2")
            verdicts = (pins.VERDICT_PASS, pins.VERDICT_REFLECT)
            return all(now[verdict] > counted[verdict] + 20 for verdict in verdicts)

        expect("the kernel of n2 to count on", counts_rise)
        expect("n1 to be answered by n2", lambda: ring.link("n1", "n2").replies_received > replies)
        assert before == ring.all_routes()
        counted = pins.packets_by_verdict(ring.lab, "n2")
        with ring.watched("n2") as told:
            ring.lab.start("n2")
            control.wait_settled(ring.lab, 20)
            for neighbour in ("n1", "n3"):
                ring.wait_link(neighbour, "n2", "up")
            expect("routes as before", lambda: ring.all_routes() == before)
        with control.connect(ring.lab, "n2") as client:
            interfaces = client.status().interfaces
        assert {True} == {interface.adopted for interface in interfaces}
        assert [] == told
        later = pins.packets_by_verdict(ring.lab, "n2")
        assert [] == [verdict for verdict, count in counted.items() if later[verdict] < count]
        report = stream.report(killed.at_ns)
    assert 0 == report.lost, report.sentence()
    incident = ring.incident("n1", "n1-n2", killed)
    assert "control_plane_gone" == incident.cause


def test_sleeping_daemon(ring: MeshLab) -> None:
    """A daemon stopped for 5 s makes no peer miss a probe, and wakes without taking its neighbours for dead."""
    with ring.calm_stream("n1", "n3") as stream:
        ring.lab.signal("n2", signal.SIGSTOP)
        stopped = time.monotonic()
        began = {peer: ring.link(peer, "n2") for peer in ("n1", "n3")}
        wait_until(lambda: time.monotonic() - stopped >= SLEEP_S, SLEEP_S + 1)
        ended = {peer: ring.link(peer, "n2") for peer in ("n1", "n3")}
        woken = ring.lab.signal("n2", signal.SIGCONT)
        for peer in ("n1", "n3"):
            sent = ended[peer].probes_sent - began[peer].probes_sent
            answered = ended[peer].replies_received - began[peer].replies_received
            assert sent > SLEEP_S * 10, peer
            assert answered >= sent - 1, f"{peer} sent {sent} and was answered {answered} times"  # one is under way
            ring.wait_link(peer, "n2", "up")
        assert "n3" == ring.lab.path("n1", "n3")[-1]
        report = stream.report(woken.at_ns - round(SLEEP_S * 1e9))
    assert 0 == report.lost, report.sentence()
    told = {each.cause for link in ("n1-n2", "n2-n3") for each in ring.incidents("n2", link, woken)}
    assert told <= {"control_plane_gone"}, "n2 hears what its peers say of its silence, and says nothing of its links"


def test_clean_stop(ring: MeshLab) -> None:
    """SIGTERM: "no transit" is flooded and traffic moves off, the end comes within 2 s, all routes stay."""
    lab = ring.lab
    for command in (
        "nexthop add id 77 via 10.1.0.0 dev to-n1 proto 99",
        "route add 203.0.113.0/24 nhid 77 proto 99",
        "route add blackhole 203.0.114.0/24 proto 99",
    ):
        lab.run("n2", "ip", *command.split())
    before = ring.routes("n2")
    daemon = lab.daemons["n2"]
    try:
        with ring.calm_stream("n1", "n3") as stream, ring.watched("n2") as told:
            stopped = lab.signal("n2", signal.SIGTERM)
            assert wait_until(lambda: daemon.process is None, STOP_S, 0.01), daemon.log_tail()
            expect("n1 to route around n2", lambda: "n2" not in lab.path("n1", "n3"))
            report = stream.report(stopped.at_ns)
        assert 0 == report.lost, report.sentence()
        assert before == ring.routes("n2")
        assert [] == told
        with control.connect(lab, "n1") as client:
            assert "running" == client.status().phase
        foreign = lab.run("n2", "ip", "route", "show", "proto", "99").splitlines()
        assert 2 == len(foreign)
        assert lab.run("n2", "ip", "nexthop", "show", "id", "77")
    finally:
        for command in ("route del 203.0.113.0/24", "route del 203.0.114.0/24", "nexthop del id 77"):
            lab.run("n2", "ip", *command.split())


def test_transit_last(ring: MeshLab) -> None:
    """A node without control plane keeps its traffic until the topology changes; then it carries only what must."""
    lab = ring.lab
    lab.kill("n2")
    ring.wait_link("n1", "n2", "control_gone")
    ring.wait_link("n3", "n2", "control_gone")
    assert ("n1", "n2", "n3") == lab.path("n1", "n3")
    lab.cut("n1-n4")
    expect("n1 to prefer the dear chord to n2", lambda: lab.path("n1", "n3") == ("n1", "n3"))
    expect("n4 to be reached over n3", lambda: lab.path("n1", "n4") == ("n1", "n3", "n4"))
    assert ("n1", "n2") == lab.path("n1", "n2"), "n2 itself stays reachable"
