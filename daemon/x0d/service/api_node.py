"""``NodeService``: status, reload, doctor."""

import asyncio
from typing import TYPE_CHECKING, Any

from x0d.ports.audit import outlives_its_caller, tell_change
from x0d.service.api_convert import to_message
from x0d.service.views import ReloadResult, Views
from x0d.v1 import node_pb2, node_pb2_grpc

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    _Context = ServicerContext[Any, Any]


class NodeServicer(node_pb2_grpc.NodeServiceServicer):
    """The daemon as a whole."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._one_reload = asyncio.Lock()
        self._reloads: set[asyncio.Task[ReloadResult]] = set()
        self._one_doctor = asyncio.Lock()

    async def GetStatus(  # noqa: N802 - gRPC's name
        self,
        request: node_pb2.GetStatusRequest,  # noqa: ARG002 - empty
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> node_pb2.GetStatusResponse:
        """Answered from the first start-up step on."""
        return to_message(self._views.node.status(), node_pb2.GetStatusResponse)

    async def Reload(  # noqa: N802 - gRPC's name
        self,
        request: node_pb2.ReloadRequest,  # noqa: ARG002 - empty
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> node_pb2.ReloadResponse:
        """One at a time; a file that is not valid changes nothing.

        A client that leaves, or whose deadline passes, does not stop a reload half-way.
        """
        reload = asyncio.get_running_loop().create_task(self._reload())
        self._reloads.add(reload)
        outlives_its_caller(reload)
        reload.add_done_callback(self._reloads.discard)
        return to_message(await asyncio.shield(reload), node_pb2.ReloadResponse)

    async def _reload(self) -> ReloadResult:
        async with self._one_reload:
            result = await self._views.node.reload()
        tell_change(after=_reloaded_text(result))
        return result

    async def RunDoctor(  # noqa: N802 - gRPC's name
        self,
        request: node_pb2.RunDoctorRequest,  # noqa: ARG002 - empty
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> node_pb2.RunDoctorResponse:
        """One at a time: it loads programs to see whether the kernel takes them."""
        async with self._one_doctor:
            return to_message(await self._views.node.doctor(), node_pb2.RunDoctorResponse)


def _reloaded_text(result: ReloadResult) -> str:
    """What a reload has done, for the audit."""
    parts = (("in force", result.applied), ("after a restart", result.needs_restart))
    return "; ".join(f"{when}: {', '.join(keys)}" for when, keys in parts if keys) or "nothing differs"
