"""1,000 hostile datagrams a second at a running daemon, from its neighbour's address, with hop limit 255.

They pass all that the kernel checks; forged, replayed, of unknown boots and keys, truncated, and noise, in turns.
"""

import random
from pathlib import Path

from bench.dataplane_table import Row
from bench.identity_attack import ATTACKER, HEAD, TARGET, Attack, take_turn, world
from bench.identity_children import Order, child
from bench.identity_effort import Effort
from bench.session import say

__all__ = ["HEAD", "measure"]

MESH_PORT = 9473
REFUSED = "x0d_mesh_datagrams_refused_total"


def measure(_directory: Path, chance: random.Random, effort: Effort) -> list[Row]:
    """Attack in turns."""
    with world() as around:
        link = around.lab.topology.links[0]
        arguments = (
            link.interface(ATTACKER),
            link.address(ATTACKER),
            link.address(TARGET),
            str(MESH_PORT),
            str(chance.randrange(1 << 32)),
        )
        with child("identity_forger", *arguments, namespace=around.lab.namespace(ATTACKER)) as forger:
            before: dict[str, float] = {}

            def begin() -> None:
                before.update(around.counters(REFUSED))
                forger.ask("begin", rate=effort.rate)

            def end() -> Order:
                sent = forger.ask("end")["sent"]
                after = around.counters(REFUSED)
                refused = {_reason(name): count - before[name] for name, count in after.items() if count > before[name]}
                return {"arrived": sum(refused.values()), "sent": sent, "refused": refused}

            attack = Attack("hostile datagrams", begin, end)
            for _ in range(effort.runs):
                take_turn(around, [attack], chance, effort.seconds)
    say(f"hostile datagrams of the last turn: sent {attack.told['sent']}, refused {attack.told['refused']}")
    return attack.rows()


def _reason(name: str) -> str:
    """The label's value."""
    return name.split('"')[1]
