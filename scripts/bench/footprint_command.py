"""``scripts/bench/footprint``: what a node costs at rest, for x0d and FRR in the same mesh.

Nothing happens in the mesh meanwhile: what is measured is probing at 50 ms on every link and keeping the state.
CPU is the kernel's own account of a process, all threads, user and system.  x0d's time to READY runs from exec to
the notification that systemd would get, on a socket that the benchmark opens, while the other nodes run.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figures import SPREAD_HEAD, Spread, ratio, table
from bench.machine_load import Pressure, Scheduling, describe_machine
from bench.peers import make_stacks
from bench.session import run_command, say, stack_running
from bench.stacks import Daemon, Stack, X0d
from lab.machine import LabError
from lab.network import Lab
from lab.nodes import ROOT

READY_S = 20.0
STOP_S = 10.0
MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """What the daemons of one node cost together."""

    node: str
    links: int
    cpu_percent: float
    """Of one core."""
    rss_mib: float
    """Resident memory; what several processes share counts for each."""
    pss_mib: float
    """Resident memory; what several processes share counts by its share."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start of x0d, from exec to READY."""

    took_ms: float
    cpu_ms: float
    """User and system time until then: what it would take on an idle machine, but for waits."""


def main(argv: Sequence[str]) -> int:
    """Measure and print; 0 done, 1 failed, 130 interrupted."""
    about = "Measure CPU, memory and start-up of a node at rest: x0d beside FRR (zebra, ospfd, bfdd).  Needs root."
    parser = argparse.ArgumentParser("footprint", description=about)
    parser.add_argument("--topology", default="ring:4+1-3", help="as for scripts/lab; n1 has 3 links in %(default)s")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long CPU is measured (default: %(default)s)")
    parser.add_argument("--starts", type=int, default=10, help="how often READY is timed (default: %(default)s)")
    parser.add_argument("--only", default="x0d,frr", metavar="STACKS", help="x0d, frr, babeld (default: %(default)s)")
    parser.add_argument(
        "--sched", default="other", help="other (nice 0), nice:N or fifo:PRIORITY (default: %(default)s)"
    )
    asked = parser.parse_args(argv)
    return run_command(lambda: _run(asked))


def _run(asked: argparse.Namespace) -> int:
    stacks = make_stacks(asked.only.split(","), Scheduling.parse(asked.sched))
    say(describe_machine())
    rows: list[list[str]] = []
    costs: dict[str, list[Cost]] = {}
    starts: list[Start] = []
    for stack in stacks:
        with stack_running(stack, asked.topology) as lab:
            say(f"{stack.name}: at rest, {asked.seconds:.0f} s")
            pressure = Pressure()
            costs[stack.name] = _at_rest(stack, lab, asked.seconds)
            rows += _rows(stack.name, costs[stack.name], pressure.percent())
            if isinstance(stack, X0d):
                starts = _starts(lab, asked.starts)
    say("\n" + table(["stack", "node", "links", "CPU % of a core", "RSS MiB", "PSS MiB", "CPU pressure"], rows))
    if "x0d" in costs and "frr" in costs:
        say("\n" + _ratios(costs["x0d"], costs["frr"]))
    if took := Spread.of(start.took_ms for start in starts):
        busy = Spread.of(start.cpu_ms for start in starts)
        assert busy is not None
        rows = [["elapsed", *took.cells()], ["CPU used", *busy.cells()]]
        say("\nx0d, exec to READY in ms\n\n" + table(["", *SPREAD_HEAD], rows))
    say(describe_machine())
    return 0


# ---- at rest ----


def _at_rest(stack: Stack, lab: Lab, seconds: float) -> list[Cost]:
    """What each node costs, measured over so many seconds after the stack has come to rest."""
    time.sleep(stack.settle_s)
    daemons = stack.daemons(lab)
    begun, before = time.monotonic(), {daemon.pid: _cpu_s(daemon.pid) for daemon in daemons}
    time.sleep(seconds)
    after = {daemon.pid: _cpu_s(daemon.pid) for daemon in daemons}
    span_s = time.monotonic() - begun
    return [
        _cost(lab, node, [each for each in daemons if each.node == node], before, after, span_s)
        for node in lab.topology.nodes
    ]


def _cost(
    lab: Lab, node: str, daemons: list[Daemon], before: dict[int, float], after: dict[int, float], span_s: float
) -> Cost:
    busy_s = sum(after[daemon.pid] - before[daemon.pid] for daemon in daemons)
    rss, pss = (sum(_memory_bytes(daemon.pid, kind) for daemon in daemons) for kind in ("Rss", "Pss"))
    return Cost(node, len(list(lab.topology.links_of(node))), 100 * busy_s / span_s, rss / MIB, pss / MIB)


def _cpu_s(pid: int) -> float:
    """User and system time of a process with all its threads.  Raises LabError if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        raise LabError(f"process {pid} ended while it was measured") from None
    return (int(fields[11]) + int(fields[12])) / TICKS


def _memory_bytes(pid: int, kind: str) -> int:
    """``Rss`` or ``Pss`` of a process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == kind:
            return int(rest.split()[0]) * 1024
    raise LabError(f"/proc/{pid}/smaps_rollup has no {kind}")


def _rows(name: str, costs: Iterable[Cost], pressure_percent: float) -> list[list[str]]:
    return [
        [
            name,
            cost.node,
            str(cost.links),
            f"{cost.cpu_percent:.2f}",
            f"{cost.rss_mib:.1f}",
            f"{cost.pss_mib:.1f}",
            f"{pressure_percent:.0f} %",
        ]
        for cost in costs
    ]


def _ratios(ours: Sequence[Cost], theirs: Sequence[Cost]) -> str:
    """Of the node with the most links."""
    mine, other = (max(costs, key=lambda cost: cost.links) for costs in (ours, theirs))
    cpu, rss, pss = (ratio(getattr(mine, name), getattr(other, name)) for name in ("cpu_percent", "rss_mib", "pss_mib"))
    return f"node {mine.node} with {mine.links} links, x0d / FRR: CPU {cpu}, RSS {rss}, PSS {pss}"


# ---- READY ----


def _starts(lab: Lab, count: int) -> list[Start]:
    """So many starts of the first node's daemon, the others running."""
    node = lab.topology.nodes[0]
    found: list[Start] = []
    for number in range(count):
        lab.daemons[node].stop()
        found.append(_time_to_ready(lab, node))
        say(f"x0d    start {number + 1:>3}  READY after {found[-1].took_ms:.0f} ms, {found[-1].cpu_ms:.0f} ms of CPU")
    return found


def _time_to_ready(lab: Lab, node: str) -> Start:
    """Start the daemon, wait for READY, and end it.

    Raises:
        LabError: it is not ready in time, or has ended.
    """
    address = lab.directory / "notify"
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(address))
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "daemon"), "NOTIFY_SOCKET": str(address)}
        command = [sys.executable, "-m", "x0d", "--config", str(lab.daemons[node].config)]
        with lab.daemons[node].log.open("ab") as log:
            begun = time.monotonic()
            child = lab.popen(
                node, command, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            _wait_ready(notified, child, lab, node)
            took_ms = (time.monotonic() - begun) * 1e3
            return Start(took_ms, _cpu_s(child.pid) * 1e3)
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait_ready(notified: socket.socket, child: "subprocess.Popen[bytes]", lab: Lab, node: str) -> None:
    end = time.monotonic() + READY_S
    notified.settimeout(0.5)
    while time.monotonic() < end:
        try:
            if b"READY=1" in notified.recv(4096).splitlines():
                return
        except TimeoutError:
            if child.poll() is not None:
                break
    raise LabError(f"x0d of {node} was not ready after {READY_S:.0f} s:\n{lab.daemons[node].log_tail()}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
