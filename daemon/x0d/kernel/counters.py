"""What XDP has counted: all interfaces in one batch of reads, and what earlier layouts have counted.

Interfaces of an index below ``layout.LOW_INTERFACES_MAX`` are counted in the array ``x0d_low``, others
in the hash table ``x0d_interfaces``: 120 numbers for each interface and CPU.  A value is added up over
the CPUs as one long integer: no number comes near 2**64, so none carries into the next.

Maps of layout 1 lie pinned in ``layout-1``.  The old program goes on counting into them until its
interface is adopted, so they are read each time until then, and once more when all are.
"""

import errno
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from x0d.errors import KernelRefused
from x0d.kernel import bpf, layout, pins
from x0d.kernel.refusals import Operation, refine
from x0d.ports import PacketCounter, PlaneSample, ProbeCounter

_LOW, _OTHERS = "x0d_low", "x0d_interfaces"
NO_MEMORY_DELAYS_S = (0.001, 0.004, 0.016, 0.064)
"""Per-CPU memory for a new entry comes from a small store, which the kernel fills again a little later."""
_ROOM = 16
"""Interfaces that there is room for at first."""

_CELLS = tuple((protocol_class, verdict) for protocol_class in layout.CLASSES for verdict in layout.VERDICTS)
_PACKETS, _BYTES = slice(0, 2 * layout.CELLS, 2), slice(1, 2 * layout.CELLS, 2)
_PROBES = slice(2 * layout.CELLS, 2 * layout.CELLS + len(layout.PROBE_EVENTS))
_EVENTS_SENT, _EVENTS_LOST = _PROBES.stop, _PROBES.stop + 1
"""Places in the numbers of one ``layout.INTERFACE``; objects are made of those that are not zero, and of no others."""

Cell = tuple[int, str, str]
"""Interface, class, verdict."""


class InterfaceCounters:
    """Reads and forgets; the descriptors are its owner's."""

    def __init__(self, map_fds: Mapping[str, int], former: "RetiredCounters") -> None:
        self._low_fd, self._others_fd = map_fds[_LOW], map_fds[_OTHERS]
        self._former = former
        self._cpus = bpf.possible_cpus()
        self._size = layout.INTERFACE.size * self._cpus
        self._low = bpf.MapBuffer(layout.IFINDEX.size, self._size, layout.LOW_INTERFACES_MAX)
        self._others = bpf.MapBuffer(layout.IFINDEX.size, self._size, _ROOM)
        self._low_end = layout.LOW_INTERFACES_MAX
        self._low_end = max((row + 1 for row, _value in self._low_rows()), default=0)

    def make(self, ifindex: int) -> bool:
        """Make the entry of an interface, before anything counts there; False if it is there.  May wait some ms.

        Raises:
            MapFull: at ``layout.INTERFACES_MAX`` interfaces that have no place in the array.
        """
        key, empty = layout.IFINDEX.pack(ifindex), layout.NO_COUNTS * self._cpus
        if self._is_counted(key, ifindex):
            return False
        if ifindex < layout.LOW_INTERFACES_MAX:
            bpf.update(self._low_fd, key, empty)
            self._low_end = max(self._low_end, ifindex + 1)
            return True
        for delay_s in (*NO_MEMORY_DELAYS_S, None):
            try:
                bpf.update(self._others_fd, key, empty, bpf.MAP_NOEXIST)
            except KernelRefused as refusal:
                if refusal.errno != errno.ENOMEM or delay_s is None:
                    raise refine(Operation.MAP_UPDATE, refusal) from refusal
                time.sleep(delay_s)
            else:
                break
        return True

    def forget(self, ifindex: int) -> None:
        """Drop all that was counted of an interface."""
        key = layout.IFINDEX.pack(ifindex)
        if ifindex < layout.LOW_INTERFACES_MAX:
            bpf.update(self._low_fd, key, bytes(self._size))
        bpf.delete(self._others_fd, key)
        self._former.forget(ifindex)

    def ifindexes(self) -> set[int]:
        """Interfaces of which anything is counted."""
        low = {
            ifindex
            for ifindex in range(self._low_end)
            if self._is_present(bpf.lookup(self._low_fd, layout.IFINDEX.pack(ifindex), self._size))
        }
        others = bpf.entries(self._others_fd, layout.IFINDEX.size, self._size)
        return low | {layout.IFINDEX.unpack(key)[0] for key, _value in others} | self._former.ifindexes()

    def _is_counted(self, key: bytes, ifindex: int) -> bool:
        if ifindex < layout.LOW_INTERFACES_MAX and self._is_present(bpf.lookup(self._low_fd, key, self._size)):
            return True
        return bpf.lookup(self._others_fd, key, self._size) is not None

    @staticmethod
    def _is_present(value: "bytes | memoryview | None") -> bool:
        """Whether an element of the array is in use: its last number, on every CPU."""
        return value is not None and any(value[layout.INTERFACE.size - 4 : layout.INTERFACE.size])

    def sample(self, at_ns: int) -> PlaneSample:
        """Read everything; counters that are zero are left out.  From one thread only: it keeps its memory."""
        rows: dict[int, Sequence[int]] = {}
        for ifindex, cells in self._rows():
            known = rows.get(ifindex)
            rows[ifindex] = cells if known is None else [one + other for one, other in zip(known, cells, strict=True)]
        packets = [
            PacketCounter(ifindex, protocol_class, verdict, count, size)
            for ifindex, cells in rows.items()
            for (protocol_class, verdict), count, size in zip(_CELLS, cells[_PACKETS], cells[_BYTES], strict=True)
            if count
        ]
        probes = [
            ProbeCounter(ifindex, event, count)
            for ifindex, cells in rows.items()
            for event, count in zip(layout.PROBE_EVENTS, cells[_PROBES], strict=True)
            if count
        ]
        return PlaneSample(
            at_ns,
            self._former.with_packets(packets),
            self._former.with_probes(probes),
            sum(cells[_EVENTS_SENT] for cells in rows.values()),
            sum(cells[_EVENTS_LOST] for cells in rows.values()),
        )

    def _rows(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        for ifindex, value in (*self._low_rows(), *self._other_rows()):
            size = layout.INTERFACE.size
            parts = (value[cpu * size : (cpu + 1) * size] for cpu in range(self._cpus))
            total = sum(int.from_bytes(part, sys.byteorder) for part in parts)
            yield ifindex, layout.INTERFACE.unpack(total.to_bytes(size, sys.byteorder))

    def _low_rows(self) -> Iterator[tuple[int, memoryview]]:
        count = self._low.read(self._low_fd, entries_max=self._low_end)
        rows = ((row, self._low.values[row * self._size : (row + 1) * self._size]) for row in range(count))
        return ((row, value) for row, value in rows if self._is_present(value))

    def _other_rows(self) -> Iterator[tuple[int, memoryview]]:
        count = self._others.read(self._others_fd)
        ifindexes, values = self._others.keys.cast("I"), self._others.values
        return ((ifindexes[row], values[row * self._size : (row + 1) * self._size]) for row in range(count))


class RetiredCounters:
    """What the maps of earlier layouts hold, as of the last ``refresh``."""

    def __init__(self, directory: Path) -> None:
        """``directory`` is the namespace's."""
        self._directories = [path for version, path in pins.retired(directory) if version == 1]
        self.packets: Mapping[Cell, tuple[int, int]] = {}
        self.probes: Mapping[tuple[int, str], int] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read them again: an old program may have counted."""
        packets: dict[Cell, tuple[int, int]] = {}
        probes: Counter[tuple[int, str]] = Counter()
        for directory in self._directories:
            for key, value in _entries(directory / "x0d_counters", layout.COUNTER):
                ifindex, protocol_class, verdict = layout.LAYOUT_1_COUNTER_KEY.unpack(key)
                cell = ifindex, layout.LAYOUT_1_CLASSES[protocol_class], layout.LAYOUT_1_VERDICTS[verdict]
                count, size = (sum(numbers) for numbers in zip(*layout.COUNTER.iter_unpack(value), strict=True))
                before = packets.get(cell, (0, 0))
                packets[cell] = before[0] + count, before[1] + size
            for key, value in _entries(directory / "x0d_probe_events", layout.COUNT):
                ifindex, event = layout.LAYOUT_1_PROBE_EVENT_KEY.unpack(key)
                probes[ifindex, layout.PROBE_EVENTS[event]] += sum(
                    count for (count,) in layout.COUNT.iter_unpack(value)
                )
        self.packets, self.probes = packets, probes

    def with_packets(self, counted: Sequence[PacketCounter]) -> Sequence[PacketCounter]:
        """What is counted now, and what was before."""
        if not self.packets:
            return counted
        sums = dict(self.packets)
        for row in counted:
            packets, size = sums.get(row[:3], (0, 0))
            sums[row[:3]] = packets + row.packets, size + row.bytes
        return [PacketCounter(*cell, packets, size) for cell, (packets, size) in sums.items()]

    def with_probes(self, counted: Sequence[ProbeCounter]) -> Sequence[ProbeCounter]:
        """What is counted now, and what was before."""
        if not self.probes:
            return counted
        sums = Counter(self.probes)
        for ifindex, event, packets in counted:
            sums[ifindex, event] += packets
        return [ProbeCounter(ifindex, event, packets) for (ifindex, event), packets in sums.items()]

    def ifindexes(self) -> set[int]:
        """Interfaces of which anything was counted."""
        return {cell[0] for cell in self.packets} | {ifindex for ifindex, _event in self.probes}

    def forget(self, ifindex: int) -> None:
        """Drop what was counted of an interface: its index may be another's some day."""
        if ifindex not in self.ifindexes():
            return
        for directory in self._directories:
            for name, value in (("x0d_counters", layout.COUNTER), ("x0d_probe_events", layout.COUNT)):
                doomed = [
                    key
                    for key, _value in _entries(directory / name, value)
                    if layout.IFINDEX.unpack_from(key)[0] == ifindex
                ]
                map_fd = bpf.open_pin(directory / name)
                if map_fd is not None:
                    with bpf.closing(map_fd):
                        bpf.delete_batch(map_fd, b"".join(doomed), layout.LAYOUT_1_COUNTER_KEY.size)
        self.refresh()


def _entries(path: Path, value: struct.Struct) -> list[tuple[bytes, bytes]]:
    """Everything in a pinned per-CPU map of layout 1, whose keys all have 8 bytes; nothing if it is missing."""
    map_fd = bpf.open_pin(path)
    if map_fd is None:
        return []
    with bpf.closing(map_fd):
        size = value.size * bpf.possible_cpus()
        return list(bpf.entries(map_fd, layout.LAYOUT_1_COUNTER_KEY.size, size))
