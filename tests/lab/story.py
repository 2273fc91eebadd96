"""The story that ``scripts/demo`` tells: a dead link heals, a dead daemon loses nothing, a stray source is blocked.

Everything told is observed: packets by a numbered stream between two nodes, routes and counters in the kernel, steps
in the incidents that x0d recorded (read with x0ctl, as an operator would).  A part that does not hold ends the story
with a sentence that says what was expected.
"""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc

from lab import control, identities, pins, timeline, topology
from lab.blocking import Blocking
from lab.machine import wait_until
from lab.network import FaultStamp, Lab
from lab.teller import Teller
from lab.timeline import Event, Json
from lab.traffic import INTERVAL_S, LOST_AFTER_S, Report, Stream
from lab.trust import Trust

SOURCE, TARGET = "n1", "n3"
STREAM_S = 180.0  # the bound of the whole story
SETTLE_S = 40.0
HEAL_S = 10.0  # for traffic and incident, after the cut
RETURN_S = 15.0  # for the better path to be taken again
CONTROL_GONE_S = 10.0  # for the neighbours to notice a dead daemon
OUTAGE_MAX_MS = 1000.0  # sanity, not a benchmark: probes every 50 ms, three missing
CALM_S = 0.5


class StoryError(Exception):
    """A part of the story did not happen; the message says what was expected."""


class Story:
    """The parts, in their order; each raises ``StoryError`` if it does not hold."""

    def __init__(self, lab: Lab, teller: Teller, slowness: float) -> None:
        """Tell about a lab whose daemons do not run yet; all times are stretched by ``slowness``."""
        self.lab = lab
        self.teller = teller
        self.slowness = slowness

    def tell(self) -> None:
        """Tell all of it."""
        self.start()
        self.show_identities()
        duration_s, interval_s, lost_after_s = (s * self.slowness for s in (STREAM_S, INTERVAL_S, LOST_AFTER_S))
        with Stream(self.lab, SOURCE, TARGET, duration_s, interval_s=interval_s, lost_after_s=lost_after_s) as stream:
            path = self.show_path(stream)
            cut = (path[-2], path[-1])
            self.cut_link(stream, cut)
            self.heal_link(stream, cut, path)
            self.kill_daemon(stream, path[1], path)
            self.restart_daemon(stream, path[1], path)
        self.block_source(path[1])
        self.show_incidents(TARGET)  # an end of the dead link, and a neighbour of the killed daemon

    # ---- parts ----

    def start(self) -> None:
        """Start the daemons and wait until the mesh stands."""
        self.teller.heading("Four routers, five links, one x0d on each router")
        identities.start_all(self.lab)
        took_s = control.wait_settled(self.lab, SETTLE_S * self.slowness)
        self.teller.held(f"all daemons run, all links are up, all routes are in the kernels after {took_s:.1f} s")

    def show_identities(self) -> None:
        """Show who is who, and that only who is known may speak."""
        failed = Trust(self.lab, self.teller, self.slowness).tell(TARGET)
        self.expect(not failed, "; ".join(failed))

    def show_path(self, stream: Stream) -> tuple[str, ...]:
        """Show the way that the traffic takes: more than one hop, and not the dear chord."""
        self.wait("the traffic to flow", lambda: stream.lost_lately(CALM_S) == 0, HEAL_S)
        path = self.lab.path(SOURCE, TARGET)
        if path[-1] != TARGET or len(path) < 3:
            raise StoryError(f"traffic from {SOURCE} to {TARGET} over two hops; the routes lead {' '.join(path)}")
        rate = f"1 packet every {INTERVAL_S * self.slowness * 1e3:g} ms"
        self.teller.held(f"traffic flows {' -> '.join(path)}, {rate}")
        self.teller.indented(topology.draw(self.lab.topology, {}, path))
        return path

    def cut_link(self, stream: Stream, ends: tuple[str, str]) -> None:
        """Cut a link silently; the mesh must route around it."""
        name = self.lab.topology.link("-".join(ends)).name
        self.teller.heading(f"The link {name} dies silently: carrier stays up, every packet vanishes")
        time.sleep(CALM_S)
        before = stream.report(time.monotonic_ns() - round(CALM_S * 1e9))
        self.expect(before.lost == 0, f"no loss before the fault; {before.sentence()}")
        fault = self.lab.cut(name)
        self.wait("the traffic to leave the dead link", lambda: not self._on_link(ends), HEAL_S)
        incidents = self._wait_incidents(ends, fault)
        self.wait("the traffic to flow again", lambda: stream.lost_lately(CALM_S) == 0, HEAL_S)
        report = stream.report(fault.at_ns)
        self.teller.line("  since the fault:")
        events = self._timeline(name, fault, incidents, report)
        self.teller.indented("\n".join(timeline.render(events)))
        self._judge_cut(incidents, report)
        steps = {"detect": "detected", "act": "last route changed", "verify": "all verified"}
        ends_ms = {word: timeline.step_end_ms(events, step) for step, word in steps.items()}
        told = [f"{word} after {ms:.0f} ms" for word, ms in ends_ms.items() if ms is not None]
        self.expect(len(told) == len(steps), f"detect, act and verify to be recorded; seen: {told}")
        self.teller.held(", ".join(told))
        path = self.lab.path(SOURCE, TARGET)
        self.teller.held(f"traffic flows {' -> '.join(path)}")
        self.teller.indented(topology.draw(self.lab.topology, {name: "dead"}, path))

    def _on_link(self, ends: tuple[str, str]) -> bool:
        path = self.lab.path(SOURCE, TARGET)
        return path[-1] != TARGET or any(set(pair) == set(ends) for pair in itertools.pairwise(path))

    def _judge_cut(self, incidents: dict[str, Json], report: Report) -> None:
        ids = {str(incident["id"]) for incident in incidents.values()}
        self.expect(len(ids) == 1, f"one incident, under one id on every node; seen: {' '.join(sorted(ids))}")
        self.teller.held(f"every node recorded it as incident {ids.pop()}")
        states = {node: str(incident["state"]) for node, incident in incidents.items()}
        self.expect(set(states.values()) == {"closed"}, f"every node verified and closed it; seen: {states}")
        self.teller.held("every node verified its new routes and closed the incident")
        self.expect(report.lost > 0, "some packets lost to the fault: was it in force?")
        limit_ms = OUTAGE_MAX_MS * self.slowness
        pace = f"{INTERVAL_S * self.slowness * 1e3:g} ms"
        self.expect(report.outage_ms <= limit_ms, f"an outage of at most {limit_ms:.0f} ms; {report.sentence()}")
        self.teller.held(f"outage {report.outage_ms:.0f} ms: {report.lost} packets lost, one sent every {pace}")

    def heal_link(self, stream: Stream, ends: tuple[str, str], path: tuple[str, ...]) -> None:
        """Heal the link; the traffic must come back to it without a loss."""
        name = self.lab.topology.link("-".join(ends)).name
        self.teller.heading(f"The link {name} works again")
        healed = self.lab.heal(name)
        self.wait("the better path to be taken again", lambda: self.lab.path(SOURCE, TARGET) == path, RETURN_S)
        took_s = (time.monotonic_ns() - healed.at_ns) / 1e9
        time.sleep(CALM_S)
        report = stream.report(healed.at_ns)
        self.expect(report.lost == 0, f"a return without loss; {report.sentence()}")
        self.teller.held(f"traffic is back on {' -> '.join(path)} {took_s:.1f} s later; {report.sentence()}")

    def kill_daemon(self, stream: Stream, node: str, path: tuple[str, ...]) -> None:
        """Kill the daemon of a transit node; its data plane must go on."""
        self.teller.heading(f"The x0d of {node}, which carries the traffic, is killed with SIGKILL")
        neighbours = [link.other(node) for link in self.lab.topology.links_of(node)]
        replies = {there: self._replies(there, node) for there in neighbours}
        counted = pins.packets_by_verdict(self.lab, node)
        killed = self.lab.kill(node)
        for there in neighbours:
            self.wait(
                f"{there} to notice that {node} has no control plane",
                lambda there=there: self._link_state(there, node) == "control_gone",  # type: ignore[misc] # bound at once
                CONTROL_GONE_S,
            )
        time.sleep(CALM_S)
        self.teller.held(f"{' and '.join(neighbours)} notice: data plane alive, control plane gone")
        later = pins.packets_by_verdict(self.lab, node)
        for verdict, what in ((pins.VERDICT_PASS, "packets passed"), (pins.VERDICT_REFLECT, "probes answered")):
            rise = later.get(verdict, 0) - counted.get(verdict, 0)
            self.expect(rise > 0, f"the kernel of {node} to count {what} without a daemon; it counted {rise}")
            self.teller.held(f"its kernel goes on: {rise} more {what}")
        for there in neighbours:
            rise = self._replies(there, node) - replies[there]
            self.expect(rise > 0, f"{there} to receive replies from {node}; it received {rise}")
        self._expect_calm(stream, killed, path)

    def restart_daemon(self, stream: Stream, node: str, path: tuple[str, ...]) -> None:
        """Start the daemon again; it must adopt what the kernel holds, and change no route."""
        self.teller.heading(f"The x0d of {node} starts again")
        counted = pins.packets_by_verdict(self.lab, node)
        watch = self.lab.command(node, ["ip", "-o", "monitor", "route", "nexthop"])
        with subprocess.Popen(watch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as monitor:
            try:
                started_ns = time.monotonic_ns()
                self.lab.start(node)
                took_s = control.wait_settled(self.lab, SETTLE_S * self.slowness)
                neighbours = [link.other(node) for link in self.lab.topology.links_of(node)]
                for there in neighbours:
                    self.wait(
                        f"{there} to see {node} whole again",
                        lambda there=there: self._link_state(there, node) == "up",  # type: ignore[misc] # bound at once
                        RETURN_S,
                    )
                time.sleep(CALM_S)
            finally:
                monitor.terminate()
                changes, _ = monitor.communicate()
        with control.connect(self.lab, node) as client:
            interfaces = client.status().interfaces
        adopted = [each.name for each in interfaces if each.adopted]
        self.expect(len(adopted) == len(interfaces) > 0, f"all interfaces of {node} adopted; only: {adopted}")
        self.teller.held(f"adopted on {' '.join(adopted)}: running and settled after {took_s:.1f} s")
        later = pins.packets_by_verdict(self.lab, node)
        self.expect(all(later.get(verdict, 0) >= count for verdict, count in counted.items()), "no counter to fall")
        deleted = [line for line in changes.splitlines() if line.startswith("Deleted")]
        self.expect(not deleted, f"no route of {node} to be deleted; seen: {deleted[:3]}")
        self.teller.held("no counter fell and no route was deleted on the way")
        self._expect_calm(stream, FaultStamp("restart", started_ns, 0.0), path)

    def block_source(self, node: str) -> None:
        """A stray source beside the target is dropped by the kernel, then by XDP."""
        failed = Blocking(self.lab, self.teller, node, TARGET).tell()
        self.expect(not failed, f"a blocked source; seen: {'; '.join(failed)}")

    def show_incidents(self, node: str) -> None:
        """Show what the operator sees."""
        self.teller.heading(f"x0ctl incident list, on {node}")
        if sys.stdout.isatty():
            status = control.show_x0ctl(self.lab, node, "incident", "list", colour=self.teller.colour)
            self.expect(status == 0, f"x0ctl to answer; exit {status}")
            return
        done = control.x0ctl(self.lab, node, "incident", "list")
        self.expect(done.returncode == 0, f"x0ctl to answer; exit {done.returncode}: {done.stderr.strip()}")
        self.teller.indented(done.stdout)

    # ---- observing ----

    def expect(self, holds: bool, what: str) -> None:
        """End the story unless it holds."""
        if not holds:
            raise StoryError(what)

    def wait(self, what: str, holds: Callable[[], bool], timeout_s: float) -> None:
        """Wait for something to happen; calls that are not answered yet do not count."""

        def answered() -> bool:
            try:
                return holds()
            except grpc.RpcError:
                return False

        if not wait_until(answered, timeout_s * self.slowness):
            raise StoryError(f"{what}, within {timeout_s * self.slowness:.0f} s")

    def _expect_calm(self, stream: Stream, since: FaultStamp, path: tuple[str, ...]) -> None:
        report = stream.report(since.at_ns)
        self.expect(report.lost == 0, f"no packet lost; {report.sentence()}")
        now = self.lab.path(SOURCE, TARGET)
        self.expect(now == path, f"the traffic to stay on {' '.join(path)}; it is on {' '.join(now)}")
        self.teller.held(f"traffic stayed on {' -> '.join(path)}; {report.sentence()}")

    def _link_state(self, node: str, neighbour: str) -> str:
        with control.connect(self.lab, node) as client:
            return next((str(link.state) for link in client.links() if link.neighbour == neighbour), "")

    def _replies(self, node: str, neighbour: str) -> int:
        with control.connect(self.lab, node) as client:
            return sum(int(link.replies_received) for link in client.links() if link.neighbour == neighbour)

    def _listed(self, node: str) -> Json:
        done = control.x0ctl(self.lab, node, "-o", "json", "incident", "list")
        self.expect(done.returncode == 0, f"x0ctl to answer on {node}; exit {done.returncode}: {done.stderr.strip()}")
        listed: Json = json.loads(done.stdout)
        return listed

    def _wait_incidents(self, ends: tuple[str, str], fault: FaultStamp) -> dict[str, Json]:
        """Each node's record of the fault, once each of them has closed it (or time is up)."""
        nodes = self.lab.topology.nodes

        def closed() -> bool:
            for node in nodes:
                with control.connect(self.lab, node) as client:
                    mine = [each for each in client.incidents() if each.opened_at_unix_ms >= int(fault.at_unix_ms)]
                if not mine or any(each.state != "closed" for each in mine):
                    return False
            return True

        self.wait("each node to record and close the incident", closed, HEAL_S)
        with ThreadPoolExecutor(len(nodes)) as pool:
            listed = dict(zip(nodes, pool.map(self._listed, nodes), strict=True))
        found = {node: timeline.find_incident(listed[node], ends, fault.at_unix_ms) for node in nodes}
        missing = [node for node, incident in found.items() if incident is None]
        self.expect(not missing, f"each node to record the incident of {'-'.join(ends)}; missing: {' '.join(missing)}")
        return {node: incident for node, incident in found.items() if incident is not None}

    def _timeline(self, link: str, fault: FaultStamp, incidents: dict[str, Json], report: Report) -> list[Event]:
        events = [Event(0.0, "wire", 0, f"{link} cut")]
        for node, incident in incidents.items():
            events += timeline.events_of(node, incident, fault.at_unix_ms)
        if report.first_lost_ns is not None and report.last_lost_ns is not None:
            events.append(
                Event((report.first_lost_ns - fault.at_ns) / 1e6, SOURCE, 0, "first packet lost (sending time)")
            )
            events.append(
                Event((report.last_lost_ns - fault.at_ns) / 1e6, SOURCE, 0, "last packet lost (sending time)")
            )
        return events
