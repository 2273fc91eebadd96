"""What a call, a large message and a new connection cost: our mTLS beside native gRPC TLS, in turns."""

import random
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.dataplane_table import Row, Target
from bench.identity_children import Child, child, cpu_s, percentile
from bench.identity_effort import Effort

SMALL = 128
LARGE = 1 << 20
WARM_CALLS = 200
UNARY_RATIO_MAX = 1.5
OURS, NATIVE = "x0d", "native"
Figures = dict[str, list[float]]
"""By what was measured, a value a turn."""


@dataclass
class Side:
    """One of the two, with its processes."""

    server: Child
    client: Child
    is_ours: bool
    figures: Figures = field(default_factory=dict)

    def turn(self, effort: Effort) -> None:
        """Measure everything once."""
        before = cpu_s(self.client.pid), cpu_s(self.server.pid)
        took = self.client.ask("calls", count=effort.calls, size=SMALL)["ms"]
        after = cpu_s(self.client.pid), cpu_s(self.server.pid)
        self._note("p50", percentile(took, 50))
        self._note("p95", percentile(took, 95))
        self._note("client CPU", (after[0] - before[0]) / effort.calls * 1e6)
        self._note("server CPU", (after[1] - before[1]) / effort.calls * 1e6)
        took = self.client.ask("calls", count=effort.large, size=LARGE)["ms"]
        self._note("large", effort.large / (sum(took) / 1e3))
        self._note("fresh", percentile(self.client.ask("fresh", count=effort.connections)["ms"], 50))
        if self.is_ours:
            for name in ("dials", "agreements"):
                self._note(name, percentile(self.client.ask(name, count=effort.connections)["ms"], 50))

    def _note(self, name: str, value: float) -> None:
        self.figures.setdefault(name, []).append(value)


def measure(directory: Path, chance: random.Random, effort: Effort) -> list[Row]:
    """Run both, each in turn first, and give the table's lines."""
    with ExitStack() as stack:
        stack.enter_context(child("identity_agent", str(directory))).ask("issue")
        sides = {kind: _start(stack, kind, directory) for kind in (OURS, NATIVE)}
        for side in sides.values():
            side.client.ask("calls", count=WARM_CALLS, size=SMALL)
        for _ in range(effort.runs):
            for side in chance.sample(list(sides.values()), 2):
                side.turn(effort)
    return _rows(sides[OURS].figures, sides[NATIVE].figures)


def _start(stack: ExitStack, kind: str, directory: Path) -> Side:
    server = stack.enter_context(child("identity_server", kind, str(directory)))
    port = server.ask("port")["port"]
    client = stack.enter_context(child("identity_client", kind, str(directory), str(port)))
    return Side(server, client, kind == OURS)


def _rows(ours: Figures, native: Figures) -> list[Row]:
    wanted = Target(UNARY_RATIO_MAX, of_ratio=True)
    return [
        Row("unary call, p50", ours["p50"], native["p50"], wanted, "ms", 3),
        Row("unary call, p95", ours["p95"], native["p95"], None, "ms", 3),
        Row("unary call, client's CPU", ours["client CPU"], native["client CPU"], None, "us"),
        Row("unary call, server's CPU", ours["server CPU"], native["server CPU"], None, "us"),
        Row("messages of 1 MiB, echoed", ours["large"], native["large"], None, "MiB/s"),
        Row("new connection, first call and its end, p50", ours["fresh"], native["fresh"], None, "ms", 2),
        Row("connector: TCP, handshake and verdict, p50", ours["dials"], (), None, "ms", 2),
        Row("AgreeKey on a connection of its own, p50", ours["agreements"], (), None, "ms", 2),
    ]
