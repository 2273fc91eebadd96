"""What the kernel programs and the daemon share: the Python side of ``ebpf/x0d.h``.

Each structure of a map or packet is a ``struct.Struct`` whose size is asserted here, as the C side
asserts it there, and a pair of functions that makes or reads it.  Integers of maps are the host's,
those of a probe big endian.  Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d.
A change of meaning raises ``LAYOUT_VERSION`` here and in the header.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address

from x0d.errors import InvalidInput
from x0d.mesh.model import Address, ProbeRecord

LAYOUT_VERSION = 1

PROBE_MAGIC = 0x58304450
PROBE_VERSION = 1
PROBE_REQUEST = 1
PROBE_REPLY = 2
PROBE_HOP_LIMIT = 255
PROBE_PORT_DEFAULT = 9474
PROBE_WINDOW = 64

LINKS_MAX = 256
INTERFACES_MAX = 256
COUNTERS_MAX = 8192
SEQUENCE_JUMP_MAX = 1 << 20
REPLY_AGE_MAX_NS = 10_000_000_000

CLASSES = ("other", "arp", "tcp", "udp", "icmp", "ip_other", "fragment", "probe", "malformed")
"""Names of ``enum x0d_class``, in its order."""
VERDICTS = ("pass", "drop", "reflect", "consume")
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

PROBE = struct.Struct("!IBBH5Q")
CONFIG = struct.Struct("=IIQII")
LINK_KEY = struct.Struct("=II16s")
LINK = struct.Struct("=II16s12Q")
BUCKET = struct.Struct("=IIQ")
COUNTER_KEY = struct.Struct("=IHH")
COUNTER = struct.Struct("=QQ")
PROBE_EVENT_KEY = struct.Struct("=II")
COUNT = struct.Struct("=Q")
LOCAL = struct.Struct("=I")

assert (PROBE.size, CONFIG.size, LINK_KEY.size, LINK.size, BUCKET.size) == (48, 24, 24, 120, 16)
assert (COUNTER_KEY.size, COUNTER.size, PROBE_EVENT_KEY.size) == (8, 16, 8)


@dataclass(frozen=True, slots=True)
class MapShape:
    """What the kernel knows of a pinned map; one of another shape cannot be reused."""

    key_size: int
    value_size: int
    entries_max: int


MAPS = {
    "x0d_config": MapShape(4, CONFIG.size, 1),
    "x0d_links": MapShape(LINK_KEY.size, LINK.size, LINKS_MAX),
    "x0d_locals": MapShape(LINK_KEY.size, LOCAL.size, LINKS_MAX),
    "x0d_buckets": MapShape(4, BUCKET.size, INTERFACES_MAX),
    "x0d_counters": MapShape(COUNTER_KEY.size, COUNTER.size, COUNTERS_MAX),
    "x0d_probe_events": MapShape(PROBE_EVENT_KEY.size, COUNT.size, INTERFACES_MAX * len(PROBE_EVENTS)),
}
"""Every map of the data plane by name."""
PER_CPU_MAPS = frozenset({"x0d_counters", "x0d_probe_events"})
"""Their values come once for each possible CPU."""


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
    layout_version: int = LAYOUT_VERSION


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


def encode_address(address: Address) -> bytes:
    """16 bytes; IPv4 as ::ffff:a.b.c.d."""
    return address.packed if isinstance(address, IPv6Address) else bytes(10) + b"\xff\xff" + address.packed


def decode_address(packed: bytes) -> Address:
    """Invert ``encode_address``."""
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


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
        config.layout_version, config.probe_port, config.session, config.probe_rate_pps, config.probe_burst
    )


def decode_config(value: bytes) -> DataPlaneConfig:
    """Invert ``encode_config``."""
    layout_version, probe_port, session, probe_rate_pps, probe_burst = CONFIG.unpack(value)
    return DataPlaneConfig(session, probe_port, probe_rate_pps, probe_burst, layout_version)
