"""An incident's life as one table, and the only functions that change an incident.

``TRANSITIONS[state][trigger]`` is looked up at every change of state; a trigger that the table does
not have in a state changes nothing.  Every function takes an incident and returns a replaced one, so
what was handed out for storing never changes afterwards.  What leads to a trigger is decided in
``loop.py``.
"""

from dataclasses import replace
from enum import Enum

from x0d.mapek.model import ActionRecord, Cause, Evidence, Incident, IncidentState, Step

EVIDENCE_MAX = 64
"""Evidence of one incident; then the earliest stay, which tell how it began, and later ones are dropped."""
STEPS_MAX = 16
"""Steps of one incident; then later ones are dropped.  A healed incident has four or five."""
ACTIONS_MAX = 32
"""Action records of one incident; then later ones are dropped."""
TEXT_MAX = 512
"""Characters of a detail or explanation; longer ones are cut, since part of them comes from peers."""


class Trigger(Enum):
    """What can happen to an incident."""

    ACTION_REQUESTED = "action_requested"
    """A remedy was handed to the executor."""
    ACTION_FAILED = "action_failed"
    """The executor could not perform the remedy."""
    ROUTES_MOVED = "routes_moved"
    """The mesh has recomputed for this incident; what the kernel holds is to be verified."""
    UNREACHABLE = "unreachable"
    """The mesh has recomputed and no path is left to some prefixes."""
    REACHABLE = "reachable"
    """A later computation reaches those prefixes again."""
    VERIFIED = "verified"
    """The kernel was read back and holds what was computed."""
    VERIFY_EXPIRED = "verify_expired"
    """The kernel did not hold it within the time allowed."""
    WATCHED = "watched"
    """Nothing to wait for: routes are only watched, or the peer alone complains and treats it."""
    RECOVERED = "recovered"
    """The link is up again."""
    SUPERSEDED = "superseded"
    """A newer incident on the same link, or a newer life of the daemon, takes over."""
    SETTLED = "settled"
    """Nobody told of a reroute in time, or the daemon restarted: what the kernel holds is to be verified."""
    UNDO_FAILED = "undo_failed"
    """The link is up again and its remedy could not be taken back."""


TRANSITIONS: dict[IncidentState, dict[Trigger, IncidentState]] = {
    IncidentState.OPEN: {
        Trigger.ACTION_REQUESTED: IncidentState.ACTING,
        Trigger.ROUTES_MOVED: IncidentState.VERIFYING,
        Trigger.UNREACHABLE: IncidentState.ESCALATED,
        Trigger.WATCHED: IncidentState.CLOSED,
        Trigger.RECOVERED: IncidentState.CLOSED,
        Trigger.SUPERSEDED: IncidentState.CLOSED,
        Trigger.SETTLED: IncidentState.VERIFYING,
    },
    IncidentState.ACTING: {
        Trigger.ACTION_FAILED: IncidentState.ESCALATED,
        Trigger.ROUTES_MOVED: IncidentState.VERIFYING,
        Trigger.UNREACHABLE: IncidentState.ESCALATED,
        Trigger.VERIFY_EXPIRED: IncidentState.ESCALATED,
        Trigger.RECOVERED: IncidentState.CLOSED,
        Trigger.SUPERSEDED: IncidentState.CLOSED,
        Trigger.SETTLED: IncidentState.VERIFYING,
    },
    IncidentState.VERIFYING: {
        Trigger.ACTION_REQUESTED: IncidentState.ACTING,
        Trigger.ROUTES_MOVED: IncidentState.VERIFYING,
        Trigger.UNREACHABLE: IncidentState.ESCALATED,
        Trigger.VERIFIED: IncidentState.CLOSED,
        Trigger.VERIFY_EXPIRED: IncidentState.ESCALATED,
        Trigger.RECOVERED: IncidentState.CLOSED,
        Trigger.SUPERSEDED: IncidentState.CLOSED,
        Trigger.SETTLED: IncidentState.VERIFYING,
    },
    IncidentState.ESCALATED: {
        Trigger.ROUTES_MOVED: IncidentState.VERIFYING,
        Trigger.UNREACHABLE: IncidentState.ESCALATED,
        Trigger.REACHABLE: IncidentState.CLOSED,
        Trigger.RECOVERED: IncidentState.CLOSED,
        Trigger.SUPERSEDED: IncidentState.CLOSED,
    },
    IncidentState.CLOSED: {
        Trigger.UNDO_FAILED: IncidentState.ESCALATED,
    },
}


def accepts(incident: Incident, trigger: Trigger) -> bool:
    """Whether the trigger means anything in the incident's state."""
    return trigger in TRANSITIONS[incident.state]


def advance(incident: Incident, trigger: Trigger, unix_ms: int) -> Incident:
    """Follow the table; an incident whose state knows no such trigger is returned as it is.

    ``closed_at_unix_ms`` is set on the way into ``closed`` and cleared on the way out of it.
    """
    state = TRANSITIONS[incident.state].get(trigger)
    if state is None or state is incident.state:
        return incident
    return replace(incident, state=state, closed_at_unix_ms=unix_ms if state is IncidentState.CLOSED else None)


def close(incident: Incident, trigger: Trigger, unix_ms: int, detail: str) -> Incident:
    """Advance by a trigger that ends the incident, with the reason as evidence."""
    return _advance_with_reason(incident, trigger, unix_ms, detail)


def escalate(incident: Incident, trigger: Trigger, unix_ms: int, detail: str) -> Incident:
    """Advance by a trigger that hands the incident to a person, with the reason as evidence."""
    return _advance_with_reason(incident, trigger, unix_ms, detail)


def _advance_with_reason(incident: Incident, trigger: Trigger, unix_ms: int, detail: str) -> Incident:
    if not accepts(incident, trigger):
        return incident
    return advance(add_evidence(incident, Evidence(unix_ms, trigger.value, detail)), trigger, unix_ms)


def add_evidence(incident: Incident, evidence: Evidence) -> Incident:
    """Append, unless the last of its kind says the same or the incident is full."""
    same_kind = [known for known in incident.evidence if known.kind == evidence.kind]
    if len(incident.evidence) >= EVIDENCE_MAX or (same_kind and same_kind[-1].detail == evidence.detail):
        return incident
    return replace(incident, evidence=(*incident.evidence, replace(evidence, detail=evidence.detail[:TEXT_MAX])))


def add_step(incident: Incident, step: Step) -> Incident:
    """Append, unless the incident is full."""
    if len(incident.steps) >= STEPS_MAX:
        return incident
    return replace(incident, steps=(*incident.steps, replace(step, detail=step.detail[:TEXT_MAX])))


def has_step(incident: Incident, name: str) -> bool:
    """Whether a step of this name was taken already."""
    return any(step.name == name for step in incident.steps)


def add_action(incident: Incident, record: ActionRecord) -> Incident:
    """Append, unless the incident is full."""
    if len(incident.actions) >= ACTIONS_MAX:
        return incident
    return replace(incident, actions=(*incident.actions, record))


def add_losses(incident: Incident, *, packets: int = 0, probes: int = 0) -> Incident:
    """Take the larger of the known and the new count: later reports of one fault include the earlier."""
    if packets <= incident.packets_lost and probes <= incident.probes_lost:
        return incident
    return replace(
        incident,
        packets_lost=max(incident.packets_lost, packets),
        probes_lost=max(incident.probes_lost, probes),
    )


def explain(incident: Incident, cause: Cause, explanation: str) -> Incident:
    """Set cause and explanation."""
    return replace(incident, cause=cause, explanation=explanation[:TEXT_MAX])
