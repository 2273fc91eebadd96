"""What the configuration may ask for: only watch, only record, leave nothing behind, neighbours without IPv4."""

import os
import signal
from collections.abc import Iterator

import pytest

from integration.mesh_lab import QUICK, MeshLab, expect, running_lab
from lab import control
from lab.machine import wait_until
from lab.network import Options
from lab.nodes import config_text

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(90)]
OBSERVING: dict[str, dict[str, object]] = {**QUICK, "healing": {"mode": "observe"}}


@pytest.fixture(scope="module")
def triangle() -> Iterator[MeshLab]:
    """Three nodes, each joined to both others, that observe."""
    with running_lab(f"x0dt-t{os.getpid()}", Options("ring:3", config=OBSERVING)) as mesh:
        yield mesh


def restart(mesh: MeshLab, node: str, **mesh_keys: object) -> None:
    """Start a node again with further keys of [mesh]."""
    lab, daemon = mesh.lab, mesh.lab.daemons[node]
    config = {**OBSERVING, "mesh": {**QUICK["mesh"], **mesh_keys}}
    daemon.stop()
    daemon.config.write_text(config_text(lab.topology, node, daemon.directory, lab.directory / "bpf" / node, config))
    lab.start(node)


def test_observe(triangle: MeshLab) -> None:
    """In mode observe dead links are routed around, and what would be done about a lossy one is recorded, not done."""
    triangle.settle()
    cut = triangle.lab.cut("n2-n3")
    expect("routes to avoid the link", lambda: triangle.avoided("n2-n3"))
    assert "closed" == triangle.incident("n2", "n2-n3", cut).state
    triangle.settle()
    lossy = triangle.lab.loss("n1-n2", 0.12, source="n1")

    def observed() -> bool:
        told = [
            (action.action, action.outcome)
            for end in ("n1", "n2")
            for incident in triangle.incidents(end, "n1-n2", lossy)
            for action in incident.actions
        ]
        return ("set_link_cost", "observed") in told

    expect("an observed action", observed)
    assert {100} == {triangle.link("n1", "n2").cost, triangle.link("n2", "n1").cost}


def test_watch_only(triangle: MeshLab) -> None:
    """With mesh.install_routes = false routes are computed, shown and recorded as observed; the kernel gets none."""
    triangle.settle()
    triangle.lab.daemons["n1"].stop()
    triangle.lab.run("n1", "ip", "route", "flush", "proto", control.ROUTE_PROTOCOL)
    restart(triangle, "n1", install_routes=False)
    direct = {"10.255.0.2": "to-n2", "10.255.0.3": "to-n3"}
    expect("the direct routes shown", lambda: direct == triangle.computed("n1"))
    cut = triangle.lab.cut("n1-n3")
    expect("the other way shown", lambda: {**direct, "10.255.0.3": "to-n2"} == triangle.computed("n1"))
    triangle.incident("n1", "n1-n3", cut, "open")
    expect("the move recorded", lambda: "10.255.0.3/32" in str(triangle.incidents("n1", "n1-n3", cut)[0].actions))
    actions = triangle.incidents("n1", "n1-n3", cut)[0].actions
    assert {("install_routes", "observed")} == {(action.action, action.outcome) for action in actions}
    assert {} == triangle.routes("n1")
    triangle.lab.heal("n1-n3")
    triangle.incident("n1", "n1-n3", cut, "closed")
    restart(triangle, "n1")


def test_flush_on_stop(triangle: MeshLab) -> None:
    """With mesh.flush_on_stop a clean stop removes exactly our routes and objects, and leaves the foreign ones."""
    lab = triangle.lab
    restart(triangle, "n3", flush_on_stop=True)
    triangle.settle()
    for command in ("nexthop add id 77 via 10.1.0.2 dev to-n2 proto 99", "route add 203.0.113.0/24 nhid 77 proto 99"):
        lab.run("n3", "ip", *command.split())
    assert 2 == len(triangle.routes("n3"))
    with triangle.watched("n3") as deleted:
        lab.signal("n3", signal.SIGTERM)
        assert wait_until(lambda: lab.daemons["n3"].process is None, 2.0, 0.01), lab.daemons["n3"].log_tail()
    assert [] != deleted
    assert [] == [line for line in deleted if "proto 99" in line or "203.0.113.0" in line]
    assert {} == triangle.routes("n3")
    objects = lab.run("n3", "ip", "nexthop").splitlines()
    assert ["id 77"] == [" ".join(line.split()[:2]) for line in objects]
    assert "203.0.113.0/24" in lab.run("n3", "ip", "route", "show", "proto", "99")


def test_link_local_neighbours() -> None:
    """Where neighbours have IPv6 link-local addresses only, IPv4 addresses are reached through them and a cut heals."""
    options = Options("ring:3", link_local=True, config=QUICK)
    with running_lab(f"x0dt-l{os.getpid()}", options) as mesh:
        with mesh.calm_stream("n1", "n3") as stream:
            assert ("n1", "n3") == mesh.lab.path("n1", "n3")
            fault = mesh.lab.cut("n1-n3")
            expect("routes to avoid the link", lambda: mesh.avoided("n1-n3"))
            mesh.loses_nothing(stream)
        assert ("n1", "n2", "n3") == mesh.lab.path("n1", "n3")
        told = [mesh.incident(node, "n1-n3", fault) for node in ("n1", "n3")]
        assert 1 == len({each.id for each in told})
        assert "fe80::2" in mesh.lab.run("n1", "ip", "nexthop")
