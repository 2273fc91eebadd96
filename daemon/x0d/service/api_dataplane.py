"""``DataplaneService``: counters, events, programs and attachments; the lists are in ``api_policy``.

A watcher asks for a pace and gets no more: one that reads slower gets fewer messages of counters, and
of events it loses those that find its queue full, which ``events_lost`` counts for it.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from x0d.errors import InvalidInput
from x0d.ports.audit import tell_change
from x0d.service.api_convert import to_message
from x0d.service.api_policy import PolicyMethods
from x0d.service.api_range import in_range
from x0d.service.views import there
from x0d.service.views_dataplane import AttachmentStatus, PacketEvent, UpgradeResult
from x0d.v1 import dataplane_pb2

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    _Context = ServicerContext[Any, Any]

EVENTS_QUEUED_MAX: Final = 4096
"""Events waiting for one watcher; further ones are lost to it, and counted."""
EVENTS_PER_MESSAGE_MAX: Final = 256
VERDICTS: Final = ("pass", "drop", "reflect", "consume", "deny", "limit")
INTERFACES_MAX: Final = 4096
"""Names in one request."""


class DataplaneServicer(PolicyMethods):
    """All methods: those of ``PolicyMethods``, and the data plane's own."""

    async def GetStats(  # noqa: N802 - gRPC's name
        self,
        request: dataplane_pb2.GetStatsRequest,  # noqa: ARG002 - empty
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> dataplane_pb2.GetStatsResponse:
        """Sums over the CPUs."""
        return to_message(await there(self._views.dataplane).stats(), dataplane_pb2.GetStatsResponse)

    async def WatchStats(  # noqa: N802 - gRPC's name
        self,
        request: dataplane_pb2.WatchStatsRequest,
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> AsyncIterator[dataplane_pb2.WatchStatsResponse]:
        """The same at once and then at each interval."""
        pace = _Pace(in_range("interval_ms", request.interval_ms, 100, 60_000, default=1_000) / 1_000)
        view = there(self._views.dataplane)
        while True:
            stats = to_message(await view.stats(), dataplane_pb2.GetStatsResponse)
            yield dataplane_pb2.WatchStatsResponse(stats=stats, at_unix_ms=time.time_ns() // 1_000_000)
            await pace.next()

    async def WatchTop(  # noqa: N802 - gRPC's name
        self,
        request: dataplane_pb2.WatchTopRequest,
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> AsyncIterator[dataplane_pb2.WatchTopResponse]:
        """A first message without rates at once, then one at each interval."""
        pace = _Pace(in_range("interval_ms", request.interval_ms, 200, 60_000, default=1_000) / 1_000)
        talkers_max = in_range("talkers_max", request.talkers_max, 1, 100, default=10)
        reader = there(self._views.dataplane).top()
        while True:
            yield to_message(await reader.next(talkers_max), dataplane_pb2.WatchTopResponse)
            await pace.next()

    async def WatchEvents(  # noqa: N802 - gRPC's name
        self, request: dataplane_pb2.WatchEventsRequest, context: "_Context"
    ) -> AsyncIterator[dataplane_pb2.WatchEventsResponse]:
        """A first message without events once they are sampled, then what comes."""
        wanted = _verdicts(request.verdicts)
        view = there(self._views.dataplane)
        waiting = EventQueue(wanted)
        unsubscribe = view.subscribe_events(waiting.put)
        try:
            await context.send_initial_metadata(())
            events: Sequence[PacketEvent] = ()
            while True:
                yield dataplane_pb2.WatchEventsResponse(
                    events=[to_message(event, dataplane_pb2.PacketEvent) for event in events],
                    events_lost=view.events_lost() + waiting.lost,
                    sample_every=view.event_sample_every,
                )
                events = await waiting.take()
        finally:
            unsubscribe()

    async def ListPrograms(  # noqa: N802 - gRPC's name
        self,
        request: dataplane_pb2.ListProgramsRequest,  # noqa: ARG002 - empty
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> dataplane_pb2.ListProgramsResponse:
        """Programs, maps, objects and attachments."""
        return to_message(await there(self._views.dataplane).programs(), dataplane_pb2.ListProgramsResponse)

    async def Upgrade(  # noqa: N802 - gRPC's name
        self,
        request: dataplane_pb2.UpgradeRequest,  # noqa: ARG002 - empty
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> dataplane_pb2.UpgradeResponse:
        """All or nothing."""
        upgraded = await self._changes.run(there(self._views.dataplane).upgrade(), _upgraded_text)
        return to_message(upgraded, dataplane_pb2.UpgradeResponse)

    async def Attach(  # noqa: N802 - gRPC's name
        self,
        request: dataplane_pb2.AttachRequest,
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> dataplane_pb2.AttachResponse:
        """Take up interfaces that were left."""
        names = _named(request)
        change = there(self._views.dataplane).attach(names, everything=request.all)
        tell_change(before=self._interfaces_text(names))
        statuses = await self._changes.run(change, _attached_text)
        return dataplane_pb2.AttachResponse(attachments=[to_message(s, dataplane_pb2.Attachment) for s in statuses])

    async def Detach(  # noqa: N802 - gRPC's name
        self,
        request: dataplane_pb2.DetachRequest,
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> dataplane_pb2.DetachResponse:
        """Leave interfaces."""
        names = _named(request)
        change = there(self._views.dataplane).detach(names, everything=request.all)
        tell_change(before=self._interfaces_text(names))
        statuses = await self._changes.run(change, _attached_text)
        return dataplane_pb2.DetachResponse(attachments=[to_message(s, dataplane_pb2.Attachment) for s in statuses])

    async def Trace(  # noqa: N802 - gRPC's name
        self,
        request: dataplane_pb2.TraceRequest,
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> AsyncIterator[dataplane_pb2.TraceResponse]:
        """A measurement, which ends with its time or with its watcher."""
        if request.program != "syscalls":
            raise InvalidInput(f"program is {request.program[:40]!r}; syscalls is all that can be traced so")
        duration_s = in_range("duration_s", request.duration_s, 1, 300, default=10)
        sample_every = in_range("sample_every", request.sample_every, 1, 10_000, default=10)
        async with aclosing(there(self._views.tracing).trace(float(duration_s), sample_every)) as measurement:
            async for progress in measurement:
                yield to_message(progress, dataplane_pb2.TraceResponse)

    def _interfaces_text(self, names: Sequence[str]) -> str:
        """How the data plane stands on these interfaces, or on all."""
        interfaces = self._views.node.status().interfaces
        return "; ".join(f"{i.name} {i.state} {i.mode}".rstrip() for i in interfaces if not names or i.name in names)


def _named(request: dataplane_pb2.AttachRequest | dataplane_pb2.DetachRequest) -> tuple[str, ...]:
    if bool(request.interfaces) == request.all:
        raise InvalidInput("interfaces: name some, or set all, and not both")
    if len(request.interfaces) > INTERFACES_MAX:
        raise InvalidInput(f"interfaces: {len(request.interfaces)} names, at most {INTERFACES_MAX} are allowed")
    return tuple(dict.fromkeys(request.interfaces))


def _attached_text(statuses: Sequence[AttachmentStatus]) -> str:
    return "; ".join(f"{status.interface} {status.state} {status.mode}".rstrip() for status in statuses)


def _upgraded_text(upgraded: UpgradeResult) -> str:
    if not upgraded.replaced:
        return "the programs are as before"
    return f"replaced: {', '.join(upgraded.replaced)}"


def _verdicts(named: Sequence[str]) -> frozenset[str]:
    """Verdicts to show; all of them if none is named."""
    for verdict in named:
        if verdict not in VERDICTS:
            raise InvalidInput(f"verdicts: {verdict[:40]!r} is none; there are {', '.join(VERDICTS)}")
    return frozenset(named or VERDICTS)


class _Pace:
    """Instants ``interval_s`` apart; those that were missed are left out."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._due_at = asyncio.get_running_loop().time()

    async def next(self) -> None:
        """Wait for the next one."""
        now = asyncio.get_running_loop().time()
        self._due_at = max(self._due_at + self._interval_s, now)
        await asyncio.sleep(self._due_at - now)


class EventQueue:
    """Events on their way to one watcher."""

    def __init__(self, verdicts: frozenset[str]) -> None:
        self._verdicts = verdicts
        self._waiting: deque[PacketEvent] = deque()
        self._some = asyncio.Event()
        self.lost = 0
        """Wanted events that found no room."""

    def put(self, events: Sequence[PacketEvent]) -> None:
        """Queue the wanted ones: those that nobody asked for take no room."""
        wanted = [event for event in events if event.verdict in self._verdicts]
        room = EVENTS_QUEUED_MAX - len(self._waiting)
        self._waiting.extend(wanted[:room])
        self.lost += max(len(wanted) - room, 0)
        if self._waiting:
            self._some.set()

    async def take(self) -> Sequence[PacketEvent]:
        """Wait for events; at most a message full."""
        await self._some.wait()
        taken = list(self._taken())
        if not self._waiting:
            self._some.clear()
        return taken

    def _taken(self) -> Iterator[PacketEvent]:
        for _ in range(min(len(self._waiting), EVENTS_PER_MESSAGE_MAX)):
            yield self._waiting.popleft()
