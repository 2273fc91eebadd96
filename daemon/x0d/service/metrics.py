"""The metrics that are read at the scrape: one pass over the views, on the event loop.

The exposition's HTTP server has a thread of its own; it asks the loop for one consistent snapshot and
renders it.  When the loop does not answer within ``SNAPSHOT_S`` the scrape fails, which is the truth.
"""

import asyncio
import platform
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from x0d import __version__, telemetry
from x0d.service import metrics_identity
from x0d.service.alerts import Alerts
from x0d.service.healing import HealingService
from x0d.service.mesh import MeshService
from x0d.service.metrics_dataplane import DataplaneReading, families
from x0d.service.metrics_identity import IdentityReading
from x0d.service.overview import CARRYING, LINK_STATES, InterfaceOverview, MeshOverview
from x0d.service.views import InterfaceStatus, Link, NodeView

SNAPSHOT_S = 2.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that one scrape shows."""

    node: str
    uptime_s: float
    interfaces: Sequence[InterfaceStatus]
    links: Sequence[Link]
    dataplane: DataplaneReading
    nodes: int
    routes: int
    refused: Mapping[str, int]
    incidents_open: int
    alerts: int
    control_refused: int
    identity: IdentityReading


class ScrapeCollector(Collector):
    """Yields the metric families of one snapshot."""

    def __init__(
        self,
        *,
        node: NodeView,
        interfaces: InterfaceOverview,
        dataplane: Callable[[], Awaitable[DataplaneReading]],
        mesh_view: MeshOverview,
        mesh: MeshService,
        healing: HealingService,
        alerts: Alerts,
        refused: Callable[[], Mapping[str, int]],
        control_refused: Callable[[], int],
        identity: Callable[[], IdentityReading],
    ) -> None:
        """``refused``: datagrams that the sockets refused, by reason; ``control_refused``: connections to the API."""
        self._loop = asyncio.get_running_loop()
        self._node = node
        self._interfaces = interfaces
        self._dataplane = dataplane
        self._mesh_view = mesh_view
        self._mesh = mesh
        self._healing = healing
        self._alerts = alerts
        self._refused = refused
        self._control_refused = control_refused
        self._identity = identity

    def describe(self) -> list[Metric]:
        """Nothing in advance: the registry need not scrape to learn the names."""
        return []

    async def _snapshot(self) -> Snapshot:
        status = self._node.status()
        return Snapshot(
            node=status.node,
            uptime_s=status.uptime_s,
            interfaces=self._interfaces.interfaces(),
            links=self._mesh_view.links(),
            dataplane=await self._dataplane(),
            nodes=status.nodes_known,
            routes=status.routes_installed,
            refused={**self._refused(), **self._mesh.refused},
            incidents_open=len(self._healing.open_incidents()),
            alerts=len(self._alerts.names()),
            control_refused=self._control_refused(),
            identity=self._identity(),
        )

    def collect(self) -> Iterator[Metric]:
        """Called in the HTTP server's thread."""
        snapshot = asyncio.run_coroutine_threadsafe(self._snapshot(), self._loop).result(SNAPSHOT_S)
        yield from _of_node(snapshot)
        yield from families(snapshot.dataplane, snapshot.interfaces)
        yield from _of_links(snapshot.links)
        yield from metrics_identity.families(snapshot.identity, snapshot.refused)


def _of_node(snapshot: Snapshot) -> Iterator[Metric]:
    build = GaugeMetricFamily(
        telemetry.BUILD_INFO,
        "Version of x0d and of what it runs on; always 1.",
        labels=["version", "python", "kernel", "node"],
    )
    build.add_metric([__version__, platform.python_version(), platform.release(), snapshot.node], 1)
    yield build
    yield GaugeMetricFamily(telemetry.UPTIME_SECONDS, "Time since the daemon started.", snapshot.uptime_s)
    yield GaugeMetricFamily(telemetry.MESH_NODES, "Nodes known to this one, itself included.", snapshot.nodes)
    yield GaugeMetricFamily(telemetry.MESH_ROUTES, "Routes of ours in the kernel.", snapshot.routes)
    yield GaugeMetricFamily(telemetry.INCIDENTS_OPEN, "Incidents not ended.", snapshot.incidents_open)
    yield GaugeMetricFamily(telemetry.ALERTS, "Alerts that hold now; x0ctl status names them.", snapshot.alerts)
    text = "Connections to the control socket closed because there were too many, or their headers cost too much."
    yield CounterMetricFamily(telemetry.CONTROL_REFUSED, text, snapshot.control_refused)
    refused = CounterMetricFamily(
        telemetry.MESH_DATAGRAMS_REFUSED, "Mesh datagrams refused, by reason.", labels=["reason"]
    )
    for reason, count in sorted(snapshot.refused.items()):
        refused.add_metric([reason], count)
    yield refused


def _of_links(links: Sequence[Link]) -> Iterator[Metric]:
    names = ["link", "neighbour", "interface"]
    up = GaugeMetricFamily(telemetry.LINK_UP, "1 while the link carries traffic.", labels=names)
    state = GaugeMetricFamily(telemetry.LINK_STATE, "1 for the state that the link is in.", labels=[*names, "state"])
    cost = GaugeMetricFamily(telemetry.LINK_COST, "Cost that is advertised.", labels=names)
    rtt = GaugeMetricFamily(telemetry.LINK_RTT_SECONDS, "Round trip of the probes, smoothed.", labels=names)
    loss = GaugeMetricFamily(
        telemetry.LINK_LOSS_RATIO, "Share of probes lost in a direction, 0 to 1.", labels=[*names, "direction"]
    )
    sent = CounterMetricFamily(telemetry.LINK_PROBES_SENT, "Probes sent.", labels=names)
    replies = CounterMetricFamily(telemetry.LINK_REPLIES_RECEIVED, "Probe replies that XDP recorded.", labels=names)
    for link in links:
        labels = [link.link or f"{link.interface}-{link.neighbour_address}", link.neighbour, link.interface]
        up.add_metric(labels, int(link.state in CARRYING))
        for known in LINK_STATES:
            state.add_metric([*labels, known], int(link.state == known))
        cost.add_metric(labels, link.cost)
        rtt.add_metric(labels, link.rtt_ms / 1e3)
        loss.add_metric([*labels, "out"], link.loss_out)
        loss.add_metric([*labels, "in"], link.loss_in)
        sent.add_metric(labels, link.probes_sent)
        replies.add_metric(labels, link.replies_received)
    yield from (up, state, cost, rtt, loss, sent, replies)
