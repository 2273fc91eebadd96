"""What the daemon has in the kernel: XDP programs, lists, events and tracepoints, with the services over them.

Opened in this order: the programs with their maps, what an earlier life has left in the lists, the lists
as they are on disk.  ``reopen`` does the same again after an operator has had everything removed.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from ipaddress import ip_network

from x0d.config import Config
from x0d.errors import KernelRefused, PinMissing
from x0d.kernel.clock import SystemClock
from x0d.kernel.dataplane import PlaneSettings, XdpDataPlane
from x0d.kernel.events import KernelEvents
from x0d.kernel.pins import netns_inode
from x0d.kernel.policy import KernelPolicy
from x0d.kernel.tracing import KernelTracer
from x0d.mesh.database import KnownRecord
from x0d.mesh.model import Prefix
from x0d.policy.guard import Protected
from x0d.policy.model import PackedPrefix, pack
from x0d.ports import InterfaceSource
from x0d.service.alerts import Alerts
from x0d.service.counting import Counting
from x0d.service.dataplane import Dataplane
from x0d.service.interfaces import InterfaceService
from x0d.service.policy import PolicyService
from x0d.service.policy_addresses import LocalAddresses
from x0d.service.refused_programs import judge_programs
from x0d.service.sampling import PlaneReadings
from x0d.service.tracing import TracingService
from x0d.store.policy import PolicyDatabase

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
KIB = 1024
POLICY_ALERT = "policy_moved_aside"
ROWS_ALERT = "policy_rows_unreadable"
SYN_ALERT = "syn_limit_refused"


class KernelParts:
    """All adapters of the kernel programs, built by hand; complete once ``open`` has run."""

    dataplane: Dataplane

    def __init__(self, config: Config, clock: SystemClock, alerts: Alerts, session: int) -> None:
        """``session``: the prober's, random and not 0."""
        ebpf = config.ebpf
        self._config = config
        self._clock = clock
        self._alerts = alerts
        self.plane = XdpDataPlane(config.node.bpffs_dir, plane_settings(config, session), self._programs_changed)
        self._lists = KernelPolicy(lambda: self.plane.map_fds, lambda: self.plane.maps_dir, ebpf.deny_entries_max)
        self._events = KernelEvents(lambda: self.plane.map_fds, ebpf.event_buffer_kib * KIB, ebpf.event_sample_every)
        self._store = PolicyDatabase(config.node.state_dir / "policy.db")
        self._tracer = KernelTracer(ebpf.trace, ebpf.objects_dir, netns_inode())
        self._records: Callable[[], Mapping[str, KnownRecord]] = dict
        self._addresses = LocalAddresses(lambda: self.policy.protected_changed())  # noqa: PLW0108 - made below
        self.tracing = TracingService(self._tracer, clock)
        self.policy = PolicyService(
            plane=self._lists,
            store=self._store,
            clock=clock,
            alerts=alerts,
            protected=self._protected,
            shortfall=self.plane.shortfall,
            deny_entries_max=ebpf.deny_entries_max,
        )

    async def open(self, stack: AsyncExitStack) -> None:
        """Load the programs and put deny-list and limits in force; nothing is attached yet.

        What tracepoint programs the kernel refuses is shown, and the rest runs.  They are loaded meanwhile:
        parsing the kernel's BTF takes as long as all the rest.
        """
        stack.callback(self._tracer.close)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.tracing.open(), name="load the tracepoints")
            await self._open_plane(stack)

    async def _open_plane(self, stack: AsyncExitStack) -> None:
        stack.callback(self.plane.close)
        await self.plane.open()
        stack.push_async_callback(self._lists.close)
        await self._lists.open()
        stack.push_async_callback(self._store.close)
        report = await self._store.open()
        if report.moved_aside is not None:
            text = f"policy.db was not readable ({report.reason}) and was moved to {report.moved_aside}"
            self._alerts.raise_alert(POLICY_ALERT, text)
        await self.policy.start(store_is_new=report.is_new)
        if self._store.unreadable:
            text = f"{self._store.unreadable:,} rows of policy.db make no sense and are left out"
            self._alerts.raise_alert(ROWS_ALERT, text)
        stack.callback(self._events.close)
        self._events.open()

    async def reopen(self) -> None:
        """Load everything again after it was removed; nothing happens if it is there."""
        await self.plane.open()
        await self._lists.open()
        await self.policy.restore()
        self._events.open()
        await self.tracing.open()

    async def release(self) -> None:
        """Let go of the maps, so that they end with their pins; ``reopen`` takes new ones."""
        self._events.suspend()
        await self._lists.suspend()

    async def watch(self, source: InterfaceSource) -> None:
        """Know this host's addresses from now on, and hold the lists against them."""
        await self._addresses.start(source)

    def addresses(self) -> Iterable[PackedPrefix]:
        """Every address of this host but those of the loopback network."""
        return self._addresses.known()

    def serve(self, interfaces: InterfaceService, records: Callable[[], Mapping[str, KnownRecord]]) -> None:
        """Join what counts to what is attached; ``records`` are what the mesh knows of its nodes."""
        self._records = records
        counting = Counting(
            readings=PlaneReadings(self.plane, self._clock),
            tracing=self.tracing,
            policy=self.policy,
            policy_plane=self._lists,
            interfaces=interfaces,
            clock=self._clock,
        )
        self.dataplane = Dataplane(
            plane=self.plane,
            counting=counting,
            events=self._events,
            interfaces=interfaces,
            tracing=self.tracing,
            clock=self._clock,
            reopen=self.reopen,
            release=self.release,
        )

    def reconfigure(self, config: Config) -> None:
        """Take over neighbours and management prefixes of a newly read configuration."""
        self._config = config
        self.policy.protected_changed()

    def _programs_changed(self) -> None:
        """Programs were loaded, replaced or removed, and maps made with them: what depends on that, anew."""
        judge_programs(self._alerts, self.plane.programs())
        listen, ebpf = self._config.listen, self._config.ebpf
        ports = (listen.control_port, listen.peer_port, listen.peer_http_port, listen.join_port)
        try:
            self.plane.set_limit(ports, ebpf.syn_rate, ebpf.syn_burst)
        except PinMissing:  # nothing is loaded, or the stage is missing, of which ``judge_programs`` tells
            self._alerts.clear(SYN_ALERT)
        except KernelRefused as refusal:
            self._alerts.raise_alert(SYN_ALERT, f"SYNs to x0d's own ports are not limited by source: {refusal}")
        else:
            self._alerts.clear(SYN_ALERT)

    def _protected(self) -> Sequence[Protected]:
        """What a deny-list entry or a limit must not cover unasked."""
        config = self._config
        own = config.node.address.network_address
        ours = {prefix: f"this node's own address on {name}" for prefix, name in self._addresses.known().items()}
        ours[pack(own)] = "this node's own address"
        nodes = {
            packed(known.record.prefixes[0]): f"address of node {name}"
            for name, known in self._records().items()
            if known.record.prefixes and known.record.prefixes[0].network_address != own
        }
        neighbours = {
            pack(each.address): f"neighbour {each.node} on {each.interface}" for each in config.mesh.neighbours
        }
        ranges = {packed(prefix): "this host's loopback" for prefix in LOOPBACK}
        ranges |= {packed(prefix): "ebpf.management" for prefix in config.ebpf.management}
        return (
            *(Protected(prefix, what, overlap=False) for prefix, what in (nodes | neighbours | ours).items()),
            *(Protected(prefix, what, overlap=True) for prefix, what in ranges.items()),
        )


def packed(prefix: Prefix) -> PackedPrefix:
    """A prefix of the configuration, as the lists have it."""
    return PackedPrefix(prefix.network_address.packed, prefix.prefixlen)


def plane_settings(config: Config, session: int) -> PlaneSettings:
    """What the XDP programs are configured with."""
    ebpf = config.ebpf
    return PlaneSettings(
        allow_skb_mode=ebpf.allow_skb_mode,
        probe_port=config.listen.probe_port,
        probe_rate_pps=ebpf.probe_rate_pps,
        probe_burst=ebpf.probe_burst,
        session=session,
        deny_entries_max=ebpf.deny_entries_max,
        sources_max=ebpf.sources_max,
        talkers=ebpf.talkers,
        event_buffer_bytes=ebpf.event_buffer_kib * KIB,
        objects_dir=ebpf.objects_dir,
    )
