"""The executor: the only place that performs effects and matches on action types.

It performs one action at a time and answers with an ``Outcome``; a refusal by the kernel is an
outcome, not an exception, because the caller's next step depends on it.
"""

from typing import Protocol

from x0d.actions import Action, InstallRoutes, Outcome, SetLinkCost
from x0d.errors import X0dError
from x0d.mapek.plan import action_name
from x0d.mesh.model import LinkKey
from x0d.ports import Clock, RouteTable
from x0d.telemetry import Telemetry


class LinkCosts(Protocol):
    """Who advertises the costs of this node's links."""

    def set_cost(self, link: LinkKey, cost: int) -> None:
        """Flood the link with this cost; raises InvalidInput for a link that is not ours."""


class Executor:
    """Performs actions through the ports."""

    def __init__(self, routes: RouteTable, costs: LinkCosts, clock: Clock, telemetry: Telemetry) -> None:
        self._routes = routes
        self._costs = costs
        self._clock = clock
        self._telemetry = telemetry

    async def perform(self, action: Action) -> Outcome:
        """Perform one action and say how it went."""
        started_at_ns = self._clock.monotonic_ns()
        error = ""
        try:
            match action:
                case InstallRoutes(changes):
                    await self._routes.apply(changes)
                case SetLinkCost(link, cost):
                    self._costs.set_cost(link, cost)
        except X0dError as refusal:
            error = str(refusal)
        ended_at_ns = self._clock.monotonic_ns()
        self._telemetry.actions.labels(action_name(action), "failed" if error else "done").inc()
        if isinstance(action, InstallRoutes):
            self._telemetry.route_seconds.observe((ended_at_ns - started_at_ns) / 1e9)
        return Outcome(action, done=not error, error=error, started_at_ns=started_at_ns, ended_at_ns=ended_at_ns)
