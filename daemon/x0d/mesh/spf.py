"""Shortest paths over the link-state database, and the routes that follow from them.

A link is usable when both ends report it and neither reports it down; it costs the larger of both
ends' costs.  A node *carries transit last* when it says so itself (``no_transit``: stopping or
draining) or when any node adjacent to it reports it as ``TRANSIT_LAST`` (its daemon is gone and the
topology has changed since, so its frozen routes may loop).  Lengths are pairs (nodes on the way that
carry transit last, cost), compared in that order: such nodes are passed where nothing else leads, and
stay reachable themselves.

Every node computes on the same database, and along a path the length to the target strictly falls with
each hop (each link costs at least 1), so routes computed hop by hop are free of loops, whatever way
ties are broken.  They are broken by the name of the first neighbour, then by its link's addresses.
"""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from x0d.mesh.model import Address, Adjacency, AdjacencyState, LinkStateRecord, MeshRoute, NextHop, Prefix

Length = tuple[int, int]
"""Nodes on the way that carry transit last, and cost."""
End = tuple[str, Address, Address]
"""A link seen from one end: neighbour, local address, neighbour's address."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A usable link, seen from one end."""

    end: End
    cost: int


@dataclass(frozen=True, slots=True)
class Graph:
    """The usable links by node, and the nodes that carry transit last."""

    edges: Mapping[str, tuple[Edge, ...]]
    transit_last: frozenset[str]
    draining: frozenset[str]
    """Those of ``transit_last`` that say so themselves."""

    @property
    def topology(self) -> tuple[frozenset[tuple[str, Edge]], frozenset[str]]:
        """What the routes of a node without daemon were computed from: links with costs, and drains."""
        return (frozenset((node, edge) for node, edges in self.edges.items() for edge in edges), self.draining)


@dataclass(frozen=True, slots=True)
class Path:
    """The best way from the source to a node."""

    length: Length
    first: Edge
    """The source's link that it leaves by."""
    hops: int
    """Links on the way."""


@dataclass(frozen=True, slots=True)
class Routing:
    """What one node computes from the database."""

    routes: tuple[MeshRoute, ...] = ()
    """By prefix, own ones left out."""
    unreachable: tuple[Prefix, ...] = ()
    """Prefixes that only isolated nodes announce."""
    isolated: frozenset[str] = frozenset()
    """Known nodes that no path leads to."""


def edge_order(edge: Edge) -> tuple[str, int, int, int]:
    """Order of a node's links: by neighbour, the cheapest of parallel ones first."""
    neighbour, local, remote = edge.end
    return (neighbour, edge.cost, int(local), int(remote))


def build_graph(records: Iterable[LinkStateRecord]) -> Graph:
    """Find the usable links."""
    # Addresses as integers here: hashing 400 IPv6Address objects takes longer than all the rest.
    reported: dict[str, dict[tuple[str, int, int], Adjacency]] = {}
    transit_last: set[str] = set()
    draining: set[str] = set()
    for record in records:
        reported[record.origin] = {
            (a.neighbour, int(a.local_address), int(a.neighbour_address)): a for a in record.adjacencies
        }
        transit_last.update(a.neighbour for a in record.adjacencies if a.state == AdjacencyState.TRANSIT_LAST)
        if record.no_transit:
            draining.add(record.origin)
    edges: dict[str, tuple[Edge, ...]] = {}
    for node, ends in reported.items():
        usable = []
        for (neighbour, local, remote), ours in ends.items():
            theirs = reported.get(neighbour, {}).get((node, remote, local))
            if theirs and AdjacencyState.DOWN not in (ours.state, theirs.state):
                end = (neighbour, ours.local_address, ours.neighbour_address)
                usable.append(Edge(end, max(ours.cost, theirs.cost)))
        edges[node] = tuple(sorted(usable, key=edge_order))
    return Graph(edges, frozenset(transit_last | draining), frozenset(draining))


def shortest_paths(graph: Graph, source: str, usable: Iterable[End] | None = None) -> dict[str, Path]:
    """Dijkstra from ``source`` to every other node it can reach.

    ``usable`` limits the source's own links, where given.
    """
    allowed = None if usable is None else frozenset(usable)
    queue: list[tuple[Length, int, str, int]] = []
    firsts = [e for e in graph.edges.get(source, ()) if allowed is None or e.end in allowed]
    for rank, edge in enumerate(firsts):  # in edge_order, so a lower rank wins ties
        heapq.heappush(queue, ((0, edge.cost), rank, edge.end[0], 1))
    paths: dict[str, Path] = {}
    while queue:
        length, rank, node, hops = heapq.heappop(queue)
        if node == source or node in paths:
            continue
        paths[node] = Path(length, firsts[rank], hops)
        passed = length[0] + (node in graph.transit_last)
        for edge in graph.edges.get(node, ()):
            if edge.end[0] not in paths:
                heapq.heappush(queue, ((passed, length[1] + edge.cost), rank, edge.end[0], hops + 1))
    return paths


def compute_routes(
    source: str, records: Mapping[str, LinkStateRecord], graph: Graph, next_hops: Mapping[End, NextHop]
) -> Routing:
    """Compute the source's routes: to each prefix by its nearest announcer (ties: lower name).

    ``next_hops`` are the source's own links that exist; others are not used.
    """
    paths = shortest_paths(graph, source, next_hops)
    own = set(records[source].prefixes) if source in records else set()
    best: dict[Prefix, tuple[Length, str]] = {}
    lost: set[Prefix] = set()
    for node, record in records.items():
        if node == source:
            continue
        path = paths.get(node)
        for prefix in record.prefixes:
            if prefix in own:
                continue
            if path is None:
                lost.add(prefix)
            elif prefix not in best or (path.length, node) < best[prefix]:
                best[prefix] = (path.length, node)
    routes = tuple(
        MeshRoute(prefix, node, next_hops[paths[node].first.end], length[1], paths[node].hops)
        for prefix, (length, node) in sorted(best.items(), key=lambda item: prefix_order(item[0]))
    )
    isolated = frozenset(node for node in records if node != source and node not in paths)
    return Routing(routes, tuple(sorted(lost - best.keys(), key=prefix_order)), isolated)


def prefix_order(prefix: Prefix) -> tuple[int, int, int]:
    """IPv4 first, then by address and length."""
    return (prefix.version, int(prefix.network_address), prefix.prefixlen)
