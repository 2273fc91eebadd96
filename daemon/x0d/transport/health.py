"""The standard gRPC health service.

Not the servicer of grpcio-health-checking: that one holds a lock while it writes to a watcher, so
that one watcher who does not read would block every change of status, and with it the start-up.
"""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

if TYPE_CHECKING:
    from grpc.aio import ServicerContext


class Health(health_pb2_grpc.HealthServicer):
    """One status for the whole daemon; it answers for ``""`` and for every service's name."""

    def __init__(self) -> None:
        self._services = frozenset({""})
        self._ready = False
        self._able = True
        self._changed = asyncio.Event()

    def add(self, services: Iterable[str]) -> None:
        """Answer for these services too."""
        self._services |= frozenset(services)

    def set(self, *, ready: bool | None = None, able: bool | None = None) -> None:
        """Change what is given and tell the watchers: SERVING is who is ready and able."""
        self._ready = self._ready if ready is None else ready
        self._able = self._able if able is None else able
        self._changed.set()
        self._changed = asyncio.Event()

    def _status(self, service: str) -> Any:  # noqa: ANN401 - the published type stubs have no type for it
        if service not in self._services:
            return HealthCheckResponse.SERVICE_UNKNOWN
        return HealthCheckResponse.SERVING if self._ready and self._able else HealthCheckResponse.NOT_SERVING

    async def Check(  # noqa: N802 - gRPC's name
        self,
        request: health_pb2.HealthCheckRequest,
        context: "ServicerContext[health_pb2.HealthCheckRequest, HealthCheckResponse]",
    ) -> HealthCheckResponse:
        """Status now; NOT_FOUND for a service that this server does not have."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} here")
        return HealthCheckResponse(status=self._status(request.service))

    async def List(  # noqa: N802 - gRPC's name
        self,
        request: Any,  # noqa: ANN401, ARG002 - empty; the published type stubs do not know this method yet
        context: "ServicerContext[Any, Any]",  # noqa: ARG002 - not needed
    ) -> Any:  # noqa: ANN401 - as above
        """Status now of every service."""
        statuses = {name: HealthCheckResponse(status=self._status(name)) for name in sorted(self._services)}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(  # noqa: N802 - gRPC's name
        self,
        request: health_pb2.HealthCheckRequest,
        context: "ServicerContext[health_pb2.HealthCheckRequest, HealthCheckResponse]",
    ) -> None:
        """Status now and after each change, until the client ends the call."""
        sent = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != sent:
                await context.write(HealthCheckResponse(status=status))
                sent = status
            await changed.wait()
