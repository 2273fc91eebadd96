"""``AuditService``: what was changed, by whom."""

from typing import TYPE_CHECKING, Any, Final

from x0d.service.api_convert import to_message
from x0d.service.api_range import in_range
from x0d.service.views import Views, there
from x0d.v1 import audit_pb2, audit_pb2_grpc

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    _Context = ServicerContext[Any, Any]

LIST_DEFAULT: Final = 100
LIST_MAX: Final = 1_000
"""Of about 10 kB each with the longest texts: less than a message may have."""


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    """Records, for reading alone."""

    def __init__(self, views: Views) -> None:
        self._views = views

    async def ListRecords(  # noqa: N802 - gRPC's name
        self,
        request: audit_pb2.ListRecordsRequest,
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> audit_pb2.ListRecordsResponse:
        """Newest first.  Raises InvalidInput for a limit above the maximum."""
        limit = in_range("limit", request.limit, 1, LIST_MAX, default=LIST_DEFAULT)
        records = await there(self._views.audit).latest(limit)
        return audit_pb2.ListRecordsResponse(records=[to_message(record, audit_pb2.AuditRecord) for record in records])
