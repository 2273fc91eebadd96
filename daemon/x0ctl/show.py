"""Each reply as tables for people."""

from x0ctl.output import clean, duration, instant, print_fields, print_line, print_table
from x0d.v1.incident_pb2 import ListIncidentsResponse
from x0d.v1.mesh_pb2 import ListLinksResponse, ListNodesResponse, ListRoutesResponse
from x0d.v1.node_pb2 import GetStatusResponse, InterfaceStatus, RefusedMode, ReloadResponse, RunDoctorResponse


def status(reply: GetStatusResponse) -> None:
    """Print the node, its alerts and notices, and its interfaces."""
    phase = f"{reply.phase}: {reply.starting_step}" if reply.starting_step else reply.phase
    print_fields(
        [
            ("node", reply.node),
            ("identity", _identity(reply)),
            ("phase", phase),
            ("version", reply.version),
            ("configuration", reply.config_file),
            ("up", f"{duration(reply.uptime_s)}, since {instant(reply.started_at_unix_ms)}, pid {reply.pid}"),
            ("healing", reply.healing_mode),
            ("links up", f"{reply.links_up} of {reply.links_total}"),
            ("nodes known", reply.nodes_known),
            ("routes", f"{reply.routes_installed} installed"),
            ("incidents open", reply.incidents_open),
        ]
    )
    for alert in reply.alerts:
        print_line(f"ALERT   {clean(alert)}")
    for notice in reply.notices:
        print_line(f"notice  {clean(notice)}")
    if reply.interfaces:
        print_line("")
        headers = ("INTERFACE", "INDEX", "STATE", "XDP MODE", "NOTES")
        rows = [(row.name, row.ifindex or "-", row.state, row.mode or "-", _notes(row)) for row in reply.interfaces]
        print_table(headers, rows, "", prose=1)


def _identity(reply: GetStatusResponse) -> str:
    if not reply.spiffe_id:
        return "none that is valid; x0ctl identity show says why"
    return f"{reply.spiffe_id} until {instant(reply.svid_not_after_unix_ms)}"


def _notes(row: InterfaceStatus) -> str:
    notes = [f"{refused.mode} refused: {refused.errno_name}" for refused in row.refused_modes if not _is_usual(refused)]
    if row.adopted:
        notes.insert(0, "adopted")
    if row.frags:
        notes.append("frags")
    if row.blocked_reason:
        notes.append(row.blocked_reason)
    return "; ".join(notes)


def _is_usual(refused: RefusedMode) -> bool:
    """Few network cards run programs themselves: told of each that does not, it would read like a fault."""
    return refused.mode == "hardware" and refused.errno_name in {"EINVAL", "EOPNOTSUPP"}


def reloaded(reply: ReloadResponse) -> None:
    """Print what is in force now and what waits for a restart."""
    for key in reply.applied:
        print_line(f"applied        {clean(key)}")
    for key in reply.needs_restart:
        print_line(f"needs restart  {clean(key)}")
    if not reply.applied and not reply.needs_restart:
        print_line("nothing has changed")


def doctor(reply: RunDoctorResponse) -> None:
    """Print whose answer it is, then the checks."""
    whose = f"The running x0d: kernel {reply.kernel_release}, uid {reply.uid}"
    print_line(clean(f"{whose}, capabilities: {reply.capabilities_summary}"))
    print_line("")
    rows = [(check.name, check.outcome, check.detail, check.remedy) for check in reply.checks]
    print_table(("CHECK", "OUTCOME", "FOUND", "WHAT TO DO"), rows, "no checks", prose=2)


def links(reply: ListLinksResponse) -> None:
    """Print this node's links."""
    headers = ("LINK", "NEIGHBOUR", "INTERFACE", "STATE", "FOR", "COST", "RTT MS", "LOSS OUT", "LOSS IN", "REASON")
    rows = [
        (
            row.link,
            row.neighbour,
            row.interface,
            row.state,
            duration(row.state_for_s),
            row.cost if row.cost == row.cost_configured else f"{row.cost} (configured {row.cost_configured})",
            f"{row.rtt_ms:.3f}",
            f"{row.loss_out:.1%}",
            f"{row.loss_in:.1%}",
            row.state_reason,
        )
        for row in reply.links
    ]
    print_table(headers, rows, "no links: [[mesh.neighbours]] of the configuration is empty", prose=1)


def nodes(reply: ListNodesResponse) -> None:
    """Print the nodes, one line for each."""
    headers = ("NODE", "REACHABLE", "PREFIXES", "ADJACENCIES", "AGE", "NOTES")
    rows = []
    for row in reply.nodes:
        notes = [text for holds, text in ((row.no_transit, "no transit"), (row.control_gone, "daemon gone")) if holds]
        adjacencies = " ".join(f"{item.neighbour}:{item.state}({item.cost})" for item in row.adjacencies)
        prefixes = " ".join(row.prefixes)
        rows.append(
            (row.node, "yes" if row.reachable else "no", prefixes, adjacencies, duration(row.age_s), ", ".join(notes))
        )
    print_table(headers, rows, "no node has been heard of yet", prose=1)


def routes(reply: ListRoutesResponse) -> None:
    """Print the computed routes."""
    headers = ("PREFIX", "NODE", "NEXT HOP", "GATEWAY", "INTERFACE", "METRIC", "NEXTHOP ID", "INSTALLED")
    rows = [
        (
            row.prefix,
            row.node,
            row.next_hop,
            row.gateway,
            row.interface,
            row.metric,
            row.nexthop_id,
            "yes" if row.installed else "no",
        )
        for row in reply.routes
    ]
    print_table(headers, rows, "no routes: no other node is known")


def incidents(reply: ListIncidentsResponse) -> None:
    """Print one line for each incident."""
    headers = ("ID", "STATE", "CAUSE", "ROLE", "OPENED", "HEALED MS", "PACKETS LOST", "EXPLANATION")
    rows = []
    for row in reply.incidents:
        acted = [step.since_fault_ms for step in row.steps if step.step == "act"]
        healed = f"{acted[-1]:.1f}" if acted else "-"
        opened = instant(row.opened_at_unix_ms)
        rows.append((row.id, row.state, row.cause, row.role, opened, healed, row.packets_lost, row.explanation))
    print_table(headers, rows, "no incidents", prose=1)
