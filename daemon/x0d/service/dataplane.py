"""The data plane as the API shows and steers it; satisfies ``views_dataplane.DataplaneView``.

What is asked of the kernel goes through the ports; what an operator asks of attachments goes through
the services that keep them, so that nothing is attached behind their back.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address

import structlog

from x0d import telemetry
from x0d.errors import Busy, errno_name
from x0d.ports import Clock, DataPlane, PacketEvent, PacketEvents, ProgramStatus
from x0d.service import views_dataplane as shown
from x0d.service.counting import Counting, TopReader
from x0d.service.interfaces import InterfaceService, InterfaceState
from x0d.service.metrics_dataplane import DataplaneReading
from x0d.service.tracing import TracingService

log = structlog.get_logger()


class Dataplane:
    """Counters, programs, attachments and events of this node."""

    def __init__(
        self,
        *,
        plane: DataPlane,
        counting: Counting,
        events: PacketEvents,
        interfaces: InterfaceService,
        tracing: TracingService,
        clock: Clock,
        reopen: Callable[[], Awaitable[None]],
        release: Callable[[], Awaitable[None]],
    ) -> None:
        """``reopen``: load the programs and put the lists in force again; nothing happens if they are.

        ``release``: let go of the maps before they are removed, or they stay in the kernel.
        """
        self._plane = plane
        self._counting = counting
        self._events = events
        self._interfaces = interfaces
        self._tracing = tracing
        self._clock = clock
        self._reopen = reopen
        self._release = release
        self._changing = asyncio.Lock()

    # ---- reading ----

    async def stats(self) -> shown.Stats:
        """Read every counter."""
        return await self._counting.stats()

    def top(self) -> TopReader:
        """Start a measurement for one watcher."""
        return TopReader(self._counting)

    @property
    def event_sample_every(self) -> int:
        """One packet in so many becomes an event."""
        return self._events.sample_every

    def events_lost(self) -> int:
        """Events that found no room in the kernel's buffer."""
        return self._counting.readings.sample().events_lost

    def subscribe_events(self, on_events: Callable[[Sequence[shown.PacketEvent]], None]) -> Callable[[], None]:
        """Call back with what XDP has sampled, while subscribed."""
        return self._events.subscribe(lambda events: on_events([self._event(event) for event in events]))

    def _event(self, event: PacketEvent) -> shown.PacketEvent:
        age_ms = (self._clock.monotonic_ns() - event.at_ns) // 1_000_000
        return shown.PacketEvent(
            at_unix_ms=self._clock.unix_ms() - age_ms,
            interface=self._counting.name_of(event.ifindex),
            source=str(ip_address(event.source)) if event.source else "",
            destination=str(ip_address(event.destination)) if event.destination else "",
            source_port=event.source_port,
            destination_port=event.destination_port,
            protocol=event.protocol,
            protocol_class=event.protocol_class,
            verdict=event.verdict,
            length=event.length,
            vlan_tags=event.vlan_tags,
        )

    async def programs(self) -> shown.Programs:
        """What is loaded, what it takes and where it is attached."""
        objects = (*self._plane.objects(), *self._tracing.objects())
        return shown.Programs(
            programs=[_program(program) for program in (*self._plane.programs(), *self._tracing.programs())],
            maps=[
                shown.Map(row.name, row.map_type, row.entries_max, row.memory_bytes)
                for row in (*self._plane.maps(), *self._tracing.maps())
            ],
            objects=[
                shown.ObjectFile(row.path, row.sha256, row.license, row.layout_version, row.has_btf, row.loaded_unix_ms)
                for row in objects
            ],
            attachments=[_attachment(status) for status in self._interfaces.statuses()],
        )

    async def reading(self) -> DataplaneReading:
        """What one scrape shows."""
        counting = self._counting
        return DataplaneReading(
            sample=counting.readings.sample(),
            trace=await self._tracing.read(),
            programs=(*self._plane.programs(), *self._tracing.programs()),
            maps=(*self._plane.maps(), *self._tracing.maps()),
            deny_entries=counting.policy.deny_count,
            limits=counting.policy.limit_count,
            lock_outs_refused=counting.policy.guard.refused,
            lock_outs_forced=counting.policy.guard.forced,
            name_of=counting.name_of,
        )

    # ---- steering ----

    async def upgrade(self) -> shown.UpgradeResult:
        """Put the objects on disk in force.

        All are looked into first: one that cannot be loaded refuses all, and nothing changes.  Then the XDP programs
        are replaced, all or nothing; then the tracepoint programs, each loaded or refused by itself, if their object
        is another.  What those have counted begins at 0.
        """
        if self._changing.locked():
            raise Busy("programs are being attached, detached or upgraded; try again in a moment")
        async with self._changing:
            await self._tracing.check_objects()
            upgraded = await self._plane.upgrade()
            traced = await self._tracing.upgrade()
        replaced = (*upgraded.replaced, *traced.replaced)
        objects, took_ms = (*upgraded.objects, *traced.objects), upgraded.took_ms + traced.took_ms
        log.info(telemetry.PROGRAMS_UPGRADED, replaced=replaced, objects=objects, took_ms=took_ms)
        programs = [_program(program) for program in (*self._plane.programs(), *self._tracing.programs())]
        return shown.UpgradeResult(replaced, programs, took_ms, objects)

    async def attach(self, names: Sequence[str], *, everything: bool) -> Sequence[shown.AttachmentStatus]:
        """Take up interfaces that ``detach`` has left."""
        async with self._changing:
            self._interfaces.check_configured(names)
            await self._reopen()
            wanted = [status.name for status in self._interfaces.statuses()] if everything else names
            return [_attachment(status) for status in await self._interfaces.attach(wanted)]

    async def detach(self, names: Sequence[str], *, everything: bool) -> Sequence[shown.AttachmentStatus]:
        """Leave interfaces; ``everything``: with every program, pin and map."""
        async with self._changing:
            wanted = [status.name for status in self._interfaces.statuses()] if everything else names
            left = [_attachment(status) for status in await self._interfaces.detach(wanted)]
            if everything:
                await self._tracing.unload()
                await self._release()
                await self._plane.detach_all()
                log.warning(telemetry.DATAPLANE_REMOVED)
            return left


def _program(status: ProgramStatus) -> shown.Program:
    return shown.Program(
        name=status.name,
        object=status.object_name,
        kind=status.kind,
        state=status.state,
        reason=status.reason,
        errno_name=errno_name(status.errno) if status.errno else "",
        log_tail=status.log_tail,
        id=status.program_id,
    )


def _attachment(status: InterfaceState) -> shown.AttachmentStatus:
    attachment = status.attachment
    return shown.AttachmentStatus(
        interface=status.name,
        ifindex=status.interface.ifindex if status.interface else 0,
        mode=attachment.mode if attachment else "",
        frags=attachment.frags if attachment else False,
        adopted=attachment.adopted if attachment else False,
        state=status.state,
        reason=status.reason,
    )
