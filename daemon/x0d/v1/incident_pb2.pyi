from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListIncidentsRequest(_message.Message):
    __slots__ = ("limit", "open_only")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    OPEN_ONLY_FIELD_NUMBER: _ClassVar[int]
    limit: int
    open_only: bool
    def __init__(self, limit: _Optional[int] = ..., open_only: _Optional[bool] = ...) -> None: ...

class ListIncidentsResponse(_message.Message):
    __slots__ = ("incidents",)
    INCIDENTS_FIELD_NUMBER: _ClassVar[int]
    incidents: _containers.RepeatedCompositeFieldContainer[Incident]
    def __init__(self, incidents: _Optional[_Iterable[_Union[Incident, _Mapping]]] = ...) -> None: ...

class GetIncidentRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetIncidentResponse(_message.Message):
    __slots__ = ("incident",)
    INCIDENT_FIELD_NUMBER: _ClassVar[int]
    incident: Incident
    def __init__(self, incident: _Optional[_Union[Incident, _Mapping]] = ...) -> None: ...

class WatchIncidentsRequest(_message.Message):
    __slots__ = ("include_open",)
    INCLUDE_OPEN_FIELD_NUMBER: _ClassVar[int]
    include_open: bool
    def __init__(self, include_open: _Optional[bool] = ...) -> None: ...

class WatchIncidentsResponse(_message.Message):
    __slots__ = ("incident",)
    INCIDENT_FIELD_NUMBER: _ClassVar[int]
    incident: Incident
    def __init__(self, incident: _Optional[_Union[Incident, _Mapping]] = ...) -> None: ...

class Incident(_message.Message):
    __slots__ = ("id", "link", "generation", "cause", "explanation", "state", "role", "opened_at_unix_ms", "closed_at_unix_ms", "evidence", "steps", "actions", "packets_lost", "probes_lost", "healing_mode")
    ID_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    OPENED_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    CLOSED_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    PACKETS_LOST_FIELD_NUMBER: _ClassVar[int]
    PROBES_LOST_FIELD_NUMBER: _ClassVar[int]
    HEALING_MODE_FIELD_NUMBER: _ClassVar[int]
    id: str
    link: str
    generation: int
    cause: str
    explanation: str
    state: str
    role: str
    opened_at_unix_ms: int
    closed_at_unix_ms: int
    evidence: _containers.RepeatedCompositeFieldContainer[Evidence]
    steps: _containers.RepeatedCompositeFieldContainer[IncidentStep]
    actions: _containers.RepeatedCompositeFieldContainer[ActionRecord]
    packets_lost: int
    probes_lost: int
    healing_mode: str
    def __init__(self, id: _Optional[str] = ..., link: _Optional[str] = ..., generation: _Optional[int] = ..., cause: _Optional[str] = ..., explanation: _Optional[str] = ..., state: _Optional[str] = ..., role: _Optional[str] = ..., opened_at_unix_ms: _Optional[int] = ..., closed_at_unix_ms: _Optional[int] = ..., evidence: _Optional[_Iterable[_Union[Evidence, _Mapping]]] = ..., steps: _Optional[_Iterable[_Union[IncidentStep, _Mapping]]] = ..., actions: _Optional[_Iterable[_Union[ActionRecord, _Mapping]]] = ..., packets_lost: _Optional[int] = ..., probes_lost: _Optional[int] = ..., healing_mode: _Optional[str] = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("at_unix_ms", "kind", "detail")
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    at_unix_ms: int
    kind: str
    detail: str
    def __init__(self, at_unix_ms: _Optional[int] = ..., kind: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class IncidentStep(_message.Message):
    __slots__ = ("step", "duration_ms", "since_fault_ms", "detail")
    STEP_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    SINCE_FAULT_MS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    step: str
    duration_ms: float
    since_fault_ms: float
    detail: str
    def __init__(self, step: _Optional[str] = ..., duration_ms: _Optional[float] = ..., since_fault_ms: _Optional[float] = ..., detail: _Optional[str] = ...) -> None: ...

class ActionRecord(_message.Message):
    __slots__ = ("action", "detail", "precondition", "expected_effect", "undo", "outcome", "error", "at_unix_ms", "duration_ms")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    PRECONDITION_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_EFFECT_FIELD_NUMBER: _ClassVar[int]
    UNDO_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    action: str
    detail: str
    precondition: str
    expected_effect: str
    undo: str
    outcome: str
    error: str
    at_unix_ms: int
    duration_ms: float
    def __init__(self, action: _Optional[str] = ..., detail: _Optional[str] = ..., precondition: _Optional[str] = ..., expected_effect: _Optional[str] = ..., undo: _Optional[str] = ..., outcome: _Optional[str] = ..., error: _Optional[str] = ..., at_unix_ms: _Optional[int] = ..., duration_ms: _Optional[float] = ...) -> None: ...
