"""``IncidentService``: stored incidents, and a stream of each as it changes.

A watcher has a bounded queue.  One that does not keep up is ended with RESOURCE_EXHAUSTED and reads
the list again; it never holds up the loop or the other watchers.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from grpc import StatusCode

from x0d.errors import InvalidInput
from x0d.mapek.model import ActionRecord, Evidence, Incident, Step
from x0d.service.api_convert import to_message
from x0d.service.views import Views, there
from x0d.v1 import incident_pb2, incident_pb2_grpc

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    _Context = ServicerContext[Any, Any]

LIST_DEFAULT: Final = 100
LIST_MAX: Final = 1000
"""A list never holds more; asking for more is refused."""
WATCH_QUEUE_MAX: Final = 256
"""Changes waiting for one watcher; beyond it the watcher is ended."""
ID_CHARACTERS_MAX: Final = 256
"""A longer id cannot exist; it is not looked up."""


def incident_message(incident: Incident) -> incident_pb2.Incident:
    """Convert a whole incident."""
    return incident_pb2.Incident(
        id=str(incident.id),
        link=incident.id.link,
        generation=incident.id.generation,
        cause=incident.cause.value,
        explanation=incident.explanation,
        state=incident.state.value,
        role=incident.role.value,
        opened_at_unix_ms=incident.opened_at_unix_ms,
        closed_at_unix_ms=incident.closed_at_unix_ms or 0,
        evidence=[_evidence(item) for item in incident.evidence],
        steps=[_step(item) for item in incident.steps],
        actions=[_action(item) for item in incident.actions],
        packets_lost=incident.packets_lost,
        probes_lost=incident.probes_lost,
        healing_mode=incident.healing_mode,
    )


def _evidence(item: Evidence) -> incident_pb2.Evidence:
    return to_message(item, incident_pb2.Evidence)


def _action(item: ActionRecord) -> incident_pb2.ActionRecord:
    return to_message(item, incident_pb2.ActionRecord)


def _step(item: Step) -> incident_pb2.IncidentStep:
    return incident_pb2.IncidentStep(
        step=item.name, duration_ms=item.duration_ms, since_fault_ms=item.since_fault_ms, detail=item.detail
    )


class IncidentServicer(incident_pb2_grpc.IncidentServiceServicer):
    """What went wrong and what was done about it."""

    def __init__(self, views: Views) -> None:
        self._views = views

    async def ListIncidents(  # noqa: N802 - gRPC's name
        self,
        request: incident_pb2.ListIncidentsRequest,
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> incident_pb2.ListIncidentsResponse:
        """Newest first.  Raises InvalidInput for a limit above the maximum."""
        if request.limit > LIST_MAX:
            raise InvalidInput(f"limit is {request.limit}, at most {LIST_MAX} is allowed")
        limit = request.limit or LIST_DEFAULT
        incidents = await there(self._views.incidents).list(limit, open_only=request.open_only)
        return incident_pb2.ListIncidentsResponse(incidents=[incident_message(item) for item in incidents])

    async def GetIncident(  # noqa: N802 - gRPC's name
        self, request: incident_pb2.GetIncidentRequest, context: "_Context"
    ) -> incident_pb2.GetIncidentResponse:
        """One incident; NOT_FOUND if there is no record of it."""
        if not request.id:
            raise InvalidInput("id is empty; it looks like n1-n2.5c1e:3")
        incident = None
        if len(request.id) <= ID_CHARACTERS_MAX:
            incident = await there(self._views.incidents).load(request.id)
        if incident is None:
            shown = request.id[:ID_CHARACTERS_MAX]
            await context.abort(StatusCode.NOT_FOUND, f"no incident {shown!r} here", (("x0d-reason", "unknown"),))
        return incident_pb2.GetIncidentResponse(incident=incident_message(incident))

    async def WatchIncidents(  # noqa: N802 - gRPC's name
        self, request: incident_pb2.WatchIncidentsRequest, context: "_Context"
    ) -> AsyncIterator[incident_pb2.WatchIncidentsResponse]:
        """Each change from now on; with ``include_open`` those open now come first."""
        view = there(self._views.incidents)
        watcher = _Watcher()
        unsubscribe = view.subscribe(watcher.put)
        try:
            await context.send_initial_metadata(())
            if request.include_open:
                for incident in reversed(await view.list(LIST_MAX, open_only=True)):
                    yield incident_pb2.WatchIncidentsResponse(incident=incident_message(incident))
            while (changed := await watcher.next()) is not None:
                yield incident_pb2.WatchIncidentsResponse(incident=incident_message(changed))
            text = f"more than {WATCH_QUEUE_MAX} changes were waiting; list the incidents and watch again"
            await context.abort(StatusCode.RESOURCE_EXHAUSTED, text, (("x0d-reason", "slow"),))
        finally:
            unsubscribe()


class _Watcher:
    """Changes on their way to one client."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Incident] = asyncio.Queue(WATCH_QUEUE_MAX)
        self._overflowed = False

    def put(self, incident: Incident) -> None:
        """Queue a change; the first that finds no room marks the watcher as too slow, for good."""
        self._overflowed = self._overflowed or self._queue.full()
        if not self._overflowed:
            self._queue.put_nowait(incident)

    async def next(self) -> Incident | None:
        """Next change; None once the watcher was too slow."""
        return None if self._overflowed else await self._queue.get()
