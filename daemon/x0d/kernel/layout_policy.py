"""Maps of the deny and limit stages and records of the event stream: the rest of ``ebpf/x0d.h``.

The deny-list is four lists, each an inner map in an outer one of two elements: exact addresses in
hash tables, true prefixes in tries, IPv4 and IPv6 apart.  ``POLICY`` says which element is in force.
Integers are the host's, addresses and ports in network order, times CLOCK_MONOTONIC nanoseconds.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from x0d.mesh.model import Address

Network = IPv4Network | IPv6Network

DENY_4, DENY_4_NETS, DENY_6, DENY_6_NETS = 1, 2, 4, 8
"""Bits of ``Policy.deny_kinds``."""
DENY_KEYS = {"x0d_deny4": 4, "x0d_deny4_nets": 8, "x0d_deny6": 16, "x0d_deny6_nets": 20}
"""Outer map of each list to the key size of its inner maps; the order is that of the bits."""
DENY_BITS = dict(zip(DENY_KEYS, (DENY_4, DENY_4_NETS, DENY_6, DENY_6_NETS), strict=True))
FILTER_START_BITS = 20
"""So many bits of an IPv4 address, its first, or of the hash of an IPv6 address, choose its bit in the filter."""
FILTER_BITS = 1 << FILTER_START_BITS
FILTER_MULTIPLIER = 0x9E3779B1
FILTERS = 4
"""Elements of map ``x0d_deny_filter``: see ``filter_element``."""
LIMITS_MAX = 1024
LIMIT_TICKS_MIN = 20
"""A limit whose tolerance is so many jiffies or more is kept by jiffies."""
LIMIT_FALLBACKS_MAX = 4
COVERED_FOR_EVER = (1 << 64) - 1
"""``Deny.covered_until_ns`` where a broader entry never expires."""
SCRATCH_BYTES = 80
"""Value of map ``x0d_scratch``, which only XDP reads."""
IPV4_MAPPED = bytes(10) + b"\xff\xff"

_DIGITS = bytes.maketrans(b"\0\1", b"01")

POLICY = struct.Struct("=BBHI")
NET4_KEY = struct.Struct("=I4s")
NET6_KEY = struct.Struct("=I16s")
DENY = struct.Struct("=IIQQ")
DENY_FILTER = struct.Struct("=16384Q")
LIMIT = struct.Struct("=QQQII")
LIMIT_INDEX = struct.Struct("=I")
SOURCE = struct.Struct("=5Q")
EVENT = struct.Struct("=QII16s16s2s2sBBBB")

assert (POLICY.size, NET4_KEY.size, NET6_KEY.size, DENY.size) == (8, 8, 20, 24)
assert DENY_FILTER.size == FILTER_BITS // 8
assert (LIMIT.size, SOURCE.size, EVENT.size) == (32, 40, 56)


@dataclass(frozen=True, slots=True)
class Policy:
    """The one word of map ``x0d_policy``."""

    deny_index: int = 0
    """Element of the outer maps and of the filter that is in force, 0 or 1."""
    deny_kinds: int = 0
    """``DENY_*`` bits of the lists that are not empty."""
    limit_generation: int = 0
    """0: there is no limit; else another number after each change of limits."""


@dataclass(frozen=True, slots=True)
class Deny:
    """Value of a deny-list; it holds while ``expires_at_ns`` or ``covered_until_ns`` lies ahead."""

    slot: int
    """Index of its hits in map ``x0d_deny_hits``."""
    expires_at_ns: int = 0
    """0: never."""
    covered_until_ns: int = 0
    """Until then a broader entry denies these addresses; 0: none does."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Element of map ``x0d_limits``."""

    interval_ns: int
    """What a packet costs: 1 s / rate."""
    tolerance_ns: int
    """How far ahead of its schedule a source may be: ``interval_ns`` x burst."""
    expires_at_ns: int = 0
    """0: never."""
    fallback: int = 0
    """Index + 1 of the next broader limit; 0: none."""


@dataclass(frozen=True, slots=True)
class Source:
    """Value of map ``x0d_sources``."""

    due_at_ns: int
    """On the clock that its limit is kept by."""
    limit_generation: int
    """In which ``limit`` was looked up."""
    limit: int
    """Index + 1 of the limit that holds for it; 0: none."""
    packets: int
    bytes: int
    limited: int


@dataclass(frozen=True, slots=True)
class Event:
    """Record of the ring buffer ``x0d_events``; the numbers of class and verdict are the kernel's."""

    at_ns: int
    ifindex: int
    length: int
    source: Address | None
    """None where the packet is not IP."""
    destination: Address | None
    source_port: int
    destination_port: int
    protocol: int
    protocol_class: int
    verdict: int
    tags: int


def encode_address(address: Address) -> bytes:
    """16 bytes; IPv4 as ::ffff:a.b.c.d."""
    return address.packed if isinstance(address, IPv6Address) else IPV4_MAPPED + address.packed


def decode_address(packed: bytes) -> Address:
    """Invert ``encode_address``."""
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def encode_policy(policy: Policy) -> bytes:
    """Value of map ``x0d_policy``."""
    return POLICY.pack(policy.deny_index, policy.deny_kinds, 0, policy.limit_generation)


def decode_policy(value: bytes) -> Policy:
    """Invert ``encode_policy``."""
    deny_index, deny_kinds, _reserved, limit_generation = POLICY.unpack(value)
    return Policy(deny_index, deny_kinds, limit_generation)


def encode_net_key(network: Network) -> bytes:
    """Key of a trie, 8 bytes for IPv4 and 20 for IPv6."""
    shape = NET4_KEY if isinstance(network, IPv4Network) else NET6_KEY
    return shape.pack(network.prefixlen, network.network_address.packed)


def decode_net_key(key: bytes) -> Network:
    """Invert ``encode_net_key``."""
    if len(key) == NET4_KEY.size:
        length, address = NET4_KEY.unpack(key)
        return IPv4Network((address, length))
    length, address = NET6_KEY.unpack(key)
    return IPv6Network((address, length))


def encode_deny(deny: Deny) -> bytes:
    """Value of the four deny-lists."""
    return DENY.pack(deny.slot, 0, deny.expires_at_ns, deny.covered_until_ns)


def decode_deny(value: bytes) -> Deny:
    """Invert ``encode_deny``."""
    slot, _reserved, expires_at_ns, covered_until_ns = DENY.unpack(value)
    return Deny(slot, expires_at_ns, covered_until_ns)


def filter_element(deny_index: int, address_bytes: int) -> int:
    """Element of map ``x0d_deny_filter`` for addresses of that size, 4 or 16 bytes."""
    return deny_index + (2 if address_bytes == 16 else 0)


def filter_start(address: Address) -> int:
    """Which bit of its family's filter an address has."""
    rest = 32 - FILTER_START_BITS
    if isinstance(address, IPv6Address):
        return ((int(address) >> 96) * FILTER_MULTIPLIER & 0xFFFFFFFF) >> rest
    return int(address) >> rest


def encode_deny_filter(networks: Iterable[Network]) -> bytes:
    """Set the bits of all addresses in ``networks``, which are of one family; plain, not fast."""
    flags = bytearray(FILTER_BITS)
    for network in networks:
        first, last = network.network_address, network.broadcast_address
        if isinstance(first, IPv4Address):
            low, count = filter_start(first), filter_start(last) + 1 - filter_start(first)
            flags[low : low + count] = b"\1" * count
        elif network.prefixlen < FILTER_START_BITS:
            flags = bytearray(b"\1" * FILTER_BITS)
        else:
            for beginning in range(int(first) >> 96, (int(last) >> 96) + 1):
                flags[filter_start(IPv6Address(beginning << 96))] = 1
    return int(flags[::-1].translate(_DIGITS), 2).to_bytes(DENY_FILTER.size, "little")


def encode_limit(limit: Limit) -> bytes:
    """Element of map ``x0d_limits``."""
    return LIMIT.pack(limit.interval_ns, limit.tolerance_ns, limit.expires_at_ns, limit.fallback, 0)


def decode_limit(value: bytes) -> Limit:
    """Invert ``encode_limit``."""
    interval_ns, tolerance_ns, expires_at_ns, fallback, _reserved = LIMIT.unpack(value)
    return Limit(interval_ns, tolerance_ns, expires_at_ns, fallback)


def encode_source(source: Source) -> bytes:
    """Value of map ``x0d_sources``."""
    limit = source.limit_generation << 32 | source.limit
    return SOURCE.pack(source.due_at_ns, limit, source.packets, source.bytes, source.limited)


def decode_source(value: bytes) -> Source:
    """Invert ``encode_source``."""
    due_at_ns, limit, packets, size, limited = SOURCE.unpack(value)
    return Source(due_at_ns, limit >> 32, limit & 0xFFFFFFFF, packets, size, limited)


def decode_event(record: bytes) -> Event:
    """Read a record of the ring buffer."""
    at_ns, ifindex, length, source, destination, source_port, destination_port, *rest = EVENT.unpack(record)
    is_ip = any(source + destination)  # the address :: is a source of its own
    return Event(
        at_ns,
        ifindex,
        length,
        decode_address(source) if is_ip else None,
        decode_address(destination) if is_ip else None,
        int.from_bytes(source_port, "big"),
        int.from_bytes(destination_port, "big"),
        *rest,
    )
