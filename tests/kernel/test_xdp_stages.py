"""What the stages share: empty slots, replacement under way, sampled events and their losses."""

import itertools
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from ipaddress import IPv6Address, ip_address, ip_network

import pytest

from kernel.xdp_frames import (
    DOT1Q,
    ICMP6,
    SOURCE4,
    SOURCE6,
    TARGET4,
    TARGET6,
    TRANSPORT,
    UDP,
    ethernet,
    ipv4,
    ipv6,
)
from kernel.xdp_packets import Packet
from kernel.xdp_stages import CONFIG, LO, XdpStages, new_stages, read_xdp_object
from kernel.xdp_values import Deny, Limit
from x0d.kernel import bpf, layout, layout_policy
from x0d.kernel.neighbours import NeighbourTable
from x0d.mesh.model import Address
from x0d.ports.policy import PacketEvent

pytestmark = pytest.mark.kernel

DROP, PASS, TX = 1, 2, 3
HOUR_NS = 3_600_000_000_000
UDP4, UDP6 = ipv4(UDP, TRANSPORT[UDP]), ipv6(UDP, TRANSPORT[UDP])
NEIGHBOUR = ip_address("198.51.100.9")
REQUEST = Packet(NEIGHBOUR, TARGET4, layout.encode_request(5, 1, 123)).encode()
ALL4 = ip_network("0.0.0.0/0")
RECORD_BYTES = 8 + layout_policy.EVENT.size


@pytest.fixture
def stages() -> Iterator[XdpStages]:
    """Load all of them."""
    with new_stages() as loaded:
        yield loaded


def sample(stages: XdpStages, every: int) -> None:
    """Make every Nth packet an event."""
    stages.configure(replace(CONFIG, event_every=every))


# ---- slots ----


def subsets() -> list[tuple[str, ...]]:
    """Every choice of stages."""
    counts = range(len(layout.STAGES) + 1)
    return [chosen for count in counts for chosen in itertools.combinations(layout.STAGES, count)]


@pytest.mark.parametrize("frags", [True, False], ids=["frags", "plain"])
@pytest.mark.parametrize("chosen", subsets(), ids="+".join)
def test_any_subset_of_stages(chosen: Collection[str], frags: bool) -> None:
    """A packet that every stage would end is ended by the first that is there; an empty slot is passed over."""
    with new_stages(chosen, frags=frags) as stages:
        NeighbourTable(stages.fds, 77).put(LO, NEIGHBOUR, TARGET4)
        stages.deny({ip_network("198.51.100.9/32"): Deny(0)})
        stages.limit({ALL4: (0, Limit(HOUR_NS, HOUR_NS))})
        found = [stages.run(REQUEST).verdict for _ in range(2)]
        after_limit = TX if "probe" in chosen else PASS
        if "deny" in chosen:
            expected = [DROP, DROP]
            cells = {("udp", "deny"): 2}
        else:
            expected = [after_limit, DROP if "limit" in chosen else after_limit]
            passed = ("probe", "reflect") if "probe" in chosen else ("udp", "pass")
            cells = {passed: 1, ("udp", "limit"): 1} if "limit" in chosen else {passed: 2}
        assert expected == found
        assert cells == {cell: count for cell, (count, _size) in stages.counters().packets.items()}


def test_slot_is_emptied_and_filled_again(stages: XdpStages) -> None:
    """A stage that is taken out stops at once, and goes on at once when it is back."""
    stages.deny({ip_network("198.51.100.7/32"): Deny(0)})
    slot = layout.STAGES.index("deny").to_bytes(4, "little")
    for _ in range(3):
        assert stages.run(UDP4).verdict == DROP
        assert bpf.delete(stages.fds["x0d_stages"], slot)
        assert stages.run(UDP4).verdict == PASS
        stages.put_stage("deny")
    assert {("udp", "deny"): 3, ("udp", "pass"): 3} == {
        cell: count for cell, (count, _size) in stages.counters().packets.items()
    }


def test_without_configuration_packets_pass(stages: XdpStages) -> None:
    """Before the daemon has written anything, all maps zero, packets pass and are counted."""
    bpf.update(stages.fds["x0d_config"], bytes(4), bytes(layout.CONFIG.size))
    assert [PASS, PASS, PASS] == [stages.run(frame).verdict for frame in (UDP4, UDP6, REQUEST)]
    assert {("udp", "pass")} == set(stages.counters().packets)


# ---- events ----


@pytest.mark.parametrize(("every", "packets"), [(1, 20), (3, 20), (7, 21), (64, 640)])
def test_one_packet_in_so_many_is_shown(stages: XdpStages, every: int, packets: int) -> None:
    """Every Nth packet becomes an event, whatever its verdict."""
    sample(stages, every)
    for _ in range(packets):
        stages.run(UDP4)
    # Each CPU counts its own packets, and a test may run on several.
    counted, shown = stages.counters(), stages.events()
    assert counted.events_lost == 0
    assert counted.events_sent == len(shown)
    least = packets // every - bpf.possible_cpus() + 1
    assert least <= len(shown) <= packets // every


def test_no_events_unless_wanted(stages: XdpStages) -> None:
    """With sampling off nothing is written."""
    stages.run(UDP4, repeat=100)
    assert ([], 0) == (stages.events(), stages.counters().events_sent)


def test_content_of_events(stages: XdpStages) -> None:
    """An event tells addresses, ports, protocol, tags, length, class and verdict of its packet."""
    sample(stages, 1)
    NeighbourTable(stages.fds, 77).put(LO, NEIGHBOUR, TARGET4)
    stages.deny({ip_network("2001:db8::7/128"): Deny(0)})
    frames = {
        "passed": ipv4(UDP, TRANSPORT[UDP], tags=(DOT1Q, DOT1Q)),
        "denied": UDP6,
        "icmp": ipv6(ICMP6, TRANSPORT[ICMP6], source=IPv6Address("2001:db8::8")),
        "unspecified": ipv6(ICMP6, TRANSPORT[ICMP6], source=IPv6Address("::")),
        "fragment": ipv4(UDP, bytes(32), fragment=9),
        "arp": ethernet(0x0806, bytes(28)),
        "cut": UDP4[:36],
        "reflected": REQUEST,
    }
    times = [time.monotonic_ns()]
    for frame in frames.values():
        stages.run(frame)
    shown = stages.events()
    times += [*(event.at_ns for event in shown), time.monotonic_ns()]
    assert times == sorted(times)
    assert [(LO, len(frame)) for frame in frames.values()] == [(event.ifindex, event.length) for event in shown]
    expected = {
        "passed": ("udp", "pass", SOURCE4, TARGET4, 4242, 53, UDP, 2),
        "denied": ("udp", "deny", SOURCE6, TARGET6, 4242, 53, UDP, 0),
        "icmp": ("icmp", "pass", IPv6Address("2001:db8::8"), TARGET6, 0, 0, ICMP6, 0),
        "unspecified": ("icmp", "pass", IPv6Address("::"), TARGET6, 0, 0, ICMP6, 0),
        "fragment": ("fragment", "pass", SOURCE4, TARGET4, 0, 0, UDP, 0),
        "arp": ("arp", "pass", None, None, 0, 0, 0, 0),
        "cut": ("malformed", "pass", SOURCE4, TARGET4, 0, 0, UDP, 0),
        "reflected": ("probe", "reflect", NEIGHBOUR, TARGET4, 9474, 9474, UDP, 0),
    }
    assert expected == {name: content(event) for name, event in zip(frames, shown, strict=True)}


def content(event: PacketEvent) -> tuple[object, ...]:
    """What an event tells of its packet, in names."""
    return (
        event.protocol_class,
        event.verdict,
        shown_address(event.source),
        shown_address(event.destination),
        event.source_port,
        event.destination_port,
        event.protocol,
        event.vlan_tags,
    )


def shown_address(packed: bytes) -> Address | None:
    """None where an event has no address."""
    return ip_address(packed) if packed else None


def test_nothing_of_an_earlier_packet_is_shown(stages: XdpStages) -> None:
    """A packet without addresses and ports shows none, whatever was in hand before it."""
    sample(stages, 1)
    stages.run(UDP6)
    stages.run(ethernet(0x88CC, bytes(40)))
    empty = stages.events()[1]
    assert ("other", "pass", None, None, 0, 0, 0, 0) == content(empty)


def test_lost_events_are_counted_exactly(stages: XdpStages) -> None:
    """A full ring loses what comes next, counts each, keeps what it has, and takes events again once read."""
    sample(stages, 1)
    size = bpf.map_shape(stages.fds["x0d_events"])[2]
    room, packets = size // RECORD_BYTES, 3 * size // RECORD_BYTES
    for _ in range(packets):
        stages.run(UDP4)
    counted, shown = stages.counters(), stages.events()
    assert room - 1 <= len(shown) <= room
    assert (len(shown), packets - len(shown)) == (counted.events_sent, counted.events_lost)
    assert {("udp", "pass"): (packets, packets * len(UDP4))} == counted.packets
    stages.run(UDP6)
    assert [SOURCE6.packed] == [event.source for event in stages.events()]
    assert counted.events_lost == stages.counters().events_lost


def test_layout_version_is_in_the_file() -> None:
    """User space reads the layout from a section of the object, without loading it."""
    elf = layout_section()
    assert layout.LAYOUT_VERSION.to_bytes(4, "little") == elf


def layout_section() -> bytes:
    """Bytes of section ``x0d_layout``."""
    raw = read_xdp_object()
    headers_at = int.from_bytes(raw[40:48], "little")
    count, names = int.from_bytes(raw[60:62], "little"), int.from_bytes(raw[62:64], "little")
    headers = [raw[headers_at + 64 * i : headers_at + 64 * (i + 1)] for i in range(count)]
    spans = [(int.from_bytes(h[24:32], "little"), int.from_bytes(h[32:40], "little")) for h in headers]
    strings = raw[spans[names][0] : sum(spans[names])]
    for header, (at, size) in zip(headers, spans, strict=True):
        start = int.from_bytes(header[:4], "little")
        if strings[start : strings.index(b"\0", start)] == b"x0d_layout":
            return raw[at : at + size]
    raise AssertionError("no section x0d_layout")
