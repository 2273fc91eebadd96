"""From the incidents that the nodes recorded to one timeline, counted from the moment of the fault.  Pure.

Each node tells the end of each step as milliseconds since the last sign that the link worked, and when it opened the
incident as wall-clock time.  Detection ends when the incident opens, so the one places the other on the wall clock;
all nodes of a lab share that clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]
STEP_WORDS = {"detect": "detected", "decide": "routes computed", "act": "routes changed", "verify": "verified"}


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """Something that happened at one moment of the story."""

    after_ms: float
    """Since the fault was made."""
    node: str
    order: int
    """Among events of one node at one time."""
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
    """What one node recorded in an incident, relative to the fault."""
    opened_ms = int(incident["opened_at_unix_ms"]) - fault_unix_ms
    steps: Sequence[Json] = incident.get("steps", ())
    detected = next((float(step["since_fault_ms"]) for step in steps if step["step"] == "detect"), 0.0)
    base_ms = opened_ms - detected
    events = []
    if incident["role"] == "observer":
        events.append(Event(opened_ms, node, 0, "told by flooding"))
    for order, step in enumerate(steps, 1):
        name, detail = str(step["step"]), step.get("detail")
        what = STEP_WORDS.get(name, name) + (f": {detail}" if detail else "")
        events.append(Event(base_ms + float(step["since_fault_ms"]), node, order, what))
    return events or [Event(opened_ms, node, 0, "incident opened")]


def step_end_ms(events: Sequence[Event], step: str) -> float | None:
    """When the last node (the first, for ``detect``) had ended a step; None if none did."""
    ends = [event.after_ms for event in events if event.what.startswith(STEP_WORDS[step])]
    return (min if step == "detect" else max)(ends, default=None)


def render(events: Sequence[Event]) -> list[str]:
    """One line an event, in the order of time."""
    width = max((len(event.node) for event in events), default=0)
    return [f"{event.after_ms:+8.1f} ms  {event.node:<{width}}  {event.what}" for event in sorted(events)]
