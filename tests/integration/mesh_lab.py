"""A lab whose daemons run, seen through their API and their kernels, and brought back to order between tests."""

import json
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc

from lab import control, identities
from lab.machine import wait_until
from lab.network import FaultStamp, Lab, Options
from lab.traffic import Stream
from x0d.v1 import incident_pb2, mesh_pb2, mesh_pb2_grpc

WAIT_S = 20.0
START_S = 30.0
CALM_S = 0.4
QUICK: dict[str, dict[str, object]] = {"mesh": {"up_hold_ms": 300, "hello_interval_ms": 250}, "log": {"level": "debug"}}
"""Timers that keep tests short: a daemon counts as gone after 1 s, a mended link is used again after 300 ms."""

T = TypeVar("T")


def expect(what: str, holds: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    """Wait for a condition; a call that is not answered yet does not count as one that holds."""
    assert wait_until(lambda: _answered(holds, default=False), timeout_s, 0.05), f"{what}, within {timeout_s:.0f} s"


def _answered(ask: Callable[[], T], default: T) -> T:
    try:
        return ask()
    except grpc.RpcError:
        return default


class MeshLab:
    """What tests ask of a lab: its kernels' routes, its daemons' links and incidents, and order between tests."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.nodes = lab.topology.nodes
        self._calm_routes: dict[str, dict[str, str]] = {}

    # ---- order ----

    def settle(self) -> None:
        """End every fault, start what does not run, and wait for the routes that the mesh began with."""
        for link in self.lab.faults():
            self.lab.heal(link)
        for node, daemon in self.lab.daemons.items():
            if daemon.process is None:
                self.lab.start(node)
            else:
                daemon.signal(signal.SIGCONT)
        control.wait_settled(self.lab, START_S)
        expect("all links up, at their costs", lambda: all(self._is_calm(node) for node in self.nodes), START_S)
        # Only now: a shorter way may still have waited for its turn while the last link came up.
        self._calm_routes = self._calm_routes or self.all_routes()
        expect("the routes that the mesh began with", lambda: self.all_routes() == self._calm_routes, START_S)

    def _is_calm(self, node: str) -> bool:
        with control.connect(self.lab, node) as client:
            links = client.links()
        # A neighbour has said hello since: one that dies at once is not taken to have missed the latest change.
        return all(
            link.state == "up" and link.cost == link.cost_configured and link.state_for_s > CALM_S for link in links
        )

    # ---- kernel ----

    def routes(self, node: str) -> dict[str, str]:
        """The kernel's mesh routes of a node: destination to the interface it leaves by."""
        hops = {each["id"]: each["dev"] for each in json.loads(self.lab.run(node, "ip", "-j", "nexthop") or "[]")}
        shown = json.loads(self.lab.run(node, "ip", "-j", "route", "show", "proto", control.ROUTE_PROTOCOL) or "[]")
        return {each["dst"]: hops.get(each.get("nhid"), each.get("dev", "")) for each in shown}

    def all_routes(self) -> dict[str, dict[str, str]]:
        """``routes`` of every node."""
        return {node: self.routes(node) for node in self.nodes}

    def avoided(self, link: str) -> bool:
        """Whether every node has all its routes, and none leaves by this link."""
        wire = self.lab.topology.link(link)
        tables = self.all_routes()
        whole = all(len(table) == len(self.nodes) - 1 for table in tables.values())
        return whole and not any(wire.interface(node) in tables[node].values() for node in wire.ends)

    @contextmanager
    def watched(self, node: str) -> Iterator[list[str]]:
        """Watch a node's routes and nexthop objects; on leaving, the list has those that the kernel told as deleted."""
        # Routes that come and go by our hand show that the monitor listens, and that it has told all.
        begin, end = "198.51.100.0/24", "198.51.101.0/24"
        command = self.lab.command(node, ["ip", "-o", "monitor", "route", "nexthop"])
        told: list[str] = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as monitor:
            assert monitor.stdout is not None
            try:
                assert wait_until(lambda: self._flap(node, begin) and _has_told(monitor), WAIT_S)
                yield told
                self._flap(node, end)
                for line in monitor.stdout:
                    if end in line and line.startswith("Deleted"):
                        break
                    told.append(line)
            finally:
                monitor.terminate()
        told[:] = [line for line in told if line.startswith("Deleted") and begin not in line]

    def _flap(self, node: str, prefix: str) -> bool:
        for verb in ("add", "del"):
            self.lab.run(node, "ip", "route", verb, "blackhole", prefix, "proto", "99")
        return True

    # ---- daemons ----

    def link(self, node: str, neighbour: str) -> mesh_pb2.Link:
        """A node's view of its link to a neighbour."""
        with control.connect(self.lab, node) as client:
            return next(link for link in client.links() if link.neighbour == neighbour)

    def wait_link(self, node: str, neighbour: str, state: str) -> None:
        """Wait for a node's link to a neighbour to be in a state."""
        expect(f"{node} to see its link to {neighbour} {state}", lambda: self.link(node, neighbour).state == state)

    def computed(self, node: str) -> dict[str, str]:
        """The routes that a node's daemon has computed: destination to the interface they leave by."""
        with grpc.insecure_channel(f"unix://{self.lab.daemons[node].socket}") as channel:
            stub = mesh_pb2_grpc.MeshServiceStub(channel)
            found = stub.ListRoutes(mesh_pb2.ListRoutesRequest(), timeout=control.CALL_S).routes
        return {route.prefix.removesuffix("/32"): route.interface for route in found}

    def incidents(self, node: str, link: str, since: FaultStamp) -> list[incident_pb2.Incident]:
        """A node's incidents of a link that were opened after an instant, newest first."""
        name = self.lab.topology.link(link).name
        with control.connect(self.lab, node) as client:
            found = client.incidents()
        return [
            each
            for each in found
            if each.link.startswith(f"{name}.") and each.opened_at_unix_ms >= int(since.at_unix_ms)
        ]

    def incident(self, node: str, link: str, since: FaultStamp, *states: str) -> incident_pb2.Incident:
        """Wait for a node's incident of a link that is in one of these states (default: closed)."""
        found: list[incident_pb2.Incident] = []

        def seen() -> bool:
            found[:] = [each for each in self.incidents(node, link, since) if each.state in (states or ("closed",))]
            return bool(found)

        expect(f"{node} to have an incident of {link} in {states or 'closed'}", seen)
        return found[-1]

    def loses_nothing(self, stream: Stream) -> None:
        """Wait until a stream has lost no packet for a while."""
        expect("traffic to flow", lambda: stream.lost_lately(CALM_S) == 0)

    def calm_stream(self, source: str, target: str, seconds: float = 60.0) -> Stream:
        """Start traffic and wait until it flows."""
        stream = Stream(self.lab, source, target, seconds)
        expect("traffic to begin", lambda: stream.report().sent > 100 and stream.lost_lately(CALM_S) == 0)
        return stream


def _has_told(monitor: "subprocess.Popen[str]") -> bool:
    assert monitor.stdout is not None
    return bool(select.select([monitor.stdout], [], [], 0)[0])


@contextmanager
def running_lab(name: str, options: Options) -> Iterator[MeshLab]:
    """Make a lab and start its daemons; remove it at the end."""
    with Lab.create(name, options) as lab:
        identities.start_all(lab)
        mesh = MeshLab(lab)
        mesh.settle()
        yield mesh
