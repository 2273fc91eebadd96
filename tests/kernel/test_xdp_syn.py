"""The SYN stage: what is a SYN to our ports, what a source may send, who is a source."""

import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from kernel.namespaces import Namespace, namespace, veth
from kernel.xdp_frames import (
    AUTHENTICATION,
    DESTINATION,
    DOT1AD,
    DOT1Q,
    FRAGMENT,
    HOP_BY_HOP,
    SOURCE4,
    SOURCE6,
    TCP,
    TRANSPORT,
    UDP,
    extension,
    ipv4,
    ipv6,
)
from kernel.xdp_stages import XdpStages, new_stages
from kernel.xdp_values import Deny
from x0d.kernel import bpf, layout
from x0d.kernel.neighbours import NeighbourTable
from x0d.kernel.syn import SynLimit
from x0d.mesh.model import Address

pytestmark = pytest.mark.kernel

DROP, PASS = 1, 2
LO = 1
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
PORTS = (9470, 9471, 9472, 9476)
SECOND_NS = 1_000_000_000
BURST = 3
SLOW = SynLimit(PORTS, 1, BURST)
"""A rate at which hardly a token comes back during a test."""
MORE_FRAGMENTS = 0x2000


@dataclass(frozen=True)
class Room:
    """Programs, and the namespace in which packets are shown to them: whether it forwards is its own affair."""

    stages: XdpStages
    inside: Namespace

    def verdicts(self, *frames: bytes, ifindex: int = 0) -> list[int]:
        """Show these frames, one after the other."""

        def run() -> list[int]:
            return [bpf.run_on_packet(self.stages.root_fd, frame, ifindex=ifindex).verdict for frame in frames]

        return self.inside.call(run)


@pytest.fixture(scope="module", params=[True, False], ids=["frags", "plain"])
def variant(request: pytest.FixtureRequest) -> Iterator[Room]:
    """Load both variants."""
    with namespace("syn") as inside, new_stages(frags=request.param) as stages:
        yield Room(stages, inside)


@pytest.fixture
def room(variant: Room) -> Room:
    """Begin with a slow limit and no sources."""
    variant.stages.reset()
    variant.stages.limit_syns(SLOW)
    return variant


def segment(flags: int = SYN, port: int = 9470) -> bytes:
    """A TCP header."""
    return struct.pack("!HHIIBBHHH", 4242, port, 1, 0, 0x50, flags, 1000, 0, 0)


def syn4(port: int = 9470, source: IPv4Address = SOURCE4, flags: int = SYN) -> bytes:
    """A SYN over IPv4."""
    return ipv4(TCP, segment(flags, port), source=source)


def syn6(source: IPv6Address = SOURCE6, port: int = 9470) -> bytes:
    """A SYN over IPv6."""
    return ipv6(TCP, segment(SYN, port), source=source)


LIMITED = [PASS] * BURST + [DROP] * 2
FREE = [PASS] * (BURST + 2)


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("make", [syn4, lambda port: syn6(port=port)], ids=["ipv4", "ipv6"])
def test_burst(room: Room, make: Callable[[int], bytes], port: int) -> None:
    """A source may send its burst of SYNs to any of our ports; what is beyond is dropped and counted."""
    frame = make(port)
    assert LIMITED == room.verdicts(*[frame] * 5)
    assert 2 == room.stages.syn_drops()
    cells = {("tcp", "pass"): (BURST, BURST * len(frame)), ("tcp", "limit"): (2, 2 * len(frame))}
    assert cells == room.stages.counters().packets


def test_ports_share_a_bucket(room: Room) -> None:
    """It is the source that is limited, not what it sends to each port."""
    assert [PASS, PASS, PASS, DROP] == room.verdicts(*(syn4(port) for port in PORTS))


def test_sources_have_each_their_own_burst(room: Room) -> None:
    """One source over its rate takes nothing from another."""
    assert LIMITED == room.verdicts(*[syn4()] * 5)
    assert LIMITED == room.verdicts(*[syn4(source=IPv4Address("198.51.100.8"))] * 5)


@pytest.mark.parametrize(("elapsed", "admitted"), [(0.5, 0), (1.5, 1), (2.5, 2), (100, BURST)])
def test_refill(room: Room, elapsed: float, admitted: int) -> None:
    """Each interval that passes gives one SYN back, up to the burst."""
    due_at_ns = time.monotonic_ns() + round((BURST - elapsed) * SECOND_NS)
    room.stages.put_syn_source(LO, SOURCE4, max(due_at_ns, 0))
    assert [PASS] * admitted + [DROP] * 2 == room.verdicts(*[syn4()] * (admitted + 2))


@pytest.mark.parametrize("port", [22, 443, 9469, 9473, 9477, 0, 0x2500])
def test_other_ports_are_free(room: Room, port: int) -> None:
    """SYNs to ports that are not ours pass, the unused places of the configuration and port 0 included."""
    room.stages.limit_syns(SynLimit(PORTS[:2], 1, BURST))
    assert FREE == room.verdicts(*[syn4(port)] * 5)
    assert {} == room.stages.syn_sources()


@pytest.mark.parametrize(
    "flags", [0, ACK, SYN | ACK, FIN | ACK, RST, RST | ACK, PSH | ACK, SYN | ACK | PSH, URG, FIN], ids=str
)
def test_only_syns_without_ack_are_limited(room: Room, flags: int) -> None:
    """Segments of connections that exist pass, and answers to SYNs of our own."""
    assert FREE == room.verdicts(*[syn4(flags=flags)] * 5)
    assert {} == room.stages.syn_sources()


@pytest.mark.parametrize("flags", [SYN, SYN | 0xC0, SYN | FIN, SYN | PSH | URG, SYN | RST], ids=str)
def test_other_flags_do_not_hide_a_syn(room: Room, flags: int) -> None:
    """With ECN or senseless flags beside it a SYN is one."""
    assert LIMITED == room.verdicts(*[syn4(flags=flags)] * 5)


@pytest.mark.parametrize(
    "limit", [SynLimit(PORTS, 0, BURST), SynLimit((), 1, BURST), SynLimit((0,), 1, 1)], ids=["rate 0", "none", "0"]
)
def test_without_a_limit_everything_passes(room: Room, limit: SynLimit) -> None:
    """Rate 0 is no limit, and nothing is tracked then."""
    room.stages.limit_syns(limit)
    assert FREE == room.verdicts(*[syn4()] * 5)
    assert FREE == room.verdicts(*[syn4(port=0)] * 5)
    assert {} == room.stages.syn_sources()


def test_maps_of_zeros_limit_nothing() -> None:
    """Before the daemon has written anything SYNs pass."""
    with new_stages() as stages:
        assert [PASS] * 100 == [stages.run(syn4(0)).verdict for _ in range(50)] + [
            stages.run(syn4()).verdict for _ in range(50)
        ]


def test_empty_slot_is_passed_over() -> None:
    """Where the kernel refuses the stage, SYNs pass."""
    with new_stages(("deny", "limit", "probe")) as stages:
        stages.limit_syns(SLOW)
        assert FREE == [stages.run(syn4()).verdict for _ in range(5)]


def test_change_of_the_limit(room: Room) -> None:
    """A source far ahead of a slow limit's schedule is held back no longer than the new one allows."""
    room.stages.limit_syns(SynLimit(PORTS, 1, 1000))
    assert [PASS] * 500 == room.verdicts(*[syn4()] * 500)
    room.stages.limit_syns(SynLimit(PORTS, 1000, 5))
    room.verdicts(syn4())
    assert room.stages.syn_sources()[LO, SOURCE4] <= time.monotonic_ns() + SECOND_NS


# ---- who is a source ----


def test_ipv6_sources_are_of_64_bits(room: Room) -> None:
    """Addresses of one /64 are one source, which a host may take as many of as it likes; another /64 is another."""
    same = [IPv6Address(f"2001:db8:0:5::{host:x}") for host in (1, 2, 0xFFFF)] + [IPv6Address("2001:db8:0:5:a:b:c:d")]
    assert [PASS, PASS, PASS, DROP] == room.verdicts(*map(syn6, same))
    assert [PASS] == room.verdicts(syn6(IPv6Address("2001:db8:0:6::1")))
    assert {(LO, ip_address(f"2001:db8:0:{net}::")) for net in (5, 6)} == room.stages.syn_sources().keys()


@pytest.fixture
def neighbours(variant: Room) -> Iterator[NeighbourTable]:
    """The configured neighbours, as the daemon writes them; none at the beginning and the end."""
    table = NeighbourTable(variant.stages.fds, session=77)
    try:
        yield table
    finally:
        for ifindex, address in table.links():
            table.delete(ifindex, address)


LINK_LOCAL = IPv6Address("fe80::5")


def hosts_of(prefix: str) -> list[IPv6Address]:
    """Five addresses of a network."""
    return [IPv6Address(int(IPv6Address(prefix)) + host) for host in range(1, 6)]


@pytest.mark.parametrize("prefix", ["fe80::", "fe80::ff:fe00:0", "fe80:0:0:7::", "fea1::", "febf:ffff:ffff:ffff::"])
def test_link_local_strangers_share_a_bucket(room: Room, prefix: str) -> None:
    """Link-local addresses, which a host may take as many of as it likes, are one source for each interface."""
    assert LIMITED == room.verdicts(*map(syn6, hosts_of(prefix)))
    assert {(LO, IPv6Address("fe80::"))} == room.stages.syn_sources().keys()


def test_link_local_prefixes_share_a_bucket(room: Room) -> None:
    """Bits of fe80::/10 behind the first ten that ought to be zero make no other source."""
    assert LIMITED == room.verdicts(
        *(syn6(IPv6Address(0xFE80 + n << 112 | n << 64 | 1)) for n in (0, 1, 2, 0x20, 0x3F))
    )


def test_link_local_neighbour_has_its_own_bucket(room: Room, neighbours: NeighbourTable) -> None:
    """Strangers of the link spend nothing of a configured neighbour's, nor it of theirs; nor does another neighbour."""
    strangers, other = hosts_of("fe80::1:0"), IPv6Address("fe80::6")
    for neighbour in (LINK_LOCAL, other):
        neighbours.put(LO, neighbour, IPv6Address("fe80::1"))
    assert LIMITED == room.verdicts(*map(syn6, strangers))
    assert LIMITED == room.verdicts(*[syn6(LINK_LOCAL)] * 5)
    assert LIMITED == room.verdicts(*[syn6(other)] * 5)
    sources = {(LO, address) for address in (LINK_LOCAL, other, IPv6Address("fe80::"))}
    assert sources == room.stages.syn_sources().keys()


def test_neighbour_that_is_none_any_more_is_a_stranger(room: Room, neighbours: NeighbourTable) -> None:
    """A bucket of its own goes with the configuration, in both directions, from one SYN to the next."""
    assert LIMITED == room.verdicts(*map(syn6, hosts_of("fe80::1:0")))
    assert [DROP] == room.verdicts(syn6(LINK_LOCAL))
    neighbours.put(LO, LINK_LOCAL, IPv6Address("fe80::1"))
    assert [PASS] == room.verdicts(syn6(LINK_LOCAL))
    neighbours.delete(LO, LINK_LOCAL)
    assert [DROP] == room.verdicts(syn6(LINK_LOCAL))


def test_neighbour_of_another_interface_is_a_stranger(room: Room, neighbours: NeighbourTable) -> None:
    """The same link-local address on another interface is another host."""
    neighbours.put(LO + 1, LINK_LOCAL, IPv6Address("fe80::1"))
    assert LIMITED == room.verdicts(*map(syn6, hosts_of("fe80::1:0")))
    assert [DROP] == room.verdicts(syn6(LINK_LOCAL))


def test_tag_makes_no_other_source(room: Room, neighbours: NeighbourTable) -> None:
    """A tag, which with VLAN 0 leaves the frame to the device itself, gives strangers no bucket more."""
    neighbours.put(LO, LINK_LOCAL, IPv6Address("fe80::1"))
    assert LIMITED == room.verdicts(*map(syn6, hosts_of("fe80::1:0")))
    tagged = [ipv6(TCP, segment(), source=source, tags=(DOT1Q,)) for source in (IPv6Address("fe80::2"), LINK_LOCAL)]
    assert [DROP, PASS] == room.verdicts(*tagged)


def test_ipv4_neighbour_is_a_source_as_others(room: Room, neighbours: NeighbourTable) -> None:
    """An IPv4 address counts whole, whether it is a neighbour's or not."""
    neighbours.put(LO, SOURCE4, IPv4Address("198.51.100.1"))
    assert LIMITED == room.verdicts(*[syn4()] * 5)
    assert LIMITED == room.verdicts(*[syn4(source=IPv4Address("198.51.100.8"))] * 5)
    assert {(LO, SOURCE4), (LO, IPv4Address("198.51.100.8"))} == room.stages.syn_sources().keys()


def test_other_ipv6_neighbours_count_as_their_64_bits(room: Room, neighbours: NeighbourTable) -> None:
    """Only link-local addresses can be a neighbour's; a record of another changes nothing."""
    neighbours.put(LO, SOURCE6, IPv6Address("fe80::1"))
    assert LIMITED == room.verdicts(*[syn6()] * 5)
    assert [DROP] == room.verdicts(syn6(IPv6Address(int(SOURCE6) ^ 0xFF)))


@pytest.mark.parametrize("prefix", ["fec0::", "fe7f::", "fd80::", "ff80::", "::"])
def test_what_only_looks_link_local(room: Room, prefix: str) -> None:
    """Outside of fe80::/10 the first 64 bits count."""
    assert LIMITED == room.verdicts(*map(syn6, hosts_of(prefix)))
    assert {(LO, IPv6Address(prefix))} == room.stages.syn_sources().keys()


def test_interfaces_are_apart(room: Room) -> None:
    """The same address on another interface is another source: nobody there can use up its SYNs."""
    index = 21
    room.inside.ip(f"link add sa index {index} type veth peer name sb")
    try:
        room.inside.ip("link set sa up")
        assert LIMITED == room.verdicts(*[syn4()] * 5)
        assert LIMITED == room.verdicts(*[syn4()] * 5, ifindex=index)
        assert {(LO, SOURCE4), (index, SOURCE4)} == room.stages.syn_sources().keys()
    finally:
        room.inside.ip("link del sa")


def test_sources_are_bounded(room: Room) -> None:
    """Ever new sources drive out old ones, and nothing else happens."""
    frames = [syn4(source=IPv4Address(0x0B000000 + host)) for host in range(layout.MAPS["x0d_syn_sources"].entries_max)]
    assert {PASS} == set(room.verdicts(*frames, *(syn4(source=IPv4Address(0x0C000000 + n)) for n in range(4096))))
    assert 0 < len(room.stages.syn_sources()) <= layout.MAPS["x0d_syn_sources"].entries_max


# ---- what is a SYN ----


@pytest.mark.parametrize("tags", [(DOT1Q,), (DOT1AD, DOT1Q)], ids=["one tag", "two tags"])
def test_tagged(room: Room, tags: tuple[int, ...]) -> None:
    """Inside of one or two VLAN tags a SYN is limited as without, three hide it as from all stages."""
    for frame in (ipv4(TCP, segment(), tags=tags), ipv6(TCP, segment(), tags=tags)):
        assert LIMITED == room.verdicts(*[frame] * 5)
    assert FREE == room.verdicts(*[ipv4(TCP, segment(), tags=(DOT1AD, DOT1Q, DOT1Q))] * 5)


@pytest.mark.parametrize(
    "kinds", [(HOP_BY_HOP,), (DESTINATION, DESTINATION), (FRAGMENT,), (HOP_BY_HOP, AUTHENTICATION)], ids=str
)
def test_behind_extension_headers(room: Room, kinds: tuple[int, ...]) -> None:
    """Extension headers do not hide a SYN, a fragment header of a whole packet (RFC 6946) included."""
    content, following = segment(), TCP
    for kind in reversed(kinds):
        content, following = extension(kind, following) + content, kind
    assert LIMITED == room.verdicts(*[ipv6(following, content)] * 5)


def test_behind_options(room: Room) -> None:
    """IPv4 options do not hide a SYN."""
    assert LIMITED == room.verdicts(*[ipv4(TCP, segment(), options=b"\1" * 8)] * 5)


@pytest.mark.parametrize("length", [8, 12, 16, 19, 20, 40])
def test_first_fragment_counts_as_a_syn(room: Room, length: int) -> None:
    """A first fragment with the SYN in it, or too short to show its flags, uses up tokens: no honest one exists."""
    head = (segment() + bytes(20))[:length]
    assert LIMITED == room.verdicts(*[ipv4(TCP, head, fragment=MORE_FRAGMENTS)] * 5)
    if length >= len(segment()):
        assert LIMITED == room.verdicts(*[ipv6(FRAGMENT, extension(FRAGMENT, TCP, offset=1) + head)] * 5)


@pytest.mark.parametrize(
    "frame",
    [
        ipv4(TCP, segment(ACK), fragment=MORE_FRAGMENTS),
        ipv4(TCP, segment()[:8], fragment=1),
        ipv4(TCP, segment(), fragment=MORE_FRAGMENTS | 1),
        ipv4(TCP, segment(port=22)[:8], fragment=MORE_FRAGMENTS),
        ipv4(UDP, TRANSPORT[UDP][:2] + struct.pack("!H", 9470), fragment=MORE_FRAGMENTS),
        ipv6(FRAGMENT, extension(FRAGMENT, TCP, offset=8) + segment()),
        ipv4(TCP, segment()[:7], fragment=MORE_FRAGMENTS),
    ],
    ids=["ack", "last", "middle", "other port", "udp", "ipv6 later", "too short to be one"],
)
def test_other_fragments_are_free(room: Room, frame: bytes) -> None:
    """Later fragments have no TCP header, whatever their bytes look like; other segments are no SYNs."""
    assert FREE == room.verdicts(*[frame] * 5)


@pytest.mark.parametrize("length", range(20))
def test_cut_header_is_the_stacks(room: Room, length: int) -> None:
    """A TCP header that is not whole is nothing to limit, and no byte behind the frame is read."""
    for frame in (ipv4(TCP, segment()[:length]), ipv6(TCP, segment()[:length])):
        assert FREE == room.verdicts(*[frame] * 5)
    assert {} == room.stages.syn_sources()


def test_other_protocols_are_free(room: Room) -> None:
    """UDP to the same port is not limited, nor what is not IP."""
    datagram = struct.pack("!HHHH", 4242, 9470, 8, 0) + segment()[8:]
    assert FREE == room.verdicts(*[ipv4(UDP, datagram)] * 5)
    assert FREE == room.verdicts(*[syn4()[:12] + b"\x08\x06" + syn4()[14:]] * 5)


def test_packet_after_a_syn(room: Room) -> None:
    """What a SYN has left in the scratch memory does not make the next packet one."""
    room.verdicts(*[syn4()] * BURST)
    cut = syn4()[: 14 + 20 + 8]
    for other in (ipv4(UDP, TRANSPORT[UDP]), syn4(flags=ACK), cut, syn4()[:30]):
        assert [DROP, PASS] == room.verdicts(syn4(), other)


def test_denied_source_spends_nothing(room: Room) -> None:
    """What another stage has dropped does not come here."""
    room.stages.deny({ip_network("198.51.100.7/32"): Deny(0)})
    assert [DROP] * 5 == room.verdicts(*[syn4()] * 5)
    assert ({}, 0) == (room.stages.syn_sources(), room.stages.syn_drops())
    room.stages.deny({})


# ---- whose SYN it is ----


@pytest.mark.parametrize("is_resolved", [False, True], ids=["unresolved", "resolved"])
@pytest.mark.parametrize("version", [4, 6])
def test_syns_in_transit_are_free(variant: Room, version: int, is_resolved: bool) -> None:
    """A router limits SYNs to its own addresses; those to another host with the same ports go on."""
    stages = variant.stages
    stages.reset()
    stages.limit_syns(SLOW)
    with namespace("synr") as router, namespace("synh") as host:
        veth(router, host, ("ra", "ha"), (31, 32))
        for name in ("ipv4/conf/all", "ipv6/conf/all"):
            router.run("sh", "-c", f"echo 1 > /proc/sys/net/{name}/forwarding")
        router.ip("addr add 10.77.0.1/24 dev ra")
        router.ip("-6 addr add fd77::1/64 dev ra nodad")
        router.ip("route add 10.88.0.0/24 via 10.77.0.2")
        router.ip("-6 route add fd88::/64 via fd77::2")
        for gateway in ("10.77.0.2", "fd77::2") if is_resolved else ():
            router.ip(f"neigh add {gateway} lladdr 02:00:00:00:00:01 dev ra")
        here = Room(stages, router)
        mine, theirs, beside = ADDRESSES[version]
        source: Address = IPv4Address("10.77.0.9") if version == 4 else IPv6Address("fd99::9")
        for target in (theirs, beside):
            assert FREE == here.verdicts(*[to(source, target)] * 5, ifindex=31)
        assert LIMITED == here.verdicts(*[to(source, mine)] * 5, ifindex=31)


ADDRESSES = {
    4: [ip_address(text) for text in ("10.77.0.1", "10.88.0.7", "10.77.0.2")],
    6: [ip_address(text) for text in ("fd77::1", "fd88::7", "fd77::2")],
}
"""Ours, one behind a neighbour, a neighbour's."""


def to(source: Address, target: Address) -> bytes:
    """A SYN to an address."""
    if isinstance(source, IPv4Address):
        frame = ipv4(TCP, segment(), source=source)
        return frame[:30] + target.packed + frame[34:]
    frame = ipv6(TCP, segment(), source=source)
    return frame[:38] + target.packed + frame[54:]
