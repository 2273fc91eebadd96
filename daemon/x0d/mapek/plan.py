"""From a cause to typed actions, each with precondition, expected effect and undo.

One cause has a remedy here: a degraded link is costed out, and costed in again once it is clean.
Dead links, silent daemons and gone nodes have none of their own: routing around them is the mesh's
function and has happened by the time the loop hears of them; it is recorded, not planned.
"""

from x0d.actions import Action, InstallRoutes, Outcome, PlannedAction, SetLinkCost
from x0d.mapek.events import RoutesMoved
from x0d.mapek.model import ActionRecord, Cause
from x0d.mesh.model import LinkKey

COST_MAX = 65_535
"""Largest cost that a link can be advertised with; a remedy stops there."""
PREFIXES_SHOWN = 3
"""Prefixes named in a detail; the rest are counted."""

MODE_AUTO = "auto"
"""The only healing mode in which the loop's own remedies are performed."""


def plan(cause: Cause, link: LinkKey, cost: int, degraded_cost_add: int) -> PlannedAction | None:
    """Plan the remedy of a cause on a link of ours; None where the mesh's rerouting is all there is.

    ``cost`` is the configured cost of the link.
    """
    if cause is not Cause.LINK_DEGRADED:
        return None
    raised = min(cost + degraded_cost_add, COST_MAX)
    return PlannedAction(
        action=SetLinkCost(link, raised),
        precondition=(
            f"the link is degraded but not down, advertised with cost {cost}; where no other path exists the "
            "higher cost moves nothing and harms nothing"
        ),
        expected_effect=f"traffic leaves {link} for every destination that another path reaches for less than {raised}",
        undo=SetLinkCost(link, cost),
    )


def plan_undo(planned: PlannedAction) -> PlannedAction | None:
    """Plan taking an action back; None for one that has no undo of its own."""
    if planned.undo is None:
        return None
    return PlannedAction(
        action=planned.undo,
        precondition="the link is up again and has stayed clean for its hold time",
        expected_effect="traffic returns to the link where it is the shortest path",
        undo=planned.action,
    )


def action_name(action: Action) -> str:
    """Name an action's kind in the fixed word that records and metrics use."""
    match action:
        case SetLinkCost():
            return "set_link_cost"
        case InstallRoutes():
            return "install_routes"


def record_planned(planned: PlannedAction, outcome: Outcome, word: str, at_unix_ms: int) -> ActionRecord:
    """Record a performed action; ``word`` is its outcome when it was done (``done`` or ``undone``)."""
    return ActionRecord(
        action=action_name(planned.action),
        detail=str(planned.action),
        precondition=planned.precondition,
        expected_effect=planned.expected_effect,
        undo="" if planned.undo is None else str(planned.undo),
        outcome=word if outcome.done else "failed",
        error=outcome.error,
        at_unix_ms=at_unix_ms,
        duration_ms=(outcome.ended_at_ns - outcome.started_at_ns) / 1e6,
    )


def record_observed(planned: PlannedAction, at_unix_ms: int) -> ActionRecord:
    """Record an action that the healing mode kept from being performed."""
    return ActionRecord(
        action=action_name(planned.action),
        detail=str(planned.action),
        precondition=planned.precondition,
        expected_effect=planned.expected_effect,
        undo="" if planned.undo is None else str(planned.undo),
        outcome="observed",
        error="",
        at_unix_ms=at_unix_ms,
        duration_ms=0.0,
    )


def record_routes(moved: RoutesMoved, at_unix_ms: int) -> ActionRecord:
    """Record the mesh's own rerouting, which no healing mode holds back."""
    done = "observed" if moved.observed_only else "done"
    return ActionRecord(
        action=action_name(moved.outcome.action),
        detail=f"{moved.outcome.action}; {describe_moved(moved)}",
        precondition="none: rerouting is the mesh's function",
        expected_effect="every prefix that a usable path leads to is routed over it",
        undo="",
        outcome=done if moved.outcome.done else "failed",
        error=moved.outcome.error,
        at_unix_ms=at_unix_ms,
        duration_ms=(moved.outcome.ended_at_ns - moved.outcome.started_at_ns) / 1e6,
    )


def describe_moved(moved: RoutesMoved) -> str:
    """Say which prefixes changed their next hop."""
    if not moved.moved:
        return "no route had to move"
    return f"moved {shorten([str(prefix) for prefix in moved.moved])}"


def shorten(names: list[str]) -> str:
    """Join names, the first few in full and the rest as a count."""
    shown = ", ".join(names[:PREFIXES_SHOWN])
    rest = len(names) - PREFIXES_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown
