"""The kernel's routes of ours (the forwarding information base): brought to what the mesh computed, and kept there.

What the kernel holds is known from what was installed, from what it is known to flush without a word
(``reconcile.forget_interface``), and from reading it back every two seconds and at every verification.

After a restart the kernel still holds our routes.  They are left alone until the databases are in step
again (or ``settle_s`` has passed), so that they are adopted and do not flap; and for ``adopted_max_s``
while no other node is heard of at all: what worked is better than what a node that knows nothing computes.
"""

from collections.abc import Callable, Mapping

import structlog

from x0d import telemetry
from x0d.actions import InstallRoutes, ObservedRoutes, Outcome, RouteChange
from x0d.errors import KernelRefused
from x0d.mesh.model import Address, LinkKey, MeshRoute, NextHop, Prefix
from x0d.mesh.node import LinkPort
from x0d.mesh.ordering import waits
from x0d.ports import Clock, RouteTable
from x0d.reconcile import after_changes, forget_interface, plan_routes, unroutable
from x0d.service.alerts import Alerts
from x0d.service.execute import Executor

GRACE_NS = 500_000_000  # in step, neighbours that have just started as well have still to say what they announce
CHANGES_LOGGED_MAX = 16
ROUTES_ALERT = "routes"
ADDRESS_ALERT = "node_address"

log = structlog.get_logger()

Hop = tuple[int, Address]
"""Interface index and gateway."""


class Fib:
    """Our routes in the kernel."""

    def __init__(
        self,
        *,
        table: RouteTable,
        address: Prefix,
        nexthop_id_base: int,
        install_routes: bool,
        settle_s: float,
        adopted_max_s: float,
        clock: Clock,
        alerts: Alerts,
    ) -> None:
        """``address``: the node's own, on lo; ``settle_s``, ``adopted_max_s``: see the module.

        ``install_routes`` False: watch only.
        """
        self._table = table
        self._address = address
        self._id_base = nexthop_id_base
        self.install_routes = install_routes
        self._settle_ns = int(settle_s * 1e9)
        self._adopted_max_ns = int(adopted_max_s * 1e9)
        self._adopted_at_ns = 0
        self._clock = clock
        self._alerts = alerts
        self.observed = ObservedRoutes({}, {})
        """What the kernel holds, as far as is known."""
        self.routes: Mapping[Prefix, MeshRoute] = {}
        """What it is to hold: as computed, less what waits for this node's turn."""
        self._turns: dict[Prefix, int] = {}
        """When a prefix whose shorter way waits may move, CLOCK_MONOTONIC ns."""
        self._flushes = 0
        self._holding_until_ns = 0
        self._settled_at_ns = 0

    def connect(self, executor: Executor, dead_next_hops: Callable[[], frozenset[Hop]]) -> None:
        """Join what needs the mesh to be built first."""
        self._executor = executor
        self._dead_next_hops = dead_next_hops

    async def start(self) -> None:
        """Read what an earlier life has left.  Raises KernelRefused."""
        self.observed = await self._table.read()
        if self.observed.routes:
            self._adopted_at_ns = self._clock.monotonic_ns()
            self._holding_until_ns = self._adopted_at_ns + self._settle_ns

    @property
    def next_turn_ns(self) -> int | None:
        """When ``choose`` has a route to let go; None: nothing waits."""
        return min(self._turns.values()) if self._turns else None

    def is_held(self, computed: Mapping[Prefix, MeshRoute], *, settled: bool, alone: bool) -> bool:
        """Whether adopted routes are still left alone; ``settled``: the mesh is in step; ``alone``: with nobody."""
        if self._holding_until_ns == 0:
            return False
        now_ns = self._clock.monotonic_ns()
        if alone and now_ns < self._adopted_at_ns + self._adopted_max_ns:
            return True
        is_complete = False
        if settled:
            self._settled_at_ns = self._settled_at_ns or now_ns
            self._holding_until_ns = min(self._holding_until_ns, self._settled_at_ns + GRACE_NS)
            is_complete = self.observed.routes.keys() <= computed.keys()
        if is_complete or now_ns >= self._holding_until_ns:
            self._holding_until_ns = 0
            return False
        return True

    def choose(self, computed: Mapping[Prefix, MeshRoute], *, is_fault: bool) -> tuple[Prefix, ...]:
        """Take computed routes up, but for good news that waits its turn; returns the prefixes that moved."""
        now_ns = self._clock.monotonic_ns()
        before = self.routes
        found = {} if is_fault else waits(before, computed, self._dead_next_hops())
        due_ns = {prefix: self._turns.get(prefix, now_ns + int(wait_s * 1e9)) for prefix, wait_s in found.items()}
        self._turns = {prefix: at_ns for prefix, at_ns in due_ns.items() if at_ns > now_ns}
        self.routes = {**computed, **{prefix: before[prefix] for prefix in self._turns}}
        return tuple(prefix for prefix, route in before.items() if _hop(self.routes.get(prefix)) != _hop(route))

    def carrier_lost(self, ifindex: int) -> None:
        """Expect that the kernel has flushed our objects and routes on this interface, without a word."""
        self._flushes += 1
        self.observed = forget_interface(self.observed, ifindex)

    async def install(self) -> tuple[Outcome, tuple[RouteChange, ...]]:
        """Bring the kernel to ``routes``; the outcome, and the changes that it took."""
        now_ns = self._clock.monotonic_ns()
        wanted = {prefix: route.next_hop for prefix, route in self.routes.items()}
        changes = plan_routes(wanted, self.observed, self._id_base, self._dead_next_hops())
        if not changes or not self.install_routes:
            return Outcome(InstallRoutes(()), done=True, error="", started_at_ns=now_ns, ended_at_ns=now_ns), ()
        flushes = self._flushes
        outcome = await self._executor.perform(InstallRoutes(changes))
        if not outcome.done:
            self._alerts.raise_alert(ROUTES_ALERT, f"the kernel refused a route: {outcome.error}")
            log.error(telemetry.ROUTES_FAILED, error=outcome.error)
            await self._read_back()
        elif flushes != self._flushes:  # carrier went while the batch was under way: who came first is not known
            await self._read_back()
        else:
            self.observed = after_changes(self.observed, changes)
            self._alerts.clear(ROUTES_ALERT)
        return outcome, changes

    async def repair(self) -> None:
        """Read the kernel's table back; mend what somebody or something has changed.

        The kernel removes every route that names an address as its source together with that address.
        """
        try:
            await self._table.put_address(self._address)
        except KernelRefused as refusal:
            self._alerts.raise_alert(ADDRESS_ALERT, f"{self._address} cannot be put on lo: {refusal}")
            return
        self._alerts.clear(ADDRESS_ALERT)
        if self._holding_until_ns or await self._read_back():
            return
        outcome, changes = await self.install()
        if outcome.done:
            self._alerts.clear(ROUTES_ALERT)
        if changes:
            log.warning(telemetry.ROUTES_REPAIRED, changes=describe(changes))

    async def _read_back(self) -> str:
        """Take over what the kernel holds; what it answers if it cannot be read, else empty."""
        try:
            self.observed = await self._table.read()
        except KernelRefused as refusal:
            self._alerts.raise_alert(ROUTES_ALERT, f"the kernel's routes cannot be read: {refusal}")
            return str(refusal)
        return ""

    async def verify(self, link: LinkKey, port: LinkPort | None) -> tuple[bool, str]:
        """Read the kernel back: every route is there, and none leaves by ``link`` (``port``, if it is ours)."""
        if not self.install_routes:
            return True, "mesh.install_routes is false: nothing was installed"
        refusal = await self._read_back()
        if refusal:
            return False, f"the kernel's routes cannot be read: {refusal}"
        chosen = {prefix: route.next_hop for prefix, route in self.routes.items()}
        wanted = {prefix: chosen[prefix] for prefix in chosen.keys() - unroutable(chosen)}
        missing = [str(prefix) for prefix in wanted if prefix not in self.observed.routes]
        astray = []
        for prefix, nexthop_id in self.observed.routes.items():
            nexthop = self.observed.nexthops.get(nexthop_id)
            hop = (nexthop.ifindex, nexthop.gateway) if nexthop else None
            target = wanted.get(prefix)
            if target is None or hop != (target.ifindex, target.gateway):
                astray.append(str(prefix))
            elif port is not None and hop == (port.ifindex, port.neighbour_address):
                astray.append(f"{prefix} still by {link}")
        if missing or astray:
            return False, f"missing {missing[:4]}, astray {astray[:4]}"
        return True, f"{len(wanted)} routes read back from the kernel, none by {link}"

    async def flush(self) -> None:
        """Remove all routes of ours.  Raises KernelRefused."""
        self.observed = await self._table.read()
        await self._table.apply(plan_routes({}, self.observed, self._id_base))


def describe(changes: tuple[RouteChange, ...]) -> list[str]:
    """The first changes, for the log."""
    return [str(change) for change in changes][:CHANGES_LOGGED_MAX]


def _hop(route: MeshRoute | None) -> NextHop | None:
    return route.next_hop if route else None
