from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("node", "version", "phase", "config_file", "started_at_unix_ms", "uptime_s", "pid", "healing_mode", "notices", "alerts", "interfaces", "links_up", "links_total", "nodes_known", "routes_installed", "incidents_open", "starting_step", "spiffe_id", "svid_not_after_unix_ms")
    NODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FILE_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    HEALING_MODE_FIELD_NUMBER: _ClassVar[int]
    NOTICES_FIELD_NUMBER: _ClassVar[int]
    ALERTS_FIELD_NUMBER: _ClassVar[int]
    INTERFACES_FIELD_NUMBER: _ClassVar[int]
    LINKS_UP_FIELD_NUMBER: _ClassVar[int]
    LINKS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    NODES_KNOWN_FIELD_NUMBER: _ClassVar[int]
    ROUTES_INSTALLED_FIELD_NUMBER: _ClassVar[int]
    INCIDENTS_OPEN_FIELD_NUMBER: _ClassVar[int]
    STARTING_STEP_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    SVID_NOT_AFTER_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    node: str
    version: str
    phase: str
    config_file: str
    started_at_unix_ms: int
    uptime_s: float
    pid: int
    healing_mode: str
    notices: _containers.RepeatedScalarFieldContainer[str]
    alerts: _containers.RepeatedScalarFieldContainer[str]
    interfaces: _containers.RepeatedCompositeFieldContainer[InterfaceStatus]
    links_up: int
    links_total: int
    nodes_known: int
    routes_installed: int
    incidents_open: int
    starting_step: str
    spiffe_id: str
    svid_not_after_unix_ms: int
    def __init__(self, node: _Optional[str] = ..., version: _Optional[str] = ..., phase: _Optional[str] = ..., config_file: _Optional[str] = ..., started_at_unix_ms: _Optional[int] = ..., uptime_s: _Optional[float] = ..., pid: _Optional[int] = ..., healing_mode: _Optional[str] = ..., notices: _Optional[_Iterable[str]] = ..., alerts: _Optional[_Iterable[str]] = ..., interfaces: _Optional[_Iterable[_Union[InterfaceStatus, _Mapping]]] = ..., links_up: _Optional[int] = ..., links_total: _Optional[int] = ..., nodes_known: _Optional[int] = ..., routes_installed: _Optional[int] = ..., incidents_open: _Optional[int] = ..., starting_step: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., svid_not_after_unix_ms: _Optional[int] = ...) -> None: ...

class InterfaceStatus(_message.Message):
    __slots__ = ("name", "ifindex", "state", "mode", "adopted", "refused_modes", "blocked_reason", "frags")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IFINDEX_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ADOPTED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_MODES_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_REASON_FIELD_NUMBER: _ClassVar[int]
    FRAGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    ifindex: int
    state: str
    mode: str
    adopted: bool
    refused_modes: _containers.RepeatedCompositeFieldContainer[RefusedMode]
    blocked_reason: str
    frags: bool
    def __init__(self, name: _Optional[str] = ..., ifindex: _Optional[int] = ..., state: _Optional[str] = ..., mode: _Optional[str] = ..., adopted: _Optional[bool] = ..., refused_modes: _Optional[_Iterable[_Union[RefusedMode, _Mapping]]] = ..., blocked_reason: _Optional[str] = ..., frags: _Optional[bool] = ...) -> None: ...

class RefusedMode(_message.Message):
    __slots__ = ("mode", "errno", "errno_name")
    MODE_FIELD_NUMBER: _ClassVar[int]
    ERRNO_FIELD_NUMBER: _ClassVar[int]
    ERRNO_NAME_FIELD_NUMBER: _ClassVar[int]
    mode: str
    errno: int
    errno_name: str
    def __init__(self, mode: _Optional[str] = ..., errno: _Optional[int] = ..., errno_name: _Optional[str] = ...) -> None: ...

class ReloadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadResponse(_message.Message):
    __slots__ = ("applied", "needs_restart")
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    NEEDS_RESTART_FIELD_NUMBER: _ClassVar[int]
    applied: _containers.RepeatedScalarFieldContainer[str]
    needs_restart: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, applied: _Optional[_Iterable[str]] = ..., needs_restart: _Optional[_Iterable[str]] = ...) -> None: ...

class RunDoctorRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RunDoctorResponse(_message.Message):
    __slots__ = ("kernel_release", "uid", "capabilities", "checks", "capabilities_summary")
    KERNEL_RELEASE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_SUMMARY_FIELD_NUMBER: _ClassVar[int]
    kernel_release: str
    uid: int
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    checks: _containers.RepeatedCompositeFieldContainer[DoctorCheck]
    capabilities_summary: str
    def __init__(self, kernel_release: _Optional[str] = ..., uid: _Optional[int] = ..., capabilities: _Optional[_Iterable[str]] = ..., checks: _Optional[_Iterable[_Union[DoctorCheck, _Mapping]]] = ..., capabilities_summary: _Optional[str] = ...) -> None: ...

class DoctorCheck(_message.Message):
    __slots__ = ("name", "outcome", "detail", "remedy")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    name: str
    outcome: str
    detail: str
    remedy: str
    def __init__(self, name: _Optional[str] = ..., outcome: _Optional[str] = ..., detail: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...
