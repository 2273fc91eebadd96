"""Whole services with sealed datagrams on rough wires, in virtual time; all chance from one seed.

``network.py`` simulates the pure cores, unsealed.  Here ``FakeMesh`` runs the services: dials, keys, seals.  Wires
lose, copy, delay and reorder datagrams, and an attacker replays what it has seen at any time, of earlier lives too, and
sends forgeries.  Everything that a service opens is checked: a neighbour that it trusts has sealed it, and it is opened
once.

Not modelled: loss of the peers' channel other than lost answers, daemons that hang, several links to one neighbour.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from fakes.clock import FakeClock, passes, until
from fakes.sockets import DELAY_S, MESH_PORT, FakeSockets, Place
from service.nodes import FakeMesh, FakeNode
from x0d.mesh.model import LinkKey


@dataclass
class Rough:
    """How bad the wires are: shares of datagrams, and the longest delay."""

    loss: float = 0.0
    copies: float = 0.0
    delay_s: float = 0.0
    replays: float = 0.0
    forgeries: float = 0.0


@dataclass
class RoughSockets(FakeSockets):
    """Sockets whose mesh datagrams have it rough; probes do not."""

    rough: Rough = field(default_factory=Rough)
    seen: list[tuple[Place, bytes]] = field(default_factory=list)
    """All that was put on the wire, for the attacker."""
    sealed: set[bytes] = field(default_factory=set)

    def transmit(self, place: Place, payload: bytes) -> None:
        if place[2] != MESH_PORT:
            super().transmit(place, payload)
            return
        rng, rough = self.rng, self.rough
        self.seen.append((place, payload))
        self.sealed.add(payload)
        if rng.random() >= rough.loss:
            self._later(place, payload)
        if rng.random() < rough.copies:
            self._later(place, payload)
        if rng.random() < rough.replays:
            self._later(*rng.choice(self.seen))
        if rng.random() < rough.forgeries:
            at = rng.randrange(len(payload))
            self._later(place, payload[:at] + bytes([payload[at] ^ 1 << rng.randrange(8)]) + payload[at + 1 :])

    def _later(self, place: Place, payload: bytes) -> None:
        interface, local, port, neighbour = place
        peer = self.peers[interface]
        if not peer.wire.cut:
            delay_s = DELAY_S + self.rng.random() * self.rough.delay_s
            deliver = partial(peer.sockets.deliver, peer.interface, local, neighbour, port, payload)
            self.clock.at(delay_s, deliver)


class SealedMesh:
    """A mesh of services, each in a life that can be ended; checks what they open."""

    def __init__(self, seed: int, pairs: Iterable[tuple[str, str]]) -> None:
        self.rng = random.Random(seed)
        self.clock = FakeClock()
        self.mesh = FakeMesh(self.clock, pairs, RoughSockets)
        self.nodes = list(self.mesh.nodes.values())
        self.opened: set[tuple[str, bytes]] = set()
        self._lives: dict[str, tuple[asyncio.Task[None], asyncio.Event]] = {}
        roots = [self.root_of(node) for node in self.nodes]
        for node in self.nodes:
            self._sockets(node).rng = random.Random(self.rng.random())
            node.svids.root = self.root_of(node)
            node.svids.trusted = set(roots)

    @staticmethod
    def root_of(node: FakeNode) -> str:
        """Name of the root that signs for a node; each has its own, so that one can be distrusted."""
        return f"root-{node.name}"

    @staticmethod
    def _sockets(node: FakeNode) -> RoughSockets:
        assert isinstance(node.sockets, RoughSockets)
        return node.sockets

    def roughen(self, rough: Rough) -> None:
        """Make all wires this bad."""
        for node in self.nodes:
            self._sockets(node).rough = rough

    def start(self, node: FakeNode) -> None:
        """Begin a life."""
        node.start()
        node.peers.open = partial(self._checked, node, node.peers.open)  # type: ignore[method-assign]
        stop = asyncio.Event()
        self._lives[node.name] = (asyncio.get_running_loop().create_task(self._live(node, stop)), stop)

    @staticmethod
    async def _live(node: FakeNode, stop: asyncio.Event) -> None:
        async with node.alive():
            await stop.wait()

    async def stop(self, node: FakeNode) -> None:
        """End a life; an error in any of its tasks is raised here."""
        life, stop = self._lives.pop(node.name)
        stop.set()
        await life

    async def stop_all(self) -> None:
        """End every life."""
        for node in self.nodes:
            await self.stop(node)

    def _checked(
        self, node: FakeNode, opens: Callable[[LinkKey, bytes], bytes], key: LinkKey, datagram: bytes
    ) -> bytes:
        payload = opens(key, datagram)
        neighbour = next(unit.entry.node for unit in node.links.units if unit.key == key)
        sender = self.mesh.nodes[neighbour]
        assert datagram in self._sockets(sender).sealed, f"{node.name} opened a forgery"
        assert (node.name, datagram) not in self.opened, f"{node.name} opened a replay"
        assert self.trusts(node, sender), f"{node.name} listens to {sender.name}, which it does not trust"
        self.opened.add((node.name, datagram))
        return payload

    @staticmethod
    def trusts(node: FakeNode, other: FakeNode) -> bool:
        """Whether a node's bundles hold the other's root."""
        return other.svids.root in node.svids.trusted

    def whole(self) -> bool:
        """Whether all neighbours are authenticated, in step, and all nodes reach each other."""
        return self.mesh.in_step() and all(self._is_well(node) for node in self.nodes)

    @staticmethod
    def _is_well(node: FakeNode) -> bool:
        states = [row.state for row in node.peers.rows()]
        links = [node.mesh.link_view(unit.key) for unit in node.links.units if unit.key]
        wanted = len(node.entries)
        return ["authenticated"] * wanted == states and [True] * wanted == [link.in_step for link in links]

    async def settle(self, within_s: float) -> float:
        """Wait until all is well; seconds that it took."""
        began_ns = self.clock.now_ns
        await until(self.whole, within_s)
        return (self.clock.now_ns - began_ns) / 1e9

    # ---- what may happen ----

    async def happen(self) -> str:
        """Let something happen to a node, by chance; what it was."""
        node = self.rng.choice(self.nodes)
        kind = self.rng.choice(("restart", "crash", "renew", "lost answers", "distrust", "bundle"))
        if kind in {"restart", "crash"}:
            await self.stop(node)
            await passes(self.rng.uniform(0, 0.2 if kind == "restart" else 6))
            self.start(node)
        elif kind == "renew":
            for _ in range(self.rng.randrange(1, 4)):
                node.svids.renew()
                await passes(self.rng.uniform(0, 0.5))
        elif kind == "lost answers":
            node.channel.answers_lost = self.rng.randrange(1, 4)
            node.svids.renew()
        elif kind == "distrust":
            for other in self.nodes:
                if other is not node:
                    other.svids.trust(*other.svids.trusted - {node.svids.root})
            await passes(self.rng.uniform(0.5, 4))
            for other in self.nodes:
                other.svids.trust(*other.svids.trusted, node.svids.root)
        else:
            node.svids.trust(*node.svids.trusted, "another")
        return f"{kind} of {node.name}"
