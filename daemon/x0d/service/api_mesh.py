"""``MeshService``: what this node knows, as it stands now."""

from typing import TYPE_CHECKING, Any

from x0d.service.api_convert import to_message
from x0d.service.views import Views, there
from x0d.v1 import mesh_pb2, mesh_pb2_grpc

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    _Context = ServicerContext[Any, Any]


class MeshServicer(mesh_pb2_grpc.MeshServiceServicer):
    """Links, nodes and routes."""

    def __init__(self, views: Views) -> None:
        self._views = views

    async def ListLinks(  # noqa: N802 - gRPC's name
        self,
        request: mesh_pb2.ListLinksRequest,  # noqa: ARG002 - empty
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> mesh_pb2.ListLinksResponse:
        """This node's links."""
        links = there(self._views.mesh).links()
        return mesh_pb2.ListLinksResponse(links=[to_message(link, mesh_pb2.Link) for link in links])

    async def ListNodes(  # noqa: N802 - gRPC's name
        self,
        request: mesh_pb2.ListNodesRequest,  # noqa: ARG002 - empty
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> mesh_pb2.ListNodesResponse:
        """All nodes whose link state is held."""
        nodes = there(self._views.mesh).nodes()
        return mesh_pb2.ListNodesResponse(nodes=[to_message(node, mesh_pb2.Node) for node in nodes])

    async def ListRoutes(  # noqa: N802 - gRPC's name
        self,
        request: mesh_pb2.ListRoutesRequest,  # noqa: ARG002 - empty
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> mesh_pb2.ListRoutesResponse:
        """Computed routes, installed or not."""
        routes = there(self._views.mesh).routes()
        return mesh_pb2.ListRoutesResponse(routes=[to_message(route, mesh_pb2.Route) for route in routes])
