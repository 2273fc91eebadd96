"""A daemon in a lab, asked for its status all the time, with and without somebody hostile at its door.

The lab is two nodes and a wire.  The daemon of n1 is attacked from n2's namespace, whose own daemon goes on as ever, so
that both spans, with and without, hold the same work but for the attack.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from bench.dataplane_table import Row, Target
from bench.identity_children import Child, Order, child, cpu_s, percentile
from bench.machine_load import Scheduling
from bench.session import say, stack_running
from bench.stacks import X0d
from lab.network import Lab
from lab.nodes import TRUST_DOMAIN

CPU_PERCENT_MAX = 10.0
P95_MS_MAX = 50.0
SETTLE_S = 1.0
"""Between two spans."""
CONTROL_PORT = 9470
KINDS = {
    "unix": "status by the unix socket, p95",
    "tls": "status over mTLS, p95",
    "fresh": "new mTLS connection and status, p95",
}
HEAD = ("", "attacked", "at rest", "ratio", "target", "met")
PUNCTUAL = Scheduling.parse("nice:-10")
"""Who asks must not wait for those who attack; they share the machine."""
TARGET, ATTACKER = "n1", "n2"


@dataclass(frozen=True, slots=True)
class Span:
    """What was seen of the daemon in one span."""

    cpu_percent: float
    p95_ms: dict[str, float]
    failed: int
    errors: list[str]


@dataclass
class World:
    """The lab with the daemon that is attacked, and who asks it."""

    lab: Lab
    pid: int
    prober: Child

    @property
    def address(self) -> str:
        """Of the daemon, on the wire to the attacker."""
        return self.lab.topology.links[0].address(TARGET)

    def counters(self, name: str) -> dict[str, float]:
        """Its own, whose names begin so."""
        return self.prober.ask("counters", name=name)

    def span(self, seconds: float) -> Span:
        """Watch for so long."""
        self.prober.ask("begin")
        begun, before_s = time.monotonic(), cpu_s(self.pid)
        time.sleep(seconds)
        busy_s, took_s = cpu_s(self.pid) - before_s, time.monotonic() - begun
        answer = self.prober.ask("end")
        p95 = {kind: percentile(answer["ms"][kind], 95) for kind in KINDS}
        return Span(100 * busy_s / took_s, p95, answer["failed"], answer["errors"])


@contextmanager
def world() -> Iterator[World]:
    """Make the lab and start the prober in the daemon's namespace."""
    with ExitStack() as stack:
        lab = stack.enter_context(stack_running(X0d(Scheduling.parse("other")), "line:2"))
        directory = lab.daemons[TARGET].directory / "run"
        arguments = (
            str(directory / "x0d.sock"),
            str(directory / "workload.sock"),
            lab.topology.address(TARGET),
            str(CONTROL_PORT),
            f"spiffe://{TRUST_DOMAIN}/node/{TARGET}",
        )
        prober = stack.enter_context(child("identity_prober", *arguments, namespace=lab.namespace(TARGET)))
        PUNCTUAL.apply([prober.pid])
        process = lab.daemons[TARGET].process
        assert process is not None, "it has converged"
        yield World(lab, process.pid, prober)


@dataclass
class Attack:
    """One kind of attack, and what came of it in each turn."""

    name: str
    begin: Callable[[], None]
    end: Callable[[], Order]
    """Answers with ``arrived`` and what else is worth a word."""
    is_aim: bool = False
    attacked: list[Span] = field(default_factory=list)
    quiet: list[Span] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)
    """A second."""
    told: Order = field(default_factory=dict)

    def strike(self, around: World, seconds: float) -> None:
        """One span with it."""
        self.begin()
        begun = time.monotonic()
        try:
            self.attacked.append(around.span(seconds))
        finally:
            self.told = self.end()
        self.arrived.append(self.told["arrived"] / (time.monotonic() - begun))

    def rows(self) -> list[Row]:
        """The table's lines."""
        extra = [on.cpu_percent - off.cpu_percent for on, off in zip(self.attacked, self.quiet, strict=True)]
        cost_us = [max(0.0, one) * 1e4 / rate for one, rate in zip(extra, self.arrived, strict=True) if rate]
        latency = Target(P95_MS_MAX, is_aim=self.is_aim)
        for text in {error for span in self.attacked for error in span.errors}:
            say(f"{self.name}: {text}")
        return [
            Row(f"{self.name}: arrive a second", self.arrived, (), None, ""),
            Row(
                f"{self.name}: CPU of the daemon",
                [span.cpu_percent for span in self.attacked],
                [span.cpu_percent for span in self.quiet],
                None,
                "%",
                1,
            ),
            Row(f"{self.name}: extra CPU", extra, (), Target(CPU_PERCENT_MAX, is_aim=self.is_aim), "%", 1),
            Row(f"{self.name}: CPU for each that arrives", cost_us, (), None, "us"),
            *(
                Row(
                    f"{self.name}: {what}",
                    [span.p95_ms[kind] for span in self.attacked],
                    [span.p95_ms[kind] for span in self.quiet],
                    latency,
                    "ms",
                    1,
                )
                for kind, what in KINDS.items()
            ),
            Row(
                f"{self.name}: status calls that failed",
                [float(span.failed) for span in self.attacked],
                [float(span.failed) for span in self.quiet],
                None,
                "",
            ),
        ]


def take_turn(around: World, attacks: Sequence[Attack], chance: random.Random, seconds: float) -> None:
    """A span with each, and one at rest that all of them are compared with, in whatever order."""
    kinds: list[Attack | None] = [*attacks, None]
    for attack in chance.sample(kinds, len(kinds)):
        if attack is None:
            quiet = around.span(seconds)
        else:
            attack.strike(around, seconds)
        time.sleep(SETTLE_S)
    for each in attacks:
        each.quiet.append(quiet)
