"""What the services need from the outside world, as Protocols.  Adapters satisfy them; so do the fakes.

Methods that may take longer than some microseconds are coroutines: their adapters work in a thread
of their own.  Plain methods are safe to call on the event loop.
"""

from x0d.ports.audit import Auditor, AuditRecord, AuditStore, Change
from x0d.ports.identity import KeyOffer, PeerChannel, PeerTarget, SvidSource, SvidStatus, TrustBundle
from x0d.ports.knowledge import KnowledgeStore
from x0d.ports.network import Clock, DatagramSocket, Interface, InterfaceEvent, InterfaceSource, RouteTable
from x0d.ports.plane import (
    Attachment,
    DataPlane,
    MapStatus,
    ObjectStatus,
    PacketCounter,
    PlaneSample,
    ProbeCounter,
    ProgramStatus,
    RefusedMode,
    SynGuard,
    Upgraded,
)
from x0d.ports.policy import LimitRate, PacketEvent, PacketEvents, PolicyPlane, PolicyStore, Source
from x0d.ports.tracing import Log2Histogram, Tracer, TraceSample

__all__ = [
    "Attachment",
    "AuditRecord",
    "AuditStore",
    "Auditor",
    "Change",
    "Clock",
    "DataPlane",
    "DatagramSocket",
    "Interface",
    "InterfaceEvent",
    "InterfaceSource",
    "KeyOffer",
    "KnowledgeStore",
    "LimitRate",
    "Log2Histogram",
    "MapStatus",
    "ObjectStatus",
    "PacketCounter",
    "PacketEvent",
    "PacketEvents",
    "PeerChannel",
    "PeerTarget",
    "PlaneSample",
    "PolicyPlane",
    "PolicyStore",
    "ProbeCounter",
    "ProgramStatus",
    "RefusedMode",
    "RouteTable",
    "Source",
    "SvidSource",
    "SvidStatus",
    "SynGuard",
    "TraceSample",
    "Tracer",
    "TrustBundle",
    "Upgraded",
]
