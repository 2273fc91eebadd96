"""1,000 hostile handshakes a second at a running daemon's control and peer ports, from one source and from many.

From one source most SYNs end in XDP, which takes so many a second and source; from two hundred sources none does, and
what is measured is gRPC's TLS alone.  Connections that say nothing hold places instead of costing CPU; that kind is
shown for what it does to new connections.
"""

import random
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from bench.dataplane_table import Row
from bench.identity_attack import ATTACKER, CONTROL_PORT, HEAD, TARGET, Attack, World, take_turn, world
from bench.identity_children import Child, Order, child
from bench.identity_effort import Effort
from bench.session import say
from lab.machine import batch

__all__ = ["HEAD", "measure"]

PEER_PORT = 9471
CHILDREN = 2
"""One process cannot shake hands so often."""
SOURCES = 200
SOURCE_NET = "198.18.7"
KINDS = {
    "garbage": "TCP and garbage",
    "hello": "ClientHello and close",
    "stranger": "handshake by an unknown CA",
    "silent": "silence",
}


def measure(_directory: Path, chance: random.Random, effort: Effort) -> list[Row]:
    """Attack in turns, with each kind from one source, then from many."""
    with ExitStack() as stack:
        around = stack.enter_context(world())
        one, many = [around.lab.topology.links[0].address(ATTACKER)], _add_sources(around)
        namespace = around.lab.namespace(ATTACKER)
        knockers = [stack.enter_context(child("identity_strangers", namespace=namespace)) for _ in range(CHILDREN)]
        groups = [
            [_attack(around, knockers, f"{where}: {text}", kind, sources, effort.rate) for kind, text in KINDS.items()]
            for where, sources in (("one source", one), (f"{SOURCES} sources", many))
        ]
        for _ in range(effort.runs):
            for group in groups:
                take_turn(around, group, chance, effort.seconds)
    attacks = [attack for group in groups for attack in group]
    for attack in attacks:
        say(f"{attack.name}, last turn: {attack.told}")
    return [row for attack in attacks for row in attack.rows()]


def _add_sources(around: World) -> list[str]:
    """Addresses of the attacker's, with a way back."""
    lab, link = around.lab, around.lab.topology.links[0]
    addresses = [f"{SOURCE_NET}.{number}" for number in range(1, SOURCES + 1)]
    batch(lab.namespace(ATTACKER), [f"addr add {address}/32 dev lo" for address in addresses])
    way = f"{SOURCE_NET}.0/24 via {link.address(ATTACKER)} dev {link.interface(TARGET)}"
    batch(lab.namespace(TARGET), [f"route add {way}"])
    return addresses


def _attack(around: World, knockers: list[Child], name: str, kind: str, sources: list[str], rate: int) -> Attack:
    targets = [(around.address, CONTROL_PORT), (around.address, PEER_PORT)]

    def begin() -> None:
        for number, knocker in enumerate(knockers):
            own = sources[number::CHILDREN] or sources
            knocker.ask("begin", kind=kind, rate=rate / CHILDREN, targets=targets, sources=own)

    def end() -> Order:
        total: Counter[str] = Counter()
        for knocker in knockers:
            total.update(knocker.ask("end"))
        return {"arrived": 0, **total}

    return Attack(name, begin, end, is_aim=kind == "silent")
