"""What is counted, in the form that API and metrics show: names in place of numbers, rates in place of totals.

``Counting`` reads; the functions below it turn a reading into rows.  Rates are differences between two
readings of one watcher: nothing is kept for watchers that are not there.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nlargest, nsmallest
from ipaddress import ip_address
from typing import Final

from x0d.ports import Clock, PlaneSample, PolicyPlane, Source, TraceSample
from x0d.service import views_dataplane as shown
from x0d.service.histograms import to_histogram
from x0d.service.interfaces import InterfaceService
from x0d.service.policy import PolicyService
from x0d.service.sampling import PlaneReadings
from x0d.service.tracing import TracingService

DROPPED: Final = frozenset({"drop", "deny", "limit"})
"""Verdicts that keep a packet from its receiver."""
DROP_REASONS_SHOWN_MAX: Final = 10
S: Final = 1_000_000_000


class Counting:
    """Reads every counter there is."""

    def __init__(
        self,
        *,
        readings: PlaneReadings,
        tracing: TracingService,
        policy: PolicyService,
        policy_plane: PolicyPlane,
        interfaces: InterfaceService,
        clock: Clock,
    ) -> None:
        self.readings = readings
        self.tracing = tracing
        self.policy = policy
        self.policy_plane = policy_plane
        self.interfaces = interfaces
        self.clock = clock

    def name_of(self, ifindex: int) -> str:
        """Name of an interface that is or was attached."""
        return self.interfaces.name_of(ifindex) or f"#{ifindex}"

    async def stats(self) -> shown.Stats:
        """All of it."""
        sample, trace = self.readings.sample(), await self.tracing.read()
        return shown.Stats(
            counters=packet_counters(sample, self.name_of),
            probes=probe_counters(sample, self.name_of),
            events_sent=sample.events_sent,
            events_lost=sample.events_lost,
            drops=[shown.DropCounter(reason, count) for reason, count in _most(trace.drops)],
            tcp_retransmits=_peers(trace.retransmits),
            tcp_resets_sent=_peers(trace.resets_sent),
            tcp_resets_received=_peers(trace.resets_received),
            socket_states=[shown.StateCounter(*key, count) for key, count in sorted(trace.socket_states.items())],
            run_queue_latency=to_histogram(trace.run_queue) if any(trace.run_queue.counts) else None,
        )


class TopReader:
    """One watcher of what is busiest; satisfies ``views_dataplane.TopReader``."""

    def __init__(self, counting: Counting) -> None:
        self._counting = counting
        self._at_ns = 0
        self._interfaces: Mapping[str, tuple[int, int, int]] = {}
        self._verdicts: Mapping[str, int] = {}
        self._sources: Mapping[bytes, Source] = {}
        self._drops: Mapping[str, int] = {}

    async def next(self, talkers_max: int) -> shown.Top:
        """Measure since the previous call."""
        counting = self._counting
        sample, trace = counting.readings.sample(), await counting.tracing.read()
        sources = {source.address: source for source in await counting.policy_plane.sources()}
        now_ns = counting.clock.monotonic_ns()
        interval_s = (now_ns - self._at_ns) / S if self._at_ns else 0.0
        top = shown.Top(
            at_unix_ms=counting.clock.unix_ms(),
            interval_s=interval_s,
            interfaces=self._interface_rates(sample, interval_s),
            verdicts=self._verdict_rates(sample, interval_s),
            talkers=self._talkers(sources, interval_s, talkers_max),
            drops=self._drop_rates(trace, interval_s),
            sources_tracked=len(sources),
            deny_entries=counting.policy.deny_count,
            limits=counting.policy.limit_count,
        )
        self._at_ns, self._sources = now_ns, sources
        return top

    def _interface_rates(self, sample: PlaneSample, interval_s: float) -> Sequence[shown.InterfaceRate]:
        modes = {
            status.name: status.attachment.mode if status.attachment else ""
            for status in self._counting.interfaces.statuses()
        }
        totals = dict.fromkeys(modes, (0, 0, 0))
        for count in sample.packets:
            name = self._counting.name_of(count.ifindex)
            packets, octets, dropped = totals.get(name, (0, 0, 0))
            lost = count.packets if count.verdict in DROPPED else 0
            totals[name] = packets + count.packets, octets + count.bytes, dropped + lost
        rows = []
        for name, total in totals.items():
            packets_per_s, octets_per_s, dropped_per_s = (
                _rate(now, before, interval_s)
                for now, before in zip(total, self._interfaces.get(name, total), strict=True)
            )
            rows.append(shown.InterfaceRate(name, modes.get(name, ""), packets_per_s, octets_per_s * 8, dropped_per_s))
        self._interfaces = totals
        return sorted(rows, key=lambda row: (-_about(row.packets_per_s), row.interface))

    def _verdict_rates(self, sample: PlaneSample, interval_s: float) -> Sequence[shown.VerdictRate]:
        totals: dict[str, int] = {}
        for count in sample.packets:
            totals[count.verdict] = totals.get(count.verdict, 0) + count.packets
        before, self._verdicts = self._verdicts, totals
        rows = [
            shown.VerdictRate(verdict, _rate(total, before.get(verdict, total), interval_s), total)
            for verdict, total in totals.items()
        ]
        return sorted(rows, key=lambda row: (*_busiest(row), row.verdict))

    def _talkers(self, sources: Mapping[bytes, Source], interval_s: float, talkers_max: int) -> Sequence[shown.Talker]:
        def since(source: Source) -> tuple[int, int]:
            """Packets since the previous call, then in all; one that is new counts from 0 unless this is the first."""
            before = self._sources.get(source.address)
            known = before.packets if before else 0
            new = source.packets - known if interval_s and source.packets >= known else 0
            return new, source.packets

        rows = []
        for source in nlargest(talkers_max, sources.values(), key=since):
            before = self._sources.get(source.address, Source(source.address, 0, 0, 0))
            rows.append(
                shown.Talker(
                    source=str(ip_address(source.address)),
                    packets_per_s=_rate(source.packets, before.packets, interval_s),
                    bits_per_s=_rate(source.bytes, before.bytes, interval_s) * 8,
                    limited_per_s=_rate(source.limited, before.limited, interval_s),
                    packets=source.packets,
                    bytes=source.bytes,
                    limited=source.limited,
                )
            )
        return sorted(rows, key=lambda row: (*_busiest(row), row.source))

    def _drop_rates(self, trace: TraceSample, interval_s: float) -> Sequence[shown.DropRate]:
        before, self._drops = self._drops, trace.drops
        rows = [
            shown.DropRate(reason, _rate(count, before.get(reason, 0), interval_s), count)
            for reason, count in trace.drops.items()
        ]
        return nsmallest(DROP_REASONS_SHOWN_MAX, rows, key=lambda row: (*_busiest(row), row.reason))


def packet_counters(sample: PlaneSample, name_of: Callable[[int], str]) -> Sequence[shown.PacketCounter]:
    """Packets by interface, class and verdict; those that are not zero."""
    return [
        shown.PacketCounter(name_of(row.ifindex), row.protocol_class, row.verdict, row.packets, row.bytes)
        for row in sample.packets
        if row.packets
    ]


def probe_counters(sample: PlaneSample, name_of: Callable[[int], str]) -> Sequence[shown.ProbeCounter]:
    """Probes by interface and what became of them; those that are not zero."""
    return [shown.ProbeCounter(name_of(row.ifindex), row.event, row.packets) for row in sample.probes if row.packets]


def _rate(now: int, before: int, interval_s: float) -> float:
    """Per second; 0 in the first reading, and where a counter began anew."""
    return (now - before) / interval_s if interval_s and now >= before else 0.0


def _about(rate: float) -> float:
    """Two digits of a rate: rows that are equally busy must not swap places whenever it varies a little."""
    return float(f"{rate:.2g}")


def _busiest(row: shown.VerdictRate | shown.Talker | shown.DropRate) -> tuple[float, int]:
    """Sort key of the busiest first; those that rest by all that was counted, which stays as it is."""
    return -_about(row.packets_per_s), 0 if row.packets_per_s else -row.packets


def _most(counts: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _peers(counts: Mapping[str, int]) -> Sequence[shown.PeerCounter]:
    return [shown.PeerCounter(prefix, count) for prefix, count in _most(counts)]
