"""Packets of every kind, whole, cut and odd: class, verdict and counters of each, by BPF_PROG_TEST_RUN."""

import itertools
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel.xdp_frames import (
    AUTHENTICATION,
    DESTINATION,
    DOT1AD,
    DOT1Q,
    EXTENSIONS,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMP6,
    ROUTING,
    TCP,
    TRANSPORT,
    UDP,
    chain,
    classify,
    ethernet,
    extension,
    ipv4,
    ipv6,
)
from kernel.xdp_stages import LO, XdpStages, new_stages
from kernel.xdp_values import decode_interface
from x0d.kernel import bpf, layout

pytestmark = pytest.mark.kernel

DROP, PASS, TX = 1, 2, 3
FRAME_BYTES_MIN = 14
"""The least that a test run takes."""


@pytest.fixture(scope="module", params=[True, False], ids=["frags", "plain"])
def stages(request: pytest.FixtureRequest) -> Iterator[XdpStages]:
    """Load both variants with all stages, empty lists and talkers on."""
    with new_stages(frags=request.param) as loaded:
        yield loaded


def check(stages: XdpStages, frame: bytes, protocol_class: str) -> None:
    """A frame passes unchanged and is counted once, in this class, with its length."""
    before = stages.counters().packets
    run = stages.run(frame)
    after = stages.counters().packets
    assert (PASS, frame) == (run.verdict, run.packet)
    changes = {
        cell: (after[cell][0] - before.get(cell, (0, 0))[0], after[cell][1] - before.get(cell, (0, 0))[1])
        for cell in after
        if after[cell] != before.get(cell)
    }
    assert {(protocol_class, "pass"): (1, len(frame))} == changes
    assert protocol_class == classify(frame).protocol_class


WHOLE = {
    "arp": (ethernet(0x0806, bytes(28)), "arp"),
    "lldp": (ethernet(0x88CC, bytes(40)), "other"),
    "garbage ethertype": (ethernet(0xDEAD, bytes(40)), "other"),
    "802.3 length": (ethernet(0x0026, bytes(40)), "other"),
    "nothing behind Ethernet": (ethernet(0x88CC, b""), "other"),
    "tcp4": (ipv4(TCP, TRANSPORT[TCP]), "tcp"),
    "udp4": (ipv4(UDP, TRANSPORT[UDP]), "udp"),
    "icmp4": (ipv4(ICMP, TRANSPORT[ICMP]), "icmp"),
    "icmp6 in IPv4": (ipv4(ICMP6, TRANSPORT[ICMP6]), "ip_other"),
    "gre4": (ipv4(47, bytes(8)), "ip_other"),
    "gre4 without anything": (ipv4(47, b""), "ip_other"),
    "tcp6": (ipv6(TCP, TRANSPORT[TCP]), "tcp"),
    "udp6": (ipv6(UDP, TRANSPORT[UDP]), "udp"),
    "icmp6": (ipv6(ICMP6, TRANSPORT[ICMP6]), "icmp"),
    "icmp4 in IPv6": (ipv6(ICMP, TRANSPORT[ICMP]), "ip_other"),
    "no next header": (ipv6(59, b""), "ip_other"),
    "esp": (ipv6(50, bytes(16)), "ip_other"),
    "version 6 in IPv4": (ethernet(0x0800, ipv6(UDP, TRANSPORT[UDP])[14:]), "malformed"),
    "version 4 in IPv6": (ethernet(0x86DD, ipv4(UDP, bytes(40))[14:]), "malformed"),
    "IPv4 header of 4 words": (ethernet(0x0800, b"\x44" + ipv4(UDP, bytes(40))[15:]), "malformed"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_packets(stages: XdpStages, name: str) -> None:
    """Each kind of packet has its class, and passes."""
    check(stages, *WHOLE[name])


CUT = {
    "tcp4": ipv4(TCP, TRANSPORT[TCP]),
    "udp4 with options": ipv4(UDP, TRANSPORT[UDP], options=b"\x01" * 12),
    "icmp4 in two tags": ipv4(ICMP, TRANSPORT[ICMP], tags=(DOT1AD, DOT1Q)),
    "tcp6": ipv6(TCP, TRANSPORT[TCP]),
    "chain": chain(HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, protocol=ICMP6, longer=1),
    "arp": ethernet(0x0806, bytes(28)),
}


@pytest.mark.parametrize("name", CUT)
def test_truncated_at_every_byte(stages: XdpStages, name: str) -> None:
    """Wherever a packet ends, it passes, is counted once, and is malformed until its headers are whole."""
    whole = CUT[name]
    found = []
    for length in range(FRAME_BYTES_MIN, len(whole) + 1):
        cut = whole[:length]
        found.append(classify(cut).protocol_class)
        check(stages, cut, found[-1])
    final = classify(whole).protocol_class
    expected = [final] if name == "arp" else ["malformed", final]
    assert expected == [kind for kind, _group in itertools.groupby(found)]


@pytest.mark.parametrize("tag", [DOT1Q, DOT1AD])
@pytest.mark.parametrize(("count", "protocol_class"), [(0, "udp"), (1, "udp"), (2, "udp"), (3, "other")])
def test_vlan_stacks(stages: XdpStages, tag: int, count: int, protocol_class: str) -> None:
    """Two tags of either kind are looked through; what lies below a third is not seen."""
    check(stages, ipv4(UDP, TRANSPORT[UDP], tags=(tag,) * count), protocol_class)
    check(stages, ipv6(UDP, TRANSPORT[UDP], tags=(tag,) * count), protocol_class)


def test_mixed_vlan_stack(stages: XdpStages) -> None:
    """A customer's tag in a provider's is looked through, down to ARP."""
    check(stages, ipv4(TCP, TRANSPORT[TCP], tags=(DOT1AD, DOT1Q)), "tcp")
    check(stages, ethernet(0x0806, bytes(28), (DOT1AD, DOT1Q)), "arp")


@pytest.mark.parametrize("words", range(11))
def test_ipv4_options(stages: XdpStages, words: int) -> None:
    """Ports are found behind any length of options."""
    check(stages, ipv4(UDP, TRANSPORT[UDP], options=b"\x01" * 4 * words), "udp")


@pytest.mark.parametrize(
    ("fragment", "protocol_class"),
    [(0x2000, "udp"), (0x2001, "fragment"), (0x1FFF, "fragment"), (0x4000, "udp"), (0x8000, "udp")],
    ids=["first", "middle", "last", "do not fragment", "reserved bit"],
)
def test_ipv4_fragments(stages: XdpStages, fragment: int, protocol_class: str) -> None:
    """The first fragment has ports; the others have none, whatever their bytes look like."""
    check(stages, ipv4(UDP, TRANSPORT[UDP], fragment=fragment), protocol_class)


@pytest.mark.parametrize(
    ("offset", "protocol_class"), [(0x0001, "udp"), (0x0009, "fragment"), (0xFFF8, "fragment"), (0, "udp")]
)
def test_ipv6_fragments(stages: XdpStages, offset: int, protocol_class: str) -> None:
    """As with IPv4, and so behind another extension header; an atomic fragment is whole."""
    header = extension(FRAGMENT, UDP, offset=offset)
    check(stages, ipv6(FRAGMENT, header + TRANSPORT[UDP]), protocol_class)
    behind = extension(HOP_BY_HOP, FRAGMENT) + header + TRANSPORT[UDP]
    check(stages, ipv6(HOP_BY_HOP, behind), protocol_class)


@pytest.mark.parametrize("longer", [0, 1, 7, 255])
@pytest.mark.parametrize("name", EXTENSIONS)
def test_extension_headers(stages: XdpStages, name: str, longer: int) -> None:
    """Each kind of extension header is walked over, at any length."""
    for protocol, protocol_class in ((TCP, "tcp"), (UDP, "udp"), (ICMP6, "icmp"), (47, "ip_other")):
        payload = TRANSPORT.get(protocol, bytes(8))
        # A frame above a page has its end in a second buffer, out of the reach of a plain program.
        check(stages, chain(EXTENSIONS[name], protocol=protocol, payload=payload, longer=longer), protocol_class)


@pytest.mark.parametrize(("count", "protocol_class"), [(5, "udp"), (6, "udp"), (7, "ip_other"), (12, "ip_other")])
def test_long_chains(stages: XdpStages, count: int, protocol_class: str) -> None:
    """Six extension headers are walked; with more of them the packet is no particular protocol's."""
    check(stages, chain(*([DESTINATION] * count)), protocol_class)


def test_extension_longer_than_the_packet(stages: XdpStages) -> None:
    """A header that says it goes on behind the end is malformed."""
    header = bytes([UDP, 200]) + bytes(6)
    check(stages, ipv6(HOP_BY_HOP, header + bytes(8)), "malformed")
    check(stages, ipv6(AUTHENTICATION, header + bytes(8)), "malformed")


@pytest.mark.parametrize("size", [1500, 9000, 60000])
def test_jumbo_frames(size: int) -> None:
    """Frames of several buffers are classed by their first and counted with their whole length."""
    with new_stages(frags=True) as stages:
        check(stages, ipv4(UDP, TRANSPORT[UDP] + bytes(size)), "udp")
        check(stages, chain(HOP_BY_HOP, payload=TRANSPORT[UDP] + bytes(size)), "udp")


def test_mapped_source_is_malformed(stages: XdpStages) -> None:
    """An IPv6 packet from ::ffff:a.b.c.d does not pass for that IPv4 source."""
    check(stages, ipv6(UDP, TRANSPORT[UDP], source=IPv6Address("::ffff:203.0.113.9")), "malformed")
    assert stages.source(ip_address("203.0.113.9")) is None
    check(stages, ipv6(UDP, TRANSPORT[UDP], source=IPv6Address("::fffe:203.0.113.9")), "udp")


def test_unknown_interface_is_not_counted() -> None:
    """Packets of an interface without an entry pass, and no other's counters move."""
    with new_stages() as stages:
        bpf.update(stages.fds["x0d_low"], layout.IFINDEX.pack(LO), bytes(layout.INTERFACE.size * bpf.possible_cpus()))
        assert stages.run(WHOLE["udp4"][0]).verdict == PASS
        assert not stages.counters().packets
        stages.put_interface(LO)
        stages.put_interface(1 << 20)
        stages.run(WHOLE["udp4"][0])
        assert {("udp", "pass"): (1, len(WHOLE["udp4"][0]))} == stages.counters().packets
        assert not stages.counters(1 << 20).packets


def test_interface_absent_in_the_array_is_counted_in_the_hash_table() -> None:
    """An interface of a low index may have its entry in either map."""
    with new_stages() as stages:
        size = layout.INTERFACE.size * bpf.possible_cpus()
        bpf.update(stages.fds["x0d_low"], layout.IFINDEX.pack(LO), bytes(size))
        bpf.update(stages.fds["x0d_interfaces"], layout.IFINDEX.pack(LO), bytes(size))
        stages.run(WHOLE["udp4"][0])
        value = bpf.lookup(stages.fds["x0d_interfaces"], layout.IFINDEX.pack(LO), size)
        assert value is not None
        assert {("udp", "pass"): (1, len(WHOLE["udp4"][0]))} == decode_interface(value).packets
        assert not stages.counters().packets


@pytest.fixture(scope="module")
def any_stages() -> Iterator[XdpStages]:
    """Load once for all examples."""
    with new_stages() as loaded:
        yield loaded


def mutations() -> st.SearchStrategy[bytes]:
    """Random bytes, and real packets with some bytes changed, cut or added: random bytes alone are never IP."""
    seeds = [frame for frame, _class in WHOLE.values()] + list(CUT.values())
    edits = st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=4)

    def edit(frame: bytes, changes: list[tuple[int, int]], length: int, tail: bytes) -> bytes:
        edited = bytearray(frame + tail)
        for at, value in changes:
            edited[at % len(edited)] = value
        return bytes(edited[: max(FRAME_BYTES_MIN, min(length, len(edited)))])

    changed = st.builds(edit, st.sampled_from(seeds), edits, st.integers(14, 2000), st.binary(max_size=300))
    return st.binary(min_size=14, max_size=2000) | changed


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frame=mutations())
def test_any_bytes(any_stages: XdpStages, frame: bytes) -> None:
    """Any bytes pass, drop or go back, are counted exactly once, and belong to the class that plain code finds."""
    before = any_stages.counters()
    run = any_stages.run(frame)
    after = any_stages.counters()
    assert run.verdict in {DROP, PASS, TX}
    changes = {
        cell: (count - before.packets.get(cell, (0, 0))[0], size - before.packets.get(cell, (0, 0))[1])
        for cell, (count, size) in after.packets.items()
        if (count, size) != before.packets.get(cell)
    }
    assert {(classify(frame).protocol_class, "pass"): (1, len(frame))} == changes
    source = classify(frame).source
    assert source is None or any_stages.source(source) is not None
