"""What the API shows: frozen data with the field names of the protos, and the views that supply it.

The services below implement the views; the servicers (``api_*.py``) convert what they return.  A
plain method answers at once from memory; a coroutine may wait for a thread.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from x0d.mapek.model import Incident
from x0d.service.views_dataplane import DataplaneView, TracingView
from x0d.service.views_identity import AuditView, IdentityView
from x0d.service.views_policy import PolicyView

# ---- node ----


@dataclass(frozen=True, slots=True)
class RefusedMode:
    """An XDP mode that the kernel refused."""

    mode: str
    errno: int
    errno_name: str


@dataclass(frozen=True, slots=True)
class InterfaceStatus:
    """The data plane on one interface."""

    name: str
    ifindex: int
    """0 while it does not exist."""
    state: str
    """``waiting``, ``attached`` or ``blocked``."""
    mode: str = ""
    """``native``, ``skb`` or empty."""
    adopted: bool = False
    refused_modes: tuple[RefusedMode, ...] = ()
    blocked_reason: str = ""
    frags: bool = False


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What this daemon is and how it is doing; everything but the first rows may be missing early in the start-up."""

    node: str
    version: str
    phase: str
    """``starting``, ``running`` or ``stopping``."""
    config_file: str
    started_at_unix_ms: int
    uptime_s: float
    pid: int
    healing_mode: str
    notices: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    interfaces: tuple[InterfaceStatus, ...] = ()
    links_up: int = 0
    links_total: int = 0
    nodes_known: int = 0
    routes_installed: int = 0
    incidents_open: int = 0
    starting_step: str = ""
    spiffe_id: str = ""
    """Empty while this node has no valid identity."""
    svid_not_after_unix_ms: int = 0


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """Keys whose new value is in force, and keys that need a restart."""

    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DoctorCheck:
    """One thing that was checked."""

    name: str
    outcome: str
    """``ok``, ``warning`` or ``failed``."""
    detail: str
    remedy: str = ""
    """What to do about it; empty when ``outcome`` is ``ok``."""


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """What this kernel, uid and capabilities allow."""

    kernel_release: str
    uid: int
    capabilities: tuple[str, ...]
    checks: tuple[DoctorCheck, ...]
    capabilities_summary: str = ""
    """The capabilities in few words."""


class NodeView(Protocol):
    """The daemon as a whole."""

    def status(self) -> NodeStatus:
        """Answer at any time, from the first start-up step on."""

    async def reload(self) -> ReloadResult:
        """Read the configuration file again and apply what can be applied.

        Raises:
            ConfigInvalid: with every error of the file; nothing has changed.
        """

    async def doctor(self) -> DoctorReport:
        """Check what this process may do; may take seconds."""


# ---- mesh ----


@dataclass(frozen=True, slots=True)
class Link:
    """One link of this node to a configured neighbour."""

    link: str
    neighbour: str
    interface: str
    local_address: str
    neighbour_address: str
    state: str
    """``waiting``, ``blocked``, ``up``, ``degraded``, ``control_gone`` or ``down``."""
    state_reason: str
    cost_configured: int
    cost: int
    rtt_ms: float
    loss_out: float
    """Share of the probes, 0 to 1, of the last window."""
    loss_in: float
    probes_sent: int
    replies_received: int
    generation: int
    state_for_s: float


@dataclass(frozen=True, slots=True)
class Adjacency:
    """A link as a node floods it."""

    link: str
    neighbour: str
    cost: int
    state: str
    """``up``, ``degraded``, ``control_gone``, ``transit_last`` or ``down``."""
    generation: int


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the mesh, from its link state."""

    node: str
    prefixes: tuple[str, ...]
    incarnation: int
    sequence: int
    no_transit: bool
    control_gone: bool
    reachable: bool
    age_s: float
    adjacencies: tuple[Adjacency, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """A computed route and whether the kernel has it."""

    prefix: str
    node: str
    next_hop: str
    gateway: str
    interface: str
    metric: int
    nexthop_id: int
    installed: bool


class MeshView(Protocol):
    """The mesh as this node knows it."""

    def links(self) -> Sequence[Link]:
        """This node's links, in the configuration's order."""

    def nodes(self) -> Sequence[Node]:
        """All known nodes, by name."""

    def routes(self) -> Sequence[Route]:
        """Computed routes, by prefix."""


# ---- incidents ----


class IncidentView(Protocol):
    """Incidents: stored ones, and each as it changes."""

    async def list(self, limit: int, *, open_only: bool) -> Sequence[Incident]:
        """Newest first.  Raises StorageFailed."""

    async def load(self, incident_id: str) -> Incident | None:
        """One incident, whole; None if unknown.  Raises StorageFailed."""

    def subscribe(self, on_change: Callable[[Incident], None]) -> Callable[[], None]:
        """Call ``on_change`` on the event loop with each incident whenever it changes.

        Returns what ends the subscription; calling it twice does nothing.
        """


# ---- all of them ----


@dataclass(slots=True)
class Views:
    """What the servicers read from.

    ``node`` is there from the start; the others are set before the node says it is ready, which is
    when calls that need them are first let through.
    """

    node: NodeView
    mesh: MeshView | None = None
    incidents: IncidentView | None = None
    dataplane: DataplaneView | None = None
    policy: PolicyView | None = None
    tracing: TracingView | None = None
    identity: IdentityView | None = None
    audit: AuditView | None = None


View = TypeVar("View")


def there(view: View | None) -> View:
    """Return the view; a missing one is a mistake in the order of the start-up."""
    if view is None:
        raise RuntimeError("a call was let through before its view was set")
    return view
