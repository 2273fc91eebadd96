"""This node's links: sockets bound as interfaces come, probes sent at a steady pace, verdicts passed on.

A verdict goes to the mesh first, which floods and reroutes, and then as a symptom to the healing loop.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import structlog

from x0d import telemetry
from x0d.errors import AddressUnavailable, KernelRefused
from x0d.mapek.events import Event, LinkRecovered, LinkSymptom
from x0d.mesh.detector import DetectorTimers
from x0d.mesh.events import ControlBack, ControlGone
from x0d.mesh.model import Address, AdjacencyState, LinkKey, LinkState
from x0d.ports import Clock, DataPlane, Interface, InterfaceSource
from x0d.service.alerts import Alerts
from x0d.service.link import (
    LinkPorts,
    LinkUnit,
    NeighbourEntry,
    ProbeEncoder,
    SocketOpener,
    local_address,
    open_sockets,
    port_of,
)
from x0d.service.losses import SentHistory
from x0d.service.mesh import MeshService

RETRY_NS = 1_000_000_000
WORKING = (LinkState.UP, LinkState.DEGRADED, LinkState.CONTROL_GONE)
"""States that traffic is carried in."""
COST_MAX = 65_535

log = structlog.get_logger()


class LinkService:
    """All links of this node; satisfies ``InterfaceListener``."""

    def __init__(  # noqa: PLR0913  the graph is built by hand, each part by its name
        self,
        *,
        node: str,
        entries: Iterable[NeighbourEntry],
        timers: DetectorTimers,
        session: int,
        encode: ProbeEncoder,
        plane: DataPlane,
        source: InterfaceSource,
        sockets: SocketOpener,
        ports: LinkPorts,
        mesh: MeshService,
        clock: Clock,
        alerts: Alerts,
        report: Callable[[Event], None],
        on_costs: Callable[[Mapping[LinkKey, int]], None],
        has_open_incident: Callable[[LinkKey], bool],
    ) -> None:
        self._node = node
        self._timers = timers
        self._session = session
        self._encode = encode
        self._plane = plane
        self._source = source
        self._sockets = sockets
        self._ports = ports
        self._mesh = mesh
        self._clock = clock
        self._alerts = alerts
        self._report = report
        self._on_costs = on_costs
        self._has_open_incident = has_open_incident
        self.port_in_use: AddressUnavailable | None = None
        self._history = SentHistory()
        self.units = [LinkUnit(entry, timers, session, encode) for entry in entries]
        self._interfaces: dict[str, Interface] = {}

    def _unit(self, key: LinkKey) -> LinkUnit | None:
        return next((unit for unit in self.units if unit.key == key), None)

    def configure(self, entries: Iterable[NeighbourEntry]) -> None:
        """Take up a changed list of neighbours (a reload): new, removed, or of another cost."""
        wanted = {(entry.interface, entry.address): entry for entry in entries}
        for unit in list(self.units):
            entry = wanted.pop((unit.entry.interface, unit.entry.address), None)
            if entry == unit.entry:
                continue
            if entry is not None and unit.key is not None and replace(unit.entry, cost=entry.cost) == entry:
                self._set_cost(unit, unit.key, entry)
                continue
            self._unbind(unit)
            if entry is None:
                self._alerts.clear(unit.sockets_alert)
                self.units.remove(unit)
                continue
            unit.entry = entry
            self._try_bind(unit)
        for entry in wanted.values():
            unit = LinkUnit(entry, self._timers, self._session, self._encode)
            self.units.append(unit)
            self._try_bind(unit)

    def _set_cost(self, unit: LinkUnit, key: LinkKey, entry: NeighbourEntry) -> None:
        """Advertise another cost of a working link; what a remedy has added stays until its undo."""
        added = self._mesh.link_view(key).cost - unit.entry.cost
        unit.entry = entry
        self._tell_costs()
        self._mesh.set_cost(key, min(entry.cost + added, COST_MAX))

    def _tell_costs(self) -> None:
        self._on_costs({unit.key: unit.entry.cost for unit in self.units if unit.key})

    def forget_former(self) -> None:
        """Let XDP forget the neighbours that an earlier life was configured for."""
        index_of = {interface.name: interface.ifindex for interface in self._interfaces.values()}
        ours = {(index_of.get(unit.entry.interface), unit.entry.address) for unit in self.units}
        for ifindex, neighbour in self._plane.links():
            if (ifindex, neighbour) not in ours:
                self._plane.delete_link(ifindex, neighbour)

    # ---- what happens to interfaces ----

    def interface_ready(self, interface: Interface) -> None:
        """Bind the links of an interface that is attached; bind anew where its own address changed."""
        self._interfaces[interface.name] = interface
        for unit in self.units:
            if unit.entry.interface == interface.name:
                self._try_bind(unit)

    def interface_lost(self, name: str, at_ns: int, reason: str, *, blocked: bool) -> None:
        """End the links of an interface that is gone or refused."""
        self._interfaces.pop(name, None)
        for unit in self.units:
            if unit.entry.interface == name:
                if unit.state in WORKING:
                    self._down(unit, "interface_gone", f"interface {name} {reason}", at_ns, at_ns)
                self._unbind(unit)
                self._alerts.clear(unit.sockets_alert)
                state = LinkState.BLOCKED if blocked else LinkState.WAITING
                unit.enter(state, f"interface {name}: {reason}", at_ns)

    def carrier(self, interface: Interface, at_ns: int, *, present: bool) -> None:
        """Act on carrier at once; its return is left to the probes."""
        self._interfaces[interface.name] = interface
        for unit in self.units:
            if unit.binding and unit.entry.interface == interface.name:
                if present:
                    unit.detector.carrier_back()
                    continue
                unit.detector.carrier_lost(at_ns)
                if unit.state in WORKING:
                    self._down(unit, "carrier_lost", f"no carrier on {interface.name}", at_ns, at_ns)
        if not present:
            self._mesh.carrier_lost(interface.ifindex)

    def _try_bind(self, unit: LinkUnit) -> None:
        interface = self._interfaces.get(unit.entry.interface)
        if interface is None:
            return
        now_ns = self._clock.monotonic_ns()
        local = local_address(interface, unit.entry.address)
        if unit.binding and (unit.binding.port.ifindex, unit.binding.port.local_address) == (interface.ifindex, local):
            return
        if unit.binding and unit.state in WORKING:
            self._down(unit, "interface_gone", f"{interface.name} has lost the address of this link", now_ns, now_ns)
        self._unbind(unit)
        if local is None:
            self._alerts.clear(unit.sockets_alert)
            text = f"{interface.name} has no address on the network of {unit.entry.address}"
            unit.enter(LinkState.WAITING, text, now_ns)
            return
        port = port_of(self._node, interface, local, unit.entry)
        try:
            self._plane.put_link(port.ifindex, port.neighbour_address, port.local_address)
            binding = open_sockets(self._sockets, self._ports, port, lambda raw: self._mesh.receive(port.key, raw))
        except (AddressUnavailable, KernelRefused) as refusal:
            if isinstance(refusal, AddressUnavailable) and refusal.in_use:
                self.port_in_use = refusal
            unit.enter(LinkState.BLOCKED, str(refusal), now_ns)
            self._alerts.raise_alert(unit.sockets_alert, str(refusal))
            return
        self._alerts.clear(unit.sockets_alert)
        unit.bind(binding)
        unit.is_ailing = unit.is_ailing or self._has_open_incident(port.key)  # an earlier life may have left one
        unit.enter(LinkState.WAITING, "no probe answered yet", now_ns)
        self._mesh.put_link(port, binding.datagrams)
        self._tell_costs()

    def _unbind(self, unit: LinkUnit) -> None:
        if unit.binding:
            port = unit.binding.port
            self._mesh.remove_link(port.key)
            self._plane.delete_link(port.ifindex, port.neighbour_address)
        unit.unbind()

    # ---- the pace ----

    async def run(self) -> None:
        """Probe every interval; between two probes look again where a verdict is due."""
        interval_ns = self._timers.interval_ns
        next_ns = retry_ns = self._clock.monotonic_ns()
        while True:
            now_ns = self._clock.monotonic_ns()
            self.judge(now_ns)
            if now_ns >= retry_ns:
                retry_ns = now_ns + RETRY_NS
                self._retry()
            self._hurry()
            if now_ns >= next_ns:
                self.probe()
                next_ns += interval_ns
                if next_ns <= now_ns:  # woke late: a missed turn is not made up for by a burst
                    next_ns = now_ns + interval_ns
            checks = [unit.detector.next_check_ns for unit in self.units if unit.binding]
            wake_ns = min([next_ns, *(check for check in checks if check is not None)])
            await asyncio.sleep(max(0.0005, (wake_ns - self._clock.monotonic_ns()) / 1e9))

    def _retry(self) -> None:
        """Try the sockets again that could not be opened, such as on an address that was still tentative."""
        for unit in self.units:
            if unit.binding is None and unit.entry.interface in self._interfaces:
                self._try_bind(unit)

    def probe(self) -> None:
        """Send a probe on every link."""
        self._history.remember(self._clock.monotonic_ns(), self._source.sent_packets(), self._mesh.own_sent)
        for unit in self.units:
            self._probe(unit)

    def _hurry(self) -> None:
        """Send the probe at once that may be the last miss of a verdict."""
        for unit in self.units:
            if unit.binding and unit.detector.wants_probe:
                self._probe(unit)

    def _probe(self, unit: LinkUnit) -> None:
        own = self._mesh.own_sent
        if unit.probe(self._clock):
            own[unit.entry.interface] = own.get(unit.entry.interface, 0) + 1

    def judge(self, now_ns: int) -> None:
        """Read the kernel's records and pass on what changed."""
        for unit in self.units:
            up = unit.judge(self._plane, now_ns)
            if up:
                self._up(unit, now_ns)
            elif up is False and unit.state is not LinkState.DOWN:
                count = unit.detector.unanswered
                self._down(unit, "probes_unanswered", f"{count} probes unanswered", unit.detector.last_sign_ns, now_ns)
            elif unit.state is LinkState.UP and unit.quality.degraded:
                self._degrade(unit, now_ns)
            elif unit.state is LinkState.DEGRADED and not unit.quality.degraded:
                self._clean(unit, now_ns)

    # ---- verdicts ----

    def _up(self, unit: LinkUnit, now_ns: int) -> None:
        key = unit.key
        assert key is not None
        unit.enter(LinkState.UP, "probes answered", now_ns)
        self._mesh.link_up(key)
        log.info(telemetry.LINK_STATE_CHANGED, link=str(key), state="up", rtt_ms=unit.record.rtt_last_ns / 1e6)
        self._recover(unit, "probes are answered again, after a clean hold", now_ns)

    def _down(self, unit: LinkUnit, kind: str, detail: str, fault_at_ns: int, now_ns: int) -> None:
        key = unit.key
        assert key is not None
        unit.fault_at_ns = fault_at_ns
        unit.enter(LinkState.DOWN, detail, now_ns)
        unit.generation = self._mesh.link_down(key)
        self._symptom(unit, kind, detail, fault_at_ns, now_ns)

    def _symptom(self, unit: LinkUnit, kind: str, detail: str, fault_at_ns: int, now_ns: int) -> None:
        key = unit.key
        assert key is not None
        unit.is_ailing = True
        log.warning(telemetry.LINK_STATE_CHANGED, link=str(key), state=unit.state.value, kind=kind, detail=detail)
        self._report(
            LinkSymptom(
                link=key,
                neighbour=unit.entry.node,
                generation=unit.generation,
                state=unit.state,
                kind=kind,
                detail=detail,
                fault_at_ns=fault_at_ns,
                detected_at_ns=now_ns,
                probes_lost=unit.detector.unanswered,
            )
        )

    def _recover(self, unit: LinkUnit, detail: str, now_ns: int) -> None:
        """End what was reported of this link; also after its interface was made anew, or under a reload."""
        if unit.is_ailing and unit.key is not None:
            unit.is_ailing = False
            self._report(LinkRecovered(unit.key, unit.generation, now_ns, detail))

    def _degrade(self, unit: LinkUnit, now_ns: int) -> None:
        assert unit.key is not None
        detail = unit.describe_loss()
        unit.enter(LinkState.DEGRADED, detail, now_ns)
        unit.generation = self._mesh.link_degraded(unit.key)
        self._symptom(unit, "loss", detail, unit.clean_until_ns, now_ns)

    def _clean(self, unit: LinkUnit, now_ns: int) -> None:
        assert unit.key is not None
        detail = unit.describe_loss()
        unit.enter(LinkState.UP, "clean again", now_ns)
        self._mesh.link_clean(unit.key)
        log.info(telemetry.LINK_STATE_CHANGED, link=str(unit.key), state="up", detail=detail)
        self._recover(unit, detail, now_ns)

    def control_changed(self, event: ControlGone | ControlBack) -> None:
        """The neighbour's daemon fell silent or came back, while its kernel answers."""
        unit = self._unit(event.key)
        if unit is None:
            return
        now_ns = self._clock.monotonic_ns()
        if isinstance(event, ControlGone):
            if unit.state not in (LinkState.UP, LinkState.DEGRADED):
                return
            if unit.state is LinkState.DEGRADED:  # judged anew, as an incident of its own, once the daemon is back
                self._mesh.link_clean(event.key)
            kind, reason = "control_silent", f"{unit.entry.node} answers probes and floods nothing"
            known = self._mesh.core.records().get(unit.entry.node)
            if known is not None and known.record.no_transit:
                kind, reason = "announced_stop", f"{unit.entry.node} announced its stop; its kernel answers probes"
            unit.enter(LinkState.CONTROL_GONE, reason, now_ns)
            unit.generation = event.generation
            self._mesh.note_control_gone(event.key, event.generation)
            self._symptom(unit, kind, unit.reason, int(event.since_s * 1e9), now_ns)
        elif unit.state is LinkState.CONTROL_GONE:
            unit.enter(LinkState.UP, f"{unit.entry.node}'s daemon is back", now_ns)
            log.info(telemetry.LINK_STATE_CHANGED, link=str(event.key), state="up", detail=unit.reason)
            self._recover(unit, unit.reason, now_ns)

    def peer_judged(self, node: str, problem: str) -> None:
        """Show with the links to a node what keeps its daemon from being authenticated; empty: nothing."""
        for unit in self.units:
            if unit.entry.node == node:
                unit.peer_problem = problem

    def peer_reported(self, key: LinkKey, state: AdjacencyState) -> int | None:
        """Another node speaks of a link; the last sign that it worked, if it is ours and has answered."""
        unit = self._unit(key)
        if unit is None or not unit.detector.last_sign_ns:
            return None
        if state is AdjacencyState.DOWN and unit.fault_at_ns is None:
            # The other end was quicker: what this node has sent since the last sign is lost all the same.
            unit.fault_at_ns = unit.detector.last_sign_ns
        return unit.detector.last_sign_ns

    # ---- out ----

    def unlinked(self) -> list[tuple[str, str]]:
        """Configured neighbours without a link for now: node, and why."""
        return [(unit.entry.node, unit.reason) for unit in self.units if unit.binding is None]

    def packets_lost(self, key: LinkKey) -> int:
        """Packets of others sent into this link since its fault.

        0 for a link that is not ours, works, or still brought probes in after the fault: drivers count the
        answers that XDP sends as they like (veth twice), so the transmit counter says nothing then.
        """
        unit = self._unit(key)
        if unit is None or unit.fault_at_ns is None:
            return 0
        if unit.record.request_last_at_ns > unit.fault_at_ns + 2 * self._timers.interval_ns:
            return 0
        sent, own = self._source.sent_packets(), self._mesh.own_sent
        return self._history.sent_since(unit.entry.interface, unit.fault_at_ns, sent, own)

    def dead_next_hops(self) -> frozenset[tuple[int, Address]]:
        """(ifindex, gateway) of the links that are down, by this node's or the other end's verdict."""
        return frozenset(
            (unit.binding.port.ifindex, unit.entry.address)
            for unit in self.units
            if unit.binding and unit.fault_at_ns is not None
        )

    def close(self) -> None:
        """Close the sockets; the kernel's records stay, so that probes are answered on."""
        for unit in self.units:
            unit.unbind()
