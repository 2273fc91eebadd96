"""The deny stage on single packets: exact addresses, prefixes, expiry, and what is looked at."""

import time
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel.xdp_frames import (
    DESTINATION,
    DOT1AD,
    DOT1Q,
    FRAGMENT,
    SOURCE4,
    SOURCE6,
    TCP,
    TRANSPORT,
    UDP,
    chain,
    extension,
    ipv4,
    ipv6,
)
from kernel.xdp_stages import XdpStages, new_stages
from kernel.xdp_values import Deny, Network, filter_start
from x0d.kernel import bpf, layout_policy
from x0d.kernel.layout_policy import COVERED_FOR_EVER, DENY_FILTER, filter_element
from x0d.mesh.model import Address

pytestmark = pytest.mark.kernel

DROP, PASS = 1, 2
PAST, HOUR_NS = 1, 3_600_000_000_000
UDP4, UDP6 = ipv4(UDP, TRANSPORT[UDP]), ipv6(UDP, TRANSPORT[UDP])


@pytest.fixture(scope="module", params=[True, False], ids=["frags", "plain"])
def variant(request: pytest.FixtureRequest) -> Iterator[XdpStages]:
    """Load both variants."""
    with new_stages(frags=request.param) as loaded:
        yield loaded


@pytest.fixture
def stages(variant: XdpStages) -> XdpStages:
    """Begin with empty lists, in both variants."""
    variant.reset()
    return variant


@pytest.fixture(scope="module")
def any_stages() -> Iterator[XdpStages]:
    """Load the usual variant."""
    with new_stages() as loaded:
        yield loaded


@pytest.fixture
def frags(any_stages: XdpStages) -> XdpStages:
    """Begin with empty lists."""
    any_stages.reset()
    return any_stages


def nets(entries: Mapping[str, Deny]) -> dict[Network, Deny]:
    """Parse the prefixes of a list."""
    return {ip_network(text): deny for text, deny in entries.items()}


@pytest.mark.parametrize(
    ("entry", "frame", "verdict"),
    [
        ("198.51.100.7/32", UDP4, DROP),
        ("198.51.100.8/32", UDP4, PASS),
        ("198.51.100.0/24", UDP4, DROP),
        ("198.51.100.0/29", UDP4, DROP),
        ("198.51.100.8/29", UDP4, PASS),
        ("0.0.0.0/0", UDP4, DROP),
        ("0.0.0.0/0", UDP6, PASS),
        ("10.0.0.1/32", UDP4, PASS),
        ("2001:db8::7/128", UDP6, DROP),
        ("2001:db8::8/128", UDP6, PASS),
        ("2001:db8::/32", UDP6, DROP),
        ("2001:db8::/125", UDP6, DROP),
        ("2001:db8::8/125", UDP6, PASS),
        ("::/0", UDP6, DROP),
        ("::/0", UDP4, PASS),
        ("fd00::1/128", UDP6, PASS),
    ],
)
def test_one_entry(stages: XdpStages, entry: str, frame: bytes, verdict: int) -> None:
    """A packet is dropped if its source, and not its destination, is in the list; the entry counts it."""
    stages.deny(nets({entry: Deny(5)}))
    run = stages.run(frame)
    assert (verdict, frame) == (run.verdict, run.packet)
    name = "deny" if verdict == DROP else "pass"
    assert {("udp", name): (1, len(frame))} == stages.counters().packets
    assert (verdict == DROP) == stages.deny_hits(5)
    assert stages.deny_hits(0) == 0


SHAPES = {
    "tagged": (ipv4(UDP, TRANSPORT[UDP], tags=(DOT1Q,)), "udp", DROP),
    "tagged twice": (ipv6(UDP, TRANSPORT[UDP], tags=(DOT1AD, DOT1Q)), "udp", DROP),
    "tagged three times": (ipv4(UDP, TRANSPORT[UDP], tags=(DOT1Q,) * 3), "other", PASS),
    "options": (ipv4(TCP, TRANSPORT[TCP], options=bytes([1]) * 8), "tcp", DROP),
    "first fragment": (ipv4(UDP, TRANSPORT[UDP], fragment=0x2000), "udp", DROP),
    "last fragment": (ipv4(UDP, TRANSPORT[UDP], fragment=0x0100), "fragment", DROP),
    "IPv6 fragment": (ipv6(FRAGMENT, extension(FRAGMENT, UDP, offset=8) + bytes(9)), "fragment", DROP),
    "chain": (chain(DESTINATION, FRAGMENT), "udp", DROP),
    "chain too long": (chain(*[DESTINATION] * 9), "ip_other", DROP),
    "chain cut": (chain(DESTINATION)[:58], "malformed", DROP),
    "transport header cut": (UDP4[:40], "malformed", DROP),
    "IPv6 transport header cut": (UDP6[:58], "malformed", DROP),
    "IPv4 header cut": (UDP4[:33], "malformed", PASS),
    "IPv4 options cut": (ipv4(UDP, b"", options=bytes(8))[:40], "malformed", PASS),
    "IPv6 header cut": (UDP6[:53], "malformed", PASS),
}


@pytest.mark.parametrize("name", SHAPES)
def test_source_of_every_shape(stages: XdpStages, name: str) -> None:
    """The source is looked at wherever the IP header is whole, below tags and in front of anything."""
    stages.deny(nets({"198.51.100.7/32": Deny(1), "2001:db8::/64": Deny(2)}))
    frame, protocol_class, verdict = SHAPES[name]
    assert verdict == stages.run(frame).verdict
    expected = (protocol_class, "deny" if verdict == DROP else "pass")
    assert {expected: (1, len(frame))} == stages.counters().packets


@pytest.mark.parametrize(
    ("exact", "wide", "verdict", "slot"),
    [
        (Deny(1), Deny(2), DROP, 1),
        (Deny(1, HOUR_NS << 10), Deny(2), DROP, 1),
        (Deny(1, PAST), Deny(2), DROP, 2),
        (Deny(1, PAST), Deny(2, PAST), PASS, None),
        (Deny(1, PAST, COVERED_FOR_EVER), Deny(2), DROP, 1),
        (Deny(1, PAST, HOUR_NS << 10), Deny(2, HOUR_NS << 10), DROP, 1),
        (Deny(1, PAST, PAST), Deny(2, PAST, PAST), PASS, None),
        (Deny(1, PAST), Deny(2, PAST, COVERED_FOR_EVER), DROP, 2),
    ],
)
@pytest.mark.parametrize(
    ("narrow", "broad", "frame"),
    [("198.51.100.7/32", "198.51.0.0/16", UDP4), ("2001:db8::7/128", "2001:db8::/32", UDP6)],
)
def test_expiry(
    frags: XdpStages, narrow: str, broad: str, frame: bytes, exact: Deny, wide: Deny, verdict: int, slot: int | None
) -> None:
    """An expired address goes on to the prefixes; what a broader entry covers is denied until that ends."""
    frags.deny(nets({narrow: exact, broad: wide}))
    assert verdict == frags.run(frame).verdict
    assert [int(slot == 1), int(slot == 2)] == [frags.deny_hits(1), frags.deny_hits(2)]


def test_longest_prefix_decides(frags: XdpStages) -> None:
    """Of nested prefixes the longest counts the packet, and only it is asked."""
    frags.deny(nets({"198.0.0.0/8": Deny(1), "198.51.0.0/16": Deny(2), "198.51.100.0/24": Deny(3, PAST)}))
    assert frags.run(UDP4).verdict == PASS
    frags.deny(
        nets({"198.0.0.0/8": Deny(1), "198.51.0.0/16": Deny(2), "198.51.100.0/24": Deny(3, PAST, HOUR_NS << 10)})
    )
    assert frags.run(UDP4).verdict == DROP
    frags.deny(nets({"198.0.0.0/8": Deny(1), "198.51.0.0/16": Deny(2)}))
    assert frags.run(UDP4).verdict == DROP
    assert [0, 1, 1] == [frags.deny_hits(slot) for slot in (1, 2, 3)]


def test_entry_expires_by_itself(frags: XdpStages) -> None:
    """Nobody has to remove an entry for its end to come."""
    end_ns = time.monotonic_ns() + 300_000_000
    frags.deny(nets({"198.51.100.7/32": Deny(1, end_ns)}))
    verdict = None
    while verdict != PASS:
        before_ns = time.monotonic_ns()
        verdict = frags.run(UDP4).verdict
        after_ns = time.monotonic_ns()
        assert verdict == DROP or after_ns >= end_ns
        assert verdict == PASS or before_ns < end_ns


def test_hits_add_up(stages: XdpStages) -> None:
    """Every packet that an entry drops is counted, and the counts outlive a replacement of the list."""
    entries = nets({"198.51.100.7/32": Deny(3), "2001:db8::/32": Deny(4)})
    for round_number in (1, 2):
        stages.deny(entries)
        stages.run(UDP4, repeat=10)
        stages.run(UDP6, repeat=7)
        assert (10 * round_number, 7 * round_number) == (stages.deny_hits(3), stages.deny_hits(4))


def test_replaced_list_is_gone(frags: XdpStages) -> None:
    """After a replacement nothing of the old list is in force; an empty list denies nothing."""
    frags.deny(nets({"198.51.100.7/32": Deny(1)}))
    assert frags.run(UDP4).verdict == DROP
    frags.deny(nets({"198.51.100.8/32": Deny(1)}))
    assert frags.run(UDP4).verdict == PASS
    frags.deny({})
    assert frags.run(ipv4(UDP, TRANSPORT[UDP], source=IPv4Address("198.51.100.8"))).verdict == PASS


def test_kinds_switch_lists_off(frags: XdpStages) -> None:
    """A list whose bit is not set is not asked, whatever is in it."""
    frags.deny(nets({"198.51.100.7/32": Deny(1), "198.51.100.0/24": Deny(2), "2001:db8::7/128": Deny(3)}))
    for kinds, slot, frame in (
        (layout_policy.DENY_4, 1, UDP4),
        (layout_policy.DENY_4_NETS, 2, UDP4),
        (layout_policy.DENY_6, 3, UDP6),
    ):
        policy = layout_policy.Policy(frags.deny_index, kinds)
        bpf.update(frags.fds["x0d_policy"], bytes(4), layout_policy.encode_policy(policy))
        hits = frags.deny_hits(slot)
        assert frags.run(frame).verdict == DROP
        assert hits + 1 == frags.deny_hits(slot)
        other = UDP6 if frame is UDP4 else UDP4
        assert frags.run(other).verdict == PASS


def test_filter_is_asked_first(frags: XdpStages) -> None:
    """A source whose start has no bit is not looked up: lists and filter must be written together."""
    entries = nets({"198.51.100.7/32": Deny(1), "198.51.0.0/16": Deny(2)})
    frags.deny(entries, covered=[IPv4Network("198.52.0.0/16")])
    assert frags.run(UDP4).verdict == PASS
    frags.deny(entries, covered=[IPv4Network("198.50.0.0/15")])
    assert frags.run(UDP4).verdict == DROP


ADDRESSES = st.one_of(
    st.ip_addresses(v=4), st.ip_addresses(v=6), st.integers(0, (1 << 128) - 1).map(IPv6Address)
).filter(lambda address: address.version == 4 or address.ipv4_mapped is None)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(address=ADDRESSES)
def test_kernel_and_daemon_agree_on_the_bit(any_stages: XdpStages, address: Address) -> None:
    """A denied source gets in with every bit but its own set, and not with its own alone."""
    payload = TRANSPORT[UDP]
    if isinstance(address, IPv4Address):
        frame = ipv4(UDP, payload, source=address)
    else:
        frame = ipv6(UDP, payload, source=address)
    any_stages.deny({ip_network(address): Deny(1)})
    size = len(address.packed)
    start = filter_start(address)
    own = bytearray(DENY_FILTER.size)
    own[start >> 3] = 1 << (start & 7)
    others = bytes(0xFF ^ byte for byte in own)
    element = filter_element(any_stages.deny_index, size).to_bytes(4, "little")
    bpf.update(any_stages.fds["x0d_deny_filter"], element, bytes(own))
    assert any_stages.run(frame).verdict == DROP
    bpf.update(any_stages.fds["x0d_deny_filter"], element, others)
    assert any_stages.run(frame).verdict == PASS


PREFIXES4 = st.builds(
    lambda bits, length: IPv4Network((0xC6336400 | bits, length), strict=False),
    st.integers(0, 255),
    st.integers(8, 32),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.sets(PREFIXES4, max_size=8), hosts=st.lists(st.integers(0, 255), min_size=1, max_size=6))
def test_any_list(any_stages: XdpStages, chosen: set[IPv4Network], hosts: list[int]) -> None:
    """A source is dropped exactly if one of the prefixes contains it."""
    any_stages.deny({network: Deny(slot) for slot, network in enumerate(chosen)})
    for host in hosts:
        source = IPv4Address(0xC6336400 | host)
        expected = DROP if any(source in network for network in chosen) else PASS
        assert expected == any_stages.run(ipv4(UDP, TRANSPORT[UDP], source=source)).verdict


def test_denied_source_is_not_tracked(frags: XdpStages) -> None:
    """What the list drops takes no room among the tracked sources."""
    frags.deny(nets({"198.51.100.7/32": Deny(1)}))
    frags.run(UDP4)
    frags.run(UDP6)
    assert frags.source(SOURCE4) is None
    assert {SOURCE6} == frags.sources()
