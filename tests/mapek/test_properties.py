"""Laws that hold for any order of any events."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x0d.actions import InstallRoutes, Outcome, PlannedAction, SetLinkCost
from x0d.mapek import case as bounds
from x0d.mapek.document import incident_from_document, incident_to_document
from x0d.mapek.events import (
    ActionEnded,
    Event,
    LinkRecovered,
    LinkSymptom,
    PeerReport,
    Perform,
    RoutesMoved,
    Save,
    TopologySeen,
    Verified,
)
from x0d.mapek.incident import ACTIONS_MAX, EVIDENCE_MAX, STEPS_MAX, TRANSITIONS
from x0d.mapek.loop import Loop
from x0d.mapek.model import Incident, IncidentId, IncidentState, Role
from x0d.mesh.model import AdjacencyState, LinkKey, LinkState

MS = 1_000_000
NODES = ("n1", "n2", "n3", "n4")
LINKS = tuple(
    LinkKey.between(a, ip_address(f"10.0.{i}.1"), b, ip_address(f"10.0.{i}.2"))
    for i, (a, b) in enumerate([("n1", "n2"), ("n1", "n4"), ("n2", "n3"), ("n3", "n4")])
)
PREFIXES = tuple(ip_network(f"10.255.0.{i}/32") for i in (2, 3, 4))

links = st.sampled_from(LINKS)
generations = st.integers(0, 3)
instants = st.integers(-1000, 20_000).map(lambda ms: ms * MS)
incident_ids = st.builds(IncidentId.of, links, generations)
words = st.sampled_from(["probes_unanswered", "carrier_lost", "loss", "control_silent", "peer_reported", "?"])
planned = st.builds(
    lambda link, cost: PlannedAction(SetLinkCost(link, cost), "", "", SetLinkCost(link, 100)), links, generations
)
outcomes = st.builds(
    Outcome, st.just(InstallRoutes(())), st.booleans(), st.sampled_from(["", "EPERM"]), instants, instants
)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        LinkSymptom, links, st.sampled_from(NODES), generations, st.sampled_from(LinkState), words, words, instants,
        instants, st.integers(0, 99),
    ),
    st.builds(LinkRecovered, links, generations, instants, words),
    st.builds(PeerReport, links, generations, st.sampled_from(NODES), st.sampled_from(AdjacencyState), instants),
    st.builds(TopologySeen, st.frozensets(st.sampled_from(NODES)), instants),
    st.builds(
        RoutesMoved, st.lists(st.tuples(links, generations), max_size=3).map(tuple), instants, outcomes,
        st.lists(st.sampled_from(PREFIXES)).map(tuple), st.lists(st.sampled_from(PREFIXES)).map(tuple),
        st.integers(0, 99), st.booleans(),
    ),
    st.builds(ActionEnded, incident_ids, planned, outcomes),
    st.builds(Verified, incident_ids, st.booleans(), words, instants),
)  # fmt: skip
ANSWER = "answer"
inputs = st.lists(st.one_of(events, st.sampled_from(["tick", ANSWER, "observe", "auto"])), max_size=60)


def reachable_from(state: IncidentState) -> set[IncidentState]:
    """States that any number of transitions lead to: a record shows only the last of one event."""
    found = {state}
    while new := {to for known in found for to in TRANSITIONS[known].values()} - found:
        found |= new
    return found


def check(before: dict[IncidentId, Incident], record: Incident) -> None:
    """Hold a saved record to the laws of one record, and of its predecessor."""
    old = before.get(record.id)
    assert record.state in reachable_from(old.state if old else IncidentState.OPEN)
    assert (record.state is IncidentState.CLOSED) == (record.closed_at_unix_ms is not None)
    assert len(record.evidence) <= EVIDENCE_MAX
    assert len(record.steps) <= STEPS_MAX
    assert len(record.actions) <= ACTIONS_MAX
    assert all(step.duration_ms >= 0 and step.since_fault_ms >= 0 for step in record.steps)
    assert record == incident_from_document(incident_to_document(record))
    if old is not None:
        assert old.opened_at_unix_ms == record.opened_at_unix_ms
        assert old.evidence == record.evidence[: len(old.evidence)]
    before[record.id] = record


@settings(max_examples=200)
@given(inputs=inputs, step_ms=st.integers(0, 2000))
def test_any_order_of_events_keeps_the_laws(inputs: list[Event | str], step_ms: int) -> None:
    """No order of events raises, opens an incident twice, or moves a state off the table."""
    loop = Loop("n1", "auto", 1000, 1000 * MS)
    loop.set_link_costs({LINKS[0]: 100})
    saved: dict[IncidentId, Incident] = {}
    asked: list[Perform] = []
    for number, given_input in enumerate(inputs):
        now_ns, unix_ms = number * step_ms * MS, 1_000_000 + number * step_ms
        match given_input:
            case "tick":
                loop.tick(now_ns, unix_ms)
            case "observe" | "auto":
                loop.set_mode(given_input)
            case "answer":
                for perform in asked:
                    outcome = Outcome(perform.planned.action, number % 3 > 0, "", now_ns - MS, now_ns)
                    loop.step(ActionEnded(perform.incident, perform.planned, outcome), now_ns, unix_ms)
                asked.clear()
            case str():
                raise AssertionError(given_input)
            case event:
                loop.step(event, now_ns, unix_ms)
        for request in loop.ready():
            if isinstance(request, Save):
                check(saved, request.incident)
            elif isinstance(request, Perform):
                asked.append(request)
        ids = [incident.id for incident in loop.open_incidents]
        assert len(ids) == len(set(ids))


def test_every_save_comes_after_the_reroute() -> None:
    """A dead link's record is not asked to be saved before its reroute is told of or a second has passed."""
    loop = Loop("n1", "auto", 1000, 1000 * MS)
    loop.step(LinkSymptom(LINKS[0], "n2", 1, LinkState.DOWN, "carrier_lost", "", 0, 0, 0), 0, 0)
    loop.tick(999 * MS, 999)
    assert () == loop.ready()
    loop.tick(1000 * MS, 1000)
    assert any(isinstance(request, Save) for request in loop.ready())


def test_memory_is_bounded_under_forged_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many links peers invent, open incidents stay bounded, and this node's own is not pushed out."""
    for bound in ("OPEN_INCIDENTS_MAX", "CLOSED_KEPT_MAX", "REPORTS_MAX"):
        monkeypatch.setattr(bounds, bound, 40)  # the law is the same, the test quicker
    loop = Loop("n1", "auto", 1000, 10**15)
    loop.step(LinkSymptom(LINKS[0], "n2", 1, LinkState.DEGRADED, "loss", "", 0, 0, 0), 0, 0)
    for number in range(bounds.OPEN_INCIDENTS_MAX + 200):
        link = LinkKey("m1", str(number), "m2", str(number))
        loop.step(PeerReport(link, number, "m1", AdjacencyState.DOWN, 0), 0, 0)
        loop.step(RoutesMoved(((link, number),), 0, Outcome(InstallRoutes(()), True, "", 0, 0), (), (), 0, False), 0, 0)
        loop.ready()
    opened = loop.open_incidents
    assert bounds.OPEN_INCIDENTS_MAX == len(opened)
    assert Role.END in {incident.role for incident in opened}
    assert len(tuple(loop._cases)) <= bounds.OPEN_INCIDENTS_MAX + bounds.CLOSED_KEPT_MAX
    assert len(loop._reports._reports) <= bounds.REPORTS_MAX
    assert len(loop._reports._down_at_ns) <= bounds.REPORTS_MAX
