"""Limits as XDP reads them, computed from prefixes and rates: pure.

A trie answers with the longest prefix alone.  A limit that expires therefore names the next broader
one that outlives it; XDP follows that chain, at most ``LIMIT_FALLBACKS_MAX`` steps.
"""

from collections.abc import Mapping

from x0d.kernel.layout_policy import EXPIRES_AT_NS_MAX, LIMIT, NET4_KEY, NET6_KEY
from x0d.policy.model import PackedPrefix, mask
from x0d.ports.policy import LimitRate

NS_PER_S = 1_000_000_000


def encode_key(prefix: PackedPrefix) -> bytes:
    """Key of the trie of the prefix's family."""
    shape = NET4_KEY if len(prefix.address) == 4 else NET6_KEY
    return shape.pack(prefix.length, prefix.address)


def decode_key(key: bytes) -> PackedPrefix:
    """Invert ``encode_key``."""
    return PackedPrefix(key[4:], int.from_bytes(key[:4], "little"))


def encode_limit(limit: LimitRate, fallback: int) -> bytes:
    """Element of ``x0d_limits``: the interval is rounded, so the rate is told as well.

    ``fallback``: index + 1 of the next broader limit, or 0.  ``EXPIRES_AT_NS_MAX`` stands for later expiries.
    """
    interval_ns = NS_PER_S // limit.rate_pps
    expires_at_ns = min(limit.expires_at_ns, EXPIRES_AT_NS_MAX)
    return LIMIT.pack(interval_ns, interval_ns * limit.burst, expires_at_ns, fallback, limit.rate_pps)


def decode_limit(value: bytes) -> LimitRate | None:
    """Invert ``encode_limit``; None for an element that was never written."""
    interval_ns, tolerance_ns, expires_at_ns, _fallback, rate_pps = LIMIT.unpack(value)
    if not interval_ns:
        return None
    return LimitRate(rate_pps or NS_PER_S // interval_ns, tolerance_ns // interval_ns, expires_at_ns)


def fallback_of(prefix: PackedPrefix, limits: Mapping[PackedPrefix, LimitRate]) -> PackedPrefix | None:
    """The longest broader prefix whose limit still holds when this one has expired; None: there is none."""
    expires = limits[prefix].expires_at_ns
    if not expires:
        return None
    for length in reversed(range(prefix.length)):
        broader = PackedPrefix(mask(prefix.address, length), length)
        limit = limits.get(broader)
        if limit is not None and (not limit.expires_at_ns or limit.expires_at_ns > expires):
            return broader
    return None
