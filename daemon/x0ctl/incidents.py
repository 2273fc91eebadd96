"""One incident as a readable timeline, and a change of one as a line."""

from x0ctl.output import clean, instant, print_fields, print_line
from x0d.v1.incident_pb2 import Incident

ORIGINS = {
    "loss": "the link was last without a loss",
    "control_silent": "the last sign of the daemon at the other end",
    "announced_stop": "the last sign of the daemon at the other end",
}
"""What an end's steps count from, by the evidence of its own detector; else the last sign that the link worked."""


def _origin(incident: Incident) -> str:
    """Name the instant that the steps count from."""
    if incident.role == "observer":
        return "the first report of it reached this node"
    kinds = {evidence.kind for evidence in incident.evidence}
    return next((text for kind, text in ORIGINS.items() if kind in kinds), "the last sign that the link worked")


def _packets_lost(incident: Incident) -> str:
    """Bound the loss: packets handed over within a probe interval before the fault may have arrived."""
    if not incident.packets_lost:
        return "0"
    return f"at most {incident.packets_lost} (it counts from up to one probe interval before the fault)"


def print_incident(incident: Incident) -> None:
    """Print what was seen, when each step was done after the fault, and what it cost."""
    print_fields(
        [
            ("incident", incident.id),
            ("cause", incident.cause),
            ("state", incident.state),
            ("seen as", {"end": "an end of the link", "observer": "an observer"}.get(incident.role, incident.role)),
            ("healing", incident.healing_mode),
            ("opened", instant(incident.opened_at_unix_ms)),
            ("closed", instant(incident.closed_at_unix_ms)),
            ("packets lost", _packets_lost(incident)),
            ("probes lost", incident.probes_lost),
        ]
    )
    print_line(f"\n{clean(incident.explanation)}")
    if incident.steps:
        print_line(f"\nTimeline, ms since {_origin(incident)}")
        for step in incident.steps:
            print_line(
                f"  {step.since_fault_ms:10.1f}  {clean(step.step):<8}took {step.duration_ms:.1f} ms  "
                f"{clean(step.detail)}".rstrip()
            )
    if incident.evidence:
        print_line("\nEvidence")
        for item in incident.evidence:
            print_line(f"  {instant(item.at_unix_ms)}  {clean(item.kind)}: {clean(item.detail)}")
    if incident.actions:
        print_line("\nActions")
    for action in incident.actions:
        print_line(
            f"  {instant(action.at_unix_ms)}  {clean(action.action)}: {clean(action.outcome)} "
            f"in {action.duration_ms:.1f} ms"
        )
        named = (
            ("what", action.detail),
            ("because", action.precondition),
            ("expected", action.expected_effect),
            ("undo", action.undo),
            ("error", action.error),
        )
        for name, text in named:
            if text:
                print_line(f"    {name:<9} {clean(text)}")


def print_change(incident: Incident) -> None:
    """Print one line: the incident as it stands now."""
    at = incident.closed_at_unix_ms or incident.opened_at_unix_ms
    last = f"  {incident.steps[-1].step} at {incident.steps[-1].since_fault_ms:.1f} ms" if incident.steps else ""
    print_line(
        clean(f"{instant(at)}  {incident.id}  {incident.state:<9}  {incident.cause}{last}  {incident.explanation}")
    )
