"""Routes of one node, computed again only when the database or its links changed."""

from collections.abc import Iterable

from x0d.mesh.adjacency import Detected, LinkFacts
from x0d.mesh.database import Database
from x0d.mesh.spf import Graph, Routing, build_graph, compute_routes


class RouteComputer:
    """Keeps the graph of usable links and the routes over it."""

    def __init__(self, name: str, database: Database) -> None:
        self._name = name
        self._database = database
        self._graph = Graph({}, frozenset(), frozenset())
        self._graph_of = -1
        self._topology = 0
        self._routing = Routing()
        self._routing_of = (-1, -1)

    def topology(self) -> int:
        """Version of the usable links, their costs and the drains; rises with each change of them."""
        if self._database.changes != self._graph_of:
            self._graph_of = self._database.changes
            graph = build_graph(known.record for known in self._database.known.values())
            if graph.topology != self._graph.topology:
                self._topology += 1
            self._graph = graph
        return self._topology

    def compute(self, links: Iterable[LinkFacts], links_version: int) -> Routing:
        """Routes over those of this node's links that are not down.

        ``links_version`` rises whenever a link comes, goes, or changes between down and not down.
        """
        if (self._database.changes, links_version) != self._routing_of:
            self._routing_of = (self._database.changes, links_version)
            self.topology()
            hops = {f.port.end: f.port.next_hop for f in links if f.detected is not Detected.DOWN}
            records = {origin: known.record for origin, known in self._database.known.items()}
            self._routing = compute_routes(self._name, records, self._graph, hops)
        return self._routing
