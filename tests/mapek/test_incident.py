"""The incident's table, its bounds and its document."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0d.errors import InvalidInput
from x0d.mapek import incident as life
from x0d.mapek.document import incident_from_document, incident_to_document
from x0d.mapek.incident import TRANSITIONS, Trigger
from x0d.mapek.model import ActionRecord, Cause, Evidence, Incident, IncidentId, IncidentState, Role, Step

OPEN = Incident(IncidentId("n1-n2.5c1e", 3), Cause.LINK_DEAD, "because", IncidentState.OPEN, Role.END, "auto", 1000)
WHOLE = replace(
    OPEN,
    state=IncidentState.CLOSED,
    closed_at_unix_ms=2000,
    evidence=(Evidence(1000, "loss", "22 %"),),
    steps=(Step("detect", 150.5, 150.5, "three"),),
    actions=(ActionRecord("set_link_cost", "to 1100", "is up", "leaves", "to 100", "done", "", 1001, 0.5),),
    packets_lost=12,
    probes_lost=3,
)


def test_table_names_every_state_and_uses_every_trigger() -> None:
    """Each state has its row, and each trigger means something somewhere."""
    assert set(IncidentState) == set(TRANSITIONS)
    assert set(Trigger) == {trigger for row in TRANSITIONS.values() for trigger in row}


@pytest.mark.parametrize("state", IncidentState)
@pytest.mark.parametrize("trigger", Trigger)
def test_advance_follows_the_table(state: IncidentState, trigger: Trigger) -> None:
    """A trigger leads where the table says, and nowhere when the table does not know it."""
    actual = life.advance(replace(OPEN, state=state), trigger, 5000)
    assert TRANSITIONS[state].get(trigger, state) is actual.state


def test_closing_sets_the_instant_and_reopening_clears_it() -> None:
    """``closed_at_unix_ms`` is there exactly while the incident is closed."""
    closed = life.close(OPEN, Trigger.RECOVERED, 5000, "clean")
    assert (IncidentState.CLOSED, 5000) == (closed.state, closed.closed_at_unix_ms)
    reopened = life.escalate(closed, Trigger.UNDO_FAILED, 6000, "refused")
    assert (IncidentState.ESCALATED, None) == (reopened.state, reopened.closed_at_unix_ms)


def test_evidence_steps_and_actions_are_bounded() -> None:
    """At its bounds an incident keeps what came first; an equal piece of evidence is not added twice."""
    incident = OPEN
    for number in range(200):
        incident = life.add_evidence(incident, Evidence(number, "loss", f"{number} %"))
        incident = life.add_evidence(incident, Evidence(number, "loss", f"{number} %"))
        incident = life.add_step(incident, Step("act", 0.0, 0.0, ""))
        incident = life.add_action(incident, WHOLE.actions[0])
    assert [f"{number} %" for number in range(life.EVIDENCE_MAX)] == [item.detail for item in incident.evidence]
    assert (life.STEPS_MAX, life.ACTIONS_MAX) == (len(incident.steps), len(incident.actions))


def test_document_turns_back_whole() -> None:
    """What is encoded decodes to the same incident."""
    assert WHOLE == incident_from_document(incident_to_document(WHOLE))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("link", 1),
        ("generation", "3"),
        ("generation", True),
        ("cause", "boredom"),
        ("state", None),
        ("closed_at_unix_ms", "now"),
        ("evidence", {}),
        ("evidence", [1]),
        ("evidence", [{"at_unix_ms": 1, "kind": "loss"}]),
        ("steps", [{"name": "act", "duration_ms": "1", "since_fault_ms": 0, "detail": ""}]),
        ("surplus", 1),
    ],
)
def test_wrong_documents_are_refused(field: str, value: object) -> None:
    """A field that is unknown or has a wrong type or value is named in an InvalidInput."""
    with pytest.raises(InvalidInput, match=field):
        incident_from_document({**incident_to_document(WHOLE), field: value})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(sorted(incident_to_document(WHOLE))), json_values), json_values)
def test_any_document_decodes_or_is_refused(changes: dict[str, object], anything: object) -> None:
    """Any JSON value decodes or raises InvalidInput, and what decodes encodes again to an equal document."""
    for document in ({**incident_to_document(WHOLE), **changes}, anything):
        try:
            incident = incident_from_document(document)
        except InvalidInput:
            continue
        assert document == incident_to_document(incident)
