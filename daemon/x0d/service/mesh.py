"""Runs the mesh core: its datagrams, its clock, and the routes that follow from it.

Order on a fault: flood first (the others wait for it), then compute, then one netlink batch, and only
then tell the healing loop, which records.  Routes are the mesh's function, installed in every healing
mode, through the executor like every effect.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog

from x0d import telemetry
from x0d.errors import InvalidInput, WrongSender
from x0d.mapek.events import Event, PeerReport, RoutesMoved, TopologySeen
from x0d.mesh.events import ControlBack, ControlGone, MeshEvent, NameDisputed, NodeGone, NodeSeen, PeerReported
from x0d.mesh.model import AdjacencyState, LinkKey, Prefix
from x0d.mesh.node import LinkPort, LinkView, MeshNode
from x0d.ports import Clock, DatagramSocket
from x0d.service.alerts import Alerts
from x0d.service.fib import Fib, describe
from x0d.service.mistakes import Mistakes
from x0d.service.peers import PeerService
from x0d.service.sealed import RefusedDatagrams

REPAIR_S = 2.0  # the kernel's table is read back and mended this often, 56 us a route
TICK_PAUSE_S = 0.001  # between two ticks of the core, whatever it asks for
HELD_PAUSE_S = 0.05  # between two looks at whether adopted routes may be touched

log = structlog.get_logger()

ControlListener = Callable[[ControlGone | ControlBack], None]
PeerListener = Callable[[LinkKey, AdjacencyState], int | None]
"""Told what another node says of a link; answers with the last sign that it worked, if it is ours."""


class MeshService:
    """One node's part in the mesh."""

    def __init__(
        self,
        *,
        core: MeshNode,
        fib: Fib,
        peers: PeerService,
        clock: Clock,
        alerts: Alerts,
    ) -> None:
        self.core = core
        self._peers = peers
        self.fib = fib
        self._clock = clock
        self._links: dict[LinkKey, tuple[LinkPort, DatagramSocket]] = {}
        self._generations: Mapping[str, int] = {}
        self._causes: dict[LinkKey, int] = {}
        self._unreachable: tuple[Prefix, ...] = ()
        self._dirty = asyncio.Event()
        self._rearm = asyncio.Event()
        self._mistakes = Mistakes(clock, alerts)
        self._refused = RefusedDatagrams()
        self.refused: Mapping[str, int] = self._refused.counts
        self.own_sent: dict[str, int] = {}

    def connect(
        self,
        *,
        report: Callable[[Event], None],
        on_control: ControlListener,
        on_peer_report: PeerListener,
        packets_lost: Callable[[LinkKey], int],
    ) -> None:
        """Join the services that need this one to be built first; before the first link is put."""
        self._report = report
        self._on_control = on_control
        self._on_peer_report = on_peer_report
        self._packets_lost = packets_lost

    # ---- what the links tell ----

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    def put_link(self, port: LinkPort, socket: DatagramSocket) -> None:
        """Take up a link whose interface is attached."""
        self._links[port.key] = (port, self._peers.put_link(port, socket))
        self.core.put_link(self._now_s(), port, self._generations.get(str(port.key), 0))
        self.flush()

    def remove_link(self, key: LinkKey) -> None:
        """The link's interface is gone for now."""
        self._links.pop(key, None)
        self._peers.remove_link(key)
        self.core.remove_link(self._now_s(), key)
        self.flush()

    def link_up(self, key: LinkKey) -> None:
        """Probes are answered."""
        self.core.link_up(self._now_s(), key)
        self.flush()

    def link_down(self, key: LinkKey) -> int:
        """Probes are not answered, or carrier is gone; returns the incident's generation."""
        return self._cause(key, self.core.link_down(self._now_s(), key))

    def link_degraded(self, key: LinkKey) -> int:
        """The link loses packets; returns the incident's generation."""
        return self._cause(key, self.core.link_degraded(self._now_s(), key))

    def link_clean(self, key: LinkKey) -> None:
        """The link has stopped losing packets."""
        self.core.link_clean(self._now_s(), key)
        self.flush()

    def set_cost(self, link: LinkKey, cost: int) -> None:
        """Advertise a link with another cost; raises InvalidInput while it is no link of ours."""
        if link not in self._links:
            raise InvalidInput(f"{link} is no link of this node, or its interface is not there")
        before = self.core.link_view(self._now_s(), link)
        self.core.set_cost(self._now_s(), link, cost)
        if cost > before.cost:  # a lower one is good news, which no incident waits for
            self._causes.setdefault(link, before.generation)
        self.flush()
        self._dirty.set()

    def set_prefixes(self, prefixes: tuple[Prefix, ...]) -> None:
        """Announce other prefixes (a reload)."""
        self.core.set_prefixes(self._now_s(), prefixes)
        self.flush()

    def announce_stop(self) -> None:
        """Flood that nothing should pass through this node any more."""
        self.core.set_no_transit(self._now_s(), True)
        self.flush()

    def carrier_lost(self, ifindex: int) -> None:
        """Expect that the kernel has flushed our objects and routes on this interface, without a word."""
        self.fib.carrier_lost(ifindex)
        self._dirty.set()

    def receive(self, key: LinkKey, datagram: bytes) -> None:
        """Take a datagram that came in on a link, sealed."""
        try:
            self.core.receive(self._now_s(), key, self._peers.open(key, datagram))
        except InvalidInput as refusal:
            self._refused.note(key, refusal)
            if isinstance(refusal, WrongSender) and key in self._links:
                self._mistakes.misnamed(self._links[key][0], refusal)
            return
        self.flush()

    def greet(self, key: LinkKey) -> None:
        """Bring the neighbour on a link up to date: it has a key from now on."""
        self.core.greet(self._now_s(), key)
        self.flush()

    def _cause(self, key: LinkKey, generation: int) -> int:
        self._causes[key] = generation
        self.flush()
        self._dirty.set()
        return generation

    # ---- what the core asks for ----

    def flush(self) -> None:
        """Send what the core has ready and pass its events on."""
        ready = self.core.ready()
        for key, payload in ready.datagrams:
            port, socket = self._links.get(key, (None, None))
            if port is not None and socket is not None and socket.send(payload):
                self.own_sent[port.interface] = self.own_sent.get(port.interface, 0) + 1
        for event in ready.events:
            self._on_event(event)
        if ready.routes_changed:
            self._dirty.set()
        self._rearm.set()

    def _on_event(self, event: MeshEvent) -> None:
        match event:
            case ControlGone() | ControlBack():
                self._dirty.set()
                if isinstance(event, ControlGone):
                    self._peers.silent(event.key)
                self._on_control(event)
            case PeerReported(key, generation, reporter, state):
                if state is not AdjacencyState.UP:
                    self._causes[key] = max(generation, self._causes.get(key, 0))
                self._dirty.set()
                last_sign_ns = self._on_peer_report(key, state)
                now_ns = self._clock.monotonic_ns()
                self._report(PeerReport(key, generation, reporter, state, now_ns, last_sign_ns))
            case NameDisputed():
                self._mistakes.name_disputed()
            case NodeSeen() | NodeGone():
                self._dirty.set()

    def note_control_gone(self, key: LinkKey, generation: int) -> None:
        """Let the next computation be recorded under this incident."""
        self._causes[key] = generation

    # ---- tasks ----

    async def start(self, generations: Mapping[str, int]) -> None:
        """Read what an earlier life has left in the kernel; ``generations`` are its latest incidents, by link."""
        self._generations = generations
        await self.fib.start()

    async def run_ticks(self) -> None:
        """Let the core see time pass."""
        while True:
            self._rearm.clear()
            delay_s = self.core.next_tick_s - self._now_s()
            if delay_s > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(TICK_PAUSE_S, delay_s)):  # wait_for may swallow a cancel (3.11)
                        await self._rearm.wait()
                continue  # what came in may have moved the next tick; one that is due waits for nothing
            self.core.tick(self._now_s())
            self.flush()
            await asyncio.sleep(TICK_PAUSE_S)

    async def run_routes(self) -> None:
        """Recompute and install whenever something changed or a turn has come; else look after the table."""
        while True:
            turn_ns = self.fib.next_turn_ns
            wait_s = REPAIR_S if turn_ns is None else max(0.001, (turn_ns - self._clock.monotonic_ns()) / 1e9)
            try:
                async with asyncio.timeout(wait_s):
                    await self._dirty.wait()
            except TimeoutError:
                if turn_ns is None:
                    self._mistakes.look_again({port: self.link_view(key) for key, (port, _) in self._links.items()})
                    await self.fib.repair()
                    continue
            self._dirty.clear()
            await self._recompute()

    async def _recompute(self) -> None:
        computed = {route.prefix: route for route in self.core.routes()}
        alone = len(self.core.records()) <= 1  # its own record is all that this node knows
        if self.fib.is_held(computed, settled=self.core.settled, alone=alone):
            await asyncio.sleep(HELD_PAUSE_S)
            self._dirty.set()
            return
        causes, self._causes = self._causes, {}
        decided_at_ns = self._clock.monotonic_ns()
        moved = self.fib.choose(computed, is_fault=bool(causes))
        outcome, changes = await self.fib.install()
        if moved or changes:
            log.info(
                telemetry.ROUTES_MOVED,
                moved=len(moved),
                changes=describe(changes),
                took_ms=round((outcome.ended_at_ns - decided_at_ns) / 1e6, 2),
                causes=[f"{key}:{generation}" for key, generation in causes.items()],
            )
        self._mistakes.look_at_addresses(known.record for known in self.core.records().values())
        self._report(TopologySeen(self.core.isolated(), self._clock.monotonic_ns()))
        unreachable = self.core.unreachable()
        if causes or unreachable != self._unreachable:  # what became reachable ends incidents too
            self._unreachable = unreachable
            self._report(
                RoutesMoved(
                    incidents=tuple(causes.items()),
                    decided_at_ns=decided_at_ns,
                    outcome=outcome,
                    moved=moved,
                    unreachable=unreachable,
                    packets_lost=sum(self._packets_lost(key) for key in causes),
                    observed_only=not self.fib.install_routes,
                )
            )

    async def verify(self, link: LinkKey) -> tuple[bool, str]:
        """Read the kernel back: every computed route is there, and none leaves by ``link``."""
        port, _ = self._links.get(link, (None, None))
        holds, detail = await self.fib.verify(link, port)
        if not holds:
            self._dirty.set()
        return holds, detail

    # ---- out ----

    def lacks_key(self, node: str) -> str:
        """Why there is no key to use with a neighbour's daemon; empty: there is one."""
        return self._peers.lacks_key(node)

    def link_view(self, key: LinkKey) -> LinkView:
        """What the mesh knows of a link of this node."""
        return self.core.link_view(self._now_s(), key)
