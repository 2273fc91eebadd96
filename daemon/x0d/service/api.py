"""The services that the control server offers, over the views that feed them."""

from grpc import aio

from x0d.service.api_audit import AuditServicer
from x0d.service.api_dataplane import DataplaneServicer
from x0d.service.api_identity import IdentityServicer
from x0d.service.api_incident import IncidentServicer
from x0d.service.api_mesh import MeshServicer
from x0d.service.api_node import NodeServicer
from x0d.service.views import Views
from x0d.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    dataplane_pb2,
    dataplane_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    incident_pb2,
    incident_pb2_grpc,
    mesh_pb2,
    mesh_pb2_grpc,
    node_pb2,
    node_pb2_grpc,
)


class Servicers:
    """All servicers of this version."""

    def __init__(self, views: Views) -> None:
        self._views = views

    @property
    def names(self) -> tuple[str, ...]:
        """Full service names, for health and reflection."""
        return tuple(
            file.DESCRIPTOR.package + "." + name
            for file in (node_pb2, mesh_pb2, incident_pb2, dataplane_pb2, identity_pb2, audit_pb2)
            for name in file.DESCRIPTOR.services_by_name
        )

    def register(self, server: aio.Server) -> None:
        """Add every service to the server."""
        node_pb2_grpc.add_NodeServiceServicer_to_server(NodeServicer(self._views), server)
        mesh_pb2_grpc.add_MeshServiceServicer_to_server(MeshServicer(self._views), server)
        incident_pb2_grpc.add_IncidentServiceServicer_to_server(IncidentServicer(self._views), server)
        dataplane_pb2_grpc.add_DataplaneServiceServicer_to_server(DataplaneServicer(self._views), server)
        audit_pb2_grpc.add_AuditServiceServicer_to_server(AuditServicer(self._views), server)
        identity_pb2_grpc.add_IdentityServiceServicer_to_server(IdentityServicer(self._views), server)
