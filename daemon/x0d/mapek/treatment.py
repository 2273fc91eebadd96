"""What is done about one case, from its steps' arithmetic to its remedy, read-back and end.

Each function takes the case, the journal and the moment, and leaves the case in a state that the
table of ``incident.py`` allows.  Which case an event concerns is decided in ``loop.py``.
"""

from x0d.actions import Outcome
from x0d.mapek import incident as life
from x0d.mapek.analyse import Topology, diagnose
from x0d.mapek.case import Case, Stage
from x0d.mapek.events import Perform, RoutesMoved, Verify
from x0d.mapek.incident import Trigger
from x0d.mapek.journal import Journal, Moment
from x0d.mapek.model import Cause, Evidence, IncidentState, Step
from x0d.mapek.plan import (
    MODE_AUTO,
    describe_moved,
    plan,
    plan_undo,
    record_observed,
    record_planned,
    record_routes,
    shorten,
)
from x0d.mesh.model import LinkKey, Prefix

REACHED_AGAIN = "every prefix it had cut off is reached again"
"""Why an incident that was escalated for lost prefixes is closed."""


def elapsed_ms(start_ns: int | None, end_ns: int) -> float:
    """Milliseconds from start to end; 0 where the start is not known or lies behind the end."""
    return 0.0 if start_ns is None else max(0, end_ns - start_ns) / 1e6


def write_step(case: Case, journal: Journal, name: str, start_ns: int | None, end_ns: int, detail: str) -> None:
    """Add a step that took from start to end."""
    step = Step(name, elapsed_ms(start_ns, end_ns), elapsed_ms(case.fault_at_ns, end_ns), detail)
    journal.write(case, life.add_step(case.incident, step))


def write_evidence(case: Case, journal: Journal, at_unix_ms: int, kind: str, detail: str) -> None:
    """Add evidence."""
    journal.write(case, life.add_evidence(case.incident, Evidence(at_unix_ms, kind, detail)))


def write_explanation(case: Case, journal: Journal, topology: Topology) -> None:
    """Diagnose anew; a node once found gone is not turned back into a dead link by its later return."""
    if case.sign is None:
        return
    found = diagnose(case.sign, topology, is_cut_off=bool(case.unreachable))
    if case.incident.cause is Cause.NODE_GONE and found.cause is not Cause.NODE_GONE:
        return
    text = f"{found.explanation} {case.note}" if case.note else found.explanation
    if (found.cause, text) != (case.incident.cause, case.incident.explanation):
        journal.write(case, life.explain(case.incident, found.cause, text))


# ---- ends ----


def close(case: Case, journal: Journal, moment: Moment, trigger: Trigger, detail: str) -> None:
    """End the case, where the table lets this trigger do so, and let its record be saved."""
    journal.write(case, life.close(case.incident, trigger, moment.unix_ms, detail))
    if not case.is_open:
        _settle(case)
        case.unreachable = frozenset()
    journal.release(case)


def escalate(case: Case, journal: Journal, moment: Moment, trigger: Trigger, detail: str) -> None:
    """Hand the case to a person, saying why."""
    if life.accepts(case.incident, trigger):
        before = case.incident.explanation.removesuffix(f" {case.note}") if case.note else case.incident.explanation
        case.note = f"Escalated: {detail}."
        changed = life.escalate(case.incident, trigger, moment.unix_ms, detail)
        journal.write(case, life.explain(changed, changed.cause, f"{before} {case.note}"))
        _settle(case)
    journal.release(case)


def _settle(case: Case) -> None:
    case.deadline_ns = None
    case.is_read_back_due = False


# ---- the remedy ----


def apply_remedy(
    case: Case, journal: Journal, moment: Moment, *, cost: int | None, cost_add: int, is_allowed: bool, wait_ns: int
) -> None:
    """Plan for a cause that has a remedy, and request it or record what would have been done."""
    if case.link is None or case.stage is not Stage.NONE or not life.accepts(case.incident, Trigger.ACTION_REQUESTED):
        return
    if cost is None:
        write_evidence(case, journal, moment.unix_ms, "cost_unknown", f"no cost is configured for {case.link}")
        return
    planned = plan(case.incident.cause, case.link, cost, cost_add)
    if planned is None or any(record.outcome == "observed" for record in case.incident.actions):
        return
    if not is_allowed:
        journal.write(case, life.add_action(case.incident, record_observed(planned, moment.unix_ms)))
        return
    case.remedy, case.stage, case.deadline_ns = planned, Stage.REQUESTED, moment.now_ns + wait_ns
    journal.request(Perform(case.incident.id, planned))
    journal.write(case, life.advance(case.incident, Trigger.ACTION_REQUESTED, moment.unix_ms))


def end_remedy(case: Case, journal: Journal, moment: Moment, outcome: Outcome, wait_ns: int) -> None:
    """Take in how the remedy went; its routes are still to move."""
    assert case.remedy is not None
    record = record_planned(case.remedy, outcome, "done", moment.wall_ms(outcome.ended_at_ns))
    journal.write(case, life.add_action(case.incident, record))
    if not outcome.done:
        case.remedy, case.stage = None, Stage.NONE
        escalate(case, journal, moment, Trigger.ACTION_FAILED, f"{record.detail} failed: {outcome.error}")
        return
    case.stage, case.remedy_started_at_ns = Stage.IN_FORCE, outcome.started_at_ns
    case.installed_at_ns = outcome.ended_at_ns
    if case.incident.state is IncidentState.ACTING:
        case.deadline_ns = moment.now_ns + wait_ns
    write_step(case, journal, "decide", case.detected_at_ns, outcome.started_at_ns, record.detail)
    if case.has_recovered:
        undo_remedy(case, journal)


def undo_remedy(case: Case, journal: Journal) -> None:
    """Request that a remedy in force is taken back; one that is still under way is undone at its end."""
    if case.stage is not Stage.IN_FORCE or case.remedy is None:
        return
    case.undo = plan_undo(case.remedy)
    if case.undo is not None:
        case.stage = Stage.UNDOING
        journal.request(Perform(case.incident.id, case.undo))


def end_undo(case: Case, journal: Journal, moment: Moment, outcome: Outcome) -> None:
    """Take in how the undo went; a failed one stays in force and is tried at the next recovery."""
    assert case.undo is not None
    record = record_planned(case.undo, outcome, "undone", moment.wall_ms(outcome.ended_at_ns))
    journal.write(case, life.add_action(case.incident, record))
    case.undo = None
    if outcome.done:
        case.remedy, case.stage = None, Stage.NONE
        return
    case.stage = Stage.IN_FORCE
    escalate(case, journal, moment, Trigger.UNDO_FAILED, f"{record.detail} failed: {outcome.error}")


# ---- reroute and read-back ----


def is_answer(case: Case, event: RoutesMoved) -> bool:
    """Whether the reroute is what this case waits for, and not one of its side effects."""
    if not case.is_open:
        return False
    if not case.is_end or case.incident.cause in (Cause.LINK_DEAD, Cause.NODE_GONE):
        return True
    if case.incident.cause is Cause.CONTROL_PLANE_GONE:
        return False
    if case.stage is Stage.IN_FORCE:
        return event.decided_at_ns >= case.remedy_started_at_ns
    return bool(event.moved) and case.incident.healing_mode == MODE_AUTO


def record_reroute(case: Case, journal: Journal, moment: Moment, moved: RoutesMoved) -> None:
    """Record the mesh's rerouting as an action, with what it cost in packets."""
    record = record_routes(moved, moment.wall_ms(moved.outcome.ended_at_ns))
    changed = life.add_action(case.incident, record)
    journal.write(case, life.add_losses(changed, packets=moved.packets_lost))


def write_reroute_steps(case: Case, journal: Journal, moved: RoutesMoved) -> None:
    """Add ``decide`` and ``act`` of the first reroute; with a remedy, ``act`` counts from the remedy's start."""
    outcome = moved.outcome
    if case.stage is Stage.NONE and not life.has_step(case.incident, "decide"):
        detail = "shortest paths recomputed" if case.is_end else "shortest paths recomputed; counted from the report"
        write_step(case, journal, "decide", case.detected_at_ns, moved.decided_at_ns, detail)
    if not life.has_step(case.incident, "act"):
        start_ns = outcome.started_at_ns if case.stage is Stage.NONE else case.remedy_started_at_ns
        detail = describe_moved(moved) if outcome.done else f"failed: {outcome.error}"
        write_step(case, journal, "act", start_ns, outcome.ended_at_ns, detail)
    case.installed_at_ns = outcome.ended_at_ns


def finish_reroute(
    case: Case, journal: Journal, moment: Moment, moved: RoutesMoved, missing: frozenset[Prefix], wait_ns: int
) -> None:
    """Escalate what no path leads to, close what was only watched, and have the rest read back."""
    journal.release(case)
    if missing:
        names = shorten(sorted(str(prefix) for prefix in missing))
        escalate(case, journal, moment, Trigger.UNREACHABLE, f"no other path to {names}")
    elif moved.observed_only:
        _settle(case)
        if not case.is_end:
            close(case, journal, moment, Trigger.WATCHED, "routes are only watched, none was installed")
    elif case.incident.state is IncidentState.ESCALATED and case.unreachable:
        close(case, journal, moment, Trigger.REACHABLE, REACHED_AGAIN)
    else:
        start_read_back(case, journal, moment, Trigger.ROUTES_MOVED, wait_ns)


def start_read_back(case: Case, journal: Journal, moment: Moment, trigger: Trigger, wait_ns: int) -> None:
    """Go to ``verifying`` and ask what the kernel holds, for as long as ``wait_ns``."""
    if case.link is None or not life.accepts(case.incident, trigger):
        return
    journal.write(case, life.advance(case.incident, trigger, moment.unix_ms))
    case.note = ""
    case.deadline_ns = moment.now_ns + wait_ns
    ask_read_back(case, journal, case.link)


def ask_read_back(case: Case, journal: Journal, link: LinkKey) -> None:
    """Ask once more within the same time limit."""
    case.is_read_back_due = False
    journal.request(Verify(case.incident.id, link))


def end_read_back(case: Case, journal: Journal, moment: Moment, at_ns: int, detail: str, *, holds: bool) -> None:
    """Close on a read-back that holds; else wait for the next tick, or escalate when time is up."""
    if case.incident.state is not IncidentState.VERIFYING:
        return
    if holds:
        write_step(case, journal, "verify", case.installed_at_ns, at_ns, detail)
        close(case, journal, moment, Trigger.VERIFIED, detail or "the kernel holds what was computed")
        return
    case.is_read_back_due, case.read_back_detail = True, detail
    if case.deadline_ns is not None and moment.now_ns >= case.deadline_ns:
        expire(case, journal, moment)


def expire(case: Case, journal: Journal, moment: Moment) -> None:
    """Escalate a case whose time is up, with the last thing that was wrong."""
    if case.incident.state is IncidentState.ACTING:
        detail = "the remedy was not performed in time"
    else:
        detail = f"the reroute is not verified: {case.read_back_detail or 'the kernel was not read back in time'}"
    escalate(case, journal, moment, Trigger.VERIFY_EXPIRED, detail)


def resume(case: Case, journal: Journal, moment: Moment, link: LinkKey | None, wait_ns: int) -> None:
    """Take up an incident of an earlier life: verify a dead link's reroute, end what is judged anew.

    ``link`` is the configured link of its name, None where there is none.  An escalated incident stays.
    """
    case.is_resumed = False
    if case.incident.state is IncidentState.ESCALATED:
        return
    if link is None or not case.is_end or case.incident.cause in {Cause.LINK_DEGRADED, Cause.CONTROL_PLANE_GONE}:
        detail = "the daemon was restarted and judges the link anew"
        close(case, journal, moment, Trigger.SUPERSEDED, detail)
        return
    case.link = link
    write_evidence(case, journal, moment.unix_ms, "daemon_restarted", "taken up by a new start of the daemon")
    start_read_back(case, journal, moment, Trigger.SETTLED, wait_ns)
