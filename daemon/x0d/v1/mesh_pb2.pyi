from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListLinksRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListLinksResponse(_message.Message):
    __slots__ = ("links",)
    LINKS_FIELD_NUMBER: _ClassVar[int]
    links: _containers.RepeatedCompositeFieldContainer[Link]
    def __init__(self, links: _Optional[_Iterable[_Union[Link, _Mapping]]] = ...) -> None: ...

class Link(_message.Message):
    __slots__ = ("link", "neighbour", "interface", "local_address", "neighbour_address", "state", "state_reason", "cost_configured", "cost", "rtt_ms", "loss_out", "loss_in", "probes_sent", "replies_received", "generation", "state_for_s")
    LINK_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOUR_FIELD_NUMBER: _ClassVar[int]
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    LOCAL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOUR_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    COST_CONFIGURED_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    RTT_MS_FIELD_NUMBER: _ClassVar[int]
    LOSS_OUT_FIELD_NUMBER: _ClassVar[int]
    LOSS_IN_FIELD_NUMBER: _ClassVar[int]
    PROBES_SENT_FIELD_NUMBER: _ClassVar[int]
    REPLIES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FOR_S_FIELD_NUMBER: _ClassVar[int]
    link: str
    neighbour: str
    interface: str
    local_address: str
    neighbour_address: str
    state: str
    state_reason: str
    cost_configured: int
    cost: int
    rtt_ms: float
    loss_out: float
    loss_in: float
    probes_sent: int
    replies_received: int
    generation: int
    state_for_s: float
    def __init__(self, link: _Optional[str] = ..., neighbour: _Optional[str] = ..., interface: _Optional[str] = ..., local_address: _Optional[str] = ..., neighbour_address: _Optional[str] = ..., state: _Optional[str] = ..., state_reason: _Optional[str] = ..., cost_configured: _Optional[int] = ..., cost: _Optional[int] = ..., rtt_ms: _Optional[float] = ..., loss_out: _Optional[float] = ..., loss_in: _Optional[float] = ..., probes_sent: _Optional[int] = ..., replies_received: _Optional[int] = ..., generation: _Optional[int] = ..., state_for_s: _Optional[float] = ...) -> None: ...

class ListNodesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListNodesResponse(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    def __init__(self, nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("node", "prefixes", "incarnation", "sequence", "no_transit", "control_gone", "reachable", "age_s", "adjacencies")
    NODE_FIELD_NUMBER: _ClassVar[int]
    PREFIXES_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NO_TRANSIT_FIELD_NUMBER: _ClassVar[int]
    CONTROL_GONE_FIELD_NUMBER: _ClassVar[int]
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    ADJACENCIES_FIELD_NUMBER: _ClassVar[int]
    node: str
    prefixes: _containers.RepeatedScalarFieldContainer[str]
    incarnation: int
    sequence: int
    no_transit: bool
    control_gone: bool
    reachable: bool
    age_s: float
    adjacencies: _containers.RepeatedCompositeFieldContainer[Adjacency]
    def __init__(self, node: _Optional[str] = ..., prefixes: _Optional[_Iterable[str]] = ..., incarnation: _Optional[int] = ..., sequence: _Optional[int] = ..., no_transit: _Optional[bool] = ..., control_gone: _Optional[bool] = ..., reachable: _Optional[bool] = ..., age_s: _Optional[float] = ..., adjacencies: _Optional[_Iterable[_Union[Adjacency, _Mapping]]] = ...) -> None: ...

class Adjacency(_message.Message):
    __slots__ = ("link", "neighbour", "cost", "state", "generation")
    LINK_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOUR_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    link: str
    neighbour: str
    cost: int
    state: str
    generation: int
    def __init__(self, link: _Optional[str] = ..., neighbour: _Optional[str] = ..., cost: _Optional[int] = ..., state: _Optional[str] = ..., generation: _Optional[int] = ...) -> None: ...

class ListRoutesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRoutesResponse(_message.Message):
    __slots__ = ("routes",)
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    def __init__(self, routes: _Optional[_Iterable[_Union[Route, _Mapping]]] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ("prefix", "node", "next_hop", "gateway", "interface", "metric", "nexthop_id", "installed")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    NEXT_HOP_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    NEXTHOP_ID_FIELD_NUMBER: _ClassVar[int]
    INSTALLED_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    node: str
    next_hop: str
    gateway: str
    interface: str
    metric: int
    nexthop_id: int
    installed: bool
    def __init__(self, prefix: _Optional[str] = ..., node: _Optional[str] = ..., next_hop: _Optional[str] = ..., gateway: _Optional[str] = ..., interface: _Optional[str] = ..., metric: _Optional[int] = ..., nexthop_id: _Optional[int] = ..., installed: _Optional[bool] = ...) -> None: ...
