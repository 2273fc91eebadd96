"""The mesh core of one node: feed it links and datagrams, clock it, ask what is ready.

The caller feeds what the detectors say (``link_up``, ``link_down``, ``link_degraded``, ``link_clean``)
and what comes in (``receive``), calls ``tick`` at ``next_tick_s``, and after each of these drains
``ready``: send the datagrams, install ``routes()`` if they changed, handle the events.  Decisions to
flood are in ``ready`` at once, none waits for a tick.

**Starting.**  A node floods nothing about itself until it has *settled*: every link judged (in step
with its neighbour, without daemon, or down), or ``settle_s`` after the start.  Until then the others
route by the record of its earlier life, and so does it, as soon as a neighbour has handed that record
back; the first record of the new life then says the same, and no route moves.  Before ``settled`` the
caller installs nothing and keeps what the kernel has.

**Generations.**  The end that sees a fault first raises the link's generation by one and floods it with
the new state; the other end, once it sees the same fault, takes that number over.  Both at once raise to
the same number (one above the larger of both ends'), so both name one incident.  A starting node
takes generations up from its own earlier record and the neighbours'.

**A record of ours that is newer than ours** (an earlier life with a clock ahead, RFC 2328 section 13.4):
our incarnation is raised above it and our record flooded; at most once a second, since two nodes of
one name would answer each other for ever.
"""

import random
from collections.abc import Mapping

from x0d.errors import InvalidInput
from x0d.mesh.adjacency import Detected, LinkFacts, LinkPort, LinkView
from x0d.mesh.codec import Ack, Hello, StatePart, Summary, decode
from x0d.mesh.database import KnownRecord
from x0d.mesh.events import (
    ControlBack,
    ControlGone,
    MeshEvent,
    MeshTimers,
    NameDisputed,
    NodeGone,
    NodeSeen,
    PeerReported,
    Ready,
    reports,
)
from x0d.mesh.exchange import Exchange, check_sender
from x0d.mesh.greeting import Greeting
from x0d.mesh.links import LinkTable
from x0d.mesh.model import AdjacencyState, LinkKey, LinkStateRecord, MeshRoute, Prefix
from x0d.mesh.origin import OwnVersion
from x0d.mesh.routing import RouteComputer
from x0d.mesh.spf import Routing

__all__ = [
    "ControlBack",
    "ControlGone",
    "LinkPort",
    "LinkView",
    "MeshEvent",
    "MeshNode",
    "MeshTimers",
    "NodeGone",
    "NodeSeen",
    "PeerReported",
    "Ready",
]

AGEING_INTERVAL_S = 1.0
CONTROL_LOST = (AdjacencyState.CONTROL_GONE, AdjacencyState.TRANSIT_LAST)


class MeshNode:
    """Link states, shortest paths and routes of one node."""

    def __init__(
        self, name: str, prefixes: tuple[Prefix, ...], incarnation: int, timers: MeshTimers, rng: random.Random
    ) -> None:
        """``incarnation``: wall-clock nanoseconds of the start; ``prefixes``: what this node announces."""
        self._name = name
        self._prefixes = prefixes
        self._version = OwnVersion(name, incarnation)
        self._no_transit = False
        self._timers = timers
        self._exchange = Exchange(name, timers.record_max_s, timers.retransmit_s, timers.retransmit_max_s)
        self._links = LinkTable(name, self._exchange.database)
        self._settle_at_s: float | None = None
        self._settled = False
        self._awake_at_s = float("-inf")
        self._age_at_s = float("-inf")
        self._events: list[MeshEvent] = []
        self._computer = RouteComputer(name, self._exchange.database)
        self._greeting = Greeting(name, timers, self._exchange, rng)
        self._routes_told_of = (-1, -1)

    # ---- links ----

    def put_link(self, now_s: float, port: LinkPort, generation: int = 0) -> None:
        """Add a link, or replace it where its interface was made anew; it waits for ``link_up``.

        ``generation``: of its latest incident on record, so that numbers go on after a restart of all.
        """
        self._start_clock(now_s)
        self._exchange.flooding.close(port.key)
        self._links.put(port, generation)
        self._changed(now_s)

    def remove_link(self, now_s: float, key: LinkKey) -> None:
        """Forget a link whose interface is gone (its generation is kept); nothing if it is not there."""
        self._links.remove(key)
        self._exchange.flooding.close(key)
        self._changed(now_s)

    def link_up(self, now_s: float, key: LinkKey) -> None:
        """The detector says up; the link is announced once the neighbour's database is in step."""
        facts = self._links[key]
        if facts.detected is Detected.UP:
            return
        facts.detected = Detected.UP
        self._links.version += 1
        facts.up_at_s = now_s
        self._exchange.flooding.open(key)
        self._greet(now_s, facts, solicit=True)
        self._changed(now_s)

    def link_down(self, now_s: float, key: LinkKey) -> int:
        """The detector says down, or the carrier is gone; the incident's generation."""
        facts = self._links[key]
        if facts.detected is Detected.DOWN:
            return facts.generation
        facts.detected = Detected.DOWN
        self._links.version += 1
        facts.degraded = False
        facts.lose_control()
        self._links.raise_generation(facts, (AdjacencyState.DOWN,))
        self._exchange.flooding.close(key)
        self._changed(now_s)
        return facts.generation

    def link_degraded(self, now_s: float, key: LinkKey) -> int:
        """The link loses packets; the incident's generation."""
        facts = self._links[key]
        if not facts.degraded:
            facts.degraded = True
            self._links.raise_generation(facts, (AdjacencyState.DEGRADED,))
            self._changed(now_s)
        return facts.generation

    def link_clean(self, now_s: float, key: LinkKey) -> None:
        """The link loses nothing any more."""
        self._links[key].degraded = False
        self._changed(now_s)

    def set_cost(self, now_s: float, key: LinkKey, cost: int) -> None:
        """Announce a link with another cost, 1 to 65,535."""
        self._links[key].cost = cost
        self._changed(now_s)

    def set_prefixes(self, now_s: float, prefixes: tuple[Prefix, ...]) -> None:
        """Announce other prefixes."""
        self._prefixes = prefixes
        self._changed(now_s)

    def set_no_transit(self, now_s: float, value: bool) -> None:
        """Announce that routes should end here and not pass through; at once, settled or not."""
        self._no_transit = value
        if value and self._links.in_step:
            self._settled = True
        self._changed(now_s)

    # ---- datagrams ----

    def receive(self, now_s: float, key: LinkKey, datagram: bytes) -> None:
        """Take a datagram that came in on a link.

        Raises:
            InvalidInput: it does not follow the format, or comes from somebody else, or on no link of ours.
        """
        facts = self._links.get(key)
        if facts is None:
            raise InvalidInput(f"mesh datagram on the unknown link {key}")
        message = decode(datagram)
        check_sender(facts.port.neighbour, message.sender)
        match message:
            case Hello():
                self._receive_hello(now_s, facts, message)
            case StatePart():
                self._receive_state(now_s, facts, message)
            case Ack():
                if self._exchange.receive_ack(key, message) and not facts.in_step:
                    self._greet(now_s, facts, solicit=True)
            case Summary():
                self._exchange.receive_summary(now_s, key, message)

    def _receive_hello(self, now_s: float, facts: LinkFacts, hello: Hello) -> None:
        facts.heard_at_s = now_s
        facts.heard_incarnation = hello.incarnation
        if facts.detected is not Detected.UP:
            return
        self._exchange.flooding.open(facts.port.key)
        if not facts.gone:
            facts.topology_heard = self._computer.topology()
        if hello.digest == self._exchange.database.digest:
            facts.mismatches = 0
            if hello.heard_incarnation == self._version.incarnation and not facts.in_step:
                self._step_in(now_s, facts)
        else:
            facts.mismatches += 1
            # In step, a difference is mostly a record under way; out of step, it is what we wait for.
            if not self._exchange.flooding.owes(facts.port.key) and (facts.mismatches > 1 or not facts.in_step):
                self._exchange.send_summary(facts.port.key)
        if hello.solicit:
            self._greet(now_s, facts, solicit=False)

    def _step_in(self, now_s: float, facts: LinkFacts) -> None:
        facts.in_step = True
        if facts.gone:
            facts.gone_since_s = None
            facts.topology_moved = facts.stale = False
            facts.topology_heard = self._computer.topology()
            self._events.append(ControlBack(facts.port.key, facts.port.neighbour, facts.generation))
        self._changed(now_s)

    def _receive_state(self, now_s: float, facts: LinkFacts, message: StatePart) -> None:
        version = message.version
        self._version.check(now_s, version.incarnation)
        if version.origin == self._name:
            own = self._exchange.database.get(self._name)
            if self._settled and own is not None:
                if version.number > own.record.version:
                    self._version.rise_above(version)
                    self._outbid(now_s)
                else:
                    self._exchange.receive_known(now_s, facts.port.key, version, own)
                return
            self._version.rise_above(version)
        learned = self._exchange.receive_state(now_s, facts.port.key, message)
        if learned is not None:
            if version.origin == self._name:
                self._links.take_up(learned.record)
            else:
                self._events.extend(reports(learned.record, learned.old))
            self._changed(now_s)
        if not facts.in_step and not self._exchange.flooding.owes(facts.port.key):
            self._greet(now_s, facts, solicit=True)

    def greet(self, now_s: float, key: LinkKey) -> None:
        """Bring a neighbour up to date at once: what was sent to it until now was lost, and no longer is."""
        facts = self._links.get(key)
        if facts is not None:
            self._greet(now_s, facts, solicit=True)
            self._exchange.repeat(now_s, key)

    def _greet(self, now_s: float, facts: LinkFacts, *, solicit: bool) -> None:
        self._greeting.greet(now_s, facts, self._version.incarnation, solicit=solicit)

    def _outbid(self, now_s: float) -> None:
        """Flood a record of ours above the newer one that somebody holds (RFC 2328 section 13.4)."""
        if self._version.outbid(now_s):
            self._events.append(NameDisputed())
            self._originate(now_s)

    # ---- time ----

    def tick(self, now_s: float) -> None:
        """Do what is due: HELLOs, repetitions, silence of control planes, ageing, settling."""
        self._start_clock(now_s)
        if now_s - self.next_tick_s > self._timers.hello_interval_s:
            self._awake_at_s = now_s  # we slept, and what was said meanwhile may not be read yet
        for facts in self._links:
            if facts.detected is Detected.UP and now_s >= facts.hello_due_s:
                self._greet(now_s, facts, solicit=facts.solicit_next)
        for facts in self._links:
            self._watch_control(now_s, facts)
        if now_s >= self._age_at_s:
            self._age_at_s = now_s + AGEING_INTERVAL_S
            self._events.extend(NodeGone(origin) for origin in self._exchange.age(now_s))
            own = self._exchange.database.get(self._name)
            if self._settled and (own is None or own.age_s(now_s) >= self._timers.refresh_s):
                self._originate(now_s)
            self._changed(now_s)
        if now_s >= self._version.outbid_due_s:
            self._outbid(now_s)
        if not self._settled:
            self._changed(now_s)
        self._exchange.pump(now_s)

    @property
    def next_tick_s(self) -> float:
        """When ``tick`` next has something to do; in the past: at once."""
        instants = [self._age_at_s, self._version.outbid_due_s]
        for facts in self._links:
            if facts.detected is Detected.UP:
                instants += [facts.hello_due_s, self._greeting.deadline_s(facts, self._awake_at_s)]
        if not self._settled and self._settle_at_s is not None:
            instants.append(self._settle_at_s)
        due = self._exchange.flooding.next_due_s
        return min(instants if due is None else [*instants, due])

    def _start_clock(self, now_s: float) -> None:
        if self._settle_at_s is None:
            self._settle_at_s = now_s + self._timers.settle_s
            self._version.start(now_s)

    def _watch_control(self, now_s: float, facts: LinkFacts) -> None:
        """Judge the neighbour's silence."""
        deadline_s = self._greeting.deadline_s(facts, self._awake_at_s)
        if facts.detected is not Detected.UP or now_s < deadline_s:
            return
        if facts.gone:
            facts.stale = True
            self._changed(now_s)
            return
        since_s = facts.up_at_s if facts.heard_at_s is None else max(facts.heard_at_s, facts.up_at_s)
        if self._exchange.database.get(facts.port.neighbour) is None:
            facts.up_at_s = now_s  # nobody we know of is missing; look again later
            return
        facts.gone_since_s = since_s
        facts.in_step = False
        facts.heard_incarnation = 0
        if facts.heard_at_s is None and not facts.announced:
            facts.topology_heard = self._computer.topology()  # this node started after that daemon had gone
        self._exchange.flooding.close(facts.port.key)
        self._links.raise_generation(facts, CONTROL_LOST)
        self._events.append(ControlGone(facts.port.key, facts.port.neighbour, facts.generation, since_s))
        self._changed(now_s)

    # ---- our own record ----

    def _changed(self, now_s: float) -> None:
        """Something was learned: settle if it is time, tell the others what changed about us."""
        if any(facts.gone for facts in self._links):  # building the graph for each of N records learned costs O(N^2)
            self._links.mark_topology(self._computer.topology())
        if not self._settled:
            if not self._links.judged and (self._settle_at_s is None or now_s < self._settle_at_s):
                return
            self._settled = True
        own = self._exchange.database.get(self._name)
        if own is not None and own.record.incarnation < self._version.incarnation:
            own = None  # of an earlier life
        content = (self._no_transit, self._prefixes, self._links.adjacencies())
        if own is None or content != (own.record.no_transit, own.record.prefixes, own.record.adjacencies):
            self._originate(now_s)

    def _originate(self, now_s: float) -> None:
        """Make our record anew and flood it."""
        adjacencies = self._links.adjacencies()
        incarnation, sequence = self._version.next()
        record = LinkStateRecord(self._name, incarnation, sequence, self._no_transit, self._prefixes, adjacencies)
        self._exchange.originate(now_s, record)

    # ---- answers ----

    def _computed(self) -> Routing:
        return self._computer.compute(self._links, self._links.version)

    def ready(self) -> Ready:
        """Drain what the calls since the last one brought."""
        events, self._events = tuple(self._events), []
        basis = (self._exchange.database.changes, self._links.version)
        changed = self._settled and basis != self._routes_told_of
        if changed:
            self._routes_told_of = basis
        return Ready(self._exchange.drain(), changed, events)

    @property
    def settled(self) -> bool:
        """Whether this node has flooded its first record, and ``routes()`` are to be installed."""
        return self._settled

    def routes(self) -> tuple[MeshRoute, ...]:
        """Routes to all prefixes of other nodes that a path leads to, by prefix."""
        return self._computed().routes

    def unreachable(self) -> tuple[Prefix, ...]:
        """Prefixes of known nodes that no path leads to."""
        return self._computed().unreachable

    def isolated(self) -> frozenset[str]:
        """Known nodes that no path leads to."""
        return self._computed().isolated

    def records(self) -> Mapping[str, KnownRecord]:
        """All known records by origin, this node's own included; ``.record`` and ``.age_s(now_s)``."""
        return self._exchange.database.known

    def link_view(self, now_s: float, key: LinkKey) -> LinkView:
        """What the mesh knows of a link of this node."""
        facts = self._links[key]
        alive = facts.control_alive(now_s, self._timers.silence_s)
        return LinkView(facts.generation, facts.cost, facts.state(), alive, facts.in_step, facts.heard_at_s)
