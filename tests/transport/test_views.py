"""The views' dataclasses and the protos say the same."""

from dataclasses import fields

import pytest
from google.protobuf.message import Message

from x0d.service import views
from x0d.v1 import dataplane_pb2, mesh_pb2, node_pb2

PAIRS: list[tuple[type, type[Message]]] = [
    (views.NodeStatus, node_pb2.GetStatusResponse),
    (views.InterfaceStatus, node_pb2.InterfaceStatus),
    (views.RefusedMode, node_pb2.RefusedMode),
    (views.ReloadResult, node_pb2.ReloadResponse),
    (views.DoctorReport, node_pb2.RunDoctorResponse),
    (views.DoctorCheck, node_pb2.DoctorCheck),
    (views.Link, mesh_pb2.Link),
    (views.Node, mesh_pb2.Node),
    (views.Adjacency, mesh_pb2.Adjacency),
    (views.Route, mesh_pb2.Route),
    (views.PacketCounter, dataplane_pb2.PacketCounter),
    (views.ProbeCounter, dataplane_pb2.ProbeCounter),
]


@pytest.mark.parametrize(("view", "message"), PAIRS, ids=[view.__name__ for view, _ in PAIRS])
def test_same_fields(view: type, message: type[Message]) -> None:
    """A view has exactly the fields of its message."""
    assert {field.name for field in message.DESCRIPTOR.fields} == {field.name for field in fields(view)}
