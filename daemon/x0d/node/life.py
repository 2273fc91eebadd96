"""The life of the daemon: start-up steps in their order, one ``TaskGroup``, an orderly stop.

An error in any task ends the group and the process; systemd starts a clean one, and the kernel goes on
counting, forwarding and answering probes in between.
"""

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import structlog

from x0d import __version__, doctor, telemetry
from x0d.config import Config, compare, load, merge
from x0d.errors import AddressUnavailable, ConfigInvalid, StorageFailed
from x0d.kernel.clock import SystemClock
from x0d.node.graph import VIEWER_GROUP, Graph
from x0d.ports import Change
from x0d.service.alerts import Alerts
from x0d.service.api import Servicers
from x0d.service.metrics import ScrapeCollector
from x0d.service.overview import IncidentOverview
from x0d.service.pulse import Pulse
from x0d.service.views import DoctorReport, NodeStatus, ReloadResult, Views
from x0d.store.lock import StateLock
from x0d.systemd import Notifier
from x0d.transport.grpc_server import ControlServer
from x0d.transport.metrics_http import MetricsServer

ACCOUNT_ALERT = "unknown_account"
STOP_FLOOD_S = 0.25  # for the neighbours to hear and acknowledge "no transit"
SIGNAL_METHOD = "/x0d.v1.NodeService/Reload"
STOP_CALLS_S = 0.3  # for API calls under way

log = structlog.get_logger()


class Node:
    """One daemon; satisfies ``NodeView``."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._clock = SystemClock()
        self._started_ms = self._clock.unix_ms()
        self._started_ns = self._clock.monotonic_ns()
        self._phase = "starting"
        self._step = ""
        self._notices: list[str] = []
        self._stop = asyncio.Event()
        self._alerts = Alerts()
        self._counted = telemetry.Telemetry()
        self._notifier = Notifier()
        self._views = Views(self)
        self._servicers = Servicers(self._views)
        self._control = ControlServer(config.node.runtime_dir, VIEWER_GROUP, bindings=config.bindings)
        self._graph: Graph | None = None

    async def run(self) -> None:
        """Live from the first step to the clean stop.  Raises X0dError for what ends the start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        log.info(telemetry.STARTING, version=__version__, node=self._config.node.name, pid=os.getpid())
        async with AsyncExitStack() as stack:
            await self._start(stack)
            if self._graph is not None and not self._stop.is_set():
                await self._serve(self._graph)
            self._phase = "stopping"
            self._notifier.stopping()
            log.info(telemetry.STOPPING)
        log.info(telemetry.STOPPED)

    async def _start(self, stack: AsyncExitStack) -> None:
        graph = Graph(self._config, self._clock, self._counted, self._alerts)
        steps: tuple[tuple[str, Callable[[AsyncExitStack], Awaitable[None]]], ...] = (
            ("lock the state directory", self._lock_state),
            ("open the control socket", self._open_control),
            ("open the knowledge store", graph.open_knowledge),
            ("take up this node's identity", graph.open_identity),
            ("load the data plane", graph.open_kernel),
            ("put the node's address on lo", graph.put_address),
            ("read the routes of an earlier life", graph.open_mesh),
            ("attach to the interfaces", graph.open_interfaces),
            ("look at the host", self._look_at_host),
        )
        for name, step in steps:
            began_ns = self._clock.monotonic_ns()
            self._step = name
            self._control.set_starting(name)
            self._notifier.status(f"starting: {name}")
            await step(stack)
            log.debug(telemetry.STEP_DONE, step=name, took_ms=(self._clock.monotonic_ns() - began_ns) / 1e6)
            if self._stop.is_set():
                return
        self._step = "open the TLS ports"
        self._control.auditor = graph.audit
        await graph.identity.listen(stack, self._servicers, graph.audit, self._control, STOP_CALLS_S)
        self._step = "open the metrics port"
        await self._open_views(stack, graph)
        self._graph = graph

    def _look_at_accounts(self) -> None:
        """Tell of roles bound to nobody: a mistyped name gives no right, and nobody would notice."""
        if unknown := self._control.unknown_accounts:
            text = f"[[identity.bindings]] names accounts that this host does not have: {', '.join(unknown)}"
            self._alerts.raise_alert(ACCOUNT_ALERT, f"{text}; make them or mend the names, then x0ctl reload")
        else:
            self._alerts.clear(ACCOUNT_ALERT)

    # ---- steps ----

    async def _lock_state(self, stack: AsyncExitStack) -> None:
        lock = StateLock(self._config.node.state_dir)
        lock.acquire()
        stack.callback(lock.release)

    async def _open_control(self, stack: AsyncExitStack) -> None:
        runtime_dir = self._config.node.runtime_dir
        try:
            runtime_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise AddressUnavailable(f"node.runtime_dir {runtime_dir}: {error.strerror}") from error
        self._control.add(self._servicers)
        await self._control.start()
        self._look_at_accounts()
        stack.push_async_callback(self._control.stop, STOP_CALLS_S)

    async def _look_at_host(self, _: AsyncExitStack) -> None:
        checks = await asyncio.to_thread(lambda: (doctor.check_btf(), *doctor.check_sysctls()))
        self._notices += [
            f"{check.name}: {check.detail}; {check.remedy}" for check in checks if check.outcome != doctor.OK
        ]

    async def _open_views(self, stack: AsyncExitStack, graph: Graph) -> None:
        self._views.mesh = graph.mesh_view
        self._views.incidents = IncidentOverview(graph.healing)
        self._views.dataplane = graph.kernel.dataplane
        self._views.policy = graph.kernel.policy
        self._views.tracing = graph.kernel.tracing
        self._views.identity = graph.identity.overview
        self._views.audit = graph.audit_records
        self._counted.registry.register(
            ScrapeCollector(
                node=self,
                interfaces=graph.interface_view,
                dataplane=graph.kernel.dataplane.reading,
                mesh_view=graph.mesh_view,
                mesh=graph.mesh,
                healing=graph.healing,
                alerts=self._alerts,
                refused=lambda: graph.sockets.refused,
                control_refused=lambda: self._control.connections_refused,
                identity=graph.identity.reading,
            )
        )
        listen = self._config.listen
        metrics = MetricsServer(
            listen.metrics_address, listen.metrics_port, listen.metrics_certificate, listen.metrics_key
        )
        metrics.start(self._counted.registry)
        stack.push_async_callback(asyncio.to_thread, metrics.stop)

    # ---- the run ----

    async def _serve(self, graph: Graph) -> None:
        pulse = Pulse(self._clock, self._counted, self._notifier.watchdog, self._notifier.watchdog_interval_s)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(task, name=name)
                for name, task in (
                    ("pulse", pulse.run()),
                    ("interfaces", graph.interfaces.run()),
                    ("links", graph.links.run()),
                    ("mesh ticks", graph.mesh.run_ticks()),
                    ("routes", graph.mesh.run_routes()),
                    ("healing", graph.healing.run()),
                    ("healing ticks", graph.healing.run_ticks()),
                    ("knowledge", graph.healing.run_store()),
                    ("lists", graph.kernel.policy.run()),
                    *graph.identity.tasks(),
                )
            ]
            self._become_ready(group, graph)
            await self._stop.wait()
            graph.mesh.announce_stop()
            await asyncio.sleep(STOP_FLOOD_S)
            for task in tasks:
                task.cancel()

    def _become_ready(self, group: asyncio.TaskGroup, graph: Graph) -> None:
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, lambda: group.create_task(self._reload_on_signal(), name="reload")
        )
        self._phase, self._step = "running", ""
        self._control.set_ready()
        graph.identity.set_ready()
        self._notifier.ready(f"running, {len(self._config.interfaces)} interfaces")
        took_ms = (self._clock.monotonic_ns() - self._started_ns) / 1e6
        log.info(telemetry.READY, took_ms=round(took_ms, 1), notices=self._notices)
        gc.collect()
        gc.freeze()  # what start-up made stays: later collections need not look at it again

    async def _reload_on_signal(self) -> None:
        """Reload, on record like a call: a signal changes roles as well as a call does."""
        assert self._graph is not None, "the signal is taken once the node is ready"
        audit, change, outcome, detail = self._graph.audit, Change(), "failed", ""
        try:
            number = await audit.begin("signal SIGHUP", "", SIGNAL_METHOD, str(self._config.file))
        except StorageFailed:
            return  # said in an alert; nothing is changed without a record
        try:
            result = await self.reload()
            outcome, change.after = "done", f"applied: {', '.join(result.applied) or 'nothing'}"
        except ConfigInvalid as invalid:
            detail = str(invalid)  # said in the log and in the status line; the running configuration is kept
        finally:
            await audit.end(number, change, outcome, detail)

    # ---- NodeView ----

    def status(self) -> NodeStatus:
        """What this daemon is and how it is doing."""
        graph = self._graph
        spiffe_id, svid_not_after_unix_ms = graph.identity.overview.brief() if graph else ("", 0)
        return NodeStatus(
            node=self._config.node.name,
            version=__version__,
            phase=self._phase,
            config_file=str(self._config.file),
            started_at_unix_ms=self._started_ms,
            uptime_s=(self._clock.monotonic_ns() - self._started_ns) / 1e9,
            pid=os.getpid(),
            healing_mode=self._config.healing.mode,
            notices=tuple(self._notices),
            alerts=self._alerts.texts(),
            interfaces=graph.interface_view.interfaces() if graph else (),
            links_up=graph.mesh_view.links_up() if graph else 0,
            links_total=len(graph.links.units) if graph else 0,
            nodes_known=len(graph.mesh.core.records()) if graph else 0,
            routes_installed=len(graph.fib.observed.routes) if graph else 0,
            incidents_open=len(graph.healing.open_incidents()) if graph else 0,
            starting_step=self._step,
            spiffe_id=spiffe_id,
            svid_not_after_unix_ms=svid_not_after_unix_ms,
        )

    async def reload(self) -> ReloadResult:
        """Read the file again and apply what can be applied.  Raises ConfigInvalid; nothing has changed then."""
        assert self._graph is not None, "calls that need it wait until the node is ready"
        self._notifier.reloading()
        status = "running"
        try:
            read = await asyncio.to_thread(load, self._config.file)
            changes = compare(self._config, read)
            self._config = merge(self._config, read)
            self._graph.reconfigure(self._config, changes)
            await self._control.set_bindings(self._config.bindings)
            await self._graph.look_up_accounts()
            self._look_at_accounts()
            log.info(telemetry.RELOADED, applied=changes.reloadable, needs_restart=changes.needs_restart)
        except ConfigInvalid as invalid:
            log.error(telemetry.RELOAD_REFUSED, problems=[str(problem) for problem in invalid.problems])
            status = f"running; the last reload was refused: {invalid.problems[0]}"
            raise
        finally:
            self._notifier.ready(status)
        return ReloadResult(applied=changes.reloadable, needs_restart=changes.needs_restart)

    async def doctor(self) -> DoctorReport:
        """Check what this process may do."""
        return await asyncio.to_thread(doctor.run, self._config.node.bpffs_dir)
