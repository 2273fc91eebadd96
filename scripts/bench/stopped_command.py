"""``scripts/bench/stopped``: one daemon is stopped with SIGSTOP; its peers' probes are answered all the same.

Probes are answered, and packets forwarded, in the kernel.  So while a daemon is stopped its peers must miss no probe,
and traffic through its node must lose no packet.  A peer's missed probes are read from its own counters, as
``x0ctl link list`` shows them: sent minus answered.  The latest probe is usually sent and not yet read back, so that
difference is taken as the commonest of several looks, before and after.
"""

import argparse
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.machine_load import Pressure, Scheduling, describe_machine, keep_apparatus_punctual
from bench.peers import make_stacks
from bench.session import run_command, say, stack_running
from bench.trial import observed_path, wait_clean
from lab import control, traffic
from lab.network import Lab
from lab.traffic import Stream

LOOKS = 15
LOOK_S = 0.017
"""No divisor of the probes' 50 ms: the looks fall on all phases of it."""


@dataclass(frozen=True, slots=True)
class ProbeCount:
    """Probes of a peer to the stopped node so far."""

    sent: int
    unanswered: int


def main(argv: Sequence[str]) -> int:
    """Run the trials and print the sums; 0 nothing was missed, 1 something was (or it failed), 130 interrupted."""
    about = "Stop one daemon (SIGSTOP) and count the probes that its peers miss and the packets lost.  Needs root."
    parser = argparse.ArgumentParser("stopped", description=about)
    parser.add_argument("--topology", default="ring:4+1-3", help="as for scripts/lab (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long it is stopped (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=3, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--sched", default="other", help="other (nice 0), nice:N or fifo:PRIORITY (default: %(default)s)"
    )
    asked = parser.parse_args(argv)
    return run_command(lambda: _run(asked))


def _run(asked: argparse.Namespace) -> int:
    [stack] = make_stacks(["x0d"], Scheduling.parse(asked.sched))
    say(describe_machine())
    missed_all = probes_all = lost_all = packets_all = 0
    with stack_running(stack, asked.topology) as lab:
        time.sleep(stack.settle_s)
        for number in range(asked.trials):
            missed, probes, lost, packets = _trial(lab, number, asked.seconds)
            missed_all, probes_all = missed_all + missed, probes_all + probes
            lost_all, packets_all = lost_all + lost, packets_all + packets
            stack.wait_converged(lab, 30.0)
    say(f"\nprobes missed by the peers: {missed_all}/{probes_all}; packets lost: {lost_all}/{packets_all}")
    return 1 if missed_all or lost_all else 0


def _trial(lab: Lab, number: int, seconds: float) -> tuple[int, int, int, int]:
    """Probes missed and sent, packets lost and sent, while the node in the middle of the traffic's way is stopped."""
    source, target = lab.topology.nodes[0], lab.topology.nodes[len(lab.topology.nodes) // 2]
    with Stream(lab, source, target, seconds + 30.0) as stream:
        keep_apparatus_punctual((lab.namespace(source), lab.namespace(target)), traffic.__file__)
        wait_clean(stream)
        node = observed_path(lab, source, target)[1]
        peers = [link.other(node) for link in lab.topology.links_of(node)]
        pressure = Pressure()
        before = {peer: _probes(lab, peer, node) for peer in peers}
        stamp = lab.signal(node, signal.SIGSTOP)
        try:
            time.sleep(seconds)
            after = {peer: _probes(lab, peer, node) for peer in peers}
            report = stream.report(stamp.at_ns)
        finally:
            lab.signal(node, signal.SIGCONT)
    missed = sum(after[peer].unanswered - before[peer].unanswered for peer in peers)
    sent = sum(after[peer].sent - before[peer].sent for peer in peers)
    say(
        f"{number + 1:>3}  {node} stopped {seconds:g} s: {missed}/{sent} probes of {' '.join(peers)} missed,"
        f" {report.lost}/{report.sent} packets lost  CPU pressure {pressure.percent():.0f} %"
    )
    return missed, sent, report.lost, report.sent


def _probes(lab: Lab, peer: str, node: str) -> ProbeCount:
    """Probes of a peer to a node; the commonest number outstanding of several looks."""
    looks = []
    with control.connect(lab, peer) as client:
        for _ in range(LOOKS):
            [link] = [link for link in client.links() if link.neighbour == node]
            looks.append(ProbeCount(link.probes_sent, link.probes_sent - link.replies_received))
            time.sleep(LOOK_S)
    return ProbeCount(looks[-1].sent, statistics.mode(look.unanswered for look in looks))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
