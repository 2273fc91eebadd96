from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetStatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatsResponse(_message.Message):
    __slots__ = ("counters", "probes", "events_sent", "events_lost", "drops", "tcp_retransmits", "tcp_resets_sent", "tcp_resets_received", "socket_states", "run_queue_latency")
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    EVENTS_SENT_FIELD_NUMBER: _ClassVar[int]
    EVENTS_LOST_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    TCP_RETRANSMITS_FIELD_NUMBER: _ClassVar[int]
    TCP_RESETS_SENT_FIELD_NUMBER: _ClassVar[int]
    TCP_RESETS_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    SOCKET_STATES_FIELD_NUMBER: _ClassVar[int]
    RUN_QUEUE_LATENCY_FIELD_NUMBER: _ClassVar[int]
    counters: _containers.RepeatedCompositeFieldContainer[PacketCounter]
    probes: _containers.RepeatedCompositeFieldContainer[ProbeCounter]
    events_sent: int
    events_lost: int
    drops: _containers.RepeatedCompositeFieldContainer[DropCounter]
    tcp_retransmits: _containers.RepeatedCompositeFieldContainer[PeerCounter]
    tcp_resets_sent: _containers.RepeatedCompositeFieldContainer[PeerCounter]
    tcp_resets_received: _containers.RepeatedCompositeFieldContainer[PeerCounter]
    socket_states: _containers.RepeatedCompositeFieldContainer[StateCounter]
    run_queue_latency: Histogram
    def __init__(self, counters: _Optional[_Iterable[_Union[PacketCounter, _Mapping]]] = ..., probes: _Optional[_Iterable[_Union[ProbeCounter, _Mapping]]] = ..., events_sent: _Optional[int] = ..., events_lost: _Optional[int] = ..., drops: _Optional[_Iterable[_Union[DropCounter, _Mapping]]] = ..., tcp_retransmits: _Optional[_Iterable[_Union[PeerCounter, _Mapping]]] = ..., tcp_resets_sent: _Optional[_Iterable[_Union[PeerCounter, _Mapping]]] = ..., tcp_resets_received: _Optional[_Iterable[_Union[PeerCounter, _Mapping]]] = ..., socket_states: _Optional[_Iterable[_Union[StateCounter, _Mapping]]] = ..., run_queue_latency: _Optional[_Union[Histogram, _Mapping]] = ...) -> None: ...

class PacketCounter(_message.Message):
    __slots__ = ("interface", "protocol_class", "verdict", "packets", "bytes")
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_CLASS_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    interface: str
    protocol_class: str
    verdict: str
    packets: int
    bytes: int
    def __init__(self, interface: _Optional[str] = ..., protocol_class: _Optional[str] = ..., verdict: _Optional[str] = ..., packets: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class ProbeCounter(_message.Message):
    __slots__ = ("interface", "event", "packets")
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    interface: str
    event: str
    packets: int
    def __init__(self, interface: _Optional[str] = ..., event: _Optional[str] = ..., packets: _Optional[int] = ...) -> None: ...

class DropCounter(_message.Message):
    __slots__ = ("reason", "packets")
    REASON_FIELD_NUMBER: _ClassVar[int]
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    packets: int
    def __init__(self, reason: _Optional[str] = ..., packets: _Optional[int] = ...) -> None: ...

class PeerCounter(_message.Message):
    __slots__ = ("prefix", "count")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    count: int
    def __init__(self, prefix: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class StateCounter(_message.Message):
    __slots__ = ("family", "from_state", "to_state", "count")
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    FROM_STATE_FIELD_NUMBER: _ClassVar[int]
    TO_STATE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    family: str
    from_state: str
    to_state: str
    count: int
    def __init__(self, family: _Optional[str] = ..., from_state: _Optional[str] = ..., to_state: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Histogram(_message.Message):
    __slots__ = ("upper_bounds", "counts", "sum")
    UPPER_BOUNDS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    upper_bounds: _containers.RepeatedScalarFieldContainer[float]
    counts: _containers.RepeatedScalarFieldContainer[int]
    sum: float
    def __init__(self, upper_bounds: _Optional[_Iterable[float]] = ..., counts: _Optional[_Iterable[int]] = ..., sum: _Optional[float] = ...) -> None: ...

class WatchStatsRequest(_message.Message):
    __slots__ = ("interval_ms",)
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    interval_ms: int
    def __init__(self, interval_ms: _Optional[int] = ...) -> None: ...

class WatchStatsResponse(_message.Message):
    __slots__ = ("stats", "at_unix_ms")
    STATS_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    stats: GetStatsResponse
    at_unix_ms: int
    def __init__(self, stats: _Optional[_Union[GetStatsResponse, _Mapping]] = ..., at_unix_ms: _Optional[int] = ...) -> None: ...

class WatchTopRequest(_message.Message):
    __slots__ = ("interval_ms", "talkers_max")
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    TALKERS_MAX_FIELD_NUMBER: _ClassVar[int]
    interval_ms: int
    talkers_max: int
    def __init__(self, interval_ms: _Optional[int] = ..., talkers_max: _Optional[int] = ...) -> None: ...

class WatchTopResponse(_message.Message):
    __slots__ = ("at_unix_ms", "interval_s", "interfaces", "verdicts", "talkers", "drops", "sources_tracked", "deny_entries", "limits")
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    INTERFACES_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    TALKERS_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_TRACKED_FIELD_NUMBER: _ClassVar[int]
    DENY_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    at_unix_ms: int
    interval_s: float
    interfaces: _containers.RepeatedCompositeFieldContainer[InterfaceRate]
    verdicts: _containers.RepeatedCompositeFieldContainer[VerdictRate]
    talkers: _containers.RepeatedCompositeFieldContainer[Talker]
    drops: _containers.RepeatedCompositeFieldContainer[DropRate]
    sources_tracked: int
    deny_entries: int
    limits: int
    def __init__(self, at_unix_ms: _Optional[int] = ..., interval_s: _Optional[float] = ..., interfaces: _Optional[_Iterable[_Union[InterfaceRate, _Mapping]]] = ..., verdicts: _Optional[_Iterable[_Union[VerdictRate, _Mapping]]] = ..., talkers: _Optional[_Iterable[_Union[Talker, _Mapping]]] = ..., drops: _Optional[_Iterable[_Union[DropRate, _Mapping]]] = ..., sources_tracked: _Optional[int] = ..., deny_entries: _Optional[int] = ..., limits: _Optional[int] = ...) -> None: ...

class InterfaceRate(_message.Message):
    __slots__ = ("interface", "mode", "packets_per_s", "bits_per_s", "dropped_per_s")
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    PACKETS_PER_S_FIELD_NUMBER: _ClassVar[int]
    BITS_PER_S_FIELD_NUMBER: _ClassVar[int]
    DROPPED_PER_S_FIELD_NUMBER: _ClassVar[int]
    interface: str
    mode: str
    packets_per_s: float
    bits_per_s: float
    dropped_per_s: float
    def __init__(self, interface: _Optional[str] = ..., mode: _Optional[str] = ..., packets_per_s: _Optional[float] = ..., bits_per_s: _Optional[float] = ..., dropped_per_s: _Optional[float] = ...) -> None: ...

class VerdictRate(_message.Message):
    __slots__ = ("verdict", "packets_per_s", "packets")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    PACKETS_PER_S_FIELD_NUMBER: _ClassVar[int]
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    verdict: str
    packets_per_s: float
    packets: int
    def __init__(self, verdict: _Optional[str] = ..., packets_per_s: _Optional[float] = ..., packets: _Optional[int] = ...) -> None: ...

class Talker(_message.Message):
    __slots__ = ("source", "packets_per_s", "bits_per_s", "limited_per_s", "packets", "bytes", "limited")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    PACKETS_PER_S_FIELD_NUMBER: _ClassVar[int]
    BITS_PER_S_FIELD_NUMBER: _ClassVar[int]
    LIMITED_PER_S_FIELD_NUMBER: _ClassVar[int]
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    LIMITED_FIELD_NUMBER: _ClassVar[int]
    source: str
    packets_per_s: float
    bits_per_s: float
    limited_per_s: float
    packets: int
    bytes: int
    limited: int
    def __init__(self, source: _Optional[str] = ..., packets_per_s: _Optional[float] = ..., bits_per_s: _Optional[float] = ..., limited_per_s: _Optional[float] = ..., packets: _Optional[int] = ..., bytes: _Optional[int] = ..., limited: _Optional[int] = ...) -> None: ...

class DropRate(_message.Message):
    __slots__ = ("reason", "packets_per_s", "packets")
    REASON_FIELD_NUMBER: _ClassVar[int]
    PACKETS_PER_S_FIELD_NUMBER: _ClassVar[int]
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    packets_per_s: float
    packets: int
    def __init__(self, reason: _Optional[str] = ..., packets_per_s: _Optional[float] = ..., packets: _Optional[int] = ...) -> None: ...

class WatchEventsRequest(_message.Message):
    __slots__ = ("verdicts",)
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    verdicts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, verdicts: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchEventsResponse(_message.Message):
    __slots__ = ("events", "events_lost", "sample_every")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_LOST_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_EVERY_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[PacketEvent]
    events_lost: int
    sample_every: int
    def __init__(self, events: _Optional[_Iterable[_Union[PacketEvent, _Mapping]]] = ..., events_lost: _Optional[int] = ..., sample_every: _Optional[int] = ...) -> None: ...

class PacketEvent(_message.Message):
    __slots__ = ("at_unix_ms", "interface", "source", "destination", "source_port", "destination_port", "protocol", "protocol_class", "verdict", "length", "vlan_tags")
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PORT_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_PORT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_CLASS_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    VLAN_TAGS_FIELD_NUMBER: _ClassVar[int]
    at_unix_ms: int
    interface: str
    source: str
    destination: str
    source_port: int
    destination_port: int
    protocol: int
    protocol_class: str
    verdict: str
    length: int
    vlan_tags: int
    def __init__(self, at_unix_ms: _Optional[int] = ..., interface: _Optional[str] = ..., source: _Optional[str] = ..., destination: _Optional[str] = ..., source_port: _Optional[int] = ..., destination_port: _Optional[int] = ..., protocol: _Optional[int] = ..., protocol_class: _Optional[str] = ..., verdict: _Optional[str] = ..., length: _Optional[int] = ..., vlan_tags: _Optional[int] = ...) -> None: ...

class ListProgramsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListProgramsResponse(_message.Message):
    __slots__ = ("programs", "maps", "objects", "attachments")
    PROGRAMS_FIELD_NUMBER: _ClassVar[int]
    MAPS_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    ATTACHMENTS_FIELD_NUMBER: _ClassVar[int]
    programs: _containers.RepeatedCompositeFieldContainer[Program]
    maps: _containers.RepeatedCompositeFieldContainer[Map]
    objects: _containers.RepeatedCompositeFieldContainer[ObjectFile]
    attachments: _containers.RepeatedCompositeFieldContainer[Attachment]
    def __init__(self, programs: _Optional[_Iterable[_Union[Program, _Mapping]]] = ..., maps: _Optional[_Iterable[_Union[Map, _Mapping]]] = ..., objects: _Optional[_Iterable[_Union[ObjectFile, _Mapping]]] = ..., attachments: _Optional[_Iterable[_Union[Attachment, _Mapping]]] = ...) -> None: ...

class Program(_message.Message):
    __slots__ = ("name", "object", "kind", "state", "reason", "errno_name", "log_tail", "id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ERRNO_NAME_FIELD_NUMBER: _ClassVar[int]
    LOG_TAIL_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    object: str
    kind: str
    state: str
    reason: str
    errno_name: str
    log_tail: str
    id: int
    def __init__(self, name: _Optional[str] = ..., object: _Optional[str] = ..., kind: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., errno_name: _Optional[str] = ..., log_tail: _Optional[str] = ..., id: _Optional[int] = ...) -> None: ...

class Map(_message.Message):
    __slots__ = ("name", "type", "entries_max", "memory_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_MAX_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    entries_max: int
    memory_bytes: int
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., entries_max: _Optional[int] = ..., memory_bytes: _Optional[int] = ...) -> None: ...

class ObjectFile(_message.Message):
    __slots__ = ("path", "sha256", "license", "layout_version", "has_btf", "loaded_at_unix_ms")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    LICENSE_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_VERSION_FIELD_NUMBER: _ClassVar[int]
    HAS_BTF_FIELD_NUMBER: _ClassVar[int]
    LOADED_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    path: str
    sha256: str
    license: str
    layout_version: int
    has_btf: bool
    loaded_at_unix_ms: int
    def __init__(self, path: _Optional[str] = ..., sha256: _Optional[str] = ..., license: _Optional[str] = ..., layout_version: _Optional[int] = ..., has_btf: _Optional[bool] = ..., loaded_at_unix_ms: _Optional[int] = ...) -> None: ...

class Attachment(_message.Message):
    __slots__ = ("interface", "ifindex", "mode", "frags", "adopted", "state", "reason")
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    IFINDEX_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    FRAGS_FIELD_NUMBER: _ClassVar[int]
    ADOPTED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    interface: str
    ifindex: int
    mode: str
    frags: bool
    adopted: bool
    state: str
    reason: str
    def __init__(self, interface: _Optional[str] = ..., ifindex: _Optional[int] = ..., mode: _Optional[str] = ..., frags: _Optional[bool] = ..., adopted: _Optional[bool] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class UpgradeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UpgradeResponse(_message.Message):
    __slots__ = ("replaced", "programs", "took_ms", "objects_changed")
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    PROGRAMS_FIELD_NUMBER: _ClassVar[int]
    TOOK_MS_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_CHANGED_FIELD_NUMBER: _ClassVar[int]
    replaced: _containers.RepeatedScalarFieldContainer[str]
    programs: _containers.RepeatedCompositeFieldContainer[Program]
    took_ms: float
    objects_changed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, replaced: _Optional[_Iterable[str]] = ..., programs: _Optional[_Iterable[_Union[Program, _Mapping]]] = ..., took_ms: _Optional[float] = ..., objects_changed: _Optional[_Iterable[str]] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("interfaces", "all")
    INTERFACES_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    interfaces: _containers.RepeatedScalarFieldContainer[str]
    all: bool
    def __init__(self, interfaces: _Optional[_Iterable[str]] = ..., all: _Optional[bool] = ...) -> None: ...

class AttachResponse(_message.Message):
    __slots__ = ("attachments",)
    ATTACHMENTS_FIELD_NUMBER: _ClassVar[int]
    attachments: _containers.RepeatedCompositeFieldContainer[Attachment]
    def __init__(self, attachments: _Optional[_Iterable[_Union[Attachment, _Mapping]]] = ...) -> None: ...

class DetachRequest(_message.Message):
    __slots__ = ("interfaces", "all")
    INTERFACES_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    interfaces: _containers.RepeatedScalarFieldContainer[str]
    all: bool
    def __init__(self, interfaces: _Optional[_Iterable[str]] = ..., all: _Optional[bool] = ...) -> None: ...

class DetachResponse(_message.Message):
    __slots__ = ("attachments",)
    ATTACHMENTS_FIELD_NUMBER: _ClassVar[int]
    attachments: _containers.RepeatedCompositeFieldContainer[Attachment]
    def __init__(self, attachments: _Optional[_Iterable[_Union[Attachment, _Mapping]]] = ...) -> None: ...

class TraceRequest(_message.Message):
    __slots__ = ("program", "duration_s", "sample_every")
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_EVERY_FIELD_NUMBER: _ClassVar[int]
    program: str
    duration_s: int
    sample_every: int
    def __init__(self, program: _Optional[str] = ..., duration_s: _Optional[int] = ..., sample_every: _Optional[int] = ...) -> None: ...

class TraceResponse(_message.Message):
    __slots__ = ("elapsed_s", "done", "total", "syscalls")
    ELAPSED_S_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    SYSCALLS_FIELD_NUMBER: _ClassVar[int]
    elapsed_s: float
    done: bool
    total: Histogram
    syscalls: _containers.RepeatedCompositeFieldContainer[SyscallLatency]
    def __init__(self, elapsed_s: _Optional[float] = ..., done: _Optional[bool] = ..., total: _Optional[_Union[Histogram, _Mapping]] = ..., syscalls: _Optional[_Iterable[_Union[SyscallLatency, _Mapping]]] = ...) -> None: ...

class SyscallLatency(_message.Message):
    __slots__ = ("name", "count", "mean_s", "p99_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    MEAN_S_FIELD_NUMBER: _ClassVar[int]
    P99_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    count: int
    mean_s: float
    p99_s: float
    def __init__(self, name: _Optional[str] = ..., count: _Optional[int] = ..., mean_s: _Optional[float] = ..., p99_s: _Optional[float] = ...) -> None: ...

class DenyEntry(_message.Message):
    __slots__ = ("prefix", "expires_at_unix_ms", "comment", "hits")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    expires_at_unix_ms: int
    comment: str
    hits: int
    def __init__(self, prefix: _Optional[str] = ..., expires_at_unix_ms: _Optional[int] = ..., comment: _Optional[str] = ..., hits: _Optional[int] = ...) -> None: ...

class Guard(_message.Message):
    __slots__ = ("force", "caller_addresses")
    FORCE_FIELD_NUMBER: _ClassVar[int]
    CALLER_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    force: bool
    caller_addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, force: _Optional[bool] = ..., caller_addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class ListDenyRequest(_message.Message):
    __slots__ = ("match",)
    MATCH_FIELD_NUMBER: _ClassVar[int]
    match: str
    def __init__(self, match: _Optional[str] = ...) -> None: ...

class ListDenyResponse(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[DenyEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[DenyEntry, _Mapping]]] = ...) -> None: ...

class AddDenyRequest(_message.Message):
    __slots__ = ("prefixes", "duration_s", "comment", "guard")
    PREFIXES_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    GUARD_FIELD_NUMBER: _ClassVar[int]
    prefixes: _containers.RepeatedScalarFieldContainer[str]
    duration_s: int
    comment: str
    guard: Guard
    def __init__(self, prefixes: _Optional[_Iterable[str]] = ..., duration_s: _Optional[int] = ..., comment: _Optional[str] = ..., guard: _Optional[_Union[Guard, _Mapping]] = ...) -> None: ...

class AddDenyResponse(_message.Message):
    __slots__ = ("entries", "warnings")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[DenyEntry]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, entries: _Optional[_Iterable[_Union[DenyEntry, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class RemoveDenyRequest(_message.Message):
    __slots__ = ("prefixes",)
    PREFIXES_FIELD_NUMBER: _ClassVar[int]
    prefixes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, prefixes: _Optional[_Iterable[str]] = ...) -> None: ...

class RemoveDenyResponse(_message.Message):
    __slots__ = ("removed", "not_there")
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    NOT_THERE_FIELD_NUMBER: _ClassVar[int]
    removed: int
    not_there: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, removed: _Optional[int] = ..., not_there: _Optional[_Iterable[str]] = ...) -> None: ...

class LoadDenyRequest(_message.Message):
    __slots__ = ("header", "lines", "end")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    header: LoadDenyHeader
    lines: str
    end: LoadDenyEnd
    def __init__(self, header: _Optional[_Union[LoadDenyHeader, _Mapping]] = ..., lines: _Optional[str] = ..., end: _Optional[_Union[LoadDenyEnd, _Mapping]] = ...) -> None: ...

class LoadDenyHeader(_message.Message):
    __slots__ = ("name", "guard", "dry_run")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GUARD_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    name: str
    guard: Guard
    dry_run: bool
    def __init__(self, name: _Optional[str] = ..., guard: _Optional[_Union[Guard, _Mapping]] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class LoadDenyEnd(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LoadDenyResponse(_message.Message):
    __slots__ = ("phase", "lines", "entries", "added", "removed", "duplicates", "took_ms", "warnings")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    TOOK_MS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    phase: str
    lines: int
    entries: int
    added: int
    removed: int
    duplicates: int
    took_ms: float
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, phase: _Optional[str] = ..., lines: _Optional[int] = ..., entries: _Optional[int] = ..., added: _Optional[int] = ..., removed: _Optional[int] = ..., duplicates: _Optional[int] = ..., took_ms: _Optional[float] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class Limit(_message.Message):
    __slots__ = ("prefix", "rate_pps", "burst", "expires_at_unix_ms", "comment", "hits")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    RATE_PPS_FIELD_NUMBER: _ClassVar[int]
    BURST_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    rate_pps: int
    burst: int
    expires_at_unix_ms: int
    comment: str
    hits: int
    def __init__(self, prefix: _Optional[str] = ..., rate_pps: _Optional[int] = ..., burst: _Optional[int] = ..., expires_at_unix_ms: _Optional[int] = ..., comment: _Optional[str] = ..., hits: _Optional[int] = ...) -> None: ...

class ListLimitsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListLimitsResponse(_message.Message):
    __slots__ = ("limits",)
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    limits: _containers.RepeatedCompositeFieldContainer[Limit]
    def __init__(self, limits: _Optional[_Iterable[_Union[Limit, _Mapping]]] = ...) -> None: ...

class AddLimitRequest(_message.Message):
    __slots__ = ("prefix", "rate_pps", "burst", "duration_s", "comment", "guard")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    RATE_PPS_FIELD_NUMBER: _ClassVar[int]
    BURST_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    GUARD_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    rate_pps: int
    burst: int
    duration_s: int
    comment: str
    guard: Guard
    def __init__(self, prefix: _Optional[str] = ..., rate_pps: _Optional[int] = ..., burst: _Optional[int] = ..., duration_s: _Optional[int] = ..., comment: _Optional[str] = ..., guard: _Optional[_Union[Guard, _Mapping]] = ...) -> None: ...

class AddLimitResponse(_message.Message):
    __slots__ = ("limit", "warnings")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    limit: Limit
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, limit: _Optional[_Union[Limit, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class RemoveLimitRequest(_message.Message):
    __slots__ = ("prefixes",)
    PREFIXES_FIELD_NUMBER: _ClassVar[int]
    prefixes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, prefixes: _Optional[_Iterable[str]] = ...) -> None: ...

class RemoveLimitResponse(_message.Message):
    __slots__ = ("removed", "not_there")
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    NOT_THERE_FIELD_NUMBER: _ClassVar[int]
    removed: int
    not_there: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, removed: _Optional[int] = ..., not_there: _Optional[_Iterable[str]] = ...) -> None: ...
