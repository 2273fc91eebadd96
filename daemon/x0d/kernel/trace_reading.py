"""Reading what the tracing programs have counted: one batch pass per map, summed over the CPUs."""

from collections.abc import Iterator, Mapping
from typing import Final

from x0d.kernel import bpf_maps, reasons, trace_layout, trace_syscalls
from x0d.kernel.bpf_maps import MapBuffer
from x0d.ports import Log2Histogram, TraceSample

OTHER: Final = "other"
"""What found no room in a table, and numbers past its end."""


class TraceReader:
    """Names what the maps have by number, and keeps the system calls of measurements that are over."""

    def __init__(self) -> None:
        self.reason_names: Mapping[int, str] = {}
        """Of the running kernel's drop reasons."""
        self.syscall_names = trace_syscalls.names()
        self._cpus = bpf_maps.possible_cpus()
        self._buffers: dict[str, MapBuffer] = {}
        self._kept: dict[str, Log2Histogram] = {}

    def read(self, steady_fds: Mapping[str, int], syscall_fds: Mapping[str, int]) -> TraceSample:
        """Read the maps that there are, by name; the others count as empty."""
        past = dict(self._counts("x0d_t_past", steady_fds))
        drops = {
            reasons.name_of(number, self.reason_names): count
            for number, count in self._counts("x0d_t_drops", steady_fds)
        }
        return TraceSample(
            drops=_with_other(drops, past.get(trace_layout.TABLES.index("x0d_t_drops"), 0)),
            retransmits=self._peers("x0d_t_retrans", steady_fds, past),
            resets_sent=self._peers("x0d_t_rst_out", steady_fds, past),
            resets_received=self._peers("x0d_t_rst_in", steady_fds, past),
            socket_states={
                trace_layout.decode_transition(index): count
                for index, count in self._counts("x0d_t_states", steady_fds)
                if count
            },
            run_queue=next((h for _number, h in self._histograms("x0d_t_runq", steady_fds)), trace_layout.NO_DURATIONS),
            syscalls=self._syscalls(syscall_fds),
        )

    def keep_syscalls(self, syscall_fds: Mapping[str, int]) -> None:
        """Add what a measurement has counted to those before it; its maps may go."""
        self._kept = self._syscalls(syscall_fds)

    def _syscalls(self, fds: Mapping[str, int]) -> dict[str, Log2Histogram]:
        found = dict(self._kept)
        for number, histogram in self._histograms("x0d_t_syscalls", fds):
            name = self._syscall_name(number)
            found[name] = trace_layout.add(found.get(name, trace_layout.NO_DURATIONS), histogram)
        return found

    def _syscall_name(self, number: int) -> str:
        if number == trace_layout.SYSCALLS_MAX - 1:
            return OTHER
        return self.syscall_names.get(number, f"syscall_{number}")

    def _peers(self, name: str, fds: Mapping[str, int], past: Mapping[int, int]) -> dict[str, int]:
        buffer = self._fill(name, fds)
        if buffer is None:
            return {}
        keys, size = bytes(buffer.keys), trace_layout.PEER.size
        counts = bpf_maps.sum_cpus(buffer.values, self._cpus)
        found = {trace_layout.decode_peer(keys[i * size : (i + 1) * size]): count for i, count in enumerate(counts)}
        return _with_other(found, past.get(trace_layout.TABLES.index(name), 0))

    def _counts(self, name: str, fds: Mapping[str, int]) -> Iterator[tuple[int, int]]:
        buffer = self._fill(name, fds)
        if buffer is not None:
            yield from zip(buffer.keys.cast("I"), bpf_maps.sum_cpus(buffer.values, self._cpus), strict=True)

    def _histograms(self, name: str, fds: Mapping[str, int]) -> Iterator[tuple[int, Log2Histogram]]:
        """Those that have counted something."""
        buffer = self._fill(name, fds)
        if buffer is None:
            return
        size = trace_layout.HISTOGRAM.size * self._cpus
        values, nothing = bytes(buffer.values), bytes(size)
        for i, number in enumerate(buffer.keys.cast("I")):
            value = values[i * size : (i + 1) * size]
            if value != nothing:
                yield number, trace_layout.decode_histogram(value)

    def _fill(self, name: str, fds: Mapping[str, int]) -> MapBuffer | None:
        if name not in fds:
            return None
        if name not in self._buffers:
            key_size, value_size = trace_layout.VALUE_BYTES[name]
            self._buffers[name] = MapBuffer(key_size, value_size * self._cpus, trace_layout.ENTRIES_MAX[name])
        self._buffers[name].read(fds[name])
        return self._buffers[name]


def _with_other(counts: dict[str, int], past: int) -> dict[str, int]:
    return counts | {OTHER: past} if past else counts
