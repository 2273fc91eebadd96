"""Every metric name, every event name, and how the log is written.

Metrics: prefix ``x0d_``, base units, labels from fixed, bounded sets (interfaces, links and nodes are
bounded by the configuration).  Values that some core already counts are collected at the scrape by
``service/metrics.py``; only what has no other home (histograms, failures) is counted here.

Events: ``log.info(EVENT, field=...)``.  JSON lines on standard error, or readable text when that is
a terminal.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from x0d.mapek.model import Cause

# ---- names of metrics collected at the scrape ----

BUILD_INFO = "x0d_build_info"
UPTIME_SECONDS = "x0d_uptime_seconds"
INTERFACE_ATTACHED = "x0d_interface_attached"
INTERFACE_BLOCKED = "x0d_interface_blocked"
LINK_UP = "x0d_link_up"
LINK_STATE = "x0d_link_state"
LINK_COST = "x0d_link_cost"
LINK_RTT_SECONDS = "x0d_link_rtt_seconds"
LINK_LOSS_RATIO = "x0d_link_loss_ratio"
LINK_PROBES_SENT = "x0d_link_probes_sent"
LINK_REPLIES_RECEIVED = "x0d_link_replies_received"
DATAPLANE_PACKETS = "x0d_dataplane_packets"
DATAPLANE_BYTES = "x0d_dataplane_bytes"
DATAPLANE_PROBES = "x0d_dataplane_probes"
DATAPLANE_EVENTS = "x0d_dataplane_events"
DENY_ENTRIES = "x0d_deny_entries"
LIMITS = "x0d_limits"
LOCK_OUTS = "x0d_lock_outs"
SYN_LIMITED = "x0d_syn_limited"
EBPF_PROGRAM_LOADED = "x0d_ebpf_program_loaded"
EBPF_MAP_BYTES = "x0d_ebpf_map_bytes"
KERNEL_DROPS = "x0d_kernel_drops"
TCP_RETRANSMITS = "x0d_tcp_retransmits"
TCP_RESETS = "x0d_tcp_resets"
SOCKET_STATES = "x0d_socket_state_changes"
RUN_QUEUE_LATENCY = "x0d_run_queue_latency_seconds"
SYSCALL_LATENCY = "x0d_syscall_latency_seconds"
MESH_NODES = "x0d_mesh_nodes"
MESH_ROUTES = "x0d_mesh_routes_installed"
MESH_DATAGRAMS_REFUSED = "x0d_mesh_datagrams_refused"
INCIDENTS_OPEN = "x0d_incidents_open"
ALERTS = "x0d_alerts"
CONTROL_REFUSED = "x0d_control_connections_refused"
SYN_LIMITED = "x0d_syn_limited"
SVID_EXPIRY = "x0d_svid_expiry_timestamp_seconds"
SVID_UPDATES = "x0d_svid_updates"
SVID_UPDATES_REJECTED = "x0d_svid_updates_rejected"
BUNDLE_GENERATION = "x0d_bundle_generation"
WORKLOAD_CONNECTED = "x0d_workload_api_connected"
PEERS_AUTHENTICATED = "x0d_peers_authenticated"
MESH_DATAGRAMS_UNSEALED = "x0d_mesh_datagrams_unauthenticated"

# ---- names of events ----

STARTING = "starting"
STEP_DONE = "start_step_done"
READY = "ready"
STOPPING = "stopping"
STOPPED = "stopped"
START_FAILED = "start_failed"
RELOADED = "reloaded"
RELOAD_REFUSED = "reload_refused"
ALERT_RAISED = "alert_raised"
ALERT_CLEARED = "alert_cleared"
INTERFACE_ATTACHED_EVENT = "interface_attached"
INTERFACE_BLOCKED_EVENT = "interface_blocked"
INTERFACE_GONE = "interface_gone"
INTERFACE_PROGRAM_LOST = "interface_program_lost"
PINS_REMADE = "pins_remade"
PINS_LOST = "pins_lost"
LINK_STATE_CHANGED = "link_state_changed"
DATAGRAM_REFUSED = "datagram_refused"
ROUTES_MOVED = "routes_moved"
ROUTES_FAILED = "routes_failed"
ROUTES_REPAIRED = "routes_repaired"
INCIDENT_CHANGED = "incident_changed"
ACTION_FAILED = "action_failed"
KNOWLEDGE_MIGRATED = "knowledge_migrated"
DATAPLANE_MAPS_REMADE = "dataplane_maps_remade"
XDP_FRAGS_REFUSED = "xdp_frags_refused"
PROGRAM_REFUSED = "program_refused"
INTERFACE_DETACHED = "interface_detached"
PROGRAMS_UPGRADED = "programs_upgraded"
DATAPLANE_REMOVED = "dataplane_removed"
DENY_LIST_REMADE = "deny_list_remade"
LIMITS_REMADE = "limits_remade"
POLICY_SWEEP_FAILED = "policy_sweep_failed"
DENY_CHANGED = "deny_changed"
DENY_LOADED = "deny_loaded"
LIMITS_CHANGED = "limits_changed"
POLICY_EXPIRED = "policy_expired"
POLICY_RESTORED = "policy_restored"
POLICY_REFUSED = "policy_refused"
POLICY_UNDO_FAILED = "policy_undo_failed"
SVID_UPDATED = "svid_updated"
SVID_UPDATE_REJECTED = "svid_update_rejected"
WORKLOAD_API_LOST = "workload_api_lost"
WORKLOAD_API_BACK = "workload_api_back"
PEER_REFUSED = "peer_refused"
PEER_AUTHENTICATED = "peer_authenticated"
PEER_KEY_DROPPED = "peer_key_dropped"
STREAM_REVOKED = "stream_revoked"
CALL_DENIED = "call_denied"
SVID_ISSUED = "svid_issued"
ROOT_MADE = "root_made"
ROOT_ROTATED = "root_rotated"
TOKEN_MADE = "token_made"  # noqa: S105  the name of an event
TOKEN_SPENT = "token_spent"  # noqa: S105  the name of an event
TOKEN_REFUSED = "token_refused"  # noqa: S105  the name of an event
TOKEN_REVOKED = "token_revoked"  # noqa: S105  the name of an event
TOKEN_DROPPED = "token_dropped"  # noqa: S105  the name of an event
JOIN_OPENED = "join_opened"
JOIN_CLOSED = "join_closed"
CONNECTIONS_OUTLIVE_SVID = "connections_outlive_svid"
SVID_RENEWED = "svid_renewed"
SVID_RENEWAL_FAILED = "svid_renewal_failed"
AUDIT = "audit"
DESCRIPTOR_KEPT = "descriptor_kept"
DESCRIPTOR_REFUSED = "descriptor_refused"

HEAL_STEPS = ("detect", "decide", "act", "verify")
ACTION_KINDS = ("install_routes", "set_link_cost")
HEAL_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0)
LAG_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


class Telemetry:
    """The counted metrics of one daemon, on a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # a start time per histogram doubles the series and tells nothing here
        self.registry = CollectorRegistry()
        self.loop_lag = Histogram(
            "x0d_loop_lag_seconds",
            "How late the event loop woke for a timer.",
            buckets=LAG_BUCKETS_S,
            registry=self.registry,
        )
        self.heal_step = Histogram(
            "x0d_heal_step_seconds",
            "Duration of each step of healing.",
            ["step"],
            buckets=HEAL_BUCKETS_S,
            registry=self.registry,
        )
        self.incidents = Counter("x0d_incidents", "Incidents opened, by cause.", ["cause"], registry=self.registry)
        self.actions = Counter(
            "x0d_actions", "Actions by kind and outcome.", ["action", "outcome"], registry=self.registry
        )
        self.route_seconds = Histogram(
            "x0d_route_install_seconds",
            "From the decision to the kernel's acknowledgement of a batch of route changes.",
            buckets=HEAL_BUCKETS_S,
            registry=self.registry,
        )
        # Every label value from the start: a series that appears with its first event hides it from increase().
        for step in HEAL_STEPS:
            self.heal_step.labels(step)
        for cause in Cause:
            self.incidents.labels(cause.value)
        for action in ACTION_KINDS:
            for outcome in ("done", "failed"):
                self.actions.labels(action, outcome)
        self.knowledge_failures = Counter(
            "x0d_knowledge_failures", "Incidents that could not be written to disk.", registry=self.registry
        )
        self.tls_handshakes = Counter(
            "x0d_tls_handshakes",
            "TLS connections whose peer was accepted, by the key exchange that was negotiated.",
            ["side", "group", "tls_version", "pq"],
            registry=self.registry,
        )
        self.tls_failures = Counter(
            "x0d_tls_handshake_failures",
            "Peers that were refused, by reason.",
            ["side", "reason"],
            registry=self.registry,
        )
        self.streams_revoked = Counter(
            "x0d_streams_revoked", "Streams ended because their peer is not trusted any more.", registry=self.registry
        )
        self.audit_failures = Counter(
            "x0d_audit_failures", "Audit records that could not be written.", registry=self.registry
        )
        self.descriptors_verified = Counter(
            "x0d_descriptor_verifications", "Signed descriptors, by result.", ["result"], registry=self.registry
        )
        self.descriptors_verified.labels("ok")


def configure_log(level: str, form: str) -> None:
    """Send structlog and the standard library's log to standard error.

    ``form`` is ``auto`` (text on a terminal, JSON elsewhere), ``json`` or ``text``.
    """
    as_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    last: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if as_text else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, _name_logger], processors=[_plain, last]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _name_logger(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    record = event.get("_record")
    if record is not None:
        event["logger"] = record.name
    return event


def _plain(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("_record", None)
    event.pop("_from_structlog", None)
    return event
