"""The bitmaps that rule most sources out before the deny-list is asked: pure.

One for IPv4 and one for IPv6.  A bit stands for all addresses of one start (IPv4: the first 20 bits;
IPv6: a hash of the first 32) and is set if some entry, exact or prefix, covers one of them.  Bits are
only ever added; a list that has lost entries gets bitmaps of its own.
"""

from collections.abc import Iterable

from x0d.kernel.layout_policy import FILTER_BITS, FILTER_MULTIPLIER, FILTER_START_BITS

SCATTERED_MAX = 1 << 17
"""Starts of IPv6 prefixes shorter than /32 that are set one by one; with more, every bit is set.

An eighth of all bits, 30 ms of work.  A prefix of /20 has 4,096 starts."""
_REST = 32 - FILTER_START_BITS
_MASK = (1 << 32) - 1
_FLAGS = tuple(1 << place for place in range(8))
_EVERY = b"\xff" * (FILTER_BITS // 8)


class DenyFilter:
    """What map ``x0d_deny_filter`` says of one list; nothing is set at first."""

    def __init__(self, prefixes: Iterable[tuple[bytes, int]] = ()) -> None:
        """Cover these."""
        self._bits = {size: bytearray(FILTER_BITS // 8) for size in (4, 16)}
        self.add(prefixes)

    def add(self, prefixes: Iterable[tuple[bytes, int]]) -> set[int]:
        """Set the bits of these; returns the families (bytes of an address) that are concerned."""
        starts4: set[bytes] = set()
        starts6: set[bytes] = set()
        short4: set[tuple[bytes, int]] = set()
        short6: set[tuple[bytes, int]] = set()
        for prefix in prefixes:
            address, length = prefix
            if len(address) == 4:
                if length >= FILTER_START_BITS:
                    starts4.add(address[:3])
                else:
                    short4.add(prefix)
            elif length >= 32:
                starts6.add(address[:4])
            else:
                short6.add((address[:4], length))
        self._set(4, [int.from_bytes(start) >> 4 for start in starts4])
        self._set(16, [_hash(int.from_bytes(start)) for start in starts6])
        for address, length in short4:
            self._set_range(int.from_bytes(address) >> _REST, 1 << (FILTER_START_BITS - length))
        self._set_scattered(short6)
        return ({4} if starts4 or short4 else set()) | ({16} if starts6 or short6 else set())

    def encode(self, family: int) -> bytes:
        """Element of the map, bit by bit, the lowest first; ``family``: 4 or 16 bytes of address."""
        return bytes(self._bits[family])

    def _set(self, family: int, starts: Iterable[int]) -> None:
        bits = self._bits[family]
        for start in starts:
            bits[start >> 3] |= _FLAGS[start & 7]

    def _set_range(self, first: int, count: int) -> None:
        if count < 8:
            self._set(4, range(first, first + count))
        else:  # whole bytes, as a prefix is aligned to its size
            self._bits[4][first >> 3 : (first + count) >> 3] = b"\xff" * (count >> 3)

    def _set_scattered(self, short: Iterable[tuple[bytes, int]]) -> None:
        counts = {prefix: 1 << (32 - prefix[1]) for prefix in short}
        if sum(counts.values()) > SCATTERED_MAX or any(length < FILTER_START_BITS for _start, length in counts):
            self._bits[16][:] = _EVERY
            return
        for (start, _length), count in counts.items():
            first = int.from_bytes(start)
            self._set(16, map(_hash, range(first, first + count)))


def _hash(start: int) -> int:
    return (start * FILTER_MULTIPLIER & _MASK) >> _REST
