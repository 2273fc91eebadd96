"""Healing scenarios as text: events in, requests and records out.

A file in ``scenarios/`` is a list of paragraphs: one or more input lines, ``----``, and the expected
trace.  With X0D_REWRITE_SCENARIOS=1 the traces are rewritten; review the diff.  Input lines:

    loop NODE MODE [add=1000] [timeout=5s]            begin, as a node
    costs LINK=COST ...                                configured costs of this node's links
    AT symptom LINK GEN STATE KIND fault=MS [lost=N] [: DETAIL]
    AT recovered LINK GEN [: DETAIL]
    AT report REPORTER LINK GEN STATE                  a peer's link state
    AT isolated [NODE ...]
    AT moved LINK:GEN,... decided=MS took=MS [to=PREFIX,...] [cut=PREFIX,...] [lost=N] [failed] [watched]
    AT ended LINK GEN took=MS [failed]                 the last action requested for it
    AT verified LINK GEN yes|no [: DETAIL]
    AT tick
    AT restart                                         a new loop on what the store has open

AT is in ms; LINK is written ``n1-n2``.  The trace shows each request, and of a record what is new in it.
"""

import os
import shlex
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from x0d.actions import InstallRoutes, Outcome, PlannedAction
from x0d.mapek.events import (
    ActionEnded,
    Event,
    LinkRecovered,
    LinkSymptom,
    PeerReport,
    Perform,
    Request,
    RoutesMoved,
    Save,
    TopologySeen,
    Verified,
    Verify,
)
from x0d.mapek.loop import Loop
from x0d.mapek.model import Incident, IncidentId, IncidentState
from x0d.mesh.model import AdjacencyState, LinkKey, LinkState

MS = 1_000_000
SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


def link_of(name: str) -> LinkKey:
    """Make the key of a link written ``n1-n2``, with addresses that follow from the names."""
    near, far = name.split("-")
    subnet = sum(map(ord, near + far)) % 250
    return LinkKey.between(near, ip_address(f"10.{subnet}.0.1"), far, ip_address(f"10.{subnet}.0.2"))


class Runner:
    """Feeds a loop from text and writes down what it asks for."""

    def __init__(self) -> None:
        self.loop = Loop("none", "observe", 0, 0)
        self.settings: tuple[str, str, int, int] = ("none", "observe", 0, 0)
        self.costs: dict[LinkKey, int] = {}
        self.stored: dict[IncidentId, Incident] = {}
        self.requested: dict[IncidentId, PlannedAction] = {}

    def run(self, line: str) -> list[str]:
        """Perform one input line and return its trace."""
        text, _, detail = line.partition(" : ")
        words = shlex.split(text)
        options = dict(word.split("=", 1) for word in words if "=" in word)
        plain = [word for word in words if "=" not in word]
        if plain[0] == "loop":
            wait = int(options.get("timeout", "5s").removesuffix("s")) * 1000 * MS
            self.settings = (plain[1], plain[2], int(options.get("add", "1000")), wait)
            self.loop = Loop(*self.settings)
        elif plain[0] == "costs":
            self.costs = {link_of(name): int(cost) for name, cost in options.items()}
            self.loop.set_link_costs(self.costs)
        else:
            self.feed(int(plain[0]), plain[1], plain[2:], options, detail)
        return [shown for request in self.loop.ready() for shown in self.show(request)]

    def feed(self, at: int, verb: str, words: list[str], options: dict[str, str], detail: str) -> None:
        """Let an event or the time reach the loop."""
        now = (at * MS, 1_000_000 + at)
        if verb == "tick":
            self.loop.tick(*now)
        elif verb == "restart":
            known = [i for i in self.stored.values() if i.state is not IncidentState.CLOSED]
            self.loop = Loop(*self.settings, known=known)
            self.loop.set_link_costs(self.costs)
        else:
            self.loop.step(self.event(at * MS, verb, words, options, detail), *now)

    def event(self, at: int, verb: str, words: list[str], options: dict[str, str], detail: str) -> Event:  # noqa: PLR0911 (one return for each verb)
        """Parse an event."""
        if verb == "isolated":
            return TopologySeen(frozenset(words), at)
        if verb == "report":
            return PeerReport(link_of(words[1]), int(words[2]), words[0], AdjacencyState[words[3].upper()], at)
        if verb == "moved":
            return self.moved(words, options)
        link, generation = link_of(words[0]), int(words[1])
        if verb == "symptom":
            fault, lost = int(options["fault"]) * MS, int(options.get("lost", "0"))
            state = LinkState(words[2])
            other = link.node_b if link.node_a == self.settings[0] else link.node_a
            return LinkSymptom(link, other, generation, state, words[3], detail, fault, at, lost)
        if verb == "recovered":
            return LinkRecovered(link, generation, at, detail)
        incident = IncidentId.of(link, generation)
        if verb == "ended":
            planned = self.requested[incident]
            error = "refused" if "failed" in words else ""
            outcome = Outcome(planned.action, not error, error, at - int(options["took"]) * MS, at)
            return ActionEnded(incident, planned, outcome)
        assert verb == "verified", verb
        return Verified(incident, words[2] == "yes", detail, at)

    def moved(self, words: list[str], options: dict[str, str]) -> RoutesMoved:
        """Parse a reroute."""
        named = tuple(
            (link_of(name), int(generation)) for name, generation in (word.split(":") for word in words[0].split(","))
        )
        decided = int(options["decided"]) * MS
        ended = decided + int(options["took"]) * MS
        error = "EPERM" if "failed" in words else ""
        to, cut = (
            tuple(ip_network(prefix) for prefix in options.get(key, "").split(",") if prefix) for key in ("to", "cut")
        )
        outcome = Outcome(InstallRoutes(()), not error, error, decided, ended)
        return RoutesMoved(named, decided, outcome, to, cut, int(options.get("lost", "0")), "watched" in words)

    def show(self, request: Request) -> Iterator[str]:
        """Write a request as lines; of a record, the head and what the last record did not have."""
        match request:
            case Perform(incident, planned):
                self.requested[incident] = planned
                yield f"perform {incident}: {planned.action}"
            case Verify(incident):
                yield f"verify {incident}"
            case Save(incident=record):
                before = self.stored.get(record.id)
                self.stored[record.id] = record
                head = f"{record.state.value} {record.role.value} {record.cause.value}"
                yield f"save {record.id}: {head} packets={record.packets_lost} probes={record.probes_lost}"
                yield from news(before, record)


def news(before: Incident | None, record: Incident) -> Iterator[str]:
    """Lines for what a record has and the one before it had not."""
    if before is None or before.explanation != record.explanation:
        yield f"  explained: {record.explanation}"
    for evidence in record.evidence[len(before.evidence) if before else 0 :]:
        yield f"  evidence {evidence.at_unix_ms - 1_000_000} {evidence.kind}: {evidence.detail}"
    for step in record.steps[len(before.steps) if before else 0 :]:
        yield f"  step {step.name} {step.duration_ms:g} ms, {step.since_fault_ms:g} ms since the fault: {step.detail}"
    for action in record.actions[len(before.actions) if before else 0 :]:
        error = f" ({action.error})" if action.error else ""
        yield f"  action {action.outcome}{error} {action.duration_ms:g} ms: {action.detail}; undo: {action.undo or '-'}"


def perform(text: str) -> str:
    """Run a scenario and write it down again with the trace that came out."""
    runner, paragraphs = Runner(), []
    for paragraph in text.strip().split("\n\n"):
        inputs = paragraph.split("----", maxsplit=1)[0].rstrip("\n").split("\n")
        if all(line.startswith("#") for line in inputs):
            paragraphs.append("\n".join(inputs))
            continue
        trace = [shown for line in inputs if not line.startswith("#") for shown in runner.run(line)]
        paragraphs.append("\n".join([*inputs, "----", *trace]))
    return "\n\n".join(paragraphs) + "\n"


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    """A scenario's events lead to exactly the requests and records that its file shows."""
    expected = path.read_text()
    actual = perform(expected)
    if os.environ.get("X0D_REWRITE_SCENARIOS") == "1":
        path.write_text(actual)
        return
    assert expected == actual


def test_scenarios_are_found() -> None:
    """The scenario files are where the runner looks."""
    assert len(SCENARIOS) >= 10
