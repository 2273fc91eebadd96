"""What the data plane's part of the API shows: frozen data with the field names of the protos, and its views.

A name of an interface, a reason or an address is text here; whoever implements a view has resolved it.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

# ---- counters ----


@dataclass(frozen=True, slots=True)
class PacketCounter:
    """Packets of one class and verdict on one interface."""

    interface: str
    protocol_class: str
    verdict: str
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ProbeCounter:
    """What happened to probes on one interface."""

    interface: str
    event: str
    packets: int


@dataclass(frozen=True, slots=True)
class DropCounter:
    """Packets that the kernel dropped for one reason."""

    reason: str
    """In lower case, such as ``no_socket``."""
    packets: int


@dataclass(frozen=True, slots=True)
class PeerCounter:
    """TCP events of the peers in one prefix."""

    prefix: str
    """A /24 or /48, or ``other``."""
    count: int


@dataclass(frozen=True, slots=True)
class StateCounter:
    """How often TCP sockets went from one state to another."""

    family: str
    from_state: str
    to_state: str
    count: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations by bucket."""

    upper_bounds: Sequence[float]
    """Seconds, ascending; the last is infinite."""
    counts: Sequence[int]
    """Observations in each bucket, not cumulative; as many as ``upper_bounds``."""
    sum: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Every counter in one pass; those that are 0 are left out."""

    counters: Sequence[PacketCounter]
    probes: Sequence[ProbeCounter]
    events_sent: int = 0
    events_lost: int = 0
    drops: Sequence[DropCounter] = ()
    tcp_retransmits: Sequence[PeerCounter] = ()
    tcp_resets_sent: Sequence[PeerCounter] = ()
    tcp_resets_received: Sequence[PeerCounter] = ()
    socket_states: Sequence[StateCounter] = ()
    run_queue_latency: Histogram | None = None
    """None: not measured."""


# ---- what is busiest ----


@dataclass(frozen=True, slots=True)
class InterfaceRate:
    interface: str
    mode: str
    packets_per_s: float
    bits_per_s: float
    dropped_per_s: float


@dataclass(frozen=True, slots=True)
class VerdictRate:
    verdict: str
    packets_per_s: float
    packets: int


@dataclass(frozen=True, slots=True)
class Talker:
    """A source address, by what it sends."""

    source: str
    packets_per_s: float
    bits_per_s: float
    limited_per_s: float
    packets: int
    bytes: int
    limited: int


@dataclass(frozen=True, slots=True)
class DropRate:
    reason: str
    packets_per_s: float
    packets: int


@dataclass(frozen=True, slots=True)
class Top:
    """What is busiest now; each table with its busiest row first."""

    at_unix_ms: int
    interval_s: float
    """Measured since the previous call; 0 in the first, whose rates are 0."""
    interfaces: Sequence[InterfaceRate]
    verdicts: Sequence[VerdictRate]
    talkers: Sequence[Talker]
    drops: Sequence[DropRate]
    sources_tracked: int
    deny_entries: int
    limits: int


class TopReader(Protocol):
    """One watcher's measurement."""

    async def next(self, talkers_max: int) -> Top:
        """Measure since the previous call.  Raises KernelRefused."""


# ---- events ----


@dataclass(frozen=True, slots=True)
class PacketEvent:
    """A sampled packet."""

    at_unix_ms: int
    interface: str
    source: str
    """Empty if the packet was not IP."""
    destination: str
    source_port: int
    destination_port: int
    protocol: int
    protocol_class: str
    verdict: str
    length: int
    vlan_tags: int


# ---- programs ----


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    object: str
    """``xdp`` or ``trace``."""
    kind: str
    """``root``, ``stage`` or ``tracepoint``."""
    state: str
    """``loaded``, ``refused`` or ``off``."""
    reason: str = ""
    errno_name: str = ""
    log_tail: str = ""
    id: int = 0


@dataclass(frozen=True, slots=True)
class Map:
    name: str
    type: str
    entries_max: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class ObjectFile:
    path: str
    sha256: str
    license: str
    layout_version: int
    has_btf: bool
    loaded_at_unix_ms: int


@dataclass(frozen=True, slots=True)
class AttachmentStatus:
    interface: str
    ifindex: int
    """0 while it does not exist."""
    mode: str
    """``native``, ``skb``, ``hardware`` or empty."""
    frags: bool
    adopted: bool
    state: str
    """``waiting``, ``attached``, ``blocked`` or ``detached``."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Programs:
    """What is loaded, what it takes and where it is attached."""

    programs: Sequence[Program]
    maps: Sequence[Map]
    objects: Sequence[ObjectFile]
    attachments: Sequence[AttachmentStatus]


@dataclass(frozen=True, slots=True)
class UpgradeResult:
    replaced: Sequence[str]
    """Names of the programs that are others now."""
    programs: Sequence[Program]
    took_ms: float
    objects_changed: Sequence[str] = ()
    """Paths of the objects whose bytes are others than before."""


class DataplaneView(Protocol):
    """Counters, programs and attachments."""

    async def stats(self) -> Stats:
        """Read every counter.  Raises KernelRefused."""

    def top(self) -> TopReader:
        """Start a measurement for one watcher; it needs no end."""

    def subscribe_events(self, on_events: Callable[[Sequence[PacketEvent]], None]) -> Callable[[], None]:
        """Call back on the event loop with what XDP has sampled, while subscribed.

        Returns what ends the subscription; calling it twice does nothing.
        """

    @property
    def event_sample_every(self) -> int:
        """One packet in so many becomes an event."""

    def events_lost(self) -> int:
        """Events that found no room in the kernel's buffer, since the maps were made."""

    async def programs(self) -> Programs:
        """Every program, map, object and attachment.  Raises KernelRefused."""

    async def upgrade(self) -> UpgradeResult:
        """Put the objects on disk in force, all or nothing.  Raises InvalidInput, KernelRefused, Busy."""

    async def attach(self, names: Sequence[str], *, everything: bool) -> Sequence[AttachmentStatus]:
        """Take up interfaces that ``detach`` has left; answers how those named stand.

        Raises:
            NotThere: a name is not in the configuration; nothing has changed.
        """

    async def detach(self, names: Sequence[str], *, everything: bool) -> Sequence[AttachmentStatus]:
        """Leave interfaces; ``everything``: with every program, pin and map.  Raises as ``attach``, KernelRefused."""


# ---- tracing ----


@dataclass(frozen=True, slots=True)
class SyscallLatency:
    name: str
    count: int
    mean_s: float
    p99_s: float
    """Upper bound of the bucket that holds it."""


@dataclass(frozen=True, slots=True)
class TraceProgress:
    """A measurement so far."""

    elapsed_s: float
    done: bool
    total: Histogram | None
    syscalls: Sequence[SyscallLatency]
    """The slowest in sum first, at most 20."""


class TracingView(Protocol):
    """Measurements that cost too much to run always."""

    def trace(self, duration_s: float, sample_every: int) -> AsyncGenerator[TraceProgress, None]:
        """Measure system calls; gives a progress about once a second and ends with one that is ``done``.

        Closing the generator early ends the measurement.

        Raises:
            Busy: a measurement is under way.
            KernelRefused, NotSupported: it cannot be loaded here.
        """
