"""The views' dataclasses and the protos say the same."""

from dataclasses import fields

import pytest
from google.protobuf.message import Message

from x0d.service import views, views_dataplane
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
    (views_dataplane.Stats, dataplane_pb2.GetStatsResponse),
    (views_dataplane.PacketCounter, dataplane_pb2.PacketCounter),
    (views_dataplane.ProbeCounter, dataplane_pb2.ProbeCounter),
    (views_dataplane.DropCounter, dataplane_pb2.DropCounter),
    (views_dataplane.PeerCounter, dataplane_pb2.PeerCounter),
    (views_dataplane.StateCounter, dataplane_pb2.StateCounter),
    (views_dataplane.Histogram, dataplane_pb2.Histogram),
    (views_dataplane.Top, dataplane_pb2.WatchTopResponse),
    (views_dataplane.InterfaceRate, dataplane_pb2.InterfaceRate),
    (views_dataplane.VerdictRate, dataplane_pb2.VerdictRate),
    (views_dataplane.Talker, dataplane_pb2.Talker),
    (views_dataplane.DropRate, dataplane_pb2.DropRate),
    (views_dataplane.PacketEvent, dataplane_pb2.PacketEvent),
    (views_dataplane.Programs, dataplane_pb2.ListProgramsResponse),
    (views_dataplane.Program, dataplane_pb2.Program),
    (views_dataplane.Map, dataplane_pb2.Map),
    (views_dataplane.ObjectFile, dataplane_pb2.ObjectFile),
    (views_dataplane.AttachmentStatus, dataplane_pb2.Attachment),
    (views_dataplane.UpgradeResult, dataplane_pb2.UpgradeResponse),
    (views_dataplane.TraceProgress, dataplane_pb2.TraceResponse),
    (views_dataplane.SyscallLatency, dataplane_pb2.SyscallLatency),
]


@pytest.mark.parametrize(("view", "message"), PAIRS, ids=[view.__name__ for view, _ in PAIRS])
def test_same_fields(view: type, message: type[Message]) -> None:
    """A view has exactly the fields of its message."""
    assert {field.name for field in message.DESCRIPTOR.fields} == {field.name for field in fields(view)}
