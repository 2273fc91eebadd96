"""What the services know, in the form that the API and the metrics show.

Read-only: builds the views of ``service/views.py`` from the services' own state.
"""

from collections.abc import Callable, Sequence
from typing import Final

from x0d.errors import errno_name
from x0d.mapek.model import Incident
from x0d.mesh.model import AdjacencyState, LinkKey, LinkState, LinkStateRecord
from x0d.ports import Clock
from x0d.service import views
from x0d.service.healing import HealingService
from x0d.service.interfaces import InterfaceService
from x0d.service.link import LinkUnit
from x0d.service.links import WORKING, LinkService
from x0d.service.mesh import MeshService

UNAUTHENTICATED: Final = "unauthenticated"
"""Shown of a link whose probes are answered while no key is shared with the neighbour's daemon: nothing is routed."""
LINK_STATES: Final = (*(state.value for state in LinkState), UNAUTHENTICATED)
"""Every state that a link is shown in."""
CARRYING: Final = frozenset(state.value for state in WORKING)
"""Those in which it carries traffic."""


class InterfaceOverview:
    """How the configured interfaces stand."""

    def __init__(self, interfaces: InterfaceService) -> None:
        self._interfaces = interfaces

    def interfaces(self) -> tuple[views.InterfaceStatus, ...]:
        """How each configured interface stands."""
        return tuple(
            views.InterfaceStatus(
                name=status.name,
                ifindex=status.interface.ifindex if status.interface else 0,
                state=status.state,
                mode=status.attachment.mode if status.attachment else "",
                adopted=status.attachment.adopted if status.attachment else False,
                refused_modes=tuple(
                    views.RefusedMode(refused.mode, refused.errno, errno_name(refused.errno))
                    for refused in (status.attachment.refused if status.attachment else ())
                ),
                blocked_reason=status.reason,
                frags=status.attachment.frags if status.attachment else False,
            )
            for status in self._interfaces.statuses()
        )


class MeshOverview:
    """Links, nodes and routes; satisfies ``MeshView``."""

    def __init__(self, links: LinkService, mesh: MeshService, clock: Clock) -> None:
        self._links = links
        self._mesh = mesh
        self._clock = clock

    def links(self) -> Sequence[views.Link]:
        """This node's links, in the configuration's order."""
        return [self._link(unit) for unit in self._links.units]

    def _link(self, unit: LinkUnit) -> views.Link:
        key, binding = unit.key, unit.binding
        view = self._mesh.link_view(key) if key else None
        state, reason = self._state(unit)
        since_ns = unit.state_since_ns or self._clock.monotonic_ns()
        return views.Link(
            link=str(key) if key else "",
            neighbour=unit.entry.node,
            interface=unit.entry.interface,
            local_address=str(binding.port.local_address) if binding else "",
            neighbour_address=str(unit.entry.address),
            state=state,
            state_reason=reason,
            cost_configured=unit.entry.cost,
            cost=view.cost if view else unit.entry.cost,
            rtt_ms=unit.quality.rtt_ns / 1e6,
            loss_out=unit.loss_out,
            loss_in=unit.loss_in,
            probes_sent=unit.sequence,
            replies_received=unit.record.replies_received,
            generation=view.generation if view else unit.generation,
            state_for_s=(self._clock.monotonic_ns() - since_ns) / 1e9,
        )

    def links_up(self) -> int:
        """Links that carry traffic."""
        return sum(self._state(unit)[0] in CARRYING for unit in self._links.units)

    def _state(self, unit: LinkUnit) -> tuple[str, str]:
        """State and reason; the detector knows probes alone, and without a key no daemon tells of its routes."""
        if unit.state in (LinkState.UP, LinkState.DEGRADED):
            lacking = self._mesh.lacks_key(unit.entry.node)
            if lacking:
                return UNAUTHENTICATED, f"probes are answered, nothing is routed over it: {lacking}"
        return unit.state.value, unit.reason

    def nodes(self) -> Sequence[views.Node]:
        """All known nodes, by name."""
        isolated = self._mesh.core.isolated()
        records = self._mesh.core.records()
        gone = {
            adjacency.neighbour
            for known in records.values()
            for adjacency in known.record.adjacencies
            if adjacency.state in (AdjacencyState.CONTROL_GONE, AdjacencyState.TRANSIT_LAST)
        }
        now_s = self._clock.monotonic_ns() / 1e9
        return [
            self._node(known.record, known.age_s(now_s), reachable=name not in isolated, control_gone=name in gone)
            for name, known in sorted(records.items())
        ]

    def _node(self, record: LinkStateRecord, age_s: float, *, reachable: bool, control_gone: bool) -> views.Node:
        return views.Node(
            node=record.origin,
            prefixes=tuple(str(prefix) for prefix in record.prefixes),
            incarnation=record.incarnation,
            sequence=record.sequence,
            no_transit=record.no_transit,
            control_gone=control_gone,
            reachable=reachable,
            age_s=age_s,
            adjacencies=tuple(
                views.Adjacency(
                    link=str(
                        LinkKey.between(
                            record.origin, adjacency.local_address, adjacency.neighbour, adjacency.neighbour_address
                        )
                    ),
                    neighbour=adjacency.neighbour,
                    cost=adjacency.cost,
                    state=adjacency.state.name.lower(),
                    generation=adjacency.generation,
                )
                for adjacency in record.adjacencies
            ),
        )

    def routes(self) -> Sequence[views.Route]:
        """Computed routes, by prefix."""
        return [
            views.Route(
                prefix=str(route.prefix),
                node=route.node,
                next_hop=route.next_hop.neighbour,
                gateway=str(route.next_hop.gateway),
                interface=route.next_hop.interface,
                metric=route.metric,
                nexthop_id=self._mesh.fib.observed.routes.get(route.prefix, 0),
                installed=self._mesh.fib.observed.routes.get(route.prefix, 0) != 0,
            )
            for route in sorted(self._mesh.fib.routes.values(), key=lambda route: (route.prefix.version, route.prefix))
        ]


class IncidentOverview:
    """Incidents; satisfies ``IncidentView``."""

    def __init__(self, healing: HealingService) -> None:
        self._healing = healing

    async def list(self, limit: int, *, open_only: bool) -> Sequence[Incident]:
        """Newest first."""
        return await self._healing.list(limit, open_only=open_only)

    async def load(self, incident_id: str) -> Incident | None:
        """One incident, whole."""
        return await self._healing.load(incident_id)

    def subscribe(self, on_change: Callable[[Incident], None]) -> Callable[[], None]:
        """Call ``on_change`` with each incident whenever it changes."""
        return self._healing.watch(on_change)
