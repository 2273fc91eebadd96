"""What people are told of a neighbour's daemon: log, alert, the reason with its links, the rows of ``identity show``.

Each change is said once, however often it is tried again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from x0d import telemetry
from x0d.errors import NotKnownToPeer
from x0d.identity.model import Reason
from x0d.identity.spiffe_id import SpiffeId
from x0d.mesh.model import LinkKey
from x0d.service.alerts import Alerts
from x0d.service.identity import instant
from x0d.service.peers_neighbour import WAITING, Neighbour

PEER_ALERT = "peer_identity"
FAILURES_SHOWN = 3
"""Dials in a row without an answer, before the link says so: a neighbour may be starting."""

REMEDIES: Final[Mapping[str, str]] = {
    Reason.UNTRUSTED: "join both nodes to the same issuer, or to the same SPIRE server, and look at its trust bundle",
    Reason.UNKNOWN_TRUST_DOMAIN: "its trust domain is not identity.trust_domain: give all nodes of a mesh the same one",
    Reason.WRONG_ID: "look at node.name there, and at which node [[mesh.neighbours]] names at this address",
    Reason.EXPIRED: "look at the clocks of both nodes, and at its SPIRE agent or issuer: x0ctl identity check there",
    Reason.NOT_YET_VALID: "look at the clocks of both nodes",
    Reason.NOT_POST_QUANTUM: "update it, or set identity.require_pq = false here",
    Reason.DEV_IDENTITY: "it has a development identity and this node is in production: give it one of SPIRE",
}
REMEDY: Final = "x0ctl identity check tries it again"
DENIED_REMEDY: Final = "its journalctl -u x0d says why: look there at its roots, [[identity.bindings]] and require_pq"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PeerRow:
    """What is known of a neighbour's daemon, by link; named as in ``x0d.v1.PeerIdentity``."""

    node: str
    spiffe_id: str
    link: str
    state: str
    reason: str
    group: str
    tls_version: str
    post_quantum: bool
    svid_not_after_unix_ms: int
    key_age_s: float


def row_of(neighbour: Neighbour, link: LinkKey, now: tuple[float, float], own: str) -> PeerRow:
    """Describe a neighbour on one of its links.

    ``now``: seconds, of the monotonic and the wall clock; ``own``: why this node cannot dial, empty if it can.
    """
    proof = neighbour.held[-1].proof if neighbour.held else None
    age_s = now[0] - neighbour.agreed_at_s if proof else 0.0
    state, reason = neighbour.state, neighbour.reason
    if neighbour.usable and reason:
        ended = "was refused" if neighbour.refusal or neighbour.denial else "failed"
        reason = f"key of {instant(now[1] - age_s)} in use; a new agreement {ended}: {reason}"
    elif own and not neighbour.usable and neighbour.refusal is None:
        state, reason = WAITING, own
    return PeerRow(
        node=neighbour.node,
        spiffe_id=str(neighbour.spiffe_id),
        link=str(link),
        state=state,
        reason=reason,
        group=proof.group if proof else "",
        tls_version=proof.tls_version if proof else "",
        post_quantum=proof.is_post_quantum if proof else False,
        svid_not_after_unix_ms=int(proof.not_after_unix_s * 1e3) if proof else 0,
        key_age_s=age_s,
    )


def row_without_link(node: str, spiffe_id: SpiffeId, reason: str) -> PeerRow:
    """Describe a configured neighbour that cannot be dialled where it is, for there is no link."""
    return PeerRow(node, str(spiffe_id), "", WAITING, f"no link: {reason}", "", "", False, 0, 0.0)


class PeerNews:
    """Tells what has changed: a definite refusal at once, silence after some tries."""

    def __init__(self, alerts: Alerts, on_problem: Callable[[str, str], None]) -> None:
        self._alerts = alerts
        self._on_problem = on_problem

    def tell(self, neighbour: Neighbour) -> None:
        """Log and alert what is new of a neighbour, and show it with its links."""
        word, text = _judgement(neighbour)
        if text:
            self._alerts.raise_alert(_alert(neighbour), text)
        else:
            self._alerts.clear(_alert(neighbour))
        group = neighbour.held[-1].proof.group if neighbour.usable else ""
        told = (neighbour.state, word, group)
        if told != neighbour.told:
            neighbour.told = told
            fields = {"node": neighbour.node, "spiffe_id": str(neighbour.spiffe_id)}
            if word:
                log.warning(telemetry.PEER_REFUSED, **fields, reason=word, detail=neighbour.reason)
            elif neighbour.usable:
                log.info(telemetry.PEER_AUTHENTICATED, **fields, group=group)
        if neighbour.shown != problem_of(neighbour):
            self.show(neighbour)

    def show(self, neighbour: Neighbour) -> None:
        """Show what is wrong with a neighbour with its links, all of them: one may have come."""
        neighbour.shown = problem_of(neighbour)
        self._on_problem(neighbour.node, neighbour.shown)

    def dropped(self, neighbour: Neighbour, reason: str) -> None:
        """Its keys are gone: what it has proved does not hold any more."""
        log.warning(telemetry.PEER_KEY_DROPPED, node=neighbour.node, reason=reason)

    def forget(self, neighbour: Neighbour) -> None:
        """There are no links to it any more."""
        self._alerts.clear(_alert(neighbour))
        self._on_problem(neighbour.node, "")


def _alert(neighbour: Neighbour) -> str:
    return f"{PEER_ALERT} {neighbour.node}"


def _judgement(neighbour: Neighbour) -> tuple[str, str]:
    """A word for the log and what an alert says of a definite refusal, by either end; both empty: there is none."""
    refused, denied = neighbour.refusal, neighbour.denial
    if refused is not None:
        word, text = refused.reason, f"refused ({refused.reason}): {refused}; {REMEDIES.get(refused.reason, REMEDY)}"
    elif isinstance(denied, NotKnownToPeer):
        return "not_known_to_peer", _unknown(denied)
    elif denied is not None:
        word, text = "refused_by_peer", f"{denied}; {DENIED_REMEDY}"
    else:
        return "", ""
    return word, f"{text}; the key agreed on before is in use" if neighbour.usable else text


def _unknown(denied: NotKnownToPeer) -> str:
    return f"{denied}: look at [[mesh.neighbours]] there"


def problem_of(neighbour: Neighbour) -> str:
    """What keeps a neighbour from being listened to; empty: nothing, or nothing worth a word yet."""
    if isinstance(neighbour.denial, NotKnownToPeer):
        return _unknown(neighbour.denial)  # a key that it had forgotten may be left here
    if neighbour.usable:
        return ""
    if neighbour.suspended:
        return f"{neighbour.node} is not listened to: {neighbour.suspended}"
    if neighbour.refusal is not None:
        return f"{neighbour.node} is refused: {neighbour.reason}"
    if neighbour.denial is not None or neighbour.failures >= FAILURES_SHOWN:
        return f"{neighbour.node} has not been authenticated: {neighbour.reason}"
    return ""
