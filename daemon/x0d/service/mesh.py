"""Runs the mesh core: its datagrams, its clock, and the routes that follow from it.

Order on a fault: flood first (the others wait for it), then compute, then one netlink batch, and only
then tell the healing loop, which records.  Routes are the mesh's function, installed in every healing
mode, through the executor like every effect.

After a restart the kernel still holds our routes.  They are left alone until the databases are in step
again (or ``SETTLE_S`` has passed), so that they are adopted and do not flap.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog

from x0d import telemetry
from x0d.actions import InstallRoutes, ObservedRoutes, Outcome, RouteChange
from x0d.errors import InvalidInput, KernelRefused
from x0d.mapek.events import Event, PeerReport, RoutesMoved, TopologySeen
from x0d.mesh.events import ControlBack, ControlGone, MeshEvent, NameDisputed, NodeGone, NodeSeen, PeerReported
from x0d.mesh.model import Address, AdjacencyState, LinkKey, MeshRoute, NextHop, Prefix
from x0d.mesh.node import LinkPort, LinkView, MeshNode
from x0d.mesh.ordering import waits
from x0d.ports import Clock, DatagramSocket, RouteTable
from x0d.reconcile import after_changes, forget_interface, plan_routes, unroutable
from x0d.service.alerts import Alerts
from x0d.service.duplicates import Duplicates
from x0d.service.execute import Executor

SETTLE_S = 3.0  # six hellos of the default pace
GRACE_NS = 500_000_000  # in step, neighbours that have just started as well have still to say what they announce
REPAIR_S = 10.0  # the kernel's table is read back and mended this often
TICK_PAUSE_S = 0.001  # between two ticks of the core, whatever it asks for
CHANGES_LOGGED_MAX = 16
REFUSALS_LOGGED_MAX = 64  # distinct ones; a flood of bad datagrams is counted, not logged
ROUTES_ALERT = "routes"

log = structlog.get_logger()

ControlListener = Callable[[ControlGone | ControlBack], None]


class MeshService:
    """One node's part in the mesh."""

    def __init__(
        self,
        *,
        core: MeshNode,
        table: RouteTable,
        nexthop_id_base: int,
        install_routes: bool,
        clock: Clock,
        alerts: Alerts,
    ) -> None:
        self.core = core
        self._table = table
        self._id_base = nexthop_id_base
        self.install_routes = install_routes
        self._clock = clock
        self._alerts = alerts
        self._links: dict[LinkKey, tuple[LinkPort, DatagramSocket]] = {}
        self._generations: Mapping[str, int] = {}
        self._observed = ObservedRoutes({}, {})
        self._routes: dict[Prefix, MeshRoute] = {}
        self._causes: dict[LinkKey, int] = {}
        self._dirty = asyncio.Event()
        self._rearm = asyncio.Event()
        self._holding_until_ns = 0
        self._settled_at_ns = 0
        self._turns: dict[Prefix, int] = {}
        """When a prefix whose shorter way waits may move, CLOCK_MONOTONIC ns."""
        self._duplicates = Duplicates(clock, alerts)
        self._refusals_logged: set[tuple[LinkKey, str]] = set()
        self.refused: dict[str, int] = {"malformed": 0}
        self.own_sent: dict[str, int] = {}

    def connect(
        self,
        *,
        executor: Executor,
        report: Callable[[Event], None],
        on_control: ControlListener,
        packets_lost: Callable[[LinkKey], int],
        dead_next_hops: Callable[[], frozenset[tuple[int, Address]]],
    ) -> None:
        """Join the services that need this one to be built first; before the first link is put."""
        self._executor = executor
        self._report = report
        self._on_control = on_control
        self._packets_lost = packets_lost
        self._dead_next_hops = dead_next_hops

    # ---- what the links tell ----

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    def put_link(self, port: LinkPort, socket: DatagramSocket) -> None:
        """Take up a link whose interface is attached."""
        self._links[port.key] = (port, socket)
        self.core.put_link(self._now_s(), port, self._generations.get(str(port.key), 0))
        self.flush()

    def remove_link(self, key: LinkKey) -> None:
        """The link's interface is gone for now."""
        self._links.pop(key, None)
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
        self._observed = forget_interface(self._observed, ifindex)
        self._dirty.set()

    def receive(self, key: LinkKey, payload: bytes) -> None:
        """Take a datagram that came in on a link."""
        try:
            self.core.receive(self._now_s(), key, payload)
        except InvalidInput as refusal:
            self.refused["malformed"] = self.refused.get("malformed", 0) + 1
            if (key, str(refusal)) not in self._refusals_logged and len(self._refusals_logged) < REFUSALS_LOGGED_MAX:
                self._refusals_logged.add((key, str(refusal)))
                log.warning(telemetry.DATAGRAM_REFUSED, link=str(key), reason=str(refusal))
            return
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
                self._on_control(event)
            case PeerReported(key, generation, reporter, state):
                if state is not AdjacencyState.UP:
                    self._causes.setdefault(key, generation)
                self._dirty.set()
                self._report(PeerReport(key, generation, reporter, state, self._clock.monotonic_ns()))
            case NameDisputed():
                self._duplicates.name_disputed()
            case NodeSeen() | NodeGone():
                self._dirty.set()

    def note_control_gone(self, key: LinkKey, generation: int) -> None:
        """Let the next computation be recorded under this incident."""
        self._causes[key] = generation

    # ---- tasks ----

    async def start(self, generations: Mapping[str, int]) -> None:
        """Read what an earlier life has left in the kernel; ``generations`` are its latest incidents, by link."""
        self._generations = generations
        self._observed = await self._table.read()
        if self._observed.routes:
            self._holding_until_ns = self._clock.monotonic_ns() + int(SETTLE_S * 1e9)

    @property
    def adopted_routes(self) -> int:
        """Routes of ours that the kernel holds."""
        return len(self._observed.routes)

    async def run_ticks(self) -> None:
        """Let the core see time pass."""
        while True:
            self._rearm.clear()
            delay_s = self.core.next_tick_s - self._now_s()
            if delay_s > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._rearm.wait(), max(TICK_PAUSE_S, delay_s))
                continue  # what came in may have moved the next tick; one that is due waits for nothing
            self.core.tick(self._now_s())
            self.flush()
            await asyncio.sleep(TICK_PAUSE_S)

    async def run_routes(self) -> None:
        """Recompute and install whenever something changed."""
        while True:
            now_ns = self._clock.monotonic_ns()
            turn_s = (min(self._turns.values()) - now_ns) / 1e9 if self._turns else REPAIR_S
            try:
                await asyncio.wait_for(self._dirty.wait(), max(0.001, turn_s))
            except TimeoutError:
                if not self._turns:
                    await self._repair()
                    continue
            self._dirty.clear()
            await self._recompute()

    def _hold(self) -> bool:
        """Whether adopted routes are still left alone."""
        if self._holding_until_ns == 0:
            return False
        now_ns = self._clock.monotonic_ns()
        is_complete = False
        if self.core.settled:
            self._settled_at_ns = self._settled_at_ns or now_ns
            self._holding_until_ns = min(self._holding_until_ns, self._settled_at_ns + GRACE_NS)
            is_complete = self._observed.routes.keys() <= {route.prefix for route in self.core.routes()}
        if is_complete or now_ns >= self._holding_until_ns:
            self._holding_until_ns = 0
            return False
        return True

    async def _recompute(self) -> None:
        if self._hold():
            await asyncio.sleep(0.05)
            self._dirty.set()
            return
        causes, self._causes = self._causes, {}
        decided_at_ns = self._clock.monotonic_ns()
        before, self._routes = self._routes, self._take_turns(decided_at_ns, is_fault=bool(causes))
        moved = tuple(prefix for prefix, route in before.items() if _hop(self._routes.get(prefix)) != _hop(route))
        outcome, changes = await self._install(decided_at_ns)
        if moved or changes:
            log.info(
                telemetry.ROUTES_MOVED,
                moved=len(moved),
                changes=[str(change) for change in changes][:CHANGES_LOGGED_MAX],
                took_ms=round((outcome.ended_at_ns - decided_at_ns) / 1e6, 2),
                causes=[f"{key}:{generation}" for key, generation in causes.items()],
            )
        self._duplicates.look_at_addresses(known.record for known in self.core.records().values())
        self._report(TopologySeen(self.core.isolated(), self._clock.monotonic_ns()))
        if causes:
            self._report(
                RoutesMoved(
                    incidents=tuple(causes.items()),
                    decided_at_ns=decided_at_ns,
                    outcome=outcome,
                    moved=moved,
                    unreachable=self.core.unreachable(),
                    packets_lost=sum(self._packets_lost(key) for key in causes),
                    observed_only=not self.install_routes,
                )
            )

    def _take_turns(self, now_ns: int, *, is_fault: bool) -> dict[Prefix, MeshRoute]:
        """Routes as computed, but for good news that waits for this node's turn (``mesh/ordering.py``)."""
        computed = {route.prefix: route for route in self.core.routes()}
        found = {} if is_fault else waits(self._routes, computed, self._dead_next_hops())
        due_ns = {prefix: self._turns.get(prefix, now_ns + int(wait_s * 1e9)) for prefix, wait_s in found.items()}
        self._turns = {prefix: at_ns for prefix, at_ns in due_ns.items() if at_ns > now_ns}
        return computed | {prefix: self._routes[prefix] for prefix in self._turns}

    async def _install(self, decided_at_ns: int) -> tuple[Outcome, tuple[RouteChange, ...]]:
        wanted = {prefix: route.next_hop for prefix, route in self._routes.items()}
        changes = plan_routes(wanted, self._observed, self._id_base, self._dead_next_hops())
        if not self.install_routes:
            changes = ()
        action = InstallRoutes(changes)
        if not changes:
            nothing = Outcome(action, done=True, error="", started_at_ns=decided_at_ns, ended_at_ns=decided_at_ns)
            return nothing, changes
        outcome = await self._executor.perform(action)
        if outcome.done:
            self._observed = after_changes(self._observed, changes)
            self._alerts.clear(ROUTES_ALERT)
        else:
            self._alerts.raise_alert(ROUTES_ALERT, f"the kernel refused a route: {outcome.error}")
            log.error(telemetry.ROUTES_FAILED, error=outcome.error)
            await self._read_back()
        return outcome, changes

    async def _repair(self) -> None:
        """Read the kernel's table back; mend what somebody or something has changed."""
        self._duplicates.look_at_names()
        if self._hold() or await self._read_back():
            return
        outcome, changes = await self._install(self._clock.monotonic_ns())
        if outcome.done:
            self._alerts.clear(ROUTES_ALERT)
        if changes:
            log.warning(telemetry.ROUTES_REPAIRED, changes=[str(change) for change in changes][:CHANGES_LOGGED_MAX])

    async def _read_back(self) -> str:
        """Take over what the kernel holds; what it answers if it cannot be read, else empty."""
        try:
            self._observed = await self._table.read()
        except KernelRefused as refusal:
            self._alerts.raise_alert(ROUTES_ALERT, f"the kernel's routes cannot be read: {refusal}")
            return str(refusal)
        return ""

    async def verify(self, link: LinkKey) -> tuple[bool, str]:
        """Read the kernel back: every computed route is there, and none leaves by ``link``."""
        if not self.install_routes:
            return True, "mesh.install_routes is false: nothing was installed"
        refusal = await self._read_back()
        if refusal:
            return False, f"the kernel's routes cannot be read: {refusal}"
        observed = self._observed
        computed = {prefix: route.next_hop for prefix, route in self._routes.items()}
        wanted = {prefix: computed[prefix] for prefix in computed.keys() - unroutable(computed)}
        missing = [str(prefix) for prefix in wanted if prefix not in observed.routes]
        astray = []
        port, _ = self._links.get(link, (None, None))
        for prefix, nexthop_id in observed.routes.items():
            hop = observed.nexthops.get(nexthop_id)
            target = wanted.get(prefix)
            if hop is None or target is None or (hop.ifindex, hop.gateway) != (target.ifindex, target.gateway):
                astray.append(str(prefix))
            elif port is not None and (hop.ifindex, hop.gateway) == (port.ifindex, port.neighbour_address):
                astray.append(f"{prefix} still by {link}")
        if missing or astray:
            self._dirty.set()
            return False, f"missing {missing[:4]}, astray {astray[:4]}"
        return True, f"{len(wanted)} routes read back from the kernel, none by {link}"

    async def stop(self, *, flush_routes: bool) -> None:
        """Remove our routes if the configuration wants it; by default the kernel keeps them."""
        if flush_routes:
            self._observed = await self._table.read()
            await self._table.apply(plan_routes({}, self._observed, self._id_base))

    # ---- out ----

    def routes(self) -> tuple[MeshRoute, ...]:
        """As last computed."""
        return tuple(self._routes.values())

    def installed(self, prefix: Prefix) -> int:
        """Id of the nexthop object that the kernel has this prefix on; 0 if it has none of ours."""
        return self._observed.routes.get(prefix, 0)

    def link_view(self, key: LinkKey) -> LinkView:
        """What the mesh knows of a link of this node."""
        return self.core.link_view(self._now_s(), key)


def _hop(route: MeshRoute | None) -> NextHop | None:
    return route.next_hop if route else None
