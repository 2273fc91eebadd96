"""The object graph: every service with its core and its adapters, built by hand.

``Graph`` wires; its ``open_*`` methods are start-up steps, each of which registers how it is undone.
"""

import random
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack

import structlog

from x0d import telemetry
from x0d.config import Changes, Config
from x0d.kernel.clock import SystemClock
from x0d.kernel.interfaces import KernelInterfaces
from x0d.kernel.layout import encode_request
from x0d.kernel.routes import KernelRouteTable
from x0d.mapek.loop import Loop
from x0d.mesh.detector import DetectorTimers
from x0d.mesh.model import LinkKey, Prefix
from x0d.mesh.node import MeshNode, MeshTimers
from x0d.node.identity_parts import IdentityParts
from x0d.node.kernel_parts import KernelParts
from x0d.ports import Auditor
from x0d.service.alerts import Alerts
from x0d.service.audit import Audit
from x0d.service.execute import Executor
from x0d.service.fib import Fib
from x0d.service.healing import HealingService
from x0d.service.interfaces import InterfaceService
from x0d.service.link import LinkPorts, NeighbourEntry
from x0d.service.links import LinkService
from x0d.service.mesh import MeshService
from x0d.service.overview import InterfaceOverview, MeshOverview
from x0d.store.audit import AuditRecords
from x0d.store.knowledge import Knowledge
from x0d.transport.datagram import DatagramSockets

STOP_STORE_S = 0.5  # for incidents not yet written
KNOWN_OPEN_MAX = 1000  # open incidents of an earlier life that are taken up
SETTLE_MARGIN_S = 0.5  # beyond the mesh's own settling, before adopted routes are touched all the same
KNOWLEDGE_ALERT = "knowledge_moved_aside"
VIEWER_GROUP = "x0d"
MS = 1_000_000

log = structlog.get_logger()


class Graph:
    """All services of one daemon; complete once every ``open_*`` has run."""

    kernel: KernelParts
    interfaces: InterfaceService
    links: LinkService
    mesh: MeshService
    healing: HealingService
    fib: Fib
    audit: Auditor
    audit_records: AuditRecords
    interface_view: InterfaceOverview
    mesh_view: MeshOverview

    def __init__(self, config: Config, clock: SystemClock, counted: telemetry.Telemetry, alerts: Alerts) -> None:
        self._config = config
        self._clock = clock
        self._counted = counted
        self._alerts = alerts
        self._session = secrets.randbits(64) or 1
        self._knowledge = Knowledge(config.node.state_dir / "knowledge.db")
        self._generations: Mapping[str, int] = {}
        self.sockets = DatagramSockets()
        self.identity = IdentityParts(config, clock, counted, alerts)

    # ---- steps ----

    async def open_knowledge(self, stack: AsyncExitStack) -> None:
        """Open the store and take up what was open; a corrupt file is moved aside, and an alert says so."""
        report = await self._knowledge.open()
        stack.push_async_callback(self._knowledge.close)
        if report.moved_aside is not None:
            text = f"the knowledge store was not readable ({report.reason}) and was moved to {report.moved_aside}"
            self._alerts.raise_alert(KNOWLEDGE_ALERT, text)
        if report.migrated_from is not None:
            log.info(telemetry.KNOWLEDGE_MIGRATED, from_version=report.migrated_from, to_version=report.schema_version)
        self.audit_records = AuditRecords(self._knowledge.database)
        self.audit = audit = Audit(self.audit_records, self._clock, self._alerts, self._counted)
        stack.push_async_callback(audit.settle)
        self._generations = await self._knowledge.generations()
        self._loop = Loop(
            self._config.node.name,
            self._config.healing.mode,
            self._config.healing.degraded_cost_add,
            self._config.healing.verify_timeout_s * 1000 * MS,
            await self._knowledge.list(KNOWN_OPEN_MAX, open_only=True),
        )

    async def open_identity(self, stack: AsyncExitStack) -> None:
        """Take up this node's identity; an SVID comes later."""
        await self.identity.open(stack, VIEWER_GROUP, lambda: self.kernel.addresses(), self._local_address)  # noqa: PLW0108 - made later

    async def open_kernel(self, stack: AsyncExitStack) -> None:
        """Load the kernel programs and put the lists in force; nothing is attached yet."""
        self.kernel = KernelParts(self._config, self._clock, self._alerts, self._session)
        await self.kernel.open(stack)

    async def put_address(self, stack: AsyncExitStack) -> None:
        """Open the route table and put the node's stable address on lo."""
        mesh = self._config.mesh
        address = self._config.node.address.network_address
        self._table = KernelRouteTable(mesh.route_protocol, mesh.nexthop_id_base, [address])
        stack.callback(self._table.close)
        await self._table.put_address(self._config.node.address)

    async def open_mesh(self, stack: AsyncExitStack) -> None:
        """Build the services, and read what an earlier life has left in the kernel."""
        self._build()
        await self.mesh.start(self._generations)
        stack.push_async_callback(self._stop_services)

    async def open_interfaces(self, stack: AsyncExitStack) -> None:
        """Attach to what exists; a port that somebody else holds ends the start."""
        stack.callback(self._source.close)
        stack.callback(self.links.close)
        await self.kernel.watch(self._source)
        await self.interfaces.start()
        self.links.forget_former()
        if self.links.port_in_use is not None:
            raise self.links.port_in_use

    def _build(self) -> None:
        config, clock, alerts = self._config, self._clock, self._alerts
        self._source = KernelInterfaces()
        core = MeshNode(
            config.node.name,
            announced(config),
            clock.unix_ms() * MS,
            mesh_timers(config),
            random.Random(self._session),
        )
        self.fib = Fib(
            table=self._table,
            address=config.node.address,
            nexthop_id_base=config.mesh.nexthop_id_base,
            install_routes=config.mesh.install_routes,
            settle_s=mesh_timers(config).settle_s + SETTLE_MARGIN_S,
            adopted_max_s=config.mesh.stale_max_s,
            clock=clock,
            alerts=alerts,
        )
        self.mesh = MeshService(core=core, fib=self.fib, peers=self.identity.peers, clock=clock, alerts=alerts)
        executor = Executor(self._table, self.mesh, clock, self._counted)
        self.healing = HealingService(
            loop=self._loop,
            store=self._knowledge,
            executor=executor,
            verify=self.mesh.verify,
            clock=clock,
            counted=self._counted,
            alerts=alerts,
        )
        self.links = LinkService(
            node=config.node.name,
            entries=entries(config),
            timers=detector_timers(config),
            session=self._session,
            encode=encode_request,
            plane=self.kernel.plane,
            source=self._source,
            sockets=self.sockets,
            ports=LinkPorts(config.listen.probe_port, config.listen.mesh_port),
            mesh=self.mesh,
            clock=clock,
            alerts=alerts,
            report=self.healing.feed,
            on_costs=self._loop.set_link_costs,
            has_open_incident=self._has_open_incident,
        )
        self.fib.connect(executor, self.links.dead_next_hops)
        self.mesh.connect(
            report=self.healing.feed,
            on_control=self.links.control_changed,
            on_peer_report=self.links.peer_reported,
            packets_lost=self.links.packets_lost,
        )
        self.identity.peers.connect(greet=self._greet, on_problem=self.links.peer_judged, unlinked=self.links.unlinked)
        self.interfaces = InterfaceService(config.interfaces, self._source, self.kernel.plane, clock, self.links)
        self.interface_view = InterfaceOverview(self.interfaces)
        self.kernel.serve(self.interfaces, core.records)
        self.mesh_view = MeshOverview(self.links, self.mesh, clock)

    def _has_open_incident(self, link: LinkKey) -> bool:
        return any(incident.id.link == str(link) for incident in self._loop.open_incidents)

    def _greet(self, link: LinkKey) -> None:
        """The neighbour on a link has a key from now on."""
        self.mesh.greet(link)
        self.identity.greet(link)

    def _local_address(self, node: str) -> str | None:
        """Our address on a link to a node; None while there is none."""
        ports = (unit.binding.port for unit in self.links.units if unit.entry.node == node and unit.binding)
        return next((str(port.local_address) for port in ports), None)

    async def _stop_services(self) -> None:
        if self._config.mesh.flush_on_stop:
            await self.fib.flush()
        await self.healing.flush(STOP_STORE_S)

    # ---- reload ----

    def reconfigure(self, read: Config, changes: Changes) -> None:
        """Put the reloadable keys of a newly read configuration in force."""
        reloadable = changes.reloadable
        if "log.level" in reloadable:
            telemetry.configure_log(read.log.level, self._config.log.format)
        if "healing.mode" in reloadable:
            self._loop.set_mode(read.healing.mode)
        if "mesh.announce" in reloadable:
            self.mesh.set_prefixes(announced(read))
        if "mesh.interfaces" in reloadable or "mesh.neighbours" in reloadable:
            self.interfaces.add(read.interfaces)
            self.links.configure(entries(read))
        self.kernel.reconfigure(read)
        self.identity.reconfigure(read)
        self._config = read

    async def look_up_accounts(self) -> None:
        """Ask the host again whose members are operators."""
        await self.identity.source.look_up_accounts()


def announced(config: Config) -> tuple[Prefix, ...]:
    """What this node announces: its own address first."""
    return (config.node.address, *config.mesh.announce)


def entries(config: Config) -> tuple[NeighbourEntry, ...]:
    """The configured neighbours."""
    return tuple(NeighbourEntry(item.node, item.interface, item.address, item.cost) for item in config.mesh.neighbours)


def detector_timers(config: Config) -> DetectorTimers:
    """What the failure detectors wait for."""
    mesh = config.mesh
    return DetectorTimers(
        interval_ns=mesh.probe_interval_ms * MS, miss_limit=mesh.probe_miss_limit, up_hold_ns=mesh.up_hold_ms * MS
    )


def mesh_timers(config: Config) -> MeshTimers:
    """What the mesh core waits for."""
    mesh = config.mesh
    return MeshTimers(
        hello_interval_s=mesh.hello_interval_ms / 1e3,
        hello_miss_limit=mesh.hello_miss_limit,
        stale_max_s=float(mesh.stale_max_s),
        settle_s=mesh.hello_interval_ms / 1e3 * (mesh.hello_miss_limit + 1),
    )
