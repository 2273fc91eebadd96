"""From signs to a cause, by rules, with the sentence that says why.

A sign is what one node saw of one link.  Alone it cannot tell a dead link from a dead node: both
leave probes unanswered.  The other neighbours decide.  While any of them still reaches the node, only
the link died; once no usable link leads to it, the node is gone: unreachable from here, whether it is dead
or cut off with others.  A silent daemon is told from both
by the kernel, which answers probes without it.  Each diagnosis names the evidence it rests on, and
says so where the evidence cannot tell two causes apart.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from x0d.mapek.events import LinkSymptom, PeerReport
from x0d.mapek.model import Cause
from x0d.mesh.model import AdjacencyState, LinkKey, LinkState

STATE_SEEN = {
    LinkState.DOWN: AdjacencyState.DOWN,
    LinkState.DEGRADED: AdjacencyState.DEGRADED,
    LinkState.CONTROL_GONE: AdjacencyState.CONTROL_GONE,
}
"""States of one's own link that are symptoms; the others (up, waiting, blocked) are none."""

LINKS_SHOWN = 3
"""Links named in an explanation; the rest are counted."""
CAUSE_SEEN = {
    AdjacencyState.DOWN: Cause.LINK_DEAD,
    AdjacencyState.DEGRADED: Cause.LINK_DEGRADED,
    AdjacencyState.CONTROL_GONE: Cause.CONTROL_PLANE_GONE,
    AdjacencyState.TRANSIT_LAST: Cause.CONTROL_PLANE_GONE,
}
"""What a state means before the topology is asked; ``up`` is no sign of anything."""

STATE_IN_WORDS = {
    AdjacencyState.UP: "up",
    AdjacencyState.DOWN: "down",
    AdjacencyState.DEGRADED: "degraded",
    AdjacencyState.CONTROL_GONE: "up with a silent daemon at its other end",
    AdjacencyState.TRANSIT_LAST: "up with a silent daemon at its other end",
}
ANNOUNCED_STOP = "announced_stop"
"""Kind of a silence that was planned: the daemon had flooded that nothing should pass through its node."""
KIND_IN_WORDS = {
    "probes_unanswered": "probes over {link} are unanswered while its carrier is up",
    "carrier_lost": "the carrier of {link} is lost",
    "interface_gone": "the interface of {link} is gone",
    "loss": "probes over {link} are lost beyond what chance explains",
    "control_silent": "the kernel of {other} answers probes over {link}, its daemon is silent",
}


@dataclass(frozen=True, slots=True)
class Sign:
    """What one node saw of one link."""

    link: LinkKey
    state: AdjacencyState
    kind: str
    """As in ``LinkSymptom.kind``."""
    detail: str
    seen_by: str
    """Name of the node that saw it."""


@dataclass(frozen=True, slots=True)
class Topology:
    """What is known of the rest of the mesh when a sign is judged."""

    node: str
    """This node."""
    isolated: frozenset[str] = frozenset()
    """As ``TopologySeen.isolated``."""
    down: frozenset[LinkKey] = frozenset()
    """Links that this node or another has lately called down."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A cause and how it was found."""

    cause: Cause
    explanation: str


def sign_of_symptom(symptom: LinkSymptom, node: str) -> Sign | None:
    """Make a sign of this node's own observation; None when the state is no symptom."""
    state = STATE_SEEN.get(symptom.state)
    return None if state is None else Sign(symptom.link, state, symptom.kind, symptom.detail, node)


def sign_of_report(report: PeerReport) -> Sign | None:
    """Make a sign of another node's link state; None when it calls the link up."""
    if report.state not in CAUSE_SEEN:
        return None
    return Sign(report.link, report.state, "peer_reported", reported(report), report.reporter)


def reported(report: PeerReport) -> str:
    """Say what a peer reported, as evidence."""
    return f"{report.reporter} reports the link {STATE_IN_WORDS[report.state]}"


def diagnose(sign: Sign, topology: Topology, *, is_cut_off: bool = False) -> Diagnosis:
    """Name the cause and say how it was told apart from its neighbours in kind.

    ``is_cut_off``: no path of this node leads any more to something behind the link, so what the nodes
    there see of each other cannot reach it.
    """
    cause = CAUSE_SEEN.get(sign.state, Cause.LINK_DEAD)
    if cause is Cause.LINK_DEGRADED:
        return Diagnosis(cause, _degraded(sign))
    if cause is Cause.CONTROL_PLANE_GONE:
        return Diagnosis(cause, _control_gone(sign))
    gone = gone_node(sign, topology)
    if gone is not None:
        return Diagnosis(Cause.NODE_GONE, _node_gone(sign, gone, topology))
    return Diagnosis(cause, _link_dead(sign, topology, is_cut_off=is_cut_off))


def gone_node(sign: Sign, topology: Topology) -> str | None:
    """Tell which end of a dead link is the dead node; None when neither or both seem cut off."""
    ends = [node for node in (sign.link.node_a, sign.link.node_b) if node in topology.isolated]
    if sign.state is not AdjacencyState.DOWN or len(ends) != 1 or ends[0] == topology.node:
        return None
    return ends[0]


def other_end(link: LinkKey, node: str) -> str:
    """Name the end of the link that is not ``node``."""
    return link.node_b if link.node_a == node else link.node_a


def _seen(sign: Sign) -> str:
    """Say what was seen; the first clause of every explanation."""
    other = other_end(sign.link, sign.seen_by)
    words = KIND_IN_WORDS.get(sign.kind)
    if words is None:
        return f"{sign.seen_by} reports {sign.link} {STATE_IN_WORDS[sign.state]}"
    text = f"{sign.seen_by} sees that {words.format(link=sign.link, other=other)}"
    return f"{text} ({sign.detail})" if sign.detail else text


def _down_at(node: str, sign: Sign, topology: Topology) -> str:
    """Name the links of a node, other than the sign's, that are called down; empty when there are none."""
    down = [link for link in topology.down if node in (link.node_a, link.node_b) and link != sign.link]
    shown = ", ".join(str(link) for link in heapq.nsmallest(LINKS_SHOWN, down, key=_by_names))
    rest = len(down) - LINKS_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown


def _by_names(link: LinkKey) -> tuple[str, str, str]:
    return link.node_a, link.node_b, link.address_a


def _link_dead(sign: Sign, topology: Topology, *, is_cut_off: bool) -> str:
    if topology.node in topology.isolated and topology.node in (sign.link.node_a, sign.link.node_b):
        return f"{_seen(sign)}; no usable link of {topology.node} is left, so it is this node that is cut off."
    other = other_end(sign.link, sign.seen_by)
    if other == topology.node:
        return f"{_seen(sign)}; the report came another way, so both nodes live and the link died."
    if is_cut_off:
        return (
            f"{_seen(sign)}; {topology.node} has no path left to some of what lies behind it, so no word from there "
            f"can tell whether {other} died or only the link."
        )
    if other in topology.isolated:
        return f"{_seen(sign)}; no usable link leads to either end, so a dead node cannot be told from a dead link."
    down = _down_at(other, sign, topology)
    if down:
        return (
            f"{_seen(sign)}; {down} is down as well, but a usable link still leads to {other}, "
            "so links died and not the node."
        )
    return f"{_seen(sign)}; {other}'s other neighbours still reach it, so the link died, not the node."


def _node_gone(sign: Sign, gone: str, topology: Topology) -> str:
    down = _down_at(gone, sign, topology)
    if down:
        return (
            f"{_seen(sign)}; {down} is down as well and no usable link leads to {gone} any more, "
            "so not one link died: the node is unreachable from here, dead or cut off."
        )
    return (
        f"{_seen(sign)}; no usable link leads to {gone} any more, so the node is unreachable from here: it has no "
        "other link that could tell a dead link from a dead node."
    )


def _degraded(sign: Sign) -> str:
    return f"{_seen(sign)}; part of the probes is still answered, so the link is degraded and not dead."


def _control_gone(sign: Sign) -> str:
    if sign.kind == ANNOUNCED_STOP:
        return (
            f"{other_end(sign.link, sign.seen_by)} announced its stop; its data plane still forwards and answers "
            f"probes over {sign.link}, so routes stay as they are where no other way leads on, and it carries transit "
            "last until its daemon is back."
        )
    return (
        f"{_seen(sign)}; its data plane still forwards, so routes stay as they are and it carries transit last "
        "once the topology changes."
    )


def gravest(reports: Sequence[PeerReport]) -> Sign | None:
    """The worst of several reports about one link, as a sign; None when there is none."""
    signs = [sign for sign in map(sign_of_report, reports) if sign is not None]
    return max(signs, key=lambda sign: sign.state, default=None)
