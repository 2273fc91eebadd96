"""What is measured: a routing stack, started on every node of a lab, and x0d as one of them.

A stack is converged when each node's kernel has a route to every other node and each link that is a cheapest way
between its ends is used as such: that is asked of the kernels, so it holds for every stack alike.
"""

import json
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from bench.machine_load import Scheduling
from lab import control, identities
from lab.machine import LabError
from lab.network import Lab
from lab.topology import COST

POLL_S = 0.1
LOG_LINES = 12


@dataclass(frozen=True, slots=True)
class Daemon:
    """One running process of a stack."""

    node: str
    program: str
    pid: int


class Stack(ABC):
    """Starts and stops one routing stack on the nodes of a lab."""

    name: str
    settle_s: float = 2.0
    """Rest after convergence before the next fault, so that no hold-down timer of the stack still runs."""

    def __init__(self, scheduling: Scheduling) -> None:
        """Refer to the stack; nothing is started."""
        self.scheduling = scheduling

    @abstractmethod
    def start(self, lab: Lab) -> None:
        """Start its daemons on every node.  Raises LabError."""

    @abstractmethod
    def stop(self, lab: Lab) -> None:
        """End its daemons and remove its files; nothing if it was not started."""

    @abstractmethod
    def daemons(self, lab: Lab) -> list[Daemon]:
        """Its processes that run."""

    @abstractmethod
    def failure(self, lab: Lab) -> str | None:
        """What ended that should run, in words, with the end of its log; None if all run."""

    def wait_converged(self, lab: Lab, timeout_s: float) -> float:
        """Wait until the kernels' routes lead everywhere; return the seconds it took.

        Raises:
            LabError: a daemon has ended, or it took longer.
        """
        begun = time.monotonic()
        while (lack := shortfall(lab)) is not None:
            if failure := self.failure(lab):
                raise LabError(failure)
            if time.monotonic() - begun > timeout_s:
                raise LabError(f"{self.name} has not converged after {timeout_s:.0f} s: {lack}")
            time.sleep(POLL_S)
        self.scheduling.apply(daemon.pid for daemon in self.daemons(lab))  # also threads started meanwhile
        return time.monotonic() - begun


def shortfall(lab: Lab) -> str | None:
    """What the kernels of a lab still lack to be converged, in words; None if nothing."""
    for node in lab.topology.nodes:
        interfaces = _route_interfaces(lab, node)
        for other in lab.topology.nodes:
            if other != node and lab.topology.address(other) not in interfaces:
                return f"{node} has no route to {other}"
        for link in lab.topology.links_of(node):
            other = link.other(node)
            if link.cost == COST and link.interface(node) not in interfaces[lab.topology.address(other)]:
                return f"{node} does not use {link.name} to {other}"
    return None


def _route_interfaces(lab: Lab, node: str) -> dict[str, set[str]]:
    """By address, the interfaces that the node's route to it leaves by; nexthop objects are looked up."""
    routes = json.loads(lab.run(node, "ip", "-j", "-4", "route", "show") or "[]")
    objects = json.loads(lab.run(node, "ip", "-j", "nexthop", "show") or "[]")
    by_object = {each["id"]: {each["dev"]} for each in objects if "dev" in each}
    for each in objects:
        members = (by_object.get(member["id"], set()) for member in each.get("group", ()))
        by_object.setdefault(each["id"], set()).update(*members)
    found: dict[str, set[str]] = {}
    for route in routes:
        named = {hop["dev"] for hop in route.get("nexthops", [route]) if "dev" in hop}
        found[route["dst"].removesuffix("/32")] = named | by_object.get(route.get("nhid", 0), set())
    return found


class X0d(Stack):
    """The daemon of this repository, configured as the lab does: probes every 50 ms, three missing are a verdict."""

    name = "x0d"

    def start(self, lab: Lab) -> None:
        """Start an x0d on every node."""
        identities.start_all(lab, lambda process: self.scheduling.apply([process.pid]))

    def stop(self, lab: Lab) -> None:
        """End them; the lab knows how."""
        for daemon in lab.daemons.values():
            daemon.stop()

    def daemons(self, lab: Lab) -> list[Daemon]:
        """One a node."""
        running = ((node, daemon.process) for node, daemon in lab.daemons.items())
        return [Daemon(node, "x0d", process.pid) for node, process in running if process]

    def failure(self, lab: Lab) -> str | None:
        """The first daemon that has ended."""
        for node, daemon in lab.daemons.items():
            if daemon.process is None:
                return f"x0d of {node} has ended; the end of its log:\n{daemon.log_tail()}"
        return None

    def wait_converged(self, lab: Lab, timeout_s: float) -> float:
        """Wait for the kernels' routes, and for every daemon to call all its links up."""
        took_s = super().wait_converged(lab, timeout_s)
        return took_s + control.wait_settled(lab, timeout_s)


class Spawned(Stack):
    """A stack whose daemons are children of the benchmark."""

    def __init__(self, scheduling: Scheduling) -> None:
        """Refer to the stack; nothing is started."""
        super().__init__(scheduling)
        self._children: dict[tuple[str, str], subprocess.Popen[bytes]] = {}

    @abstractmethod
    def commands(self, lab: Lab, node: str) -> dict[str, Sequence[str]]:
        """Write a node's configuration and return its commands, which stay in the foreground, by program name."""

    def start(self, lab: Lab) -> None:
        """Start every command on every node."""
        for node in lab.topology.nodes:
            for program, command in self.commands(lab, node).items():
                with (lab.directory / f"{node}.{program}.log").open("ab") as log:
                    self._children[node, program] = lab.popen(
                        node, command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                    )
        self.scheduling.apply(daemon.pid for daemon in self.daemons(lab))

    def stop(self, lab: Lab) -> None:  # noqa: ARG002 - the children are known without it
        """End the children: SIGTERM, and SIGKILL for those that do not obey in time."""
        for child in self._children.values():
            child.terminate()
        for child in self._children.values():
            try:
                child.wait(3.0)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children.clear()

    def daemons(self, lab: Lab) -> list[Daemon]:  # noqa: ARG002 - see stop
        """The children; ``nsenter`` becomes the program, under the same pid."""
        return [Daemon(*key, child.pid) for key, child in self._children.items() if child.poll() is None]

    def failure(self, lab: Lab) -> str | None:
        """The first child that has ended."""
        for (node, program), child in self._children.items():
            if child.poll() is not None:
                log = (lab.directory / f"{node}.{program}.log").read_text(errors="replace").splitlines()
                tail = "\n".join(log[-LOG_LINES:]) or "(nothing printed)"
                return f"{program} of {node} ended with status {child.returncode}:\n{tail}"
        return None
