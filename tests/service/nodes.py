"""Whole nodes on fakes: the services as ``node/graph.py`` joins them, on planes and sockets in memory, in virtual time.

A node's kernel (plane, sockets, route table) lives on when its daemon is stopped.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Network, ip_address, ip_interface
from typing import TypeVar

from fakes.clock import FakeClock
from fakes.dataplane import FakeDataPlane
from fakes.interfaces import FakeInterfaces
from fakes.peers import FakePeerChannel, FakeSvids, Listener, PeerNetwork
from fakes.routes import FakeRouteTable
from fakes.sockets import MESH_PORT, PROBE_PORT, FakeSockets, Wire, join
from fakes.store import FakeStore
from x0d.identity.seal import HEAD_BYTES, MAC_BYTES
from x0d.identity.spiffe_id import TrustDomain, node_id
from x0d.kernel.layout import encode_request
from x0d.mapek.events import Event
from x0d.mapek.loop import Loop
from x0d.mapek.model import Incident
from x0d.mesh.detector import DetectorTimers
from x0d.mesh.model import Address, LinkKey, Prefix
from x0d.mesh.node import MeshNode, MeshTimers
from x0d.ports import Interface, PeerTarget
from x0d.service.alerts import Alerts
from x0d.service.api_peer import PeerServicer
from x0d.service.execute import Executor
from x0d.service.fib import Fib
from x0d.service.healing import HealingService
from x0d.service.interfaces import InterfaceService
from x0d.service.link import LinkPorts, LinkUnit, NeighbourEntry
from x0d.service.links import LinkService
from x0d.service.mesh import MeshService
from x0d.service.peers import PeerService
from x0d.service.sealed import SealedLink
from x0d.telemetry import Telemetry

BASE = 0x78300000
SETTLE_S = 3.0
ADOPTED_MAX_S = 30.0
TIMERS = DetectorTimers(interval_ns=50_000_000, miss_limit=3)
PEER_PORT = 9471
TRUST_DOMAIN = TrustDomain("x0d.test")
PORTS = LinkPorts(PROBE_PORT, MESH_PORT)
EventKind = TypeVar("EventKind")


def prefix_of(name: str) -> Prefix:
    """Stable address of node ``nN``."""
    return IPv4Network(f"10.255.0.{name[1:]}/32")


def interface(name: str, ifindex: int, *addresses: str, carrier: bool = True) -> Interface:
    """An interface that is up."""
    return Interface(name, ifindex, up=True, carrier=carrier, mtu=1500, addresses=tuple(map(ip_interface, addresses)))


def message_of(datagram: bytes) -> bytes:
    """What the mesh said in a sealed datagram, unchecked."""
    return datagram[HEAD_BYTES:-MAC_BYTES]


class FakeNode:
    """One node: its kernel, and one life of its daemon at a time."""

    def __init__(
        self, clock: FakeClock, name: str, network: PeerNetwork, sockets: type[FakeSockets] = FakeSockets
    ) -> None:
        self.clock = clock
        self.name = name
        self.entries: list[NeighbourEntry] = []
        self.session = 7000 + int(name[1:])
        self.plane = FakeDataPlane(clock, self.session)
        self.sockets = sockets(clock, self.plane)
        self.source = FakeInterfaces()
        self.table = FakeRouteTable()
        self.network = network
        self.svids = FakeSvids(clock, node_id(TRUST_DOMAIN, name))
        self.lives = 0
        self._addresses: dict[int, tuple[Address, ...]] = {}

    def start(
        self, *, mode: str = "auto", install_routes: bool = True, generations: Mapping[str, int] | None = None
    ) -> None:
        """Build the services of a new life."""
        if self.lives:
            self._new_session()
        self.generations = generations or {}
        self.store = FakeStore()
        self.alerts = Alerts()
        self.counted = Telemetry()
        self.events: list[Event] = []
        core = MeshNode(
            self.name, (prefix_of(self.name),), self.clock.unix_ms() * 10**6, MeshTimers(), random.Random(self.session)
        )
        self.fib = Fib(
            table=self.table,
            address=prefix_of(self.name),
            nexthop_id_base=BASE,
            install_routes=install_routes,
            settle_s=SETTLE_S,
            adopted_max_s=ADOPTED_MAX_S,
            clock=self.clock,
            alerts=self.alerts,
        )
        self._make_peers()
        self.mesh = MeshService(core=core, fib=self.fib, peers=self.peers, clock=self.clock, alerts=self.alerts)
        executor = Executor(self.table, self.mesh, self.clock, self.counted)
        self.loop = Loop(self.name, mode, 1000, 5 * 10**9)
        self.healing = HealingService(
            loop=self.loop,
            store=self.store,
            executor=executor,
            verify=self.mesh.verify,
            clock=self.clock,
            counted=self.counted,
            alerts=self.alerts,
        )
        self.links = LinkService(
            node=self.name,
            entries=self.entries,
            timers=TIMERS,
            session=self.session,
            encode=encode_request,
            plane=self.plane,
            source=self.source,
            sockets=self.sockets,
            ports=PORTS,
            mesh=self.mesh,
            clock=self.clock,
            alerts=self.alerts,
            report=self._report,
            on_costs=self.loop.set_link_costs,
            has_open_incident=lambda link: str(link) in {incident.id.link for incident in self.loop.open_incidents},
        )
        self.executor = executor
        self.fib.connect(executor, self.links.dead_next_hops)
        self.peers.connect(greet=self.mesh.greet, on_problem=self.links.peer_judged, unlinked=self.links.unlinked)
        self.mesh.connect(
            report=self._report,
            on_control=self.links.control_changed,
            on_peer_report=self.links.peer_reported,
            packets_lost=self.links.packets_lost,
        )
        names = dict.fromkeys(entry.interface for entry in self.entries)
        self.interfaces = InterfaceService(names, self.source, self.plane, self.clock, self.links)

    def _make_peers(self) -> None:
        rng = random.Random(self.session)
        self.channel = FakePeerChannel(self.network, self.svids, self._reaches)
        self.peers = PeerService(
            own_id=self.svids.spiffe_id,
            boot_id=rng.randrange(1, 2**64),
            peer_port=PEER_PORT,
            source=self.svids,
            channel=self.channel,
            clock=self.clock,
            alerts=self.alerts,
            rng=rng,
            nonce=lambda: rng.randbytes(32),
        )

    def _new_session(self) -> None:
        """Probe under another session; XDP begins its record of a link anew at the first reply, here at once."""
        self.session += 1000
        self.plane._session = self.session
        for at, record in self.plane._records.items():
            begun = replace(record, session=0, sequence_last=0, received=0, replies_received=0)
            self.plane._records[at] = begun

    def _reaches(self, target: PeerTarget) -> bool:
        """Whether TCP passes out of an interface and back."""
        peer = self.sockets.peers[target.interface]
        back = peer.sockets.peers[peer.interface]
        dark = target.interface in self.sockets.dark or peer.interface in peer.sockets.dark
        return not (dark or peer.wire.cut or back.wire.cut)

    def _report(self, event: Event) -> None:
        self.events.append(event)
        self.healing.feed(event)

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Run the daemon's tasks as ``node/life.py`` does; an error in any of them ends the test."""
        self.lives += 1
        mine = Listener(self.svids, PeerServicer(self.peers))
        for address in (address for held in self._addresses.values() for address in held):
            self.network.listening[address] = mine
        await self.mesh.start(self.generations)
        await self.interfaces.start()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(task)
                for task in (
                    self.interfaces.run(),
                    self.links.run(),
                    self.peers.run(),
                    self.mesh.run_ticks(),
                    self.mesh.run_routes(),
                    self.healing.run(),
                    self.healing.run_ticks(),
                    self.healing.run_store(),
                )
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                self.links.close()
                for address in [at for at, listener in self.network.listening.items() if listener is mine]:
                    del self.network.listening[address]

    # ---- what a test does to the machine ----

    def put(self, changed: Interface) -> None:
        """Make or change an interface."""
        self.sockets.ifindexes[changed.name] = changed.ifindex
        self._addresses[changed.ifindex] = tuple(address.ip for address in changed.addresses)
        if changed.carrier:
            self.sockets.dark.discard(changed.name)
        else:
            self.sockets.dark.add(changed.name)
            self.table.carrier_down(changed.ifindex)
        if changed.carrier:
            self.table.carrier_up(changed.ifindex)
        self.source.now_ns = self.clock.now_ns
        self.source.put(changed)

    def remove(self, ifindex: int) -> None:
        """Remove an interface, with the routes on it."""
        self.table.carrier_down(ifindex)
        self.source.now_ns = self.clock.now_ns
        self.source.remove(ifindex)

    # ---- what a test looks at ----

    def unit(self, neighbour: str) -> LinkUnit:
        """The link to a neighbour."""
        return next(unit for unit in self.links.units if unit.entry.node == neighbour)

    def key(self, neighbour: str) -> LinkKey:
        """Its name; the link must be bound."""
        key = self.unit(neighbour).key
        assert key is not None
        return key

    def seal(self, neighbour: str, payload: bytes) -> bytes:
        """A datagram as this node would send it next; the link must have a key."""
        link = self.mesh._links[self.key(neighbour)][1]
        assert isinstance(link, SealedLink)
        sealed = link._seal.seal(payload)
        assert sealed is not None
        return sealed

    def on_wire(self, neighbour: str) -> list[bytes]:
        """Datagrams that the mesh has sent to a neighbour, sealed, oldest first; the link must be bound."""
        entry = self.unit(neighbour).entry
        at = next(
            at
            for at in self.sockets.open_sockets
            if (at[0], at[2], at[3]) == (entry.interface, MESH_PORT, entry.address)
        )
        return self.sockets.open_sockets[at].sent

    def told(self, kind: type[EventKind]) -> list[EventKind]:
        """Events of one kind that the healing loop was told of."""
        return [event for event in self.events if isinstance(event, kind)]

    def next_node(self, target: str) -> str:
        """Neighbour that the installed route to a node leads to; empty: there is none."""
        nexthop = self.table.nexthops.get(self.table.routes.get(prefix_of(target), 0))
        if nexthop is None:
            return ""
        return next(entry.node for entry in self.entries if entry.address == nexthop.gateway)

    def incidents(self) -> list[Incident]:
        """What the store holds, oldest first."""
        return list(self.store.saved.values())


class FakeMesh:
    """Nodes joined by wires."""

    def __init__(
        self, clock: FakeClock, pairs: Iterable[tuple[str, str]], sockets: type[FakeSockets] = FakeSockets
    ) -> None:
        self.clock = clock
        self.nodes: dict[str, FakeNode] = {}
        self.wires: dict[tuple[str, str], Wire] = {}
        self.network = PeerNetwork()
        for number, (one, other) in enumerate(pairs):
            for end, peer, host in ((one, other, 1), (other, one, 2)):
                node = self.nodes.setdefault(end, FakeNode(clock, end, self.network, sockets))
                node.put(interface(f"to-{peer}", 100 + number, f"10.0.{number}.{host}/24"))
                node.entries.append(NeighbourEntry(peer, f"to-{peer}", ip_address(f"10.0.{number}.{3 - host}"), 100))
            there, back = join(self.nodes[one].sockets, f"to-{other}", self.nodes[other].sockets, f"to-{one}")
            self.wires[one, other], self.wires[other, one] = there, back
        for node in self.nodes.values():
            node.start()

    def cut(self, one: str, other: str, *, is_cut: bool = True) -> None:
        """Cut a link both ways, without carrier noticing."""
        self.wires[one, other].cut = self.wires[other, one].cut = is_cut

    def carrier(self, name: str, peer: str, *, present: bool) -> None:
        """Take carrier from one end, or give it back."""
        node = self.nodes[name]
        before = next(known for known in node.source._interfaces.values() if known.name == f"to-{peer}")
        node.put(replace(before, carrier=present))

    def in_step(self) -> bool:
        """Whether every node has a route to every other one."""
        return all(
            node.next_node(target) for name, node in self.nodes.items() for target in self.nodes if target != name
        )
