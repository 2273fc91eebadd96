"""The deny-list as XDP reads it, computed from prefixes and expiries: pure arithmetic on whole lists.

Four lists (``DENY_LISTS``): exact addresses in hash tables, true prefixes in tries, IPv4 and IPv6
apart.  Keys and values of a list are made as one flat piece of memory each, since a list may have a
hundred thousand entries.

A trie answers with the longest prefix alone, so an entry that expires would uncover addresses that
a broader entry still denies.  Hence ``covered_until``: how long some broader entry of the same trie
holds.  Exact addresses need none, because XDP goes on to the tries when an exact entry has expired.
"""

import struct
import sys
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from x0d.kernel.layout_policy import COVERED_FOR_EVER, DENY, DENY_BITS, DENY_KEYS, EXPIRES_AT_NS_MAX
from x0d.policy.model import PrefixKey, mask

assert sys.byteorder == "little", "values are made as arrays of u64, whose low half is the slot"

CAPACITY_MIN = 1024
_WORDS = DENY.size // 8
_LENGTH_BYTES = tuple(struct.pack("=I", length) for length in range(129))


@dataclass(frozen=True, slots=True)
class DenyListKind:
    """One of the four lists."""

    outer: str
    """Name of the outer map."""
    pin: str
    """Beginning of the name under which an inner map is pinned."""
    bit: int
    """In ``Policy.deny_kinds``."""
    key_size: int
    address_bytes: int
    is_exact: bool


DENY_LISTS = tuple(
    DenyListKind(
        outer,
        outer.removeprefix("x0d_"),
        DENY_BITS[outer],
        key_size,
        4 if outer.startswith("x0d_deny4") else 16,
        not outer.endswith("_nets"),
    )
    for outer, key_size in DENY_KEYS.items()
)
"""In the order of their bits."""


def split(prefixes: Iterable[PrefixKey]) -> tuple[list[PrefixKey], ...]:
    """Sort prefixes into the four lists."""
    parts: tuple[list[PrefixKey], ...] = ([], [], [], [])
    exact4, nets4, exact6, nets6 = (part.append for part in parts)
    for prefix in prefixes:
        address, length = prefix
        if len(address) == 4:
            (exact4 if length == 32 else nets4)(prefix)
        else:
            (exact6 if length == 128 else nets6)(prefix)
    return parts


def is_exact(prefix: PrefixKey) -> bool:
    """Whether it is one address."""
    return prefix[1] == len(prefix[0]) * 8


def capacity(count: int) -> int:
    """Size of a map for so many entries: a power of two with room for a quarter more."""
    return max(CAPACITY_MIN, 1 << (count + count // 4).bit_length())


def in_order(nets: Iterable[PrefixKey]) -> list[PrefixKey]:
    """By address, the broader first.  Neighbours in a trie come together, which halves the time to fill it.

    Sorted in parts: one sort of 100,000 would keep the interpreter from the event loop.
    """
    parts: dict[int, list[PrefixKey]] = {}
    for net in nets:
        parts.setdefault(net[0][0], []).append(net)
    return [net for first in sorted(parts) for net in sorted(parts[first])]


def encode_keys(kind: DenyListKind, prefixes: Iterable[PrefixKey]) -> bytes:
    """Keys of a list, one after the other."""
    if kind.is_exact:
        return b"".join([prefix[0] for prefix in prefixes])
    return b"".join([_LENGTH_BYTES[length] + address for address, length in prefixes])


def decode_keys(kind: DenyListKind, keys: bytes) -> list[PrefixKey]:
    """Invert ``encode_keys``."""
    size, bits = kind.key_size, kind.address_bytes * 8
    starts = range(0, len(keys), size)
    if kind.is_exact:
        return [(keys[at : at + size], bits) for at in starts]
    return [(keys[at + 4 : at + size], keys[at]) for at in starts]


def encode_values(slots: Sequence[int], expiries: Sequence[int], covered: Sequence[int]) -> "array[int]":
    """Values of a list, one after the other (``struct x0d_deny``); a column without entries is zero.

    ``EXPIRES_AT_NS_MAX`` stands for later expiries, and ``COVERED_FOR_EVER`` for later covers.
    """
    values = array("Q", bytes(DENY.size * len(slots)))
    columns = slots, _at_most(EXPIRES_AT_NS_MAX, expiries), _at_most(COVERED_FOR_EVER, covered)
    for number, column in enumerate(columns):
        if column:
            values[number::_WORDS] = array("Q", column)
    return values


def _at_most(latest: int, column: Sequence[int]) -> Sequence[int]:
    return [min(instant, latest) for instant in column] if max(column, default=0) > latest else column


def decode_values(values: memoryview) -> tuple[list[int], list[int], list[int]]:
    """Slots, expiries and covered_until of a list."""
    words = values.cast("Q").tolist()
    return [slot & 0xFFFFFFFF for slot in words[0::_WORDS]], words[1::_WORDS], words[2::_WORDS]


# ---- what a broader entry covers ----


def covered_until(nets: Sequence[PrefixKey], entries: Mapping[PrefixKey, int]) -> list[int]:
    """For each of the prefixes of one trie, ``in_order``: until when a broader one denies its addresses.

    0 for those that never expire: XDP does not look.
    """
    covered = [0] * len(nets)
    if not any(map(entries.__getitem__, nets)):
        return covered
    around: list[tuple[int, int]] = []  # last address of each prefix that we are within, and until when it is denied
    for position, prefix in enumerate(nets):
        address, length = prefix
        bits = len(address) * 8
        first = int.from_bytes(address)
        while around and around[-1][0] < first:
            around.pop()
        until = around[-1][1] if around else 0
        expires = entries[prefix]
        if expires:
            covered[position] = until
        last = first | (1 << (bits - length)) - 1
        around.append((last, max(until, expires or COVERED_FOR_EVER)))
    return covered


def covered_until_one(prefix: PrefixKey, entries: Mapping[PrefixKey, int]) -> int:
    """The same for one prefix, by asking for each broader one."""
    address, length = prefix
    if is_exact(prefix) or not entries[prefix]:
        return 0
    broader = (entries.get((mask(address, shorter), shorter)) for shorter in range(length))
    return max((expires or COVERED_FOR_EVER for expires in broader if expires is not None), default=0)


def nested(changed: Iterable[PrefixKey], expiring: Collection[PrefixKey]) -> list[PrefixKey]:
    """Which of the expiring prefixes lie within a changed one."""
    outer = frozenset(prefix for prefix in changed if not is_exact(prefix))
    found: list[PrefixKey] = []
    for size, length in sorted({(len(address), length) for address, length in outer}):
        within = [prefix for prefix in expiring if prefix[1] > length and len(prefix[0]) == size]
        found += [prefix for prefix in within if (mask(prefix[0], length), length) in outer]
    return list(dict.fromkeys(found))
