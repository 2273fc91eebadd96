"""A hundred new leaves and one new root, with overlap, on both ends under load: nothing may be lost or fail.

Load is four unary callers on one channel, new connections one after the other, and a stream with numbered messages.
Connections are recycled by their age meanwhile, which is half of the first certificate's life; the stream goes on.
Half way the new root is published beside the old one, then it signs.  At the end the old one goes; what was opened
under it has to be cut then, so that part has a stream and a channel of its own, opened under the new one.
"""

import random
import time
from contextlib import ExitStack
from pathlib import Path

from bench.dataplane_table import Row, Target
from bench.identity_children import Child, Order, child
from bench.identity_effort import Effort
from bench.session import say
from lab.machine import LabError, wait_until

SPANS = 4
"""Of Effort.seconds: how long the rotations take."""
OVERLAP_S = 0.2
"""Both ends have taken the new root, long before; an agent pushes within milliseconds."""
AGE_SPARE = 1.3
"""gRPC spreads the ages of connections by a tenth."""
TAKEN_S = 5.0
NONE = Target(0)


def measure(directory: Path, _chance: random.Random, effort: Effort) -> list[Row]:
    """Rotate under load."""
    age_s = max(2.0, effort.seconds)
    with ExitStack() as stack:
        agent = stack.enter_context(child("identity_agent", str(directory)))
        agent.ask("issue", life_s=2 * age_s - 1)
        server = stack.enter_context(child("identity_server", "x0d", str(directory)))
        port = server.ask("port")["port"]
        client = stack.enter_context(child("identity_client", "x0d", str(directory), str(port)))
        client.ask("load")
        _rotate(agent, effort)
        time.sleep(age_s * AGE_SPARE)
        _wait_taken(agent, (server, client))
        while_rotating = client.ask("unload")
        client.ask("load")
        after = _drop(agent, client, (server, client))
    for error in (*while_rotating["errors"], *after["errors"]):
        say(f"rotation: {error}")
    return _rows(while_rotating, after, effort)


def _rotate(agent: Child, effort: Effort) -> None:
    pause_s = SPANS * effort.seconds / effort.rotations
    for number in range(effort.rotations):
        if number == effort.rotations // 2:
            agent.ask("publish")
            time.sleep(OVERLAP_S)
            agent.ask("activate")
        agent.ask("issue")
        time.sleep(pause_s)


def _drop(agent: Child, client: Child, ends: tuple[Child, Child]) -> Order:
    """Take the old root away under load that was opened under the new one."""
    agent.ask("drop")
    _wait_taken(agent, ends)
    time.sleep(1.5)
    return client.ask("unload")


def _wait_taken(agent: Child, ends: tuple[Child, Child]) -> None:
    """Wait until both ends have the newest identity: a rotation that nobody took proves nothing."""
    issued = agent.ask("count")["issued"]
    if not wait_until(lambda: all(end.ask("updates")["updates"] == issued for end in ends), TAKEN_S):
        taken = [end.ask("updates")["updates"] for end in ends]
        raise LabError(f"of {issued} identities server and client have taken {taken}")


def _rows(rotating: Order, after: Order, effort: Effort) -> list[Row]:
    def row(what: str, source: Order, name: str, target: Target | None = None) -> Row:
        return Row(what, [source.get(name, 0)], (), target, "")

    renewed = rotating["handshakes"] - rotating["connections"] - 2  # the channel's first, and the stream's
    return [
        Row("rotations of both leaves, and one of the root", [effort.rotations], (), None, ""),
        row("calls on one channel meanwhile", rotating, "calls"),
        row("of these failed", rotating, "calls_failed", NONE),
        Row("renewals of that channel's connection", [renewed], (), None, ""),
        row("new connections with a call meanwhile", rotating, "connections"),
        row("of these failed", rotating, "connections_failed", NONE),
        row("messages of the stream", rotating, "messages"),
        row("of these lost", rotating, "lost", NONE),
        row("streams that ended", rotating, "streams_ended", NONE),
        Row("old root dropped: calls, connections", [after["calls"] + after["connections"]], (), None, ""),
        Row("of these failed", [after["calls_failed"] + after["connections_failed"]], (), NONE, ""),
        Row("messages lost, streams ended", [after["lost"] + after.get("streams_ended", 0)], (), NONE, ""),
    ]
