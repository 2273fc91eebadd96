"""From the incidents that the nodes recorded to one timeline, counted from the moment of the fault.  Pure.

Each node tells the end of each step as milliseconds since the last sign that the link worked, and the moment of each
piece of evidence as wall-clock time.  Detection ends with the evidence that it rests on, so the one places the other
on the wall clock; all nodes of a lab share that clock.

A node's events start with what made it act: its own probes, or the flooding of another node.  An end that is told
first computes its routes before its own probes agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]
STEP_WORDS = {"detect": "detected", "decide": "routes computed", "act": "routes changed", "verify": "verified"}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at one moment of the story."""

    after_ms: float
    """Since the fault was made."""
    node: str
    order: int
    """Among events of one time, causes first: 0 detected, 1 told, then the steps."""
    what: str


def find_incident(listed: Json, link: tuple[str, str], since_unix_ms: float) -> Json | None:
    """The newest incident of the link between two nodes that was opened after an instant.

    Args:
        listed: what ``x0ctl -o json incident list`` printed.
        link: both ends.
        since_unix_ms: wall clock.
    """
    wanted = sorted(link)
    for incident in listed.get("incidents", ()):
        ends = str(incident["link"]).rpartition(".")[0].split("-")
        if sorted(ends) == wanted and int(incident["opened_at_unix_ms"]) >= int(since_unix_ms):
            return dict(incident)
    return None


def events_of(node: str, incident: Json, fault_unix_ms: float) -> list[Event]:
    """What one node recorded in an incident, relative to the fault, causes before effects.

    Evidence has whole milliseconds: a step that would come out before its cause by that is put beside it.
    """
    opened_ms = int(incident["opened_at_unix_ms"]) - fault_unix_ms
    steps: Sequence[Json] = incident.get("steps", ())
    evidence: Sequence[Json] = incident.get("evidence", ())
    detect = next((step for step in steps if step["step"] == "detect"), None)
    detected_ms, base_ms = opened_ms, opened_ms
    if detect:
        seen = (int(each["at_unix_ms"]) for each in evidence if each["detail"] == detect.get("detail"))
        detected_ms = next(seen, int(incident["opened_at_unix_ms"])) - fault_unix_ms
        base_ms = detected_ms - float(detect["since_fault_ms"])
    events = []
    told = _told_by(incident)
    if told:
        events.append(Event(opened_ms, node, 1, f"told by {told}'s flooding"))
    elif detect:
        events.append(Event(detected_ms, node, 0, _words(detect)))
    not_before_ms = events[0].after_ms if events else opened_ms
    for order, step in enumerate((step for step in steps if step["step"] != "detect"), 2):
        not_before_ms = max(not_before_ms, base_ms + float(step["since_fault_ms"]))
        events.append(Event(not_before_ms, node, order, _words(step)))
    if told and detect and detected_ms > opened_ms:
        events.append(Event(detected_ms, node, len(steps) + 2, _words(detect)))
    return sorted(events, key=_causal) or [Event(opened_ms, node, 0, "incident opened")]


def _words(step: Json) -> str:
    name, detail = str(step["step"]), step.get("detail")
    return STEP_WORDS.get(name, name) + (f": {detail}" if detail else "")


def _told_by(incident: Json) -> str:
    """The node whose flooding opened the incident at this one; empty if its own signs did."""
    first: Json = min(incident.get("evidence", ()), key=lambda each: int(each["at_unix_ms"]), default={})
    if first.get("kind") == "peer_reported":
        return str(first["detail"]).partition(" ")[0]
    return "another node" if incident["role"] == "observer" else ""


def _causal(event: Event) -> tuple[float, int, str]:
    return (event.after_ms, event.order, event.node)


def step_end_ms(events: Sequence[Event], step: str) -> float | None:
    """When the last node (the first, for ``detect``) had ended a step; None if none did."""
    ends = [event.after_ms for event in events if event.what.startswith(STEP_WORDS[step])]
    return (min if step == "detect" else max)(ends, default=None)


def render(events: Sequence[Event]) -> list[str]:
    """One line an event, in the order of time."""
    width = max((len(event.node) for event in events), default=0)
    return [f"{event.after_ms:+8.1f} ms  {event.node:<{width}}  {event.what}" for event in sorted(events, key=_causal)]
