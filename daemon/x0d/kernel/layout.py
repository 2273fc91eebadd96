"""What the kernel programs and the daemon share: the Python side of ``ebpf/x0d.h``.

Each structure of a map or packet is a ``struct.Struct`` whose size is asserted here, as the C side
asserts it there, and a pair of functions that makes or reads it.  Integers of maps are the host's,
those of a probe big endian.  Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d.
A change of meaning raises ``LAYOUT_VERSION`` here and in the header.  Here are the probe, the
neighbours, the configuration, the counters and the shapes of all maps; what the deny and limit
stages and the event stream use is in ``layout_policy``.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from x0d.errors import InvalidInput
from x0d.kernel import layout_policy
from x0d.kernel.layout_policy import decode_address, encode_address
from x0d.mesh.model import Address, ProbeRecord

__all__ = ["decode_address", "encode_address"]

LAYOUT_VERSION = 2

PROBE_MAGIC = 0x58304450
PROBE_VERSION = 1
PROBE_REQUEST = 1
PROBE_REPLY = 2
PROBE_WINDOW = 64

LINKS_MAX = 256
INTERFACES_MAX = 256
LOW_INTERFACES_MAX = 256
"""Interfaces of a lower index are counted in array ``x0d_low``, others in hash table ``x0d_interfaces``."""
SOURCES_DEFAULT = 65536
DENY_DEFAULT = 131072
EVENT_BYTES_DEFAULT = 256 * 1024

CLASSES = ("other", "arp", "tcp", "udp", "icmp", "ip_other", "fragment", "probe", "malformed")
"""Names of ``enum x0d_class``, in its order."""
VERDICTS = ("pass", "drop", "reflect", "consume", "deny", "limit")
"""Names of ``enum x0d_verdict``, in its order."""
PROBE_EVENTS = (
    "answered",
    "accepted",
    "duplicate",
    "hop_limit_wrong",
    "stranger",
    "rate_exceeded",
    "malformed",
    "session_stale",
    "implausible",
)
"""Names of ``enum x0d_probe_event``, in its order."""
STAGES = ("deny", "limit", "probe", "syn")
"""Names of ``enum x0d_stage``: index of a program in map ``x0d_stages``."""
LATER_STAGES = frozenset({"syn"})
"""An object of this layout may be of before these were added; it works without them."""
STAGE_SLOTS = 8

PROBE = struct.Struct("!IBBH5Q")
CONFIG = struct.Struct("=IIQIIIIII")
LINK_KEY = struct.Struct("=II16s")
LINK = struct.Struct("=II16s12Q")
BUCKET = struct.Struct("=IIQ")
COUNTER = struct.Struct("=QQ")
COUNT = struct.Struct("=Q")
LOCAL = struct.Struct("=I")
IFINDEX = struct.Struct("=I")
"""Key of maps ``x0d_interfaces`` and ``x0d_buckets``."""
CELLS = len(CLASSES) * len(VERDICTS)
INTERFACE = struct.Struct(f"={2 * CELLS}Q{len(PROBE_EVENTS)}Q2QII")
"""Value of maps ``x0d_low`` and ``x0d_interfaces`` on one CPU; the last number is ``present``."""
NO_COUNTS = bytes(INTERFACE.size - 4) + struct.pack("=I", 1)
"""What the daemon writes, once for each CPU, to have an interface counted."""

assert (PROBE.size, CONFIG.size, LINK_KEY.size, LINK.size, BUCKET.size) == (48, 40, 24, 120, 16)
assert (COUNTER.size, INTERFACE.size) == (16, 16 * 9 * 6 + 8 * 9 + 24)

LAYOUT_1_CLASSES = CLASSES
LAYOUT_1_VERDICTS = ("pass", "drop", "reflect", "consume")
LAYOUT_1_COUNTER_KEY = struct.Struct("=IHH")
"""Layout 1, map ``x0d_counters``: ifindex, class, verdict; values are ``COUNTER`` for each CPU."""
LAYOUT_1_PROBE_EVENT_KEY = struct.Struct("=II")
"""Layout 1, map ``x0d_probe_events``: ifindex, event; values are ``COUNT`` for each CPU."""
LAYOUT_1_CONFIG = struct.Struct("=IIQII")
"""Layout 1, map ``x0d_config``: begins with the layout version, as in every layout."""

assert (LAYOUT_1_COUNTER_KEY.size, LAYOUT_1_PROBE_EVENT_KEY.size, LAYOUT_1_CONFIG.size) == (8, 8, 24)


@dataclass(frozen=True, slots=True)
class MapShape:
    """What the kernel knows of a pinned map; one of another shape cannot be reused."""

    key_size: int
    value_size: int
    entries_max: int
    """Of a ring buffer: its bytes."""


def map_shapes(
    deny_entries_max: int = DENY_DEFAULT,
    sources_max: int = SOURCES_DEFAULT,
    event_buffer_bytes: int = EVENT_BYTES_DEFAULT,
) -> dict[str, MapShape]:
    """Every map of the XDP object by name; ``event_buffer_bytes`` is a power of two and whole pages."""
    policy, limits_max = layout_policy, layout_policy.LIMITS_MAX
    return {
        "x0d_config": MapShape(4, CONFIG.size, 1),
        "x0d_policy": MapShape(4, policy.POLICY.size, 1),
        "x0d_stages": MapShape(4, 4, STAGE_SLOTS),
        "x0d_scratch": MapShape(4, policy.SCRATCH_BYTES, 1),
        "x0d_links": MapShape(LINK_KEY.size, LINK.size, LINKS_MAX),
        "x0d_locals": MapShape(LINK_KEY.size, LOCAL.size, LINKS_MAX),
        "x0d_buckets": MapShape(IFINDEX.size, BUCKET.size, INTERFACES_MAX),
        "x0d_low": MapShape(IFINDEX.size, INTERFACE.size, LOW_INTERFACES_MAX),
        "x0d_interfaces": MapShape(IFINDEX.size, INTERFACE.size, INTERFACES_MAX),
        **{name: MapShape(4, 4, 2) for name in policy.DENY_KEYS},
        "x0d_deny_filter": MapShape(4, policy.DENY_FILTER.size, policy.FILTERS),
        "x0d_deny_hits": MapShape(4, COUNT.size, deny_entries_max),
        "x0d_limit4": MapShape(policy.NET4_KEY.size, policy.LIMIT_INDEX.size, limits_max),
        "x0d_limit6": MapShape(policy.NET6_KEY.size, policy.LIMIT_INDEX.size, limits_max),
        "x0d_limits": MapShape(4, policy.LIMIT.size, limits_max),
        "x0d_limit_hits": MapShape(4, COUNT.size, limits_max),
        "x0d_sources": MapShape(16, policy.SOURCE.size, sources_max),
        "x0d_syn_config": MapShape(4, policy.SYN_CONFIG.size, 1),
        "x0d_syn_sources": MapShape(policy.SYN_KEY.size, COUNT.size, policy.SYN_SOURCES_MAX),
        "x0d_syn_drops": MapShape(4, COUNT.size, 1),
        "x0d_events": MapShape(0, 0, event_buffer_bytes),
    }


MAPS = map_shapes()
"""Every map of the XDP object by name, of default size."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A decoded probe; fields as in ``struct x0d_probe``."""

    kind: int
    session: int
    sequence: int
    sent_at_ns: int
    reflected_at_ns: int = 0
    requests_received: int = 0


@dataclass(frozen=True, slots=True)
class DataPlaneConfig:
    """The one entry of map ``x0d_config``."""

    session: int
    """64 bits, random and new at each start of the daemon, never 0."""
    probe_port: int
    probe_rate_pps: int
    """Probes answered or accepted per interface and second."""
    probe_burst: int
    """Depth of the bucket, probes."""
    event_every: int = 0
    """Every Nth packet of a CPU and interface becomes an event; 0: none."""
    talkers: bool = True
    """Count every source, not only those that a limit holds for."""
    layout_version: int = LAYOUT_VERSION
    tick_ns: int = 0
    """Length of a jiffy, by which limits are kept cheaply; 0: they are kept by the exact clock."""


def encode_request(session: int, sequence: int, sent_at_ns: int) -> bytes:
    """Make the 48 bytes of UDP payload that ask a neighbour's kernel for an answer."""
    return encode_probe(Probe(PROBE_REQUEST, session, sequence, sent_at_ns))


def encode_probe(probe: Probe) -> bytes:
    """Make the 48 bytes of UDP payload of any probe."""
    return PROBE.pack(
        PROBE_MAGIC,
        PROBE_VERSION,
        probe.kind,
        0,
        probe.session,
        probe.sequence,
        probe.sent_at_ns,
        probe.reflected_at_ns,
        probe.requests_received,
    )


def decode_probe(payload: bytes) -> Probe:
    """Read a UDP payload.

    Raises:
        InvalidInput: it is not a probe of this version.
    """
    if len(payload) != PROBE.size:
        reason = f"a probe has {PROBE.size} bytes, this has {len(payload)}"
        raise InvalidInput(reason)
    magic, version, kind, reserved, *numbers = PROBE.unpack(payload)
    if (magic, version, reserved) != (PROBE_MAGIC, PROBE_VERSION, 0) or kind not in {PROBE_REQUEST, PROBE_REPLY}:
        reason = f"not a probe of version {PROBE_VERSION}: magic {magic:#x} version {version} kind {kind}"
        raise InvalidInput(reason)
    return Probe(kind, *numbers)


def encode_link_key(ifindex: int, address: Address) -> bytes:
    """Key of maps ``x0d_links`` (the neighbour's address) and ``x0d_locals`` (our own)."""
    return LINK_KEY.pack(ifindex, 0, encode_address(address))


def decode_link_key(key: bytes) -> tuple[int, Address]:
    """Interface index and address."""
    ifindex, _reserved, address = LINK_KEY.unpack(key)
    return ifindex, decode_address(address)


def encode_link(local: Address, record: ProbeRecord) -> bytes:
    """Value of map ``x0d_links``; the lock is left out, as the kernel demands zero there."""
    return LINK.pack(
        0,
        0,
        encode_address(local),
        record.peer_session,
        record.requests_received,
        record.request_last_at_ns,
        record.session,
        record.sequence_last,
        record.received,
        record.replies_received,
        record.peer_requests_received,
        record.reply_last_at_ns,
        record.rtt_last_ns,
        record.rtt_sum_ns,
        record.reflected_last_at_ns,
    )


def decode_link(value: bytes) -> tuple[Address, ProbeRecord]:
    """Our own address of the link, and the kernel's record."""
    _lock, _reserved, local, *numbers = LINK.unpack(value)
    return decode_address(local), ProbeRecord(*numbers)


def encode_config(config: DataPlaneConfig) -> bytes:
    """Value of map ``x0d_config``."""
    return CONFIG.pack(
        config.layout_version,
        config.probe_port,
        config.session,
        config.probe_rate_pps,
        config.probe_burst,
        config.event_every,
        config.talkers,
        config.tick_ns,
        0,
    )


def decode_config(value: bytes) -> DataPlaneConfig:
    """Invert ``encode_config``."""
    version, port, session, rate_pps, burst, event_every, talkers, tick_ns, _reserved = CONFIG.unpack(value)
    return DataPlaneConfig(session, port, rate_pps, burst, event_every, bool(talkers), version, tick_ns)


@dataclass(frozen=True, slots=True)
class InterfaceCounters:
    """What was counted of one interface, cells that are not zero; summed over the CPUs."""

    packets: Mapping[tuple[str, str], tuple[int, int]]
    """(class, verdict) to packets and bytes."""
    probes: Mapping[str, int]
    """Event to packets."""
    events_sent: int
    events_lost: int


def name_counters(cells: Sequence[int]) -> InterfaceCounters:
    """Name the numbers of one ``INTERFACE``, in its order: of one CPU, or summed over all."""
    packets = {}
    for number in range(CELLS):
        count = cells[2 * number]
        if count:
            protocol_class, verdict = divmod(number, len(VERDICTS))
            packets[CLASSES[protocol_class], VERDICTS[verdict]] = (count, cells[2 * number + 1])
    counts = cells[2 * CELLS : 2 * CELLS + len(PROBE_EVENTS)]
    probes = {name: count for name, count in zip(PROBE_EVENTS, counts, strict=True) if count}
    events_sent, events_lost, _tick, _present = cells[2 * CELLS + len(PROBE_EVENTS) :]
    return InterfaceCounters(packets, probes, events_sent, events_lost)
