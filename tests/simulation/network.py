"""Mesh nodes with detectors on virtual time, joined by lossy, delayed links; all chance from one seed.

Models: probes answered by a node's kernel though its daemon is dead, one-way cuts, loss, delay,
reordering of datagrams.  Does not model: queues, rate limits, carrier events other than by `carrier`; seals and keys,
which are no part of the cores (`sealed.py` runs the services with them).
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Network, IPv6Address
from typing import TypeVar

from x0d.mesh.detector import Detector, DetectorTimers
from x0d.mesh.model import LinkKey, MeshRoute, Prefix, ProbeRecord
from x0d.mesh.node import LinkPort, LinkView, MeshEvent, MeshNode, MeshTimers

PROBES = DetectorTimers(interval_ns=50_000_000, miss_limit=3)
DELAY_S = 0.0005


Kind = TypeVar("Kind", bound=MeshEvent)


@dataclass
class Wire:
    """One direction of a link."""

    cut: bool = False
    loss: float = 0.0

    def passes(self, rng: random.Random) -> bool:
        """Whether a packet gets through."""
        return not self.cut and rng.random() >= self.loss


@dataclass
class End:
    """One end of a link: what the kernel there keeps (survives the daemon)."""

    node: str
    port: LinkPort
    peer: str
    requests: int = 0
    record: ProbeRecord = field(default_factory=ProbeRecord)


@dataclass
class Daemon:
    """What dies with the daemon."""

    mesh: MeshNode
    session: int
    detectors: dict[LinkKey, Detector] = field(default_factory=dict)
    sequence: dict[LinkKey, int] = field(default_factory=dict)
    ticking: float = float("inf")
    has_installed: bool = False


class Network:
    """Nodes, links, virtual time."""

    def __init__(
        self,
        seed: int,
        pairs: list[tuple[str, str]],
        timers: MeshTimers | None = None,
        probes: DetectorTimers = PROBES,
    ) -> None:
        self.rng = random.Random(seed)
        self.probes = probes
        self.interval_s = probes.interval_ns / 1e9
        self.timers = timers or MeshTimers()
        self.now_s = 0.0
        self._order = itertools.count()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self.wires: dict[tuple[str, str], Wire] = {}
        self.ends: dict[str, dict[LinkKey, End]] = {}
        self.daemons: dict[str, Daemon] = {}
        self.kernel_routes: dict[str, dict[Prefix, MeshRoute]] = {}
        self.events: list[tuple[float, str, MeshEvent]] = []
        self.downs: list[tuple[float, str, LinkKey, int]] = []
        self.installs: list[tuple[float, str, int]] = []
        self.datagrams = 0
        for number, (a, b) in enumerate(pairs):
            self._join(number, a, b)
        self.names = sorted(self.ends)
        for name in self.names:
            self.start(name)

    def _join(self, number: int, a: str, b: str) -> None:
        addresses = {a: IPv6Address(f"fe80::{number}:a"), b: IPv6Address(f"fe80::{number}:b")}
        key = LinkKey.between(a, addresses[a], b, addresses[b])
        for node, peer in ((a, b), (b, a)):
            port = LinkPort(key, peer, f"to-{peer}", 100 + number, addresses[node], addresses[peer], 100)
            self.ends.setdefault(node, {})[key] = End(node, port, peer)
            self.wires[(node, peer)] = Wire()

    def prefix(self, name: str) -> IPv4Network:
        return IPv4Network(f"10.255.0.{self.names.index(name) + 1}/32")

    # ---- what happens ----

    def at(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now_s + delay_s, next(self._order), action))

    def run(self, for_s: float) -> None:
        until_s = self.now_s + for_s
        while self._queue and self._queue[0][0] <= until_s:
            self.now_s, _, action = heapq.heappop(self._queue)
            action()
        self.now_s = until_s

    def start(self, name: str) -> None:
        incarnation = 1_700_000_000_000_000_000 + int(self.now_s * 1e9)
        mesh = MeshNode(name, (self.prefix(name),), incarnation, self.timers, random.Random(self.rng.random()))
        daemon = Daemon(mesh, session=self.rng.getrandbits(60) + 1)
        self.daemons[name] = daemon
        for key, end in self.ends[name].items():
            mesh.put_link(self.now_s, end.port)
            daemon.detectors[key] = Detector(self.probes, daemon.session)
            daemon.sequence[key] = 0
            self.at(self.rng.random() * self.interval_s, partial(self._probe, daemon, name, key))
        self._settle(daemon, name)
        self._tick(daemon, name)

    def kill(self, name: str) -> None:
        """Kill the daemon; the kernel answers probes and forwards by its last routes."""
        del self.daemons[name]

    def cut(self, a: str, b: str, *, one_way: bool = False) -> None:
        self.wires[(a, b)].cut = True
        self.wires[(b, a)].cut = not one_way

    def mend(self, a: str, b: str) -> None:
        self.wires[(a, b)].cut = self.wires[(b, a)].cut = False

    def key(self, a: str, b: str) -> LinkKey:
        return next(key for key, end in self.ends[a].items() if end.peer == b)

    # ---- machinery ----

    def _probe(self, daemon: Daemon, name: str, key: LinkKey) -> None:
        if self.daemons.get(name) is not daemon:
            return
        self._judge(daemon, name, key)
        self._send(daemon, name, key)
        self.at(self.interval_s, lambda: self._probe(daemon, name, key))

    def _send(self, daemon: Daemon, name: str, key: LinkKey) -> None:
        end = self.ends[name][key]
        daemon.sequence[key] += 1
        sequence, sent_s = daemon.sequence[key], self.now_s
        if self.wires[(name, end.peer)].passes(self.rng):
            self.at(DELAY_S, lambda: self._reflect(daemon.session, end, key, sequence, sent_s))
        detector = daemon.detectors[key]
        detector.sent(sequence, int(self.now_s * 1e9))
        check_ns = detector.next_check_ns
        if check_ns is not None:
            self.at(max(0.0, check_ns / 1e9 - self.now_s) + 1e-6, lambda: self._look(daemon, name, key))

    def _look(self, daemon: Daemon, name: str, key: LinkKey) -> None:
        """Look again between two probes; hurry the one that may decide."""
        self._judge(daemon, name, key)
        if self.daemons.get(name) is daemon and daemon.detectors[key].wants_probe:
            self._send(daemon, name, key)

    def _reflect(self, session: int, end: End, key: LinkKey, sequence: int, sent_s: float) -> None:
        peer_end = self.ends[end.peer][key]
        peer_end.requests += 1
        if self.wires[(end.peer, end.node)].passes(self.rng):
            self.at(DELAY_S, lambda: self._reply(session, end, sequence, sent_s, peer_end.requests))

    def _reply(self, session: int, end: End, sequence: int, sent_s: float, requests: int) -> None:
        record = end.record
        if record.session != session:
            record = ProbeRecord(session=session)
        ahead = sequence - record.sequence_last
        bits = (record.received << ahead | 1) if ahead > 0 else record.received | 1 << -ahead
        end.record = replace(
            record,
            sequence_last=max(sequence, record.sequence_last),
            received=bits & (2**64 - 1),
            replies_received=record.replies_received + 1,
            peer_requests_received=requests,
            reply_last_at_ns=int(self.now_s * 1e9),
            rtt_last_ns=int((self.now_s - sent_s) * 1e9),
        )

    def _judge(self, daemon: Daemon, name: str, key: LinkKey) -> None:
        if self.daemons.get(name) is not daemon:
            return
        verdict = daemon.detectors[key].observe(int(self.now_s * 1e9), self.ends[name][key].record)
        if verdict is None:
            return
        if verdict.up:
            daemon.mesh.link_up(self.now_s, key)
        else:
            self.downs.append((self.now_s, name, key, daemon.mesh.link_down(self.now_s, key)))
        self._settle(daemon, name)

    def _tick(self, daemon: Daemon, name: str) -> None:
        if self.daemons.get(name) is not daemon or daemon.ticking < self.now_s:
            return
        daemon.ticking = float("inf")
        daemon.mesh.tick(self.now_s)
        self._settle(daemon, name)

    def _settle(self, daemon: Daemon, name: str) -> None:
        """Do what the node is ready for, as the service does."""
        ready = daemon.mesh.ready()
        for key, datagram in ready.datagrams:
            self.datagrams += 1
            peer = self.ends[name][key].peer
            if self.wires[(name, peer)].passes(self.rng):
                delay_s = DELAY_S * (0.5 + self.rng.random())
                self.at(delay_s, partial(self._deliver, peer, key, datagram))
        routes = {route.prefix: route for route in daemon.mesh.routes()} if ready.routes_changed else {}
        if ready.routes_changed and (routes != self.kernel_routes.get(name) or not daemon.has_installed):
            daemon.has_installed = True
            self.kernel_routes[name] = routes
            self.installs.append((self.now_s, name, len(routes)))
        self.events += [(self.now_s, name, event) for event in ready.events]
        next_s = max(daemon.mesh.next_tick_s, self.now_s + 0.0001)
        if next_s < daemon.ticking:
            daemon.ticking = next_s
            self.at(next_s - self.now_s, lambda: self._tick_if_due(daemon, name, next_s))

    def _tick_if_due(self, daemon: Daemon, name: str, due_s: float) -> None:
        if daemon.ticking == due_s:
            self._tick(daemon, name)

    def _deliver(self, peer: str, key: LinkKey, datagram: bytes) -> None:
        if peer in self.daemons:
            daemon = self.daemons[peer]
            daemon.mesh.receive(self.now_s, key, datagram)
            self._settle(daemon, peer)

    # ---- truth ----

    def path(self, source: str, target: str) -> list[str] | None:
        """Follow the installed routes; None: a loop, a gap or a dead wire."""
        prefix, at, passed = self.prefix(target), source, [source]
        while at != target:
            route = self.kernel_routes.get(at, {}).get(prefix)
            if route is None or len(passed) > len(self.names):
                return None
            if self.wires[(at, route.next_hop.neighbour)].cut:
                return None
            at = route.next_hop.neighbour
            passed.append(at)
        return passed

    def true_distances(self, source: str, avoid: str = "") -> dict[str, int]:
        """Hops over wires that pass both ways and around a node, by breadth-first search."""
        distance, frontier = {source: 0}, [source]
        for node in frontier:
            for (a, b), wire in self.wires.items():
                if a == node and b not in {*distance, avoid} and not wire.cut and not self.wires[(b, a)].cut:
                    distance[b] = distance[node] + 1
                    frontier.append(b)
        return distance

    def check(self) -> None:
        """Every pair that is joined is served over a shortest way; no other pair has a route."""
        for source in self.names:
            distances = self.true_distances(source)
            for target in self.names:
                if source == target:
                    continue
                way = self.path(source, target)
                if target in distances:
                    assert way is not None, f"{self.now_s}: {source} does not reach {target}"
                    assert distances[target] == len(way) - 1, f"{self.now_s}: {way}"
                else:
                    assert self.prefix(target) not in self.kernel_routes[source], f"{source} has a way to {target}"

    def events_of(self, kind: type[Kind]) -> list[tuple[str, Kind]]:
        """Events of one kind, with the node that they happened on."""
        return [(node, event) for _, node, event in self.events if isinstance(event, kind)]

    def neighbours(self, name: str) -> list[str]:
        return sorted(end.peer for end in self.ends[name].values())

    def view(self, name: str, peer: str) -> LinkView:
        return self.daemons[name].mesh.link_view(self.now_s, self.key(name, peer))
