"""Shortest paths agree with plain enumeration, and routes computed hop by hop are free of loops."""

from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from x0d.mesh.model import Adjacency, AdjacencyState, LinkStateRecord, NextHop
from x0d.mesh.spf import End, Graph, build_graph, compute_routes, shortest_paths

NAMES = ["n1", "n2", "n3", "n4", "n5", "n6"]
STATES = [AdjacencyState.UP] * 4 + list(AdjacencyState)


def record(name: str, adjacencies: tuple[Adjacency, ...], *, no_transit: bool = False) -> LinkStateRecord:
    number = int(name[1:])
    return LinkStateRecord(name, 1, 1, no_transit, (IPv4Network(f"10.0.0.{number}/32"),), adjacencies)


@st.composite
def meshes(draw: st.DrawFn) -> dict[str, LinkStateRecord]:
    adjacencies: dict[str, list[Adjacency]] = {name: [] for name in NAMES}
    links = draw(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=14))
    for number, (a, b) in enumerate(links):
        if a == b:
            continue
        ends = {a: IPv4Address(number * 2), b: IPv4Address(number * 2 + 1)}
        for node, peer in ((a, b), (b, a)):
            if draw(st.integers(0, 9)):
                cost, state = draw(st.integers(1, 4)), draw(st.sampled_from(STATES))
                adjacencies[node].append(Adjacency(peer, ends[node], ends[peer], cost, state, 0))
    return {n: record(n, tuple(adjacencies[n]), no_transit=not draw(st.integers(0, 5))) for n in NAMES}


def enumerate_lengths(graph: Graph, source: str) -> dict[str, tuple[int, int]]:
    """Lengths by trying every simple path."""
    best: dict[str, tuple[int, int]] = {}

    def walk(node: str, seen: tuple[str, ...], length: tuple[int, int]) -> None:
        for edge in graph.edges.get(node, ()):
            peer = edge.end[0]
            if peer in seen:
                continue
            passed = node != source and node in graph.transit_last
            longer = (length[0] + passed, length[1] + edge.cost)
            best[peer] = min(best.get(peer, longer), longer)
            walk(peer, (*seen, peer), longer)

    walk(source, (source,), (0, 0))
    return best


def hops(records: dict[str, LinkStateRecord], name: str) -> dict[End, NextHop]:
    return {
        (a.neighbour, a.local_address, a.neighbour_address): NextHop("e", 1, a.neighbour_address, a.neighbour)
        for a in records[name].adjacencies
    }


@settings(max_examples=60, deadline=None)
@given(meshes())
def test_lengths_agree_with_enumeration(records: dict[str, LinkStateRecord]) -> None:
    """Dijkstra finds the lengths that trying every path finds."""
    graph = build_graph(records.values())
    for source in NAMES:
        found = {node: path.length for node, path in shortest_paths(graph, source).items()}
        assert enumerate_lengths(graph, source) == found


@settings(max_examples=60, deadline=None)
@given(meshes())
def test_routes_are_free_of_loops(records: dict[str, LinkStateRecord]) -> None:
    """Following each node's own route leads to the target; who has no route is isolated."""
    graph = build_graph(records.values())
    routing = {name: compute_routes(name, records, graph, hops(records, name)) for name in NAMES}
    ways = {name: {route.node: route.next_hop.neighbour for route in routing[name].routes} for name in NAMES}
    for source in NAMES:
        assert set(NAMES) - {source} == set(ways[source]) | routing[source].isolated
        for target in ways[source]:
            way = [source]
            while way[-1] != target:
                assert len(way) <= len(NAMES)
                way.append(ways[way[-1]][target])
            assert all(any(e.end[0] == b for e in graph.edges[a]) for a, b in pairwise(way))


def line(*states: AdjacencyState) -> dict[str, LinkStateRecord]:
    """n1 - n2 - n3 ..., each link reported up by its far end and as given by its near end."""
    ends: dict[str, list[Adjacency]] = {f"n{n}": [] for n in range(1, len(states) + 2)}
    for n, state in enumerate(states, 1):
        left, right = IPv4Address(2 * n), IPv4Address(2 * n + 1)
        ends[f"n{n}"].append(Adjacency(f"n{n + 1}", left, right, 10, state, 0))
        ends[f"n{n + 1}"].append(Adjacency(f"n{n}", right, left, 30, AdjacencyState.UP, 0))
    return {name: record(name, tuple(adjacencies)) for name, adjacencies in ends.items()}


def test_states_and_costs() -> None:
    """The larger cost counts; only DOWN makes a link unusable; what lies behind it is unreachable."""
    records = line(AdjacencyState.DEGRADED, AdjacencyState.CONTROL_GONE, AdjacencyState.TRANSIT_LAST)
    routing = compute_routes("n1", records, build_graph(records.values()), hops(records, "n1"))
    assert [("n2", 30), ("n3", 60), ("n4", 90)] == [(route.node, route.metric) for route in routing.routes]
    records = line(AdjacencyState.UP, AdjacencyState.DOWN, AdjacencyState.UP)
    routing = compute_routes("n1", records, build_graph(records.values()), hops(records, "n1"))
    assert ["n2"] == [route.node for route in routing.routes]
    assert (IPv4Network("10.0.0.3/32"), IPv4Network("10.0.0.4/32")) == routing.unreachable
    assert {"n3", "n4"} == routing.isolated
