"""Whole meshes on virtual time."""

import random

import pytest

from simulation.network import Network
from x0d.mesh.detector import DetectorTimers
from x0d.mesh.events import ControlBack, ControlGone, MeshTimers
from x0d.mesh.model import AdjacencyState

RING = [("n1", "n2"), ("n2", "n3"), ("n3", "n4"), ("n1", "n4"), ("n1", "n3")]
GRID = [(f"n{r}{c}", f"n{r}{c + 1}") for r in range(3) for c in range(2)] + [
    (f"n{r}{c}", f"n{r + 1}{c}") for r in range(2) for c in range(3)
]
TOPOLOGIES = {"ring": RING, "grid": GRID}
SEEDS = range(3)
TIMERS = MeshTimers(stale_max_s=30.0)


@pytest.fixture(params=[(name, seed) for name in TOPOLOGIES for seed in SEEDS], ids=lambda p: f"{p[0]}-seed{p[1]}")
def network(request: pytest.FixtureRequest) -> Network:
    name, seed = request.param
    net = Network(seed, TOPOLOGIES[name], TIMERS)
    net.run(3.0)
    net.check()
    return net


def test_cold_start(network: Network) -> None:
    """A mesh that starts at once serves all pairs within 1.5 s and raises no incident."""
    assert max(at for at, _, _ in network.installs) < 1.5
    assert [] == network.downs
    assert [] == network.events_of(ControlGone)


def test_silent_cut(network: Network) -> None:
    """Both ends see a silent cut within 180 ms, name one incident, and all pairs are served again."""
    a, b = network.rng.choice(sorted(pair for pair in network.wires))
    network.cut(a, b)
    cut_s = network.now_s
    network.run(0.2)
    network.check()
    assert {(a, 1), (b, 1)} == {(node, generation) for _, node, _, generation in network.downs}
    assert all(at - cut_s < 0.18 for at, *_ in network.downs)
    network.mend(a, b)
    network.run(3.0)
    network.check()
    assert 2 == len(network.downs)


def test_one_way_cut(network: Network) -> None:
    """A link that is dead in one direction is left by both ends, under one generation."""
    a, b = network.rng.choice(sorted(pair for pair in network.wires))
    network.cut(a, b, one_way=True)
    network.run(0.25)
    network.check()
    assert {(a, 1), (b, 1)} == {(node, generation) for _, node, _, generation in network.downs}


def test_second_incident_has_the_next_generation(network: Network) -> None:
    """Each fault of a link is a new incident with the next number at both ends."""
    for generation in (1, 2, 3):
        network.downs.clear()
        network.cut("n1" if "n1" in network.names else "n00", "n2" if "n2" in network.names else "n01")
        network.run(1.0)
        assert [generation] * 2 == [number for *_, number in network.downs]
        network.mend(*(("n1", "n2") if "n1" in network.names else ("n00", "n01")))
        network.run(20.0)
        network.check()


def test_daemon_killed(network: Network) -> None:
    """A dead daemon moves no route; its neighbours name it within 2.6 s; its restart moves none either."""
    victim = network.rng.choice(network.names)
    network.kill(victim)
    network.installs.clear()
    network.run(2.6)
    gone = network.events_of(ControlGone)
    assert {(node, victim) for node in network.neighbours(victim)} == {(n, e.neighbour) for n, e in gone}
    network.run(10.0)
    network.check()
    assert [] == network.installs
    network.start(victim)
    network.run(5.0)
    network.check()
    assert {victim} == {node for _, node, _ in network.installs}
    back = network.events_of(ControlBack)
    assert {(node, victim) for node in network.neighbours(victim)} == {(n, e.neighbour) for n, e in back}
    assert [] == network.downs


def test_quick_restart(network: Network) -> None:
    """A daemon that is back within a second moves no route of the others, and is taken up with its own."""
    victim = network.rng.choice(network.names)
    network.kill(victim)
    network.run(0.5)
    before = {name: dict(routes) for name, routes in network.kernel_routes.items()}
    network.installs.clear()
    network.start(victim)
    network.run(5.0)
    network.check()
    assert {victim} == {node for _, node, _ in network.installs}
    assert before == network.kernel_routes
    assert [] == network.events_of(ControlGone)


def test_change_beside_a_dead_daemon(network: Network) -> None:
    """Once the topology changes, a node without daemon carries transit only where nothing else leads."""
    victim = network.rng.choice(network.names)
    network.kill(victim)
    network.run(4.0)
    away = [pair for pair in sorted(network.wires) if victim not in pair]
    a, b = network.rng.choice(away)
    network.cut(a, b)
    network.run(1.0)
    reporter = network.neighbours(victim)[0]
    assert AdjacencyState.TRANSIT_LAST == network.view(reporter, victim).state
    for source in network.names:
        for target in network.names:
            if victim in (source, target) or source == target:
                continue
            way = network.path(source, target)
            assert way is not None
            assert (victim in way) == (target not in network.true_distances(source, avoid=victim))
    network.start(victim)
    network.run(5.0)
    network.check()


def test_dead_daemon_for_too_long(network: Network) -> None:
    """After `stale_max_s` without daemon a node is routed to no more."""
    victim = network.rng.choice(network.names)
    network.kill(victim)
    network.run(network.timers.stale_max_s + 5.0)
    for name in network.daemons:
        assert network.prefix(victim) not in network.kernel_routes[name]
        assert victim in network.daemons[name].mesh.isolated()
    network.start(victim)
    network.run(8.0)
    network.check()


def test_partition_and_heal(network: Network) -> None:
    """Two halves each serve themselves, and the whole again after the cut is mended."""
    half = set(network.names[: len(network.names) // 2])
    across = [(a, b) for a, b in sorted(network.wires) if a in half and b not in half]
    for a, b in across:
        network.cut(a, b)
    network.run(30.0)
    network.check()
    for a, b in across:
        network.mend(a, b)
    network.run(5.0)
    network.check()


def test_long_partition(network: Network) -> None:
    """Halves that have forgotten each other find together again."""
    half = set(network.names[:1])
    across = [(a, b) for a, b in sorted(network.wires) if a in half and b not in half]
    for a, b in across:
        network.cut(a, b)
    network.run(2.2 * network.timers.stale_max_s)
    assert all(network.names[0] not in network.daemons[name].mesh.records() for name in network.names[1:])
    for a, b in across:
        network.mend(a, b)
    network.run(5.0)
    network.check()


@pytest.mark.parametrize("seed", [1])
def test_an_hour_of_faults(seed: int) -> None:
    """After an hour of cuts, mends, kills and restarts on links that lose 1 %, all pairs are served."""
    net = Network(seed, RING, probes=DetectorTimers(interval_ns=250_000_000, miss_limit=4))
    for wire in net.wires.values():
        wire.loss = 0.01
    rng = random.Random(seed)
    for _ in range(60):
        net.run(30.0)
        a, b = rng.choice(sorted(net.wires))
        victim = rng.choice(net.names)
        net.cut(a, b)
        net.kill(victim)
        net.run(rng.random() * 20)
        net.mend(a, b)
        net.run(rng.random() * 10)
        net.start(victim)
    for wire in net.wires.values():
        wire.loss = 0.0
    net.run(130.0)
    net.check()
