"""The lock-out guard: which entries would cut off x0d, its neighbours or its operator.

What must stay reachable is a list of protected prefixes.  An entry that covers one of them is told of.
Of management networks one does not know which address the operator uses today, so an entry that lies
inside such a network counts too (``overlap``).

A deny-list may have 100,000 entries and there may be hundreds of protected prefixes, so nobody compares
pairs: each protected prefix is cut to every length that occurs in the list and looked up; entries inside
a network are found by the whole bytes that they share with it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice
from typing import Final

from x0d.policy.model import PackedPrefix, PrefixKey, mask

REASONS_MAX: Final = 20
"""Sentences in one answer; the rest is counted in a last one."""


@dataclass(frozen=True, slots=True)
class Protected:
    """What must stay reachable."""

    prefix: PackedPrefix
    what: str
    """What it is, such as ``neighbour n2``."""
    overlap: bool
    """Entries inside the prefix count too, not only those that cover it."""


def lock_outs(
    prefixes: Collection[PrefixKey], protected: Sequence[Protected], reasons_max: int = REASONS_MAX
) -> tuple[str, ...]:
    """Say what these entries would cut off: a sentence for each pair, at most ``reasons_max`` and one that counts."""
    if not prefixes or not protected:
        return ()
    found = _sentences(prefixes, protected)
    reasons = tuple(islice(found, reasons_max))
    more = sum(1 for _ in found)
    return (*reasons, f"and {more} more") if more else reasons


def _sentences(prefixes: Collection[PrefixKey], protected: Sequence[Protected]) -> Iterator[str]:
    known = prefixes if isinstance(prefixes, AbstractSet | Mapping) else frozenset(prefixes)
    lengths = sorted({(len(address), length) for address, length in prefixes})
    for one in protected:
        address = one.prefix.address
        for size, length in lengths:
            if size != len(address) or length > one.prefix.length:
                continue
            entry = PackedPrefix(mask(address, length), length)
            if entry in known:
                yield f"{entry} covers {one.prefix}, {one.what}"
    for entry, one in _inside(prefixes, [one for one in protected if one.overlap]):
        yield f"{entry} lies in {one.prefix}, {one.what}"


def _inside(prefixes: Collection[PrefixKey], networks: Sequence[Protected]) -> Iterator[tuple[PackedPrefix, Protected]]:
    """Find the entries that are longer than a network and in it."""
    by_head: dict[tuple[int, int], dict[bytes, list[Protected]]] = {}
    for network in networks:
        address, length = network.prefix
        heads = by_head.setdefault((len(address), length // 8), {})
        heads.setdefault(address[: length // 8], []).append(network)
    for (size, whole_bytes), heads in by_head.items():
        for entry in prefixes:
            address = entry[0]
            if len(address) != size or address[:whole_bytes] not in heads:
                continue
            for network in heads[address[:whole_bytes]]:
                inside = PackedPrefix(*entry)
                if network.prefix.length < inside.length and network.prefix.covers(inside):
                    yield inside, network
