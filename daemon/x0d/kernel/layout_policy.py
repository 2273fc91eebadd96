"""Maps of the deny, limit and SYN stages and records of the event stream: the rest of ``ebpf/x0d.h``.

The deny-list is four lists, each an inner map in an outer one of two elements: exact addresses in
hash tables, true prefixes in tries, IPv4 and IPv6 apart.  ``POLICY`` says which element is in force.
Integers are the host's, addresses and ports in network order, times CLOCK_MONOTONIC nanoseconds.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address

from x0d.mesh.model import Address

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
LIMIT_FALLBACKS_MAX = 4
COVERED_FOR_EVER = (1 << 64) - 1
"""``x0d_deny.covered_until`` where a broader entry never expires."""
EXPIRES_AT_NS_MAX = (1 << 63) - 1
"""The latest expiry of a deny entry or limit, after 292 years of uptime: for ever.  Later ones are written as this."""
SYN_PORTS_MAX = 4
SYN_SOURCES_MAX = 8192
SCRATCH_BYTES = 80
"""Value of map ``x0d_scratch``, which only XDP reads."""
IPV4_MAPPED = bytes(10) + b"\xff\xff"

POLICY = struct.Struct("=BBHI")
NET4_KEY = struct.Struct("=I4s")
NET6_KEY = struct.Struct("=I16s")
DENY = struct.Struct("=IIQQ")
DENY_FILTER = struct.Struct("=16384Q")
LIMIT = struct.Struct("=QQQII")
LIMIT_INDEX = struct.Struct("=I")
SOURCE = struct.Struct("=5Q")
EVENT = struct.Struct("=QII16s16s2s2sBBBB")
SYN_CONFIG = struct.Struct("=QQ8s")
SYN_KEY = struct.Struct("=II16s")
SYN_PORTS = struct.Struct(f"!{SYN_PORTS_MAX}H")

assert (POLICY.size, NET4_KEY.size, NET6_KEY.size, DENY.size) == (8, 8, 20, 24)
assert DENY_FILTER.size == FILTER_BITS // 8
assert (LIMIT.size, SOURCE.size, EVENT.size) == (32, 40, 56)
assert (SYN_CONFIG.size, SYN_KEY.size, SYN_PORTS.size) == (24, 24, 8)


@dataclass(frozen=True, slots=True)
class Policy:
    """The one word of map ``x0d_policy``."""

    deny_index: int = 0
    """Element of the outer maps and of the filter that is in force, 0 or 1."""
    deny_kinds: int = 0
    """``DENY_*`` bits of the lists that are not empty."""
    limit_generation: int = 0
    """0: there is no limit; else another number after each change of limits."""


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


def filter_element(deny_index: int, address_bytes: int) -> int:
    """Element of map ``x0d_deny_filter`` for addresses of that size, 4 or 16 bytes."""
    return deny_index + (2 if address_bytes == 16 else 0)
