"""What goes into the healing loop and what comes out of it.

The service feeds events as they happen; the loop answers with requests.  Requests are performed
after the routes have moved: a reroute never waits for the loop (routes are the mesh's function).
"""

from dataclasses import dataclass

from x0d.actions import Outcome, PlannedAction
from x0d.mapek.model import Incident, IncidentId
from x0d.mesh.model import AdjacencyState, LinkKey, LinkState, Prefix

# ---- in ----


@dataclass(frozen=True, slots=True)
class LinkSymptom:
    """One of this node's links has left the state ``up``."""

    link: LinkKey
    neighbour: str
    generation: int
    state: LinkState
    """DOWN, DEGRADED or CONTROL_GONE."""
    kind: str
    """``probes_unanswered``, ``carrier_lost``, ``interface_gone``, ``loss``, ``control_silent``,
    ``announced_stop`` (silent, and it had flooded that it stops) or ``peer_reported``."""
    detail: str
    fault_at_ns: int
    """Last sign that the link worked: kernel stamp of the last reply, or the carrier event."""
    detected_at_ns: int
    probes_lost: int


@dataclass(frozen=True, slots=True)
class LinkRecovered:
    """One of this node's links is ``up`` again, after its clean hold."""

    link: LinkKey
    generation: int
    at_ns: int
    detail: str


@dataclass(frozen=True, slots=True)
class PeerReport:
    """Another node's link state tells of a link that is not ``up`` (ours or not)."""

    link: LinkKey
    generation: int
    reporter: str
    state: AdjacencyState
    at_ns: int
    last_sign_ns: int | None = None
    """Of one of this node's links: the last sign that it worked, CLOCK_MONOTONIC; None: not ours, or none yet."""


@dataclass(frozen=True, slots=True)
class TopologySeen:
    """Nodes that no usable link leads to any more, though their last record is kept."""

    isolated: frozenset[str]
    at_ns: int


@dataclass(frozen=True, slots=True)
class RoutesMoved:
    """The mesh recomputed and the kernel has (or has not) taken it."""

    incidents: tuple[tuple[LinkKey, int], ...]
    """Links and generations whose change led to this computation."""
    decided_at_ns: int
    outcome: Outcome
    moved: tuple[Prefix, ...]
    unreachable: tuple[Prefix, ...]
    """Prefixes of known nodes that no path leads to."""
    packets_lost: int
    observed_only: bool
    """``mesh.install_routes`` is false: nothing was installed."""


@dataclass(frozen=True, slots=True)
class ActionEnded:
    """A performed request."""

    incident: IncidentId
    planned: PlannedAction
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Verified:
    """Answer to a ``Verify``: what the kernel holds, read back."""

    incident: IncidentId
    holds: bool
    detail: str
    at_ns: int


Event = LinkSymptom | LinkRecovered | PeerReport | TopologySeen | RoutesMoved | ActionEnded | Verified

# ---- out ----


@dataclass(frozen=True, slots=True)
class Perform:
    """Perform this action for this incident."""

    incident: IncidentId
    planned: PlannedAction


@dataclass(frozen=True, slots=True)
class Verify:
    """Read the kernel's routes back: all computed ones are there, and none uses ``link``."""

    incident: IncidentId
    link: LinkKey


@dataclass(frozen=True, slots=True)
class Save:
    """Store and publish the incident as it stands now."""

    incident: Incident


Request = Perform | Verify | Save
