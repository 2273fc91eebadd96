"""This node's links as a table: their facts, their generations, and the adjacencies to announce.

A generation numbers the incidents of a link.  It outlives the interface, and is never below what
the other end announces.
"""

from collections.abc import Iterator

from x0d.mesh.adjacency import LinkFacts, LinkPort
from x0d.mesh.codec import GENERATION_MAX
from x0d.mesh.database import Database
from x0d.mesh.model import Adjacency, AdjacencyState, LinkKey, LinkStateRecord


class LinkTable:
    """Facts of this node's links, by key."""

    def __init__(self, name: str, database: Database) -> None:
        self._name = name
        self._database = database
        self._facts: dict[LinkKey, LinkFacts] = {}
        self._generations: dict[LinkKey, int] = {}
        self.version = 0
        """Rises whenever a link comes, goes, or changes between down and not down."""

    def __iter__(self) -> Iterator[LinkFacts]:
        return iter(self._facts.values())

    def __getitem__(self, key: LinkKey) -> LinkFacts:
        return self._facts[key]

    def get(self, key: LinkKey) -> LinkFacts | None:
        """The facts of a link; None: no link of ours."""
        return self._facts.get(key)

    def put(self, port: LinkPort, generation: int) -> None:
        """Add a link or replace it; only its generation goes on."""
        self.remove(port.key)
        known = max(generation, self._generations.get(port.key, 0))
        self._facts[port.key] = LinkFacts(port, port.cost, generation=known)
        self.version += 1

    def remove(self, key: LinkKey) -> None:
        """Forget a link but for its generation; nothing happens if it is not there."""
        facts = self._facts.pop(key, None)
        if facts is not None:
            self._generations[key] = facts.generation
            self.version += 1

    @property
    def judged(self) -> bool:
        """Whether there are links, and enough is known of each for our first record."""
        return bool(self._facts) and all(facts.judged for facts in self)

    @property
    def in_step(self) -> bool:
        """Whether any neighbour's database equals ours."""
        return any(facts.in_step for facts in self)

    def mark_topology(self, topology: int) -> None:
        """Note of each neighbour without daemon that its routes are of another topology than this."""
        for facts in self:
            if facts.gone and facts.topology_heard != topology:
                facts.topology_moved = True

    def take_up(self, record: LinkStateRecord) -> None:
        """Take generations up from this node's record of an earlier life."""
        generations = {(a.neighbour, a.local_address, a.neighbour_address): a.generation for a in record.adjacencies}
        for facts in self:
            facts.generation = max(facts.generation, generations.get(facts.port.end, 0))

    def raise_generation(self, facts: LinkFacts, adopted: tuple[AdjacencyState, ...]) -> None:
        """Take the peer's number over if it reports the same kind of fault, else go above both."""
        theirs = self._peer_view(facts)
        peer = theirs.generation if theirs else 0
        if theirs and theirs.state in adopted and peer >= facts.generation:
            facts.generation = peer
        else:
            facts.generation = min(max(facts.generation, peer) + 1, GENERATION_MAX)

    def adjacencies(self) -> tuple[Adjacency, ...]:
        """What our record is to say of the links, sorted by key."""
        out = []
        for key in sorted(self._facts):
            facts = self._facts[key]
            state = facts.state()
            if state is None:
                continue
            facts.announced = True
            theirs = self._peer_view(facts)
            facts.generation = max(facts.generation, theirs.generation if theirs else 0)
            neighbour, local, remote = facts.port.end
            out.append(Adjacency(neighbour, local, remote, facts.cost, state, facts.generation))
        return tuple(out)

    def _peer_view(self, facts: LinkFacts) -> Adjacency | None:
        """The adjacency as the other end announces it."""
        known = self._database.get(facts.port.neighbour)
        return facts.port.peer_view(self._name, known.record if known else None)
