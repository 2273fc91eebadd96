"""Replies of the data plane as tables, and its streams as lines."""

from collections.abc import Iterable, Mapping, Sequence

from x0ctl.output import clean, instant, print_line, print_table
from x0d.v1.dataplane_pb2 import (
    Attachment,
    GetStatsResponse,
    Histogram,
    ListProgramsResponse,
    Map,
    PacketEvent,
    Program,
    TraceResponse,
    UpgradeResponse,
    WatchEventsResponse,
    WatchStatsResponse,
)

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}
BAR_CHARACTERS = 40
FRAGS = "_frags"
"""Ends the name of a program that takes frames of several buffers."""
SYSCALLS_MAX = 20
"""Of the daemon's answer."""


def stats(reply: GetStatsResponse) -> None:
    """Print packet and probe counters, then what the tracepoints count, where they run."""
    counters = [(row.interface, row.protocol_class, row.verdict, row.packets, row.bytes) for row in reply.counters]
    print_table(("INTERFACE", "CLASS", "VERDICT", "PACKETS", "BYTES"), counters, "no packets counted")
    print_line("")
    probes = [(row.interface, row.event, row.packets) for row in reply.probes]
    print_table(("INTERFACE", "PROBES", "PACKETS"), probes, "no probes counted")
    if reply.drops:
        print_line("")
        print_table(("KERNEL DROPS", "PACKETS"), [(row.reason, row.packets) for row in reply.drops], "")
    peers = (
        ("TCP RETRANSMITS TO", reply.tcp_retransmits),
        ("TCP RESETS TO", reply.tcp_resets_sent),
        ("TCP RESETS FROM", reply.tcp_resets_received),
    )
    for header, rows in peers:
        if rows:
            print_line("")
            print_table((header, "COUNT"), [(row.prefix, row.count) for row in rows], "")
    if reply.socket_states:
        print_line("")
        changes = [(row.family, row.from_state, row.to_state, row.count) for row in reply.socket_states]
        print_table(("FAMILY", "SOCKETS FROM", "TO", "COUNT"), changes, "")
    if sum(reply.run_queue_latency.counts):
        print_line("\nWait for a CPU")
        _print_histogram(reply.run_queue_latency)
    if reply.events_sent or reply.events_lost:
        print_line(f"\nevents: {reply.events_sent} sampled, {reply.events_lost} lost")


def _print_histogram(histogram: Histogram) -> None:
    """Print the buckets from the first to the last that is not empty."""
    used = [index for index, count in enumerate(histogram.counts) if count]
    if not used:
        return
    most = max(histogram.counts)
    for index in range(used[0], used[-1] + 1):
        count = histogram.counts[index]
        bar = "#" * -(-count * BAR_CHARACTERS // most)
        print_line(f"  < {seconds(histogram.upper_bounds[index]):>9}  {count:>10}  {bar}".rstrip())


def seconds(value: float) -> str:
    """Such as ``1.02 us``, ``16.8 ms`` or ``1.2 s``."""
    if value == float("inf"):
        return "any"
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def attachments(rows: Iterable[Attachment]) -> None:
    """Print where the programs are attached."""
    headers = ("INTERFACE", "INDEX", "STATE", "XDP MODE", "FRAGS", "NOTES")
    cells = []
    for row in rows:
        notes = "; ".join(text for text in ("adopted" if row.adopted else "", row.reason) if text)
        frags = "yes" if row.frags else "no"
        cells.append((row.interface, row.ifindex or "-", row.state, row.mode or "-", frags, notes))
    print_table(headers, cells, "no interfaces", prose=1)


def left(rows: Sequence[Attachment]) -> None:
    """Print what it means that these were left."""
    names = " ".join(row.interface for row in rows if row.state == "detached")
    if names:
        print_line("")
        print_line(clean(f"no probe is answered on {names}: the links over it go down, traffic is routed around;"))
        print_line(clean(f"x0ctl ebpf attach {names}, or a restart of x0d, takes it up again"))


def programs(reply: ListProgramsResponse) -> None:
    """Print attachments, programs with what refused them, maps, objects."""
    attachments(reply.attachments)
    print_line("")
    _programs(reply.programs)
    print_line("")
    maps = [(row.name, row.type, _entries_max(row), row.memory_bytes) for row in reply.maps]
    print_table(("MAP", "TYPE", "ENTRIES MAX", "BYTES"), maps, "no maps")
    print_line(f"in all {sum(row.memory_bytes for row in reply.maps):,} bytes")
    print_line("")
    objects = [
        (
            row.path,
            row.sha256[:16],
            row.license,
            row.layout_version,
            "yes" if row.has_btf else "no",
            instant(row.loaded_at_unix_ms),
        )
        for row in reply.objects
    ]
    print_table(("OBJECT", "SHA-256", "LICENCE", "LAYOUT", "BTF", "LOADED"), objects, "no object is loaded")


def _entries_max(row: Map) -> str:
    """A ring buffer has no entries: what the kernel calls so is its size."""
    return f"{row.entries_max:,} bytes" if row.type == "ringbuf" else str(row.entries_max)


def _is_idle_variant(row: Program, states: Mapping[str, str]) -> bool:
    """A program for frames of one buffer, which nobody needs where its twin for all frames serves."""
    variant_is_off = all(state == "off" for name, state in states.items() if f"{name}{FRAGS}" in states)
    return variant_is_off and states.get(f"{row.name}{FRAGS}") == "loaded"


def _programs(rows: Sequence[Program]) -> None:
    cells = []
    states = {row.name: row.state for row in rows}
    for row in rows:
        if _is_idle_variant(row, states):
            continue
        why = ": ".join(text for text in (row.errno_name, row.reason) if text)
        cells.append((row.name, row.object, row.kind, row.state, row.id or "-", why))
    print_table(("PROGRAM", "OBJECT", "KIND", "STATE", "ID", "REASON"), cells, "no programs", prose=1)
    for row in rows:
        if row.log_tail:
            print_line(f"\nThe verifier on {clean(row.name)}")
            for line in row.log_tail.splitlines():
                print_line(f"    {clean(line)}")


def upgraded(reply: UpgradeResponse) -> None:
    """Print what is another now, then every program."""
    if reply.replaced:
        print_line(clean(f"replaced in {reply.took_ms:.1f} ms: {', '.join(reply.replaced)}"))
    elif reply.objects_changed:
        changed = ", ".join(reply.objects_changed)
        print_line(clean(f"{changed}: other objects, and no program that runs has other code"))
    else:
        print_line("nothing has changed: the objects on disk are those in force")
    print_line("")
    _programs(reply.programs)


def traced(reply: TraceResponse, every: int) -> None:
    """Print the system calls of the greatest total time, then how long all of them took."""
    rows = [
        (row.name, row.count, seconds(row.count * row.mean_s), seconds(row.mean_s), f"< {seconds(row.p99_s)}")
        for row in reply.syscalls
    ]
    if rows:
        measured = "every call was measured" if every == 1 else f"1 call in {every:,} was measured"
        print_line(f"{measured}; sorted by total time, at most {SYSCALLS_MAX} are shown\n")
    print_table(("SYSTEM CALL", "MEASURED", "TOTAL", "MEAN", "99 IN 100"), rows, "no system call was measured")
    if rows:
        print_line(f"\nAll system calls of {reply.elapsed_s:.1f} s")
        _print_histogram(reply.total)


class CounterLines:
    """A line for each counter that changes."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, str, str], int] = {}
        self._at_unix_ms = 0

    def print(self, message: WatchStatsResponse) -> None:
        """Print those that are not as in the message before; all of the first."""
        passed_s = (message.at_unix_ms - self._at_unix_ms) / 1000 if self._at_unix_ms else 0.0
        for row in message.stats.counters:
            key = (row.interface, row.protocol_class, row.verdict)
            more = row.packets - self._before.get(key, 0)
            if not more:
                continue
            self._before[key] = row.packets
            rate = f"  {more / passed_s:.1f}/s" if passed_s > 0 else ""
            print_line(
                clean(
                    f"{instant(message.at_unix_ms)}  {row.interface:<15}  {row.protocol_class:<9}  {row.verdict:<7}  "
                    f"{row.packets} packets  {row.bytes} bytes{rate}"
                )
            )
        self._at_unix_ms = message.at_unix_ms


class EventLines:
    """A line for each event, and one whenever more were lost."""

    def __init__(self) -> None:
        self._lost: int | None = None

    def print(self, message: WatchEventsResponse) -> None:
        """Print the events; the first message says what one in so many is."""
        if self._lost is None:
            print_line(f"one packet in {message.sample_every} is shown")
        elif message.events_lost > self._lost:
            print_line(f"{message.events_lost - self._lost} events were lost")
        self._lost = message.events_lost
        for event in message.events:
            print_line(clean(_event(event)))


def _event(event: PacketEvent) -> str:
    protocol = PROTOCOLS.get(event.protocol, str(event.protocol)) if event.source else event.protocol_class
    ends = f"{_end(event.source, event.source_port)} > {_end(event.destination, event.destination_port)}"
    tags = f"  {event.vlan_tags} VLAN tags" if event.vlan_tags else ""
    return (
        f"{instant(event.at_unix_ms)}  {event.interface:<15}  {event.verdict:<7}  {protocol:<6}  "
        f"{ends if event.source else '-'}  {event.length} bytes{tags}"
    )


def _end(address: str, port: int) -> str:
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
