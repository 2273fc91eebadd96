"""Fake views that hold state; they do not model time passing, a disk or a kernel."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from fakes.views_dataplane import FakeDataplaneView, FakePolicyView, FakeTracingView
from fakes.views_identity import FakeAuditView, FakeIdentityView
from x0d.errors import X0dError
from x0d.mapek.model import (
    ActionRecord,
    Cause,
    Evidence,
    Incident,
    IncidentId,
    IncidentState,
    Role,
    Step,
)
from x0d.service.views import (
    Adjacency,
    DoctorCheck,
    DoctorReport,
    InterfaceStatus,
    Link,
    Node,
    NodeStatus,
    RefusedMode,
    ReloadResult,
    Route,
    Views,
)

REFUSED_MODES = (RefusedMode("hardware", 22, "EINVAL"), RefusedMode("native", 95, "EOPNOTSUPP"))
STATUS = NodeStatus(
    node="n1",
    version="0.1.0",
    phase="running",
    config_file="/etc/x0d/x0d.toml",
    started_at_unix_ms=1_700_000_000_000,
    uptime_s=12.5,
    pid=4711,
    healing_mode="auto",
    notices=("identity is not available in this version",),
    alerts=("knowledge store cannot be written",),
    interfaces=(
        InterfaceStatus("eth1", 3, "attached", "skb", adopted=True, refused_modes=REFUSED_MODES),
        InterfaceStatus("eth2", 0, "waiting"),
    ),
    links_up=1,
    links_total=2,
    nodes_known=4,
    routes_installed=3,
    incidents_open=1,
    spiffe_id="spiffe://dev.x0d.test/node/n1",
    svid_not_after_unix_ms=1_700_086_400_000,
)
LINK = Link("n1-n2.5c1e", "n2", "eth1", "fe80::1", "fe80::2", "up", "", 100, 100, 0.21, 0.0, 0.25, 1000, 998, 3, 61.5)
NODE = Node(
    "n2", ("10.255.0.2/32",), 1 << 60, 17, False, False, True, 1.5, (Adjacency("n1-n2.5c1e", "n1", 100, "up", 3),)
)
ROUTE = Route("10.255.0.2/32", "n2", "n2", "fe80::2", "eth1", 100, 0x78300001, True)
REPORT = DoctorReport(
    "6.18.0", 0, ("cap_bpf",), (DoctorCheck("btf", "failed", "no /sys/kernel/btf/vmlinux", "x"),), "cap_bpf"
)


def incident(generation: int = 3, state: IncidentState = IncidentState.CLOSED, padding: str = "") -> Incident:
    """A whole incident on the link ``n1-n2.5c1e``."""
    return Incident(
        id=IncidentId("n1-n2.5c1e", generation),
        cause=Cause.LINK_DEAD,
        explanation=f"3 probes in a row to n2 were not answered{padding}",
        state=state,
        role=Role.END,
        healing_mode="auto",
        opened_at_unix_ms=1_700_000_000_000,
        closed_at_unix_ms=1_700_000_000_180 if state is IncidentState.CLOSED else None,
        evidence=(Evidence(1_700_000_000_000, "probes_unanswered", "last reply 152 ms ago"),),
        steps=(Step("detect", 151.5, 151.5, "3 probes"), Step("act", 1.25, 153.0, "1 nexthop change")),
        actions=(
            ActionRecord("install_routes", "nexthop 1 via fe80::3", "p", "e", "", "done", "", 1_700_000_000_153, 1.25),
        ),
        packets_lost=42,
        probes_lost=3,
    )


class FakeNodeView:
    """Status, reload and doctor as set by the test; an ``Exception`` put in ``fails`` is raised."""

    def __init__(self) -> None:
        self.current = STATUS
        self.reloads = 0
        self.fails: X0dError | None = None
        self.before: Callable[[], Awaitable[None]] | None = None

    def status(self) -> NodeStatus:
        return self.current

    async def reload(self) -> ReloadResult:
        if self.before is not None:
            await self.before()
        if self.fails is not None:
            raise self.fails
        self.reloads += 1
        return ReloadResult(("log.level",), ("mesh.mesh_port",))

    async def doctor(self) -> DoctorReport:
        if self.fails is not None:
            raise self.fails
        return REPORT


class FakeMeshView:
    """One link, one node, one route."""

    def links(self) -> Sequence[Link]:
        return [LINK]

    def nodes(self) -> Sequence[Node]:
        return [NODE]

    def routes(self) -> Sequence[Route]:
        return [ROUTE]


class FakeIncidentView:
    """Incidents in memory, newest last; ``publish`` stores one and tells the subscribers."""

    def __init__(self) -> None:
        self.stored: dict[str, Incident] = {}
        self.subscribers: list[Callable[[Incident], None]] = []
        self.fails: X0dError | None = None

    def publish(self, changed: Incident) -> None:
        self.stored[str(changed.id)] = changed
        for subscriber in list(self.subscribers):
            subscriber(changed)

    async def list(self, limit: int, *, open_only: bool) -> Sequence[Incident]:
        if self.fails is not None:
            raise self.fails
        newest_first = reversed(self.stored.values())
        return [item for item in newest_first if not open_only or item.state is not IncidentState.CLOSED][:limit]

    async def load(self, incident_id: str) -> Incident | None:
        return self.stored.get(incident_id)

    def subscribe(self, on_change: Callable[[Incident], None]) -> Callable[[], None]:
        self.subscribers.append(on_change)

        def unsubscribe() -> None:
            if on_change in self.subscribers:
                self.subscribers.remove(on_change)

        return unsubscribe


def fake_views() -> Views:
    """All of them, with one closed and one open incident stored."""
    incidents = FakeIncidentView()
    incidents.publish(incident(3))
    incidents.publish(incident(4, IncidentState.OPEN))
    return Views(
        node=FakeNodeView(),
        mesh=FakeMeshView(),
        incidents=incidents,
        dataplane=FakeDataplaneView(),
        policy=FakePolicyView(),
        tracing=FakeTracingView(),
        identity=FakeIdentityView(),
        audit=FakeAuditView(),
    )


def starting(step: str) -> NodeStatus:
    """Status of a node that is starting."""
    return replace(STATUS, phase="starting", starting_step=step, interfaces=())
