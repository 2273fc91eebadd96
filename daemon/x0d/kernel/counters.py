"""What XDP has counted: all interfaces in one batch of reads, and what earlier layouts have counted.

Map ``x0d_interfaces`` has one value of 120 numbers for each interface and CPU.  A value is added up
over the CPUs as one long integer: no number comes near 2**64, so none carries into the next.

Maps of layout 1 lie pinned in ``layout-1``.  The old program goes on counting into them until its
interface is adopted, so they are read each time until then, and once more when all are.
"""

import errno
import struct
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from x0d.errors import KernelRefused
from x0d.kernel import bpf, bpf_maps, layout, pins
from x0d.kernel.refusals import Operation, refine
from x0d.ports import PacketCounter, PlaneSample, ProbeCounter

INTERFACES = "x0d_interfaces"
_ROOM = 16
"""Interfaces that there is room for at first."""

Cell = tuple[int, str, str]
"""Interface, class, verdict."""


class InterfaceCounters:
    """Reads and forgets; the descriptors are its owner's."""

    def __init__(self, map_fd: int, former: "RetiredCounters") -> None:
        self._map_fd = map_fd
        self._former = former
        self._cpus = bpf_maps.possible_cpus()
        self._content = bpf_maps.MapBuffer(layout.IFINDEX.size, layout.INTERFACE.size * self._cpus, _ROOM)

    def make(self, ifindex: int) -> bool:
        """Make the entry of an interface, before anything counts there; False if it is there.

        Raises:
            MapFull: at ``layout.INTERFACES_MAX`` interfaces.
        """
        try:
            empty = bytes(layout.INTERFACE.size * self._cpus)
            bpf_maps.update(self._map_fd, layout.IFINDEX.pack(ifindex), empty, bpf_maps.MAP_NOEXIST)
        except KernelRefused as refusal:
            if refusal.errno != errno.EEXIST:
                raise refine(Operation.MAP_UPDATE, refusal) from refusal
            return False
        return True

    def forget(self, ifindex: int) -> None:
        """Drop all that was counted of an interface."""
        bpf_maps.delete(self._map_fd, layout.IFINDEX.pack(ifindex))
        self._former.forget(ifindex)

    def ifindexes(self) -> set[int]:
        """Interfaces of which anything is counted."""
        found = bpf_maps.entries(self._map_fd, layout.IFINDEX.size, layout.INTERFACE.size * self._cpus)
        return {layout.IFINDEX.unpack(key)[0] for key, _value in found} | self._former.ifindexes()

    def sample(self, at_ns: int) -> PlaneSample:
        """Read everything; counters that are zero are left out.  From one thread only: it keeps its memory."""
        packets: dict[Cell, tuple[int, int]] = dict(self._former.packets)
        probes: Counter[tuple[int, str]] = Counter(self._former.probes)
        events_sent = events_lost = 0
        for ifindex, cells in self._rows():
            found = layout.name_counters(cells)
            for (protocol_class, verdict), (count, size) in found.packets.items():
                before = packets.get((ifindex, protocol_class, verdict), (0, 0))
                packets[ifindex, protocol_class, verdict] = before[0] + count, before[1] + size
            for event, count in found.probes.items():
                probes[ifindex, event] += count
            events_sent += found.events_sent
            events_lost += found.events_lost
        return PlaneSample(
            at_ns,
            [PacketCounter(*cell, *sums) for cell, sums in packets.items()],
            [ProbeCounter(ifindex, event, count) for (ifindex, event), count in probes.items()],
            events_sent,
            events_lost,
        )

    def _rows(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        count = self._content.read(self._map_fd)
        ifindexes, values = self._content.keys.cast("I"), self._content.values
        size = layout.INTERFACE.size
        for row in range(count):
            at = row * size * self._cpus
            parts = (values[at + cpu * size : at + (cpu + 1) * size] for cpu in range(self._cpus))
            total = sum(int.from_bytes(part, sys.byteorder) for part in parts)
            yield ifindexes[row], layout.INTERFACE.unpack(total.to_bytes(size, sys.byteorder))


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
                        bpf_maps.delete_batch(map_fd, b"".join(doomed), layout.LAYOUT_1_COUNTER_KEY.size)
        self.refresh()


def _entries(path: Path, value: struct.Struct) -> list[tuple[bytes, bytes]]:
    """Everything in a pinned per-CPU map of layout 1, whose keys all have 8 bytes; nothing if it is missing."""
    map_fd = bpf.open_pin(path)
    if map_fd is None:
        return []
    with bpf.closing(map_fd):
        size = value.size * bpf_maps.possible_cpus()
        return list(bpf_maps.entries(map_fd, layout.LAYOUT_1_COUNTER_KEY.size, size))
