"""In which order the nodes take up good news, so that no packet goes round in a circle meanwhile.

When a link returns, a node further away that moves first sends packets to one that still sends them
back: a micro-loop, until the other has moved too (seen: 5 of 1,700 packets lost on a ring of four).
So each node waits the longer the further it is from the target on the new way: those that come after
it on that way have moved before it does, and what it then sends on arrives (RFC 6976, ordered FIB
updates, for the case of a link up).

Only good news waits: a way as short or shorter while the old one still works (as short: ties are broken by
name, so a returning link also draws what was no worse off).  A fault is acted upon at once.
"""

from collections.abc import Mapping

from x0d.mesh.model import Address, MeshRoute, Prefix

STEP_S = 0.05  # one node's turn: flooding a few hops (1 to 5 ms each), computing, one netlink batch (1 to 20 ms)
WAIT_MAX_S = 1.0


def waits(
    installed: Mapping[Prefix, MeshRoute], computed: Mapping[Prefix, MeshRoute], dead: frozenset[tuple[int, Address]]
) -> dict[Prefix, float]:
    """How long each prefix keeps its installed route, in seconds; those not named move at once.

    Args:
        installed: routes in force.
        computed: routes to come.
        dead: interface index and gateway of next hops that carry nothing any more.
    """
    return {
        prefix: min((route.hops - 1) * STEP_S, WAIT_MAX_S)
        for prefix, route in computed.items()
        if route.hops > 1 and _can_wait(installed.get(prefix), route, dead)
    }


def _can_wait(old: MeshRoute | None, new: MeshRoute, dead: frozenset[tuple[int, Address]]) -> bool:
    if old is None or old.next_hop == new.next_hop:
        return False
    return new.metric <= old.metric and (old.next_hop.ifindex, old.next_hop.gateway) not in dead
