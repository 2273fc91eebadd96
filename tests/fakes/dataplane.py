"""A data plane in memory: what the XDP programs do with probes, and what their maps hold.

Not modelled: modes and their refusals (a test names the one refusal it wants; a refused stage is told by ``shortfall``
and not by ``programs``), programs of an earlier life, the rate limit of probes, packets other than probes and SYNs, the
time that gives a source its SYNs back, the /64 of an IPv6 source, SYNs in transit, events, replies older than the
64-probe window, implausible sequences, maps that are full, objects other than by the names of what an upgrade would
replace.  It is loaded from the start, as if ``open`` had been called.
``tests/contract/test_data_plane.py`` holds it and the kernel to one contract.
"""

import errno
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from x0d.errors import ForeignProgram, KernelRefused, PinMissing, X0dError
from x0d.kernel import layout
from x0d.mesh.model import Address, ProbeRecord
from x0d.ports import (
    Attachment,
    Clock,
    MapStatus,
    ObjectStatus,
    PacketCounter,
    PlaneSample,
    ProbeCounter,
    ProgramStatus,
    Upgraded,
)

PROGRAMS = ("x0d_root_frags", *(f"x0d_{stage}_frags" for stage in layout.STAGES))


class FakeDataPlane:
    """``ports.DataPlane`` and ``ports.SynGuard``; feed it with ``receive`` and ``receive_syn``."""

    def __init__(self, clock: Clock, session: int) -> None:
        self._clock = clock
        self._session = session
        self.attached: dict[int, Attachment] = {}
        self.foreign: set[str] = set()
        """Interfaces with somebody else's program."""
        self.refusals: dict[str, KernelRefused] = {}
        """What the kernel answers by interface."""
        self.vanished: dict[int, str] = {}
        """Interfaces that somebody took our program off, with how."""
        self.is_open = True
        self.refused_stages: dict[str, str] = {}
        """Stages that do nothing, and what the kernel says of each; an upgrade that succeeds ends it."""
        self.changed: tuple[str, ...] = ()
        """Programs whose code on disk is another than in force."""
        self.upgrade_refusal: X0dError | None = None
        """What the next upgrade raises."""
        self._links: dict[tuple[int, Address], Address] = {}
        self._records: dict[tuple[int, Address], ProbeRecord] = {}
        self._events: Counter[tuple[int, str]] = Counter()
        self._packets: Counter[tuple[int, str]] = Counter()
        self.syn_limit: tuple[tuple[int, ...], int, int] | None = None
        """Ports, rate and burst; None: never set, or gone with everything else."""
        self._syns: Counter[tuple[int, Address]] = Counter()
        self._syns_limited = 0

    async def open(self) -> None:
        self.is_open = True

    async def attach(self, interface: str, ifindex: int) -> Attachment:
        self._require_open()
        if interface in self.foreign:
            raise ForeignProgram(interface, errno.EBUSY, 4711)
        if interface in self.refusals:
            raise self.refusals[interface]
        known = self.attached.get(ifindex)
        made = Attachment(interface, ifindex, "native", frags=True, adopted=known is not None, refused=())
        self.attached[ifindex] = made
        self.vanished.pop(ifindex, None)
        return made

    async def detach(self, ifindex: int) -> None:
        self._forget(ifindex)

    async def detach_all(self) -> None:
        for ifindex in self.attached.keys() | {at for at, _ in self._links}:
            self._forget(ifindex)
        self._events.clear()
        self._packets.clear()
        self._syns.clear()
        self.syn_limit, self._syns_limited = None, 0
        self.is_open = False

    async def upgrade(self) -> Upgraded:
        self._require_open()
        if self.upgrade_refusal is not None:
            raise self.upgrade_refusal
        replaced, self.changed = self.changed, ()
        self.refused_stages.clear()
        return Upgraded(replaced, 1.0, ("xdp.bpf.o",) if replaced else ())

    async def verify(self) -> Mapping[int, str]:
        return dict(self.vanished)

    async def collect(self, ifindexes: frozenset[int]) -> None:
        for ifindex in self.attached.keys() | {at for at, _ in self._links}:
            if ifindex not in ifindexes:
                self._forget(ifindex)

    def shortfall(self, stage: str) -> str:
        if not self.is_open:
            return "everything is detached"
        if not self.attached:
            return "the programs are on no interface"
        refusal = self.refused_stages.get(stage)
        return f"the {stage} stage is refused by the kernel: {refusal}" if refusal else ""

    def attached_ifindexes(self) -> frozenset[int]:
        return frozenset(self.attached)

    def put_link(self, ifindex: int, neighbour: Address, local: Address) -> None:
        self._require_open()
        self._links[ifindex, neighbour] = local
        self._records.setdefault((ifindex, neighbour), ProbeRecord())

    def delete_link(self, ifindex: int, neighbour: Address) -> None:
        self._links.pop((ifindex, neighbour), None)
        self._records.pop((ifindex, neighbour), None)

    def links(self) -> Mapping[tuple[int, Address], Address]:
        return dict(self._links)

    def probe_record(self, ifindex: int, neighbour: Address) -> ProbeRecord | None:
        return self._records.get((ifindex, neighbour))

    def set_limit(self, ports: Sequence[int], rate_pps: int, burst: int) -> None:
        self._require_open()
        self.syn_limit = tuple(ports), rate_pps, burst

    def limited(self) -> int:
        return self._syns_limited

    def sample(self) -> PlaneSample:
        packets = [
            PacketCounter(at, "probe", verdict, packets, packets * 90)
            for (at, verdict), packets in self._packets.items()
        ]
        probes = [ProbeCounter(at, event, packets) for (at, event), packets in self._events.items()]
        return PlaneSample(self._clock.monotonic_ns(), packets, probes, 0, 0, self._syns_limited)

    def programs(self) -> Sequence[ProgramStatus]:
        kinds = ("root", *("stage" for _ in layout.STAGES))
        return [
            ProgramStatus(name, "xdp", kind, "loaded", program_id=number)
            for number, (name, kind) in enumerate(zip(PROGRAMS, kinds, strict=True), start=1)
            if self.is_open
        ]

    def maps(self) -> Sequence[MapStatus]:
        return [MapStatus("x0d_config", "array", 1, 344)] if self.is_open else []

    def objects(self) -> Sequence[ObjectStatus]:
        if not self.is_open:
            return []
        return [ObjectStatus("xdp.bpf.o", "0" * 64, "GPL", layout.LAYOUT_VERSION, has_btf=True, loaded_unix_ms=1)]

    def _require_open(self) -> None:
        if not self.is_open:
            raise PinMissing("use the data plane", errno.ENOENT, "nothing of x0d's is in the kernel")

    # ---- the wire ----

    def receive(self, ifindex: int, source: Address, destination: Address, payload: bytes) -> bytes | None:
        """Take a probe that came in; the answer to send back, where it is a request of a neighbour."""
        if ifindex not in self.attached or ifindex in self.vanished:
            return None
        known = self._links.get((ifindex, source))
        if known != destination:
            self._count(ifindex, "stranger", "drop")
            return None
        probe = layout.decode_probe(payload)
        record = self._records[ifindex, source]
        if probe.kind == layout.PROBE_REPLY:
            self._accept(ifindex, source, probe, record)
            return None
        fresh = record.peer_session != probe.session
        requests = 1 if fresh else record.requests_received + 1
        now_ns = self._clock.monotonic_ns()
        self._records[ifindex, source] = replace(
            record, peer_session=probe.session, requests_received=requests, request_last_at_ns=now_ns
        )
        self._count(ifindex, "answered", "reflect")
        return layout.encode_probe(
            replace(probe, kind=layout.PROBE_REPLY, reflected_at_ns=now_ns, requests_received=requests)
        )

    def receive_syn(self, ifindex: int, source: Address, port: int) -> bool:
        """Take a SYN to one of our addresses; whether it goes on to the network stack."""
        if ifindex not in self.attached or ifindex in self.vanished or self.syn_limit is None:
            return True
        ports, rate_pps, burst = self.syn_limit
        if port not in ports or rate_pps == 0:
            return True
        if self._syns[ifindex, source] >= burst:
            self._syns_limited += 1
            return False
        self._syns[ifindex, source] += 1
        return True

    def _accept(self, ifindex: int, source: Address, probe: layout.Probe, record: ProbeRecord) -> None:
        if probe.session != self._session:
            self._count(ifindex, "session_stale", "drop")
            return
        ahead = probe.sequence - record.sequence_last
        if ahead <= 0 and record.received >> -ahead & 1:
            self._count(ifindex, "duplicate", "drop")
            return
        now_ns = self._clock.monotonic_ns()
        rtt_ns = now_ns - probe.sent_at_ns
        window = (1 << layout.PROBE_WINDOW) - 1
        taken = replace(
            record,
            session=probe.session,
            received=(record.received << ahead | 1) & window if ahead > 0 else record.received | 1 << -ahead,
            replies_received=record.replies_received + 1,
            reply_last_at_ns=now_ns,
            rtt_sum_ns=record.rtt_sum_ns + rtt_ns,
        )
        if ahead > 0:
            taken = replace(
                taken,
                sequence_last=probe.sequence,
                peer_requests_received=probe.requests_received,
                rtt_last_ns=rtt_ns,
                reflected_last_at_ns=probe.reflected_at_ns,
            )
        self._records[ifindex, source] = taken
        self._count(ifindex, "accepted", "consume")

    def _count(self, ifindex: int, event: str, verdict: str) -> None:
        self._events[ifindex, event] += 1
        self._packets[ifindex, verdict] += 1

    def _forget(self, ifindex: int) -> None:
        self.attached.pop(ifindex, None)
        self.vanished.pop(ifindex, None)
        for at, neighbour in list(self._links):
            if at == ifindex:
                self.delete_link(at, neighbour)
        for counted in (self._events, self._packets):
            for key in [key for key in counted if key[0] == ifindex]:
                del counted[key]
