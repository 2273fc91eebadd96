"""A BPF ring buffer, read through shared memory without a system call per record.

The kernel writes records behind the producer position and we move the consumer position behind what
we have read; both are byte counts that only grow.  The data pages are mapped twice in a row, so a
record never wraps.  Each record begins with its length, whose highest bits say that it is still being
written (stop here) or was given up (pass over).

Reading a record after its header, and freeing it after reading, needs the order of loads and stores
that x86-64 keeps by itself; Python has no barrier for machines that do not.
"""

import mmap
import platform
import struct
from collections.abc import Iterator

from x0d.errors import NotSupported

_BUSY, _DISCARDED = 1 << 31, 1 << 30
_HEADER = struct.Struct("=II")
_POSITION_BYTES = 8


class Ring:
    """The consumer's side; there is at most one for a map."""

    def __init__(self, map_fd: int, size: int) -> None:
        """Map it; ``size`` is the map's, in bytes.  The descriptor stays the caller's.

        Raises:
            NotSupported: this machine needs memory barriers.
        """
        if platform.machine() != "x86_64":
            raise NotSupported("sampled events", f"reading a ring buffer on {platform.machine()} needs memory barriers")
        page = mmap.PAGESIZE
        self._size = size
        self._consumer_map = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer_map = mmap.mmap(map_fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        # As u64, so that a position is read and written by one instruction.
        self._consumer = memoryview(self._consumer_map)[:_POSITION_BYTES].cast("Q")
        self._producer = memoryview(self._producer_map)[:_POSITION_BYTES].cast("Q")
        self._data = memoryview(self._producer_map)[page:]

    def records(self, count_max: int) -> Iterator[bytes]:
        """Take at most so many records out; what is left makes the map's descriptor readable again."""
        position = self._consumer[0]
        for _ in range(count_max):
            if position >= self._producer[0]:
                return
            at = position % self._size
            length, _offset = _HEADER.unpack_from(self._data, at)
            if length & _BUSY:
                return
            size = length & ~_DISCARDED
            start = at + _HEADER.size
            record = None if length & _DISCARDED else bytes(self._data[start : start + size])
            position += (_HEADER.size + size + 7) // 8 * 8
            self._consumer[0] = position
            if record is not None:
                yield record

    def close(self) -> None:
        """Unmap it; records that were not taken stay for the next."""
        for view in (self._consumer, self._producer, self._data):
            view.release()
        self._consumer_map.close()
        self._producer_map.close()
