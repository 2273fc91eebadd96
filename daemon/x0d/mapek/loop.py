"""The healing loop: events in, requests out, one case per (link, generation).

Feed ``step`` with each event and ``tick`` with the time, then take ``ready`` and perform it in its
order; answers to requests come back as events.  The loop has no clock, no task and no store of its
own.  It never raises on what it is told: an event about something it does not know is ignored, one
that comes late or twice becomes evidence.

Rerouting does not wait for the loop.  By the time it hears of a dead link the mesh is recomputing;
the loop names the cause, records what was done and how long each step took, and has the kernel read
back.  Its only remedy of its own is to cost out a degraded link and to cost it in again.
"""

from collections.abc import Mapping, Sequence

from x0d.mapek import incident as life
from x0d.mapek import treatment
from x0d.mapek.analyse import Sign, Topology, diagnose, gone_node, gravest, reported, sign_of_report, sign_of_symptom
from x0d.mapek.case import Case, CaseBook, ReportBook, Stage
from x0d.mapek.events import (
    ActionEnded,
    Event,
    LinkRecovered,
    LinkSymptom,
    PeerReport,
    Request,
    RoutesMoved,
    TopologySeen,
    Verified,
)
from x0d.mapek.incident import Trigger
from x0d.mapek.journal import Journal, Moment
from x0d.mapek.model import Cause, Incident, IncidentId, IncidentState, Role
from x0d.mapek.plan import MODE_AUTO
from x0d.mesh.model import AdjacencyState, LinkKey, Prefix

SECOND_NS = 1_000_000_000
HOLD_NS = 1 * SECOND_NS
"""A dead link's record waits this long for its reroute; then it is saved without."""
CORRELATE_NS = 10 * SECOND_NS
"""Links called down within this time count together, and a closed incident's cause may still be revised."""
EARLY_MAX = 64
"""Reroutes told of before their symptom; then the oldest are forgotten."""


class Loop:
    """MAPE-K over incidents.  Call ``ready`` after every ``step`` and ``tick``."""

    def __init__(
        self, node: str, mode: str, degraded_cost_add: int, verify_timeout_ns: int, known: Sequence[Incident] = ()
    ) -> None:
        """Start with the incidents that the store has open; they are taken up at the first tick.

        ``mode`` is ``observe``, ``approve`` or ``auto``; only in ``auto`` remedies are performed.
        """
        self._node = node
        self._mode = mode
        self._cost_add = degraded_cost_add
        self._wait_ns = verify_timeout_ns
        self._costs: dict[LinkKey, int] = {}
        self._isolated: frozenset[str] = frozenset()
        self._cases = CaseBook()
        self._reports = ReportBook()
        self._early: dict[IncidentId, RoutesMoved] = {}
        self._journal = Journal()
        for incident in known:
            if incident.state is not IncidentState.CLOSED and self._cases.get(incident.id) is None:
                self._cases.add(Case(incident, None, unreachable=None, is_resumed=True))

    def set_mode(self, mode: str) -> None:
        """Take another healing mode for what happens from now on."""
        self._mode = mode

    def set_link_costs(self, link_costs: Mapping[LinkKey, int]) -> None:
        """Take the configured costs of this node's links, which remedies add to and return to."""
        self._costs = dict(link_costs)

    @property
    def open_incidents(self) -> tuple[Incident, ...]:
        """All that are not closed, oldest first."""
        return tuple(case.incident for case in self._cases.open())

    def ready(self) -> tuple[Request, ...]:
        """Take what is to be done: performs and read-backs first, then records to save."""
        return self._journal.take()

    def step(self, event: Event, now_ns: int, unix_ms: int) -> None:
        """Take in an event."""
        moment = Moment(now_ns, unix_ms)
        match event:
            case LinkSymptom():
                self._on_symptom(event, moment)
            case LinkRecovered():
                self._on_recovered(event, moment)
            case PeerReport():
                self._on_report(event, moment)
            case TopologySeen():
                self._on_topology(event, moment)
            case RoutesMoved():
                self._on_moved(event, moment)
            case ActionEnded():
                self._on_action_ended(event, moment)
            case Verified():
                self._on_verified(event, moment)

    def tick(self, now_ns: int, unix_ms: int) -> None:
        """Let time pass: repeat read-backs, escalate what took too long, save what was held."""
        moment = Moment(now_ns, unix_ms)
        for case in self._cases.open():
            if case.is_resumed:
                link = next((link for link in self._costs if str(link) == case.incident.id.link), None)
                treatment.resume(case, self._journal, moment, link, self._wait_ns)
            if case.held_until_ns is not None and now_ns >= case.held_until_ns:
                self._journal.release(case)
            if case.deadline_ns is not None and now_ns >= case.deadline_ns:
                self._on_deadline(case, moment)
            elif case.is_read_back_due and case.link is not None:
                treatment.ask_read_back(case, self._journal, case.link)

    # ---- what happens to this node's links ----

    def _on_symptom(self, event: LinkSymptom, moment: Moment) -> None:
        sign = sign_of_symptom(event, self._node)
        if sign is None or not self._is_ours(event.link):
            return
        incident_id = IncidentId.of(event.link, event.generation)
        case = self._cases.get(incident_id)
        if case is None:
            latest = self._cases.latest(event.link)
            if latest is not None and latest.incident.id.generation > event.generation:
                self._add_evidence(latest, moment, event.detected_at_ns, event.kind, event.detail)
                return
            case = self._open(incident_id, sign, Role.END, event.fault_at_ns, event.detected_at_ns, moment)
        self._add_evidence(case, moment, event.detected_at_ns, event.kind, event.detail)
        if case.own is None or sign.state > case.own.state:
            case.own = sign
        if not case.is_open:
            return
        self._sharpen(case, sign, moment)
        if not life.has_step(case.incident, "detect"):
            case.fault_at_ns, case.detected_at_ns = event.fault_at_ns, event.detected_at_ns
            self._write_detect(case, event.detail)
        self._journal.write(case, life.add_losses(case.incident, probes=event.probes_lost))
        self._apply_remedy(case, event.link, moment)
        self._replay_early(case, moment)

    def _on_report(self, event: PeerReport, moment: Moment) -> None:
        if event.reporter == self._node or event.reporter not in (event.link.node_a, event.link.node_b):
            return
        sign = sign_of_report(event)
        self._cases.hear((event.reporter,) if sign is not None else (event.link.node_a, event.link.node_b))
        incident_id = IncidentId.of(event.link, event.generation)
        case = self._cases.get(incident_id)
        if sign is None:
            self._taken_back(event, moment)
            return
        self._reports.add(event)
        if case is None and self._is_ours(event.link):
            latest = self._cases.latest(event.link)
            if latest is None or latest.incident.id.generation < event.generation:
                fault_at_ns = event.at_ns if event.last_sign_ns is None else event.last_sign_ns
                case = self._open(incident_id, sign, Role.END, fault_at_ns, event.at_ns, moment)
        if case is None:
            return
        self._add_evidence(case, moment, event.at_ns, sign.kind, sign.detail)
        known = case.sign
        if known is not None and known.seen_by == event.reporter and sign.state < known.state:
            self._reweigh(case, event.link, moment)
        elif case.is_open:
            self._sharpen(case, sign, moment)
        if case.is_open:
            self._replay_early(case, moment)

    def _taken_back(self, event: PeerReport, moment: Moment) -> None:
        """End what rests on an end's report that it takes back; an observer's, once no end reports it any more."""
        self._reports.remove(event)
        detail = f"{event.reporter} reports it up"
        for case in self._cases.of_link(event.link):
            generation = case.incident.id.generation
            if generation > event.generation or case.sign is None or case.has_recovered:
                continue
            still_reported = bool(self._reports.of(event.link, generation))
            if case.is_end and case.sign.seen_by == event.reporter and generation == event.generation:
                treatment.close(case, self._journal, moment, Trigger.RECOVERED, detail)
                case.has_recovered = case.own is None
            elif not case.is_end and not still_reported:
                case.has_recovered = True
                if generation == event.generation:
                    self._add_evidence(case, moment, event.at_ns, "link_returned", detail)
                treatment.close(case, self._journal, moment, Trigger.RECOVERED, detail)

    def _reweigh(self, case: Case, link: LinkKey, moment: Moment) -> None:
        """Let a peer's newer and less grave report of the same incident replace its earlier one."""
        if not case.is_revisable(moment.now_ns - CORRELATE_NS, self._cases.newest(self._reports)):
            return
        reported_now = gravest(self._reports.of(link, case.incident.id.generation))
        signs = [sign for sign in (case.own, reported_now) if sign is not None]
        case.sign = max(signs, key=lambda sign: sign.state, default=case.sign)
        self._explain(case, moment)
        if case.own is not None:
            self._apply_remedy(case, link, moment)

    def _on_recovered(self, event: LinkRecovered, moment: Moment) -> None:
        cases = self._cases.of_link(event.link)
        if not cases or not self._is_ours(event.link):
            return
        self._cases.hear((event.link.node_a, event.link.node_b))
        self._add_evidence(cases[-1], moment, event.at_ns, "link_returned", event.detail)
        for case in cases:
            case.has_recovered = True
            treatment.close(case, self._journal, moment, Trigger.RECOVERED, event.detail)
            treatment.undo_remedy(case, self._journal)

    def _on_topology(self, event: TopologySeen, moment: Moment) -> None:
        self._isolated = event.isolated
        topology = self._topology(moment)
        newest, since_ns = self._cases.newest(self._reports), moment.now_ns - CORRELATE_NS
        for case in self._cases:
            if case.gone is not None and case.is_gone_heard and case.gone not in event.isolated:
                self._add_evidence(
                    case, moment, event.at_ns, "node_reachable", f"a usable link leads to {case.gone} again"
                )
                case.gone = None
            is_final = case.incident.cause is Cause.NODE_GONE
            if case.is_down and not is_final and case.is_revisable(since_ns, newest):
                self._explain(case, moment, topology)

    # ---- answers and reroutes ----

    def _on_moved(self, event: RoutesMoved, moment: Moment) -> None:
        named = dict.fromkeys(event.incidents)
        ids = {IncidentId.of(link, generation) for link, generation in named}
        others = [case for case in self._cases.open() if case.incident.id not in ids]
        missing = self._missing(event, ids)
        for link, generation in named:
            incident_id = IncidentId.of(link, generation)
            case = self._cases.get(incident_id) or self._observe(link, generation, moment)
            if case is not None:
                self._rerouted(case, event, moment, missing)
            elif self._is_ours(link):
                self._early[incident_id] = event
                if len(self._early) > EARLY_MAX:
                    del self._early[next(iter(self._early))]
        for case in others:
            cut = event.unreachable if case.unreachable is None else case.unreachable & frozenset(event.unreachable)
            if event.outcome.done and not cut and (case.unreachable is None or case.unreachable):
                treatment.close(case, self._journal, moment, Trigger.REACHABLE, treatment.REACHED_AGAIN)

    def _missing(self, event: RoutesMoved, ids: set[IncidentId]) -> frozenset[Prefix]:
        """Prefixes that are cut off and not by an incident that is open beside these."""
        blamed = (case.unreachable or () for case in self._cases.open() if case.incident.id not in ids)
        return frozenset(event.unreachable).difference(*blamed)

    def _rerouted(self, case: Case, event: RoutesMoved, moment: Moment, missing: frozenset[Prefix]) -> None:
        if case.stage is Stage.REQUESTED:
            case.moved_early = event
            return
        if not treatment.is_answer(case, event):
            if event.moved:
                treatment.record_reroute(case, self._journal, moment, event)
            return
        if case.is_end and not life.has_step(case.incident, "detect"):
            self._write_detect(case, case.sign.detail if case.sign else "by an earlier start")
        treatment.write_reroute_steps(case, self._journal, event)
        treatment.record_reroute(case, self._journal, moment, event)
        case.unreachable = missing or case.unreachable
        self._explain(case, moment)
        treatment.finish_reroute(case, self._journal, moment, event, missing, self._wait_ns)

    def _on_action_ended(self, event: ActionEnded, moment: Moment) -> None:
        case = self._cases.get(event.incident)
        if case is None:
            return
        if case.stage is Stage.REQUESTED and event.planned == case.remedy:
            treatment.end_remedy(case, self._journal, moment, event.outcome, self._wait_ns)
            moved, case.moved_early = case.moved_early, None
            if moved is not None:
                self._rerouted(case, moved, moment, self._missing(moved, {case.incident.id}))
        elif case.stage is Stage.UNDOING and event.planned == case.undo:
            treatment.end_undo(case, self._journal, moment, event.outcome)

    def _on_verified(self, event: Verified, moment: Moment) -> None:
        case = self._cases.get(event.incident)
        if case is not None:
            treatment.end_read_back(case, self._journal, moment, event.at_ns, event.detail, holds=event.holds)

    # ---- time ----

    def _on_deadline(self, case: Case, moment: Moment) -> None:
        """Look once for oneself where nobody told of a reroute; else escalate.  A peer's alone is not ours to end."""
        is_open = case.incident.state is IncidentState.OPEN
        if is_open and case.sign is not None and case.sign.state is not AdjacencyState.DOWN:
            detail = f"this end saw nothing wrong itself; {case.sign.seen_by} treats it"
            treatment.close(case, self._journal, moment, Trigger.WATCHED, detail)
            return
        waited_for_moved = is_open or (case.incident.state is IncidentState.ACTING and case.stage is Stage.IN_FORCE)
        if waited_for_moved and case.link is not None:
            treatment.start_read_back(case, self._journal, moment, Trigger.SETTLED, self._wait_ns)
        else:
            treatment.expire(case, self._journal, moment)

    # ---- cases ----

    def _open(
        self, incident_id: IncidentId, sign: Sign, role: Role, fault_at_ns: int, detected_at_ns: int, moment: Moment
    ) -> Case:
        for old in self._cases.of_link(sign.link):
            if old.is_open:
                treatment.close(old, self._journal, moment, Trigger.SUPERSEDED, f"superseded by {incident_id}")
        surplus = self._cases.surplus()
        if surplus is not None:
            detail = "closed unhealed: more incidents are open than are kept"
            treatment.close(surplus, self._journal, moment, Trigger.SUPERSEDED, detail)
        found = diagnose(sign, self._topology(moment))
        opened_at = moment.wall_ms(detected_at_ns)
        blank = Incident(incident_id, found.cause, "", IncidentState.OPEN, role, self._mode, opened_at)
        case = Case(blank, sign.link, sign, fault_at_ns=fault_at_ns, detected_at_ns=detected_at_ns)
        if found.cause is Cause.NODE_GONE:
            case.gone, case.is_gone_heard = gone_node(sign, self._topology(moment)), False
        if sign.state is AdjacencyState.DOWN:
            case.held_until_ns = moment.now_ns + HOLD_NS
        if sign.state is AdjacencyState.DOWN or sign.seen_by != self._node:
            case.deadline_ns = moment.now_ns + self._wait_ns
        self._cases.add(case)
        self._cases.forget()
        self._journal.write(case, life.explain(blank, found.cause, found.explanation))
        return case

    def _observe(self, link: LinkKey, generation: int, moment: Moment) -> Case | None:
        """Open an incident of another node's link that was reported and has made us recompute."""
        reports = self._reports.of(link, generation)
        if self._is_ours(link) or not reports:
            return None
        latest, sign, first = self._cases.latest(link), gravest(reports), reports[0].at_ns
        if sign is None or (latest is not None and latest.incident.id.generation > generation):
            return None
        case = self._open(IncidentId.of(link, generation), sign, Role.OBSERVER, first, first, moment)
        for report in reports:
            self._add_evidence(case, moment, report.at_ns, "peer_reported", reported(report))
        return case

    def _sharpen(self, case: Case, sign: Sign, moment: Moment) -> None:
        """Let a graver sign, or one's own after a peer's, replace the sign that opened the case."""
        case.link = case.link or sign.link
        case.is_resumed = False
        known = case.sign
        is_own = sign.seen_by == self._node and known is not None and known.seen_by != self._node
        if known is None or sign.state > known.state or (is_own and sign.state >= known.state):
            case.sign = sign
            if is_own and sign.state is not AdjacencyState.DOWN and case.incident.state is IncidentState.OPEN:
                case.deadline_ns = None
            self._explain(case, moment)

    def _apply_remedy(self, case: Case, link: LinkKey, moment: Moment) -> None:
        if case.incident.cause is Cause.LINK_DEGRADED:
            treatment.apply_remedy(
                case,
                self._journal,
                moment,
                cost=self._costs.get(link),
                cost_add=self._cost_add,
                is_allowed=self._mode == MODE_AUTO,
                wait_ns=self._wait_ns,
            )

    def _replay_early(self, case: Case, moment: Moment) -> None:
        moved = self._early.pop(case.incident.id, None)
        if moved is not None and moment.now_ns - moved.decided_at_ns <= SECOND_NS:
            self._rerouted(case, moved, moment, self._missing(moved, {case.incident.id}))

    def _write_detect(self, case: Case, detail: str) -> None:
        treatment.write_step(case, self._journal, "detect", case.fault_at_ns, case.detected_at_ns or 0, detail)

    def _add_evidence(self, case: Case, moment: Moment, at_ns: int, kind: str, detail: str) -> None:
        treatment.write_evidence(case, self._journal, moment.wall_ms(at_ns), kind, detail)

    def _explain(self, case: Case, moment: Moment, topology: Topology | None = None) -> None:
        before = case.incident.cause
        topology = topology or self._topology(moment)
        treatment.write_explanation(case, self._journal, topology)
        if case.incident.cause is Cause.NODE_GONE and before is not Cause.NODE_GONE and case.sign is not None:
            case.gone, case.is_gone_heard = gone_node(case.sign, topology), False
            self._add_evidence(case, moment, moment.now_ns, "node_isolated", "no usable link leads to the node")

    def _topology(self, moment: Moment) -> Topology:
        ours = {case.link for case in self._cases if case.is_end and case.is_down and case.link is not None}
        theirs = self._reports.down_since(moment.now_ns - CORRELATE_NS)
        return Topology(self._node, self._isolated, theirs | ours)

    def _is_ours(self, link: LinkKey) -> bool:
        return self._node in (link.node_a, link.node_b)
