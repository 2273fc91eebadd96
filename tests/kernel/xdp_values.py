"""Values of the deny and limit stages made and read one by one: the plain reference for the daemon's whole lists.

The daemon makes its lists as one piece of memory each (``x0d.kernel.deny_model``, ``limit_model``,
``deny_filter``); tests of the programs write single entries, and check the daemon's pieces against these.
The numbers are bounds of the header that the programs alone keep.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from x0d.kernel.layout import INTERFACE, InterfaceCounters, name_counters
from x0d.kernel.layout_policy import (
    DENY,
    DENY_FILTER,
    FILTER_BITS,
    FILTER_MULTIPLIER,
    FILTER_START_BITS,
    LIMIT,
    NET4_KEY,
    NET6_KEY,
    SOURCE,
)
from x0d.mesh.model import Address

Network = IPv4Network | IPv6Network

SEQUENCE_JUMP_MAX = 1 << 20
"""A reply further ahead than this is refused."""
REPLY_AGE_MAX_NS = 10_000_000_000
"""A reply to an older probe is refused."""
LIMIT_TICKS_MIN = 20
"""A limit whose tolerance is so many jiffies or more is kept by jiffies."""

_DIGITS = bytes.maketrans(b"\0\1", b"01")


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
    rate_pps: int = 0
    """As it was asked for, which XDP does not read."""


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


def encode_net_key(network: Network) -> bytes:
    """Key of a trie, 8 bytes for IPv4 and 20 for IPv6."""
    shape = NET4_KEY if isinstance(network, IPv4Network) else NET6_KEY
    return shape.pack(network.prefixlen, network.network_address.packed)


def encode_deny(deny: Deny) -> bytes:
    """Value of the four deny-lists."""
    return DENY.pack(deny.slot, 0, deny.expires_at_ns, deny.covered_until_ns)


def decode_deny(value: bytes) -> Deny:
    """Invert ``encode_deny``."""
    slot, _reserved, expires_at_ns, covered_until_ns = DENY.unpack(value)
    return Deny(slot, expires_at_ns, covered_until_ns)


def encode_limit(limit: Limit) -> bytes:
    """Element of map ``x0d_limits``."""
    return LIMIT.pack(limit.interval_ns, limit.tolerance_ns, limit.expires_at_ns, limit.fallback, limit.rate_pps)


def decode_limit(value: bytes) -> Limit:
    """Invert ``encode_limit``."""
    return Limit(*LIMIT.unpack(value))


def encode_source(source: Source) -> bytes:
    """Value of map ``x0d_sources``."""
    limit = source.limit_generation << 32 | source.limit
    return SOURCE.pack(source.due_at_ns, limit, source.packets, source.bytes, source.limited)


def decode_source(value: bytes) -> Source:
    """Invert ``encode_source``."""
    due_at_ns, limit, packets, size, limited = SOURCE.unpack(value)
    return Source(due_at_ns, limit >> 32, limit & 0xFFFFFFFF, packets, size, limited)


def decode_interface(value: bytes) -> InterfaceCounters:
    """Sum a value of map ``x0d_low`` or ``x0d_interfaces``: one ``INTERFACE`` for each CPU."""
    return name_counters([sum(cell) for cell in zip(*INTERFACE.iter_unpack(value), strict=True)])


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
