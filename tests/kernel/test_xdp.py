"""The probe stage behind the others, on single packets, by BPF_PROG_TEST_RUN.

A test run feeds the changed packet back to the next repetition, so each is one run of one packet.
Packets seem to come from interface 1 (lo), where nothing is attached.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import pytest

from kernel.xdp_packets import (
    OUR_MAC,
    PEER_MAC,
    Packet,
    decode,
)
from kernel.xdp_stages import CONFIG, LO, XdpStages, new_stages
from kernel.xdp_values import REPLY_AGE_MAX_NS, SEQUENCE_JUMP_MAX
from x0d.kernel import bpf, layout
from x0d.kernel.layout import Probe
from x0d.kernel.neighbours import NeighbourTable
from x0d.mesh.model import Address, ProbeRecord

pytestmark = pytest.mark.kernel

DROP, PASS, TX = 1, 2, 3
PEER_SESSION, OUR_SESSION = 0xFEDCBA9876543210, 77
ENDS = {
    "ipv4": (ip_address("10.0.0.2"), ip_address("10.0.0.1")),
    "ipv6": (ip_address("fe80::2"), ip_address("fe80::1")),
}


@dataclass
class Reflector:
    """Root and stages with one neighbour on lo, and what they have counted since."""

    stages: XdpStages
    neighbour: Address
    local: Address
    before: dict[object, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.table = NeighbourTable(self.stages.fds, OUR_SESSION)
        self.table.put(LO, self.neighbour, self.local)

    def run(self, frame: bytes) -> bpf.PacketRun:
        """Show a frame to the programs once."""
        self.before = self._counts()
        return self.stages.run(frame)

    def counted(self) -> set[object]:
        """What went up by exactly one with the last run: (class, verdict) and event."""
        after = self._counts()
        changes = {name: count - self.before.get(name, 0) for name, count in after.items()}
        assert set(changes.values()) <= {0, 1}
        return {name for name, change in changes.items() if change}

    def _counts(self) -> dict[object, int]:
        counters = self.stages.counters()
        counts: dict[object, int] = {cell: count for cell, (count, _size) in counters.packets.items()}
        counts.update(counters.probes)
        return counts

    def request(self, sequence: int = 1) -> Packet:
        """Make the neighbour's request to us."""
        return Packet(self.neighbour, self.local, layout.encode_request(PEER_SESSION, sequence, 123))

    def reply(self, sequence: int, **changes: int) -> Packet:
        """Make the neighbour's reply to our own request."""
        values = {"session": OUR_SESSION, "sent_at_ns": time.monotonic_ns() - 5000, **changes}
        probe = Probe(layout.PROBE_REPLY, sequence=sequence, reflected_at_ns=55, requests_received=9, **values)
        return Packet(self.neighbour, self.local, layout.encode_probe(probe))

    def record(self) -> ProbeRecord:
        """Read the neighbour's record."""
        record = self.table.record(LO, self.neighbour)
        assert record is not None
        return record


@contextmanager
def open_reflector(family: str, *, frags: bool = True, probe_burst: int = 100, rate: int = 1000) -> Iterator[Reflector]:
    """Load the programs on fresh maps."""
    with new_stages(frags=frags) as stages:
        stages.configure(replace(CONFIG, probe_burst=probe_burst, probe_rate_pps=rate))
        yield Reflector(stages, *ENDS[family])


@pytest.fixture(params=["ipv4", "ipv6"])
def reflector(request: pytest.FixtureRequest) -> Iterator[Reflector]:
    """Reflect with plenty of tokens, in both families."""
    with open_reflector(request.param) as opened:
        yield opened


@pytest.fixture
def ipv4() -> Iterator[Reflector]:
    """Reflect IPv4."""
    with open_reflector("ipv4") as opened:
        yield opened


@pytest.mark.parametrize("frags", [True, False], ids=["frags", "plain"])
@pytest.mark.parametrize("family", list(ENDS))
def test_request_is_answered(family: str, frags: bool) -> None:
    """A neighbour's request comes back turned round, stamped, counted and with right checksums."""
    with open_reflector(family, frags=frags) as reflector:
        check_answers(reflector)


def check_answers(reflector: Reflector) -> None:
    """Ask twice."""
    for sequence in (1, 2):
        asked_at_ns = time.monotonic_ns()
        run = reflector.run(reflector.request(sequence).encode())
        assert run.verdict == TX
        assert reflector.counted() == {("probe", "reflect"), "answered"}
        answer = decode(run.packet)
        assert (answer.source, answer.destination) == (reflector.local, reflector.neighbour)
        assert run.packet[:12] == PEER_MAC + OUR_MAC
        assert (answer.source_port, answer.destination_port, answer.hop_limit) == (9474, 9474, 255)
        probe = layout.decode_probe(answer.payload)
        assert asked_at_ns <= probe.reflected_at_ns <= time.monotonic_ns()
        assert probe == Probe(layout.PROBE_REPLY, PEER_SESSION, sequence, 123, probe.reflected_at_ns, sequence)
        expected = ProbeRecord(PEER_SESSION, requests_received=sequence, request_last_at_ns=probe.reflected_at_ns)
        assert reflector.record() == expected


def test_checksum_is_right_for_any_content(reflector: Reflector, seed: int) -> None:
    """Whatever the sender's session and time are, the checksum is right and never 0."""
    for i in range(200):
        payload = layout.encode_request(
            (seed + 1) * 0x9E3779B97F4A7C15 * (i + 1) & (1 << 64) - 1, i, seed << i & 0xFFFF
        )
        run = reflector.run(reflector.request().but(payload=payload).encode())
        if run.verdict != TX:
            assert "rate_exceeded" in reflector.counted()
            continue
        decode(run.packet)


def test_new_session_of_the_peer_counts_anew(reflector: Reflector) -> None:
    """A peer that restarted is counted from one again."""
    reflector.run(reflector.request().encode())
    reflector.run(reflector.request().but(payload=layout.encode_request(5, 1, 1)).encode())
    assert (reflector.record().peer_session, reflector.record().requests_received) == (5, 1)


@pytest.mark.parametrize(
    ("changes", "event"),
    [
        ({"hop_limit": 254}, "hop_limit_wrong"),
        ({"hop_limit": 0}, "hop_limit_wrong"),
        ({"source_port": 9999}, "malformed"),
        ({"destination_mac": b"\xff" * 6}, "malformed"),
    ],
)
def test_wrong_header_is_dropped(reflector: Reflector, changes: dict[str, object], event: str) -> None:
    """A request from behind a router, from another port or to a multicast address gets no answer."""
    frame = reflector.request().but(**changes).encode()
    run = reflector.run(frame)
    assert (DROP, frame) == (run.verdict, run.packet)
    assert reflector.counted() == {("probe", "drop"), event}
    assert reflector.record() == ProbeRecord()


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 0x59), (3, 0), (4, 2), (5, 0), (5, 3), (6, 1), (7, 1)],
    ids=["magic", "magic-end", "version", "kind-0", "kind-3", "reserved", "reserved-end"],
)
def test_wrong_probe_is_dropped(reflector: Reflector, at: int, value: int) -> None:
    """Each constant byte of a probe counts."""
    payload = bytearray(reflector.request().payload)
    payload[at] = value
    run = reflector.run(reflector.request().but(payload=bytes(payload)).encode())
    assert run.verdict == DROP
    assert reflector.counted() == {("probe", "drop"), "malformed"}


@pytest.mark.parametrize("extra", [-48, -1, 1, 1000])
def test_other_length_is_dropped(reflector: Reflector, extra: int) -> None:
    """A payload of any length but 48 is malformed."""
    payload = (reflector.request().payload + bytes(1000))[: 48 + extra]
    run = reflector.run(reflector.request().but(payload=payload).encode())
    assert run.verdict == DROP
    assert reflector.counted() == {("probe", "drop"), "malformed"}


@pytest.mark.parametrize("length", [0, 8, 55, 57, 0xFFFF])
def test_other_udp_length_is_dropped(reflector: Reflector, length: int) -> None:
    """A UDP length that disagrees with the IP header's is malformed."""
    frame = bytearray(reflector.request().encode())
    at = len(frame) - 48 - 4
    frame[at : at + 2] = length.to_bytes(2, "big")
    assert reflector.run(bytes(frame)).verdict == DROP
    assert reflector.counted() == {("probe", "drop"), "malformed"}


def test_truncated_at_every_byte(reflector: Reflector) -> None:
    """No cut of a request is answered, and each is counted once."""
    whole = reflector.request().encode()
    for length in range(14, len(whole)):
        run = reflector.run(whole[:length])
        assert run.verdict in {PASS, DROP}
        counted = reflector.counted()
        complete = length >= len(whole) - 48
        assert counted == ({("probe", "drop"), "malformed"} if complete else {("malformed", "pass")})
    assert reflector.record() == ProbeRecord()


def test_padding_behind_the_packet_is_ignored(reflector: Reflector) -> None:
    """Ethernet padding is no part of a probe."""
    run = reflector.run(reflector.request().encode() + bytes(7))
    assert run.verdict == TX
    decode(run.packet[:-7])


def test_stranger_is_dropped(reflector: Reflector) -> None:
    """A request from an address that is not a configured neighbour gets no answer."""
    stranger = ip_address(int(reflector.neighbour) + 1)
    assert reflector.run(reflector.request().but(source=type(reflector.local)(int(stranger))).encode()).verdict == DROP
    assert reflector.counted() == {("probe", "drop"), "stranger"}


def test_neighbour_to_another_local_address_is_a_stranger(reflector: Reflector) -> None:
    """A neighbour is answered only from the address of its own link."""
    family = type(reflector.local)
    other_local, other = family(int(reflector.local) + 99), family(int(reflector.neighbour) + 99)
    reflector.table.put(LO, other, other_local)
    assert reflector.run(reflector.request().but(destination=other_local).encode()).verdict == DROP
    assert reflector.counted() == {("probe", "drop"), "stranger"}


def test_transit_passes(reflector: Reflector) -> None:
    """The probe port of somebody else's address is somebody else's, with whatever hop limit."""
    elsewhere = type(reflector.local)(int(reflector.local) + 50)
    for hop_limit in (255, 9):
        frame = reflector.request().but(destination=elsewhere, hop_limit=hop_limit).encode()
        run = reflector.run(frame)
        assert (PASS, frame) == (run.verdict, run.packet)
        assert reflector.counted() == {("udp", "pass")}


def test_tagged_probe_passes(reflector: Reflector) -> None:
    """A tagged frame belongs to the VLAN device."""
    assert reflector.run(reflector.request().but(vlan=5).encode()).verdict == PASS
    assert reflector.counted() == {("udp", "pass")}


@pytest.mark.parametrize("changes", [{"options": b"\x01" * 4}, {"fragment": 0x2000}], ids=["options", "first fragment"])
def test_odd_ipv4_is_not_answered(ipv4: Reflector, changes: dict[str, object]) -> None:
    """IP options and fragments are no probe's."""
    assert ipv4.run(ipv4.request().but(**changes).encode()).verdict == DROP
    assert ipv4.counted() == {("probe", "drop"), "malformed"}


def test_reply_is_recorded(reflector: Reflector) -> None:
    """Replies end in the kernel and leave bitmap, counts and round-trip time behind."""
    for sequence in (1, 2, 5, 4):
        before_ns = time.monotonic_ns()
        run = reflector.run(reflector.reply(sequence).encode())
        assert run.verdict == DROP
        assert reflector.counted() == {("probe", "consume"), "accepted"}
        assert before_ns <= reflector.record().reply_last_at_ns <= time.monotonic_ns()
    record = reflector.record()
    assert (record.session, record.sequence_last, record.replies_received) == (OUR_SESSION, 5, 4)
    assert [record.answered(sequence) for sequence in range(1, 7)] == [True, True, False, True, True, False]
    assert (record.peer_requests_received, record.reflected_last_at_ns) == (9, 55)
    assert 5000 <= record.rtt_last_ns <= record.rtt_sum_ns
    assert record.requests_received == 0


def test_duplicate_reply_is_counted_once(reflector: Reflector) -> None:
    """A reply seen before changes nothing in the record."""
    frame = reflector.reply(3).encode()
    reflector.run(frame)
    record = reflector.record()
    assert reflector.run(frame).verdict == DROP
    assert reflector.counted() == {("probe", "consume"), "duplicate"}
    assert reflector.record() == record


def test_window_forgets_after_64(reflector: Reflector) -> None:
    """A jump past the window empties it; what lies behind it is refused."""
    for sequence in (1, 64):
        reflector.run(reflector.reply(sequence).encode())
    assert reflector.record().answered(1)
    reflector.run(reflector.reply(65).encode())
    assert reflector.record().received == 0b11
    reflector.run(reflector.reply(1).encode())
    assert reflector.counted() == {("probe", "drop"), "implausible"}
    reflector.run(reflector.reply(200).encode())
    assert (reflector.record().sequence_last, reflector.record().received) == (200, 1)


@pytest.mark.parametrize(
    ("sequence", "changes", "event"),
    [
        (2, {"session": OUR_SESSION + 1}, "session_stale"),
        (0, {}, "implausible"),
        (1 + SEQUENCE_JUMP_MAX + 1, {}, "implausible"),
        ((1 << 64) - 1, {}, "implausible"),
        (2, {"sent_at_ns": (1 << 64) - 1}, "implausible"),
        (2, {"sent_at_ns": 0}, "implausible"),
    ],
)
def test_false_reply_changes_nothing(reflector: Reflector, sequence: int, changes: dict[str, int], event: str) -> None:
    """A reply of another session, from the future, too old or too far ahead is refused."""
    reflector.run(reflector.reply(1).encode())
    record = reflector.record()
    assert reflector.run(reflector.reply(sequence, **changes).encode()).verdict == DROP
    assert reflector.counted() == {("probe", "drop"), event}
    assert reflector.record() == record


def test_any_sequence_will_do_after_silence(reflector: Reflector) -> None:
    """Hours of unanswered probes are a long jump, and no reason to refuse the first reply after them."""
    links, key = reflector.stages.fds["x0d_links"], layout.encode_link_key(LO, reflector.neighbour)
    silent_ns = time.monotonic_ns() - REPLY_AGE_MAX_NS - 1
    old = ProbeRecord(session=OUR_SESSION, sequence_last=9, received=1, replies_received=9, reply_last_at_ns=silent_ns)
    for sequence in (10 + 2 * SEQUENCE_JUMP_MAX, 3):
        bpf.update(links, key, layout.encode_link(reflector.local, old))
        reflector.run(reflector.reply(sequence).encode())
        assert reflector.counted() == {("probe", "consume"), "accepted"}
        record = reflector.record()
        assert (sequence, 1, 10) == (record.sequence_last, record.received, record.replies_received)


def test_own_new_session_resets_the_probers_half(reflector: Reflector) -> None:
    """Another life's record is shown as empty, reset by the first reply, and keeps the peer's half."""
    links, key = reflector.stages.fds["x0d_links"], layout.encode_link_key(LO, reflector.neighbour)
    numbers = range(1, 13)
    bpf.update(links, key, layout.encode_link(reflector.local, ProbeRecord(*numbers)))
    assert reflector.record() == ProbeRecord(1, 2, 3)
    reflector.run(reflector.reply(7).encode())
    record = reflector.record()
    assert (record.peer_session, record.requests_received, record.request_last_at_ns) == (1, 2, 3)
    assert (record.session, record.sequence_last, record.received, record.replies_received) == (OUR_SESSION, 7, 1, 1)
    assert record.rtt_last_ns == record.rtt_sum_ns


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_rate_is_kept(family: str) -> None:
    """Past burst and rate requests are counted and dropped; the bucket fills again with time."""
    with open_reflector(family, probe_burst=3, rate=1) as reflector:
        outcomes = [reflector.run(reflector.request(i).encode()).verdict for i in range(1, 6)]
        assert outcomes == [TX, TX, TX, DROP, DROP]
        assert reflector.counted() == {("probe", "drop"), "rate_exceeded"}
        assert reflector.record().requests_received == 3
        bucket = bpf.lookup(reflector.stages.fds["x0d_buckets"], LO.to_bytes(4, "little"), layout.BUCKET.size)
        assert bucket is not None
        _lock, tokens, refilled_at_ns = layout.BUCKET.unpack(bucket)
        earlier = layout.BUCKET.pack(0, tokens, refilled_at_ns - 2_000_000_000)
        bpf.update(reflector.stages.fds["x0d_buckets"], LO.to_bytes(4, "little"), earlier)
        outcomes = [reflector.run(reflector.request(i).encode()).verdict for i in range(6, 9)]
        assert outcomes == [TX, TX, DROP]


def test_deleted_neighbour_is_a_stranger_and_then_transit(ipv4: Reflector) -> None:
    """With its last neighbour gone, our address is no probe target any more."""
    second = ip_address("10.0.0.9")
    ipv4.table.put(LO, second, ipv4.local)
    ipv4.table.delete(LO, ipv4.neighbour)
    ipv4.run(ipv4.request().encode())
    assert ipv4.counted() == {("probe", "drop"), "stranger"}
    ipv4.table.delete(LO, second)
    ipv4.table.delete(LO, second)
    ipv4.run(ipv4.request().encode())
    assert ipv4.counted() == {("udp", "pass")}
    assert ipv4.table.record(LO, second) is None


def test_changed_local_address_keeps_the_record(ipv4: Reflector) -> None:
    """A neighbour put again with another address of ours is answered there, and only there."""
    ipv4.run(ipv4.request().encode())
    record, moved = ipv4.record(), ip_address("10.0.0.77")
    ipv4.table.put(LO, ipv4.neighbour, moved)
    assert ipv4.record() == record
    assert ipv4.run(ipv4.request().encode()).verdict == PASS
    assert ipv4.run(ipv4.request().but(destination=moved).encode()).verdict == TX
    assert {(LO, ipv4.neighbour): moved} == ipv4.table.links()
