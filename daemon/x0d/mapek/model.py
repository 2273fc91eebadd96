"""The words of the healing loop: cause, symptom, evidence, incident, step.

An incident is (link, generation).  It is opened by a symptom, grows evidence, steps and actions,
and ends closed (verified) or escalated.  Plain data; ``incident.py`` holds the transitions.
Instants are wall-clock milliseconds where people read them and CLOCK_MONOTONIC nanoseconds
where durations are computed.
"""

from dataclasses import dataclass
from enum import Enum

from x0d.mesh.model import LinkKey


class Cause(Enum):
    """What went wrong."""

    LINK_DEAD = "link_dead"
    LINK_DEGRADED = "link_degraded"
    CONTROL_PLANE_GONE = "control_plane_gone"
    NODE_GONE = "node_gone"


class IncidentState(Enum):
    """How far an incident has come; ``incident.py`` has the transitions."""

    OPEN = "open"
    ACTING = "acting"
    VERIFYING = "verifying"
    CLOSED = "closed"
    ESCALATED = "escalated"


class Role(Enum):
    """What this node has to do with the link."""

    END = "end"
    """This node is an end of the link."""
    OBSERVER = "observer"
    """This node only recomputed its routes."""


@dataclass(frozen=True, slots=True, order=True)
class IncidentId:
    """Name of an incident, the same at every node."""

    link: str
    """Text of the ``LinkKey``."""
    generation: int

    def __str__(self) -> str:
        return f"{self.link}:{self.generation}"

    @classmethod
    def of(cls, link: LinkKey, generation: int) -> "IncidentId":
        """Make the id of a link's incident."""
        return cls(str(link), generation)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Something that was seen."""

    at_unix_ms: int
    kind: str
    """A fixed word, such as ``probes_unanswered``, ``carrier_lost``, ``peer_reported``."""
    detail: str


@dataclass(frozen=True, slots=True)
class Step:
    """A part of the healing, and how long it took."""

    name: str
    """``detect``, ``decide``, ``act`` or ``verify``."""
    duration_ms: float
    since_fault_ms: float
    """End of the step, counted from the last sign that the link worked."""
    detail: str


@dataclass(frozen=True, slots=True)
class ActionRecord:
    """An action and what became of it; texts for the operator."""

    action: str
    detail: str
    precondition: str
    expected_effect: str
    undo: str
    outcome: str
    """``done``, ``failed``, ``observed`` or ``undone``."""
    error: str
    at_unix_ms: int
    duration_ms: float


@dataclass(frozen=True, slots=True)
class Incident:
    """One record, replaced as a whole at each change."""

    id: IncidentId
    cause: Cause
    explanation: str
    state: IncidentState
    role: Role
    healing_mode: str
    opened_at_unix_ms: int
    closed_at_unix_ms: int | None = None
    evidence: tuple[Evidence, ...] = ()
    steps: tuple[Step, ...] = ()
    actions: tuple[ActionRecord, ...] = ()
    packets_lost: int = 0
    """Packets other than probes this node sent into the fault before its routes moved."""
    probes_lost: int = 0
