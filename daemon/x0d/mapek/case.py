"""What the loop remembers of an incident beside its record, and the bounded book of all of them.

The record (``Incident``) is what is stored and shown.  A ``Case`` adds what only the running loop
needs: monotonic instants, deadlines, the remedy in force, whether the record waits to be saved.
The book finds a case by id and by link and holds the bounds; it decides nothing about healing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from x0d.actions import PlannedAction
from x0d.mapek.analyse import Sign
from x0d.mapek.events import PeerReport, RoutesMoved
from x0d.mapek.model import Incident, IncidentId, IncidentState, Role
from x0d.mesh.model import AdjacencyState, LinkKey, Prefix

OPEN_INCIDENTS_MAX = 1024
"""Incidents not closed; then the oldest one of another node's link is closed to make room, or of ours."""
CLOSED_KEPT_MAX = 256
"""Closed incidents still remembered, for late evidence and for undoing; then the oldest are forgotten."""
REPORTS_MAX = 1024
"""Incidents of which peers' reports are kept; then the oldest reports are forgotten."""


class Stage(Enum):
    """How far the loop's own remedy for an incident is."""

    NONE = "none"
    REQUESTED = "requested"
    IN_FORCE = "in_force"
    UNDOING = "undoing"


@dataclass(slots=True)
class Case:
    """An incident under treatment; changed in place by the loop."""

    incident: Incident
    link: LinkKey | None
    """None for an incident of an earlier life whose link is not configured (any more)."""
    sign: Sign | None = None
    """The gravest sign that stands; None for an incident of an earlier life."""
    own: Sign | None = None
    """The gravest sign of this node's own detector; None while only peers speak."""
    gone: str | None = None
    """The node that was found gone, until it is reachable again."""
    is_gone_heard: bool = False
    """The gone node spoke, or a link of it was called up; without, its record may only have aged out."""
    fault_at_ns: int | None = None
    """Last sign that the link worked; for an observer, when it first heard.  None: before this life."""
    detected_at_ns: int | None = None
    installed_at_ns: int | None = None
    """End of the last action; the step ``verify`` counts from here."""
    deadline_ns: int | None = None
    """When waiting in the present state ends; None: no limit."""
    held_until_ns: int | None = None
    """The record is not saved before this instant or its reroute; None: saved at each change."""
    is_read_back_due: bool = False
    """The last read-back did not hold: ask again at the next tick."""
    read_back_detail: str = ""
    stage: Stage = Stage.NONE
    remedy: PlannedAction | None = None
    undo: PlannedAction | None = None
    remedy_started_at_ns: int = 0
    moved_early: RoutesMoved | None = None
    """A reroute told of before the remedy's end was."""
    has_recovered: bool = False
    unreachable: frozenset[Prefix] | None = frozenset()
    """Prefixes that this incident cut off; None: not known, it is of an earlier life."""
    note: str = ""
    """Why it was escalated; ends the explanation."""
    is_resumed: bool = False
    """Of an earlier life, and not taken up yet."""

    @property
    def is_open(self) -> bool:
        """Whether the incident is anything but closed."""
        return self.incident.state is not IncidentState.CLOSED

    @property
    def is_end(self) -> bool:
        """Whether this node is an end of the link."""
        return self.incident.role is Role.END

    @property
    def is_down(self) -> bool:
        """Whether its sign calls the link down and nothing has called it up since."""
        return self.sign is not None and self.sign.state is AdjacencyState.DOWN and not self.has_recovered

    def is_revisable(self, since_ns: int, newest: Mapping[LinkKey, int]) -> bool:
        """Whether its cause may be found anew: it is its link's latest, not over, and open or found since then.

        ``newest``: the highest generation known of each link.
        """
        if self.has_recovered or (self.link is not None and newest.get(self.link, 0) > self.incident.id.generation):
            return False
        return self.is_open or (self.detected_at_ns is not None and self.detected_at_ns >= since_ns)


class CaseBook:
    """All cases, oldest first."""

    def __init__(self) -> None:
        self._cases: dict[IncidentId, Case] = {}

    def __iter__(self) -> Iterator[Case]:
        return iter(tuple(self._cases.values()))

    def get(self, incident_id: IncidentId) -> Case | None:
        """Find by id."""
        return self._cases.get(incident_id)

    def open(self) -> list[Case]:
        """Those not closed, oldest first."""
        return [case for case in self._cases.values() if case.is_open]

    def of_link(self, link: LinkKey) -> list[Case]:
        """Those of a link, lowest generation first."""
        text = str(link)
        found = [case for incident_id, case in self._cases.items() if incident_id.link == text]
        return sorted(found, key=lambda case: case.incident.id.generation)

    def latest(self, link: LinkKey) -> Case | None:
        """The one of the highest generation of a link."""
        found = self.of_link(link)
        return found[-1] if found else None

    def newest(self, reports: "ReportBook") -> dict[LinkKey, int]:
        """The highest generation known of each link, from cases and from peers."""
        found = reports.newest()
        for case in self._cases.values():
            if case.link is not None:
                found[case.link] = max(case.incident.id.generation, found.get(case.link, 0))
        return found

    def hear(self, nodes: tuple[str, ...]) -> None:
        """Remember of nodes that were found gone that they live; whether they are reachable, the topology tells."""
        for case in self._cases.values():
            if case.gone in nodes:
                case.is_gone_heard = True

    def add(self, case: Case) -> None:
        """Take in a new case; its id must not be known."""
        assert case.incident.id not in self._cases
        self._cases[case.incident.id] = case

    def surplus(self) -> Case | None:
        """The case to close before another is opened; None while there is room."""
        opened = self.open()
        if len(opened) < OPEN_INCIDENTS_MAX:
            return None
        return next((case for case in opened if not case.is_end), opened[0])

    def forget(self) -> None:
        """Drop the oldest closed cases beyond the bound, except those whose remedy is still to be undone."""
        closed = [case for case in self._cases.values() if not case.is_open and case.stage is Stage.NONE]
        for case in closed[: max(0, len(closed) - CLOSED_KEPT_MAX)]:
            del self._cases[case.incident.id]


class ReportBook:
    """The latest report of each end of a link, by incident, and when each link was last called down."""

    def __init__(self) -> None:
        self._reports: dict[tuple[LinkKey, int], dict[str, PeerReport]] = {}
        self._down_at_ns: dict[LinkKey, int] = {}

    def add(self, report: PeerReport) -> None:
        """Keep a report of an end of its link in place of that end's earlier one."""
        self._reports.setdefault((report.link, report.generation), {})[report.reporter] = report
        if len(self._reports) > REPORTS_MAX:
            del self._reports[next(iter(self._reports))]
        if report.state is AdjacencyState.DOWN:
            self._down_at_ns.pop(report.link, None)
            self._down_at_ns[report.link] = report.at_ns
        elif all(known.state is not AdjacencyState.DOWN for known in self.of(report.link, report.generation)):
            self._down_at_ns.pop(report.link, None)
        if len(self._down_at_ns) > REPORTS_MAX:
            del self._down_at_ns[next(iter(self._down_at_ns))]

    def remove(self, report: PeerReport) -> None:
        """Forget what an end reported of this incident and of earlier ones, since it takes it back."""
        past = [key for key in self._reports if key[0] == report.link and key[1] <= report.generation]
        for key in past:
            self._reports[key].pop(report.reporter, None)
            if not self._reports[key]:
                del self._reports[key]
        if not any(key in self._reports for key in past):
            self._down_at_ns.pop(report.link, None)

    def of(self, link: LinkKey, generation: int) -> tuple[PeerReport, ...]:
        """Reports about an incident, earliest first."""
        return tuple(sorted(self._reports.get((link, generation), {}).values(), key=lambda report: report.at_ns))

    def newest(self) -> dict[LinkKey, int]:
        """The highest generation that was reported of each link."""
        found: dict[LinkKey, int] = {}
        for link, generation in self._reports:
            found[link] = max(generation, found.get(link, 0))
        return found

    def down_since(self, since_ns: int) -> frozenset[LinkKey]:
        """Links that an end has called down at or after an instant."""
        return frozenset(link for link, at_ns in self._down_at_ns.items() if at_ns >= since_ns)
