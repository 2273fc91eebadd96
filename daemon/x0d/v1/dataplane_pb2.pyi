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
    __slots__ = ("counters", "probes")
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    counters: _containers.RepeatedCompositeFieldContainer[PacketCounter]
    probes: _containers.RepeatedCompositeFieldContainer[ProbeCounter]
    def __init__(self, counters: _Optional[_Iterable[_Union[PacketCounter, _Mapping]]] = ..., probes: _Optional[_Iterable[_Union[ProbeCounter, _Mapping]]] = ...) -> None: ...

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
