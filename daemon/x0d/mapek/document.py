"""An incident as a document of plain values, and back.

The document is what the store keeps and a file can be checked against: JSON types only, every field
present.  Decoding is strict: a missing, unknown or wrongly typed field raises ``InvalidInput``, so a
record that was damaged on disk is told of and not half believed.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TypeVar

from x0d.errors import InvalidInput
from x0d.mapek.model import ActionRecord, Cause, Evidence, Incident, IncidentId, IncidentState, Role, Step

Document = dict[str, object]
E = TypeVar("E", bound=Enum)
T = TypeVar("T")

EVIDENCE_FIELDS = {"at_unix_ms": int, "kind": str, "detail": str}
STEP_FIELDS = {"name": str, "duration_ms": float, "since_fault_ms": float, "detail": str}
ACTION_FIELDS = {
    "action": str,
    "detail": str,
    "precondition": str,
    "expected_effect": str,
    "undo": str,
    "outcome": str,
    "error": str,
    "at_unix_ms": int,
    "duration_ms": float,
}
INCIDENT_FIELDS = frozenset(
    [
        *("link", "generation", "cause", "explanation", "state", "role", "healing_mode", "opened_at_unix_ms"),
        *("closed_at_unix_ms", "evidence", "steps", "actions", "packets_lost", "probes_lost"),
    ]
)


def incident_to_document(incident: Incident) -> Document:
    """Turn an incident into JSON types; ``incident_from_document`` turns it back without loss."""
    return {
        "link": incident.id.link,
        "generation": incident.id.generation,
        "cause": incident.cause.value,
        "explanation": incident.explanation,
        "state": incident.state.value,
        "role": incident.role.value,
        "healing_mode": incident.healing_mode,
        "opened_at_unix_ms": incident.opened_at_unix_ms,
        "closed_at_unix_ms": incident.closed_at_unix_ms,
        "evidence": [{name: getattr(item, name) for name in EVIDENCE_FIELDS} for item in incident.evidence],
        "steps": [{name: getattr(item, name) for name in STEP_FIELDS} for item in incident.steps],
        "actions": [{name: getattr(item, name) for name in ACTION_FIELDS} for item in incident.actions],
        "packets_lost": incident.packets_lost,
        "probes_lost": incident.probes_lost,
    }


def incident_from_document(document: object) -> Incident:
    """Decode a document.

    Raises:
        InvalidInput: naming the first field that is missing, unknown or of the wrong type or value.
    """
    fields = _mapping(document, "incident", INCIDENT_FIELDS)
    closed = fields["closed_at_unix_ms"]
    return Incident(
        id=IncidentId(_value(fields, "link", str), _value(fields, "generation", int)),
        cause=_member(fields, "cause", Cause),
        explanation=_value(fields, "explanation", str),
        state=_member(fields, "state", IncidentState),
        role=_member(fields, "role", Role),
        healing_mode=_value(fields, "healing_mode", str),
        opened_at_unix_ms=_value(fields, "opened_at_unix_ms", int),
        closed_at_unix_ms=None if closed is None else _value(fields, "closed_at_unix_ms", int),
        evidence=_items(fields, "evidence", EVIDENCE_FIELDS, Evidence),
        steps=_items(fields, "steps", STEP_FIELDS, Step),
        actions=_items(fields, "actions", ACTION_FIELDS, ActionRecord),
        packets_lost=_value(fields, "packets_lost", int),
        probes_lost=_value(fields, "probes_lost", int),
    )


def _mapping(value: object, where: str, names: frozenset[str]) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{where}: expected an object, found {type(value).__name__}")
    if value.keys() != names:
        wrong = sorted(str(name) for name in value.keys() ^ names)
        raise InvalidInput(f"{where}: missing or unknown fields: {', '.join(wrong)}")
    return value


def _value(fields: Mapping[str, object], name: str, kind: type[T], where: str = "") -> T:
    """Take a field of exactly this type; JSON's ``true`` is no number, and a whole float may be an int."""
    value = fields[name]
    if kind is float and type(value) is int:
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InvalidInput(f"{where}{name}: expected {kind.__name__}, found {type(value).__name__}")
    return value


def _member(fields: Mapping[str, object], name: str, kind: type[E]) -> E:
    text = _value(fields, name, str)
    try:
        return kind(text)
    except ValueError as error:
        raise InvalidInput(f"{name}: {text!r} is none of {', '.join(str(m.value) for m in kind)}") from error


def _items(fields: Mapping[str, object], name: str, kinds: Mapping[str, type], make: Callable[..., T]) -> tuple[T, ...]:
    names, made = frozenset(kinds), []
    for index, item in enumerate(_value(fields, name, list)):
        values = _mapping(item, f"{name}[{index}]", names)
        made.append(make(**{key: _value(values, key, kind, f"{name}[{index}].") for key, kind in kinds.items()}))
    return tuple(made)
