"""The metric families of the data plane and the tracepoints, of one reading.

Labels are bounded: interfaces by the configuration, classes, verdicts and programs by the code, drop
reasons and TCP states by the kernel.  What is counted by peer or source address is in the API alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from x0d import telemetry
from x0d.ports import Log2Histogram, MapStatus, PlaneSample, ProgramStatus, TraceSample
from x0d.service.counting import packet_counters, probe_counters
from x0d.service.histograms import to_histogram, total
from x0d.service.views import InterfaceStatus


@dataclass(frozen=True, slots=True)
class DataplaneReading:
    """Everything of the data plane that one scrape shows."""

    sample: PlaneSample
    trace: TraceSample
    programs: Sequence[ProgramStatus]
    maps: Sequence[MapStatus]
    deny_entries: int
    limits: int
    lock_outs_refused: int
    """Changes of the lists that the guard refused."""
    lock_outs_forced: int
    name_of: Callable[[int], str]
    """Name of an interface by its index."""


def families(reading: DataplaneReading, interfaces: Sequence[InterfaceStatus]) -> Iterator[Metric]:
    """All of them."""
    yield from _of_interfaces(interfaces)
    yield from _of_packets(reading)
    yield from _of_programs(reading)
    yield from _of_drops_and_tcp(reading.trace)
    text = "From runnable to running, of every task."
    yield _histogram(telemetry.RUN_QUEUE_LATENCY, text, reading.trace.run_queue)
    text = "System calls, of the measurements with x0ctl ebpf trace."
    yield _histogram(telemetry.SYSCALL_LATENCY, text, total(reading.trace.syscalls))


def _of_interfaces(interfaces: Sequence[InterfaceStatus]) -> Iterator[Metric]:
    attached = GaugeMetricFamily(
        telemetry.INTERFACE_ATTACHED, "1 where our XDP program is attached, in this mode.", labels=["interface", "mode"]
    )
    blocked = GaugeMetricFamily(
        telemetry.INTERFACE_BLOCKED, "1 where the kernel refused our XDP program.", labels=["interface"]
    )
    for status in interfaces:
        if status.state == "attached":
            attached.add_metric([status.name, status.mode], 1)
        blocked.add_metric([status.name], int(status.state == "blocked"))
    yield attached
    yield blocked


def _of_packets(reading: DataplaneReading) -> Iterator[Metric]:
    names = ["interface", "protocol_class", "verdict"]
    packets = CounterMetricFamily(telemetry.DATAPLANE_PACKETS, "Packets that XDP saw.", labels=names)
    octets = CounterMetricFamily(telemetry.DATAPLANE_BYTES, "Bytes of the frames that XDP saw.", labels=names)
    probes = CounterMetricFamily(
        telemetry.DATAPLANE_PROBES, "Probe packets, by what became of them.", labels=["interface", "event"]
    )
    for count in packet_counters(reading.sample, reading.name_of):
        packets.add_metric([count.interface, count.protocol_class, count.verdict], count.packets)
        octets.add_metric([count.interface, count.protocol_class, count.verdict], count.bytes)
    for probe in probe_counters(reading.sample, reading.name_of):
        probes.add_metric([probe.interface, probe.event], probe.packets)
    text = "Sampled packet events: handed on, or lost because the buffer was full."
    events = CounterMetricFamily(telemetry.DATAPLANE_EVENTS, text, labels=["outcome"])
    events.add_metric(["sent"], reading.sample.events_sent)
    events.add_metric(["lost"], reading.sample.events_lost)
    yield from (packets, octets, probes, events)
    yield GaugeMetricFamily(telemetry.DENY_ENTRIES, "Entries of the deny-list.", reading.deny_entries)
    yield GaugeMetricFamily(telemetry.LIMITS, "Rate limits in force.", reading.limits)
    text = "SYNs to x0d's own ports, dropped because their source had sent too many."
    yield CounterMetricFamily(telemetry.SYN_LIMITED, text, reading.sample.syn_limited)
    text = "Changes of the lists that would lock somebody out: refused, or forced."
    guarded = CounterMetricFamily(telemetry.LOCK_OUTS, text, labels=["outcome"])
    guarded.add_metric(["refused"], reading.lock_outs_refused)
    guarded.add_metric(["forced"], reading.lock_outs_forced)
    yield guarded


def _of_programs(reading: DataplaneReading) -> Iterator[Metric]:
    text = "1 where the kernel has loaded the program, 0 where it refused it; x0ctl ebpf list says why."
    loaded = GaugeMetricFamily(telemetry.EBPF_PROGRAM_LOADED, text, labels=["program"])
    for program in reading.programs:
        if program.state != "off":
            loaded.add_metric([program.name], int(program.state == "loaded"))
    memory = GaugeMetricFamily(telemetry.EBPF_MAP_BYTES, "Kernel memory of a map.", labels=["map"])
    for entry in reading.maps:
        memory.add_metric([entry.name], entry.memory_bytes)
    yield from (loaded, memory)


def _of_drops_and_tcp(trace: TraceSample) -> Iterator[Metric]:
    drops = CounterMetricFamily(
        telemetry.KERNEL_DROPS, "Packets that the kernel dropped, by its reason.", labels=["reason"]
    )
    for reason, count in sorted(trace.drops.items()):
        drops.add_metric([reason], count)
    yield drops
    yield CounterMetricFamily(
        telemetry.TCP_RETRANSMITS,
        "TCP segments sent again; x0ctl ebpf stats has peers.",
        sum(trace.retransmits.values()),
    )
    resets = CounterMetricFamily(telemetry.TCP_RESETS, "TCP resets.", labels=["direction"])
    resets.add_metric(["out"], sum(trace.resets_sent.values()))
    resets.add_metric(["in"], sum(trace.resets_received.values()))
    yield resets
    totals: dict[tuple[str, str], int] = {}
    for (family, _former, state), count in trace.socket_states.items():
        totals[family, state] = totals.get((family, state), 0) + count
    states = CounterMetricFamily(
        telemetry.SOCKET_STATES, "TCP sockets that entered a state.", labels=["family", "state"]
    )
    for key, count in sorted(totals.items()):
        states.add_metric(key, count)
    yield states


def _histogram(name: str, text: str, observed: Log2Histogram) -> Metric:
    shown = to_histogram(observed)
    below, buckets = 0, []
    for bound, count in zip(shown.upper_bounds, shown.counts, strict=True):
        below += count
        buckets.append((f"{bound:g}" if bound != float("inf") else "+Inf", below))
    family = HistogramMetricFamily(name, text)
    family.add_metric([], buckets, shown.sum)
    return family
