"""What the daemons of a lab say, asked over their control sockets, and the wait for all of them to agree.

A control socket is a path, and paths do not belong to network namespaces, so it is reached from anywhere.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from lab.machine import LabError, wait_until
from lab.network import Lab
from lab.nodes import ROOT
from x0d.v1 import incident_pb2, incident_pb2_grpc, mesh_pb2, mesh_pb2_grpc, node_pb2, node_pb2_grpc

CALL_S = 10.0  # of patience, for emulated machines
POLL_S = 0.1
ANSWER_S = 30.0
X0CTL_S = 240.0
ROUTE_PROTOCOL = "120"  # mesh.route_protocol's default


class NodeClient:
    """Calls to one daemon; each raises ``grpc.RpcError`` if it is not answered."""

    def __init__(self, channel: grpc.Channel) -> None:
        """Wrap a channel; see ``connect``."""
        self._node = node_pb2_grpc.NodeServiceStub(channel)
        self._mesh = mesh_pb2_grpc.MeshServiceStub(channel)
        self._incident = incident_pb2_grpc.IncidentServiceStub(channel)

    def status(self) -> node_pb2.GetStatusResponse:
        """How the daemon is doing."""
        answer: node_pb2.GetStatusResponse = self._node.GetStatus(node_pb2.GetStatusRequest(), timeout=CALL_S)
        return answer

    def links(self) -> list[mesh_pb2.Link]:
        """Its links."""
        return list(self._mesh.ListLinks(mesh_pb2.ListLinksRequest(), timeout=CALL_S).links)

    def incidents(self) -> list[incident_pb2.Incident]:
        """Its incidents, newest first."""
        return list(self._incident.ListIncidents(incident_pb2.ListIncidentsRequest(), timeout=CALL_S).incidents)


@contextmanager
def connect(lab: Lab, node: str) -> Iterator[NodeClient]:
    """Open a client of a node's daemon."""
    channel = grpc.insecure_channel(f"unix://{lab.daemons[lab.topology.node(node)].socket}")
    try:
        yield NodeClient(channel)
    finally:
        channel.close()


def kernel_prefixes(lab: Lab, node: str) -> frozenset[str]:
    """Addresses that the kernel of a node has an x0d route to."""
    shown = lab.run(node, "ip", "-j", "-4", "route", "show", "proto", ROUTE_PROTOCOL)
    return frozenset(each["dst"].removesuffix("/32") for each in json.loads(shown or "[]"))


def shortfall(lab: Lab, node: str) -> str | None:
    """What a node still lacks to be settled, in a few words; None if nothing."""
    daemon = lab.daemons[node]
    if daemon.process is None:
        raise LabError(f"x0d of {node} has ended; the end of its log:\n{daemon.log_tail()}")
    if not daemon.socket.exists():
        return "no control socket yet"
    try:
        with connect(lab, node) as client:
            status = client.status()
    except grpc.RpcError as err:
        return f"status is not answered: {err.code().name}"
    if status.phase != "running":
        return f"{status.phase} ({status.starting_step})"
    if status.links_up < len(list(lab.topology.links_of(node))):
        return f"{status.links_up} of {status.links_total} links are up"
    missing = {lab.topology.address(other) for other in lab.topology.nodes if other != node} - kernel_prefixes(
        lab, node
    )
    return f"no route to {' '.join(sorted(missing))}" if missing else None


def wait_settled(lab: Lab, timeout_s: float, nodes: tuple[str, ...] = ()) -> float:
    """Wait until each daemon runs with all its links up and the kernel has all its routes; return the seconds it took.

    Raises:
        LabError: one ended, or it took longer than ``timeout_s``; with what is lacking and the end of the log.
    """
    begun = time.monotonic()
    waiting = dict.fromkeys(nodes or lab.topology.nodes, "")
    while waiting:
        waiting = {node: lack for node in waiting if (lack := shortfall(lab, node))}
        if waiting and time.monotonic() - begun > timeout_s:
            lacks = "; ".join(f"{node}: {lack}" for node, lack in waiting.items())
            worst = lab.daemons[next(iter(waiting))]
            raise LabError(
                f"not settled after {timeout_s:.0f} s: {lacks}\nthe end of the log of {worst.node}:\n{worst.log_tail()}"
            )
        if waiting:
            time.sleep(POLL_S)
    return time.monotonic() - begun


def wait_answers(lab: Lab, node: str, timeout_s: float = ANSWER_S) -> None:
    """Wait until a daemon that was started answers and runs, whatever becomes of its links.

    Raises:
        LabError: it ended, or it took longer than ``timeout_s``; with the end of its log.
    """
    daemon = lab.daemons[lab.topology.node(node)]
    lack = "no control socket yet"

    def runs() -> bool:
        nonlocal lack
        if daemon.process is None:
            raise LabError(f"x0d of {node} has ended; the end of its log:\n{daemon.log_tail()}")
        if not daemon.socket.exists():
            return False
        try:
            with connect(lab, node) as client:
                status = client.status()
        except grpc.RpcError as err:
            lack = f"status is not answered: {err.code().name}"
            return False
        lack = f"{status.phase} ({status.starting_step})"
        return str(status.phase) != "starting"

    if not wait_until(runs, timeout_s, POLL_S):
        raise LabError(f"x0d of {node}, {timeout_s:.0f} s after its start: {lack}\n{daemon.log_tail()}")


def x0ctl_command(lab: Lab, node: str, *arguments: str) -> list[str]:
    """The command line that runs x0ctl against a node's daemon (with ``PYTHONPATH=daemon``)."""
    endpoint = f"unix://{lab.daemons[lab.topology.node(node)].socket}"
    return [sys.executable, "-m", "x0ctl", "--endpoint", endpoint, *arguments]


def x0ctl(lab: Lab, node: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run x0ctl against a node's daemon; exit status and output are the caller's to judge."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "daemon")}
    command = x0ctl_command(lab, node, *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=X0CTL_S)


def show_x0ctl(lab: Lab, node: str, *arguments: str, colour: bool) -> int:
    """Run x0ctl on our own terminal, as wide as that is, and return its exit status."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "daemon")}
    if not colour:
        environment["TERM"] = "dumb"
    command = x0ctl_command(lab, node, *arguments)
    return subprocess.run(command, check=False, env=environment, timeout=X0CTL_S).returncode
