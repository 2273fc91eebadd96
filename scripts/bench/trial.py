"""One trial: traffic flows, a link breaks, the outage is read from the packets that never arrived.

The outage runs from the sending of the first lost packet to that of the last (one packet a millisecond), until the
stream has been clean for ``CLEAN_S``: a stack whose traffic flaps pays for all of it.  The link that breaks is the
one past the middle of the path that the packets really take, as the wires' counters show it, so the sender of the
traffic does not see the fault itself and has to be told.  Each trial sends from the next node, so that the faults are
spread over the links: x0d waits longer each time before it trusts a link again that has just failed.
"""

import random
import time
from dataclasses import asdict, dataclass, field

from bench.machine_load import Pressure, keep_apparatus_punctual
from bench.stacks import Stack, X0d
from lab import control, traffic
from lab.machine import LabError
from lab.network import FaultStamp, Lab
from lab.traffic import Stream

FAULTS = ("silent", "carrier")
PHASE_S = 0.5
"""Faults fall at a random moment of the probes' and the hellos' interval."""
CLEAN_S = 2.0
READY_S = 15.0
LIMIT_S = 30.0
"""An outage that lasts longer counts as endless."""
RETURN_S = 120.0
"""FRR takes up to a minute until a link that had lost carrier is used again."""
COUNT_S = 0.25
POLL_S = 0.1
STREAM_S = READY_S + LIMIT_S + 15.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What one fault did to the traffic."""

    stack: str
    fault: str
    topology: str
    number: int
    link: str
    path: tuple[str, ...]
    outage_ms: float | None
    """None: the traffic had not recovered after ``LIMIT_S``."""
    lost: int
    converged_again_s: float
    """From the end of the fault until the kernels' routes were as before."""
    pressure_percent: float
    """CPU pressure of the machine from the fault to the recovery."""
    steps: list[dict[str, object]] = field(default_factory=list)
    """x0d's own account: node, role, step, duration and time since the fault, of the incident of this fault."""

    def as_json(self) -> dict[str, object]:
        """For ``--out``."""
        return {"kind": "trial", **asdict(self)}


def run_trial(lab: Lab, stack: Stack, fault: str, number: int, chance: random.Random) -> Trial:
    """Break a link, wait for the recovery, mend the link, wait until everything is as before.

    Raises:
        LabError: the traffic does not flow before the fault, or the stack does not return to its routes after it.
    """
    source = lab.topology.nodes[number % len(lab.topology.nodes)]
    target = _far_end(lab, source)
    with Stream(lab, source, target, STREAM_S) as stream:
        keep_apparatus_punctual((lab.namespace(source), lab.namespace(target)), traffic.__file__)
        wait_clean(stream)
        time.sleep(chance.uniform(0.0, PHASE_S))
        path = observed_path(lab, source, target)
        middle = len(path) // 2
        link = lab.topology.link(f"{path[middle]}-{path[middle + 1]}").name
        pressure = Pressure()
        stamp = lab.carrier(link, up=False) if fault == "carrier" else lab.cut(link)
        recovered = _wait_recovery(stream, stamp)
        percent = pressure.percent()
        report = stream.report(stamp.at_ns)
    steps = _steps(lab, link, stamp) if isinstance(stack, X0d) else []
    lab.heal(link)
    again_s = stack.wait_converged(lab, RETURN_S)
    time.sleep(stack.settle_s)
    return Trial(
        stack=stack.name,
        fault=fault,
        topology=lab.topology.text,
        number=number,
        link=link,
        path=path,
        outage_ms=round(report.outage_ms, 1) if recovered else None,
        lost=report.lost,
        converged_again_s=round(again_s, 2),
        pressure_percent=round(percent, 1),
        steps=steps,
    )


def observed_path(lab: Lab, source: str, target: str) -> tuple[str, ...]:
    """Nodes that the stream passes, by the wires' counters (with several equal ways, no table tells which it takes).

    Raises:
        LabError: its packets do not lead to the target over at least one node between.
    """
    directions = [(link, node) for link in lab.topology.links for node in link.ends]
    before = [lab.wires.count(link, node).packets for link, node in directions]
    time.sleep(COUNT_S)
    many = 0.5 * COUNT_S / traffic.INTERVAL_S
    hops = {
        node: link.other(node)
        for (link, node), count in zip(directions, before, strict=True)
        if lab.wires.count(link, node).packets - count > many
    }
    path = [source]
    while path[-1] in hops and hops[path[-1]] not in path:
        path.append(hops[path[-1]])
    if path[-1] != target or len(path) < 3:
        raise LabError(f"the traffic from {source} to {target} takes no way of two links or more: {' '.join(path)}")
    return tuple(path)


def _far_end(lab: Lab, source: str) -> str:
    """The node with the most hops on the cheapest way from ``source``: opposite in a ring, a far corner of a grid."""
    topology = lab.topology
    towards = {node: topology.next_hops(node) for node in topology.nodes}

    def hops(target: str) -> int:
        here, count = source, 0
        while here != target:
            here, count = towards[here][target], count + 1
        return count

    return max(topology.nodes, key=hops)


def wait_clean(stream: Stream) -> None:
    """Wait until the stream has lost nothing for a second.  Raises LabError if that takes too long."""
    end = time.monotonic() + READY_S
    time.sleep(1.0 + traffic.LOST_AFTER_S)
    while (lost := stream.lost_lately(1.0)) > 0:
        if time.monotonic() > end:
            raise LabError(f"the traffic does not flow before the fault: {lost} of the last second's packets are lost")
        time.sleep(POLL_S)


def _wait_recovery(stream: Stream, stamp: FaultStamp) -> bool:
    """Whether the stream becomes clean for ``CLEAN_S`` before ``LIMIT_S`` is over."""
    end_s = stamp.at_ns / 1e9 + LIMIT_S
    time.sleep(CLEAN_S + traffic.LOST_AFTER_S)
    while stream.lost_lately(CLEAN_S) > 0:
        if time.monotonic() > end_s:
            return False
        time.sleep(POLL_S)
    return True


def _steps(lab: Lab, link: str, stamp: FaultStamp) -> list[dict[str, object]]:
    """What every node recorded of this fault."""
    found: list[dict[str, object]] = []
    for node in lab.topology.nodes:
        with control.connect(lab, node) as client:
            incidents = client.incidents()
        for incident in incidents:
            if incident.link.startswith(f"{link}.") and incident.opened_at_unix_ms >= stamp.at_unix_ms - 100:
                found += [
                    {
                        "node": node,
                        "role": incident.role,
                        "step": step.step,
                        "duration_ms": round(step.duration_ms, 2),
                        "since_fault_ms": round(step.since_fault_ms, 2),
                    }
                    for step in incident.steps
                ]
    return found
