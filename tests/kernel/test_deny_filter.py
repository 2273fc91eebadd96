"""The bitmaps in front of the deny-list against a plain encoder."""

from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.xdp_values import encode_deny_filter
from x0d.kernel.deny_filter import SCATTERED_MAX, DenyFilter
from x0d.kernel.layout_policy import DENY_FILTER
from x0d.policy.model import PackedPrefix, mask

EVERY = b"\xff" * DENY_FILTER.size


@st.composite
def prefixes(draw: st.DrawFn, size: int, shortest: int) -> PackedPrefix:
    """Prefixes that share bits often."""
    length = draw(st.integers(shortest, size * 8))
    address = bytes(draw(st.lists(st.sampled_from([0, 10, 128, 255]), min_size=size, max_size=size)))
    return PackedPrefix(mask(address, length), length)


any_prefix = st.one_of(prefixes(4, 0), prefixes(16, 18))


def expected(some: set[PackedPrefix], size: int) -> bytes:
    """By the plain encoder."""
    return encode_deny_filter(
        [ip_network((prefix.address, prefix.length)) for prefix in some if len(prefix.address) == size]
    )


@settings(max_examples=25, deadline=None)  # the plain encoder takes tens of milliseconds
@given(st.sets(any_prefix, max_size=20), st.sets(any_prefix, max_size=20))
def test_the_bits_are_those_of_what_is_covered(first: set[PackedPrefix], later: set[PackedPrefix]) -> None:
    """Bit for bit what the plain encoder makes of the same networks, also of those that are added later."""
    chosen = DenyFilter(first)
    families = chosen.add(later)
    assert {len(prefix.address) for prefix in later} == families
    for size in (4, 16):
        assert expected(first | later, size) == chosen.encode(size)


def test_many_short_ipv6_prefixes_set_every_bit() -> None:
    """Beyond a bound, setting bits one by one costs more than they would spare."""
    few = [PackedPrefix((0x20000 + at).to_bytes(3, "big")[:3] + bytes(13), 21) for at in (0, 8)]
    assert EVERY != DenyFilter(few).encode(16)
    count = SCATTERED_MAX // 4096
    most = [PackedPrefix(((0x20000 + at) << 12).to_bytes(4, "big") + bytes(12), 20) for at in range(count)]
    assert EVERY != DenyFilter(most).encode(16)
    over = PackedPrefix(bytes.fromhex("3fff0000") + bytes(12), 31)
    assert EVERY == DenyFilter([*most, over]).encode(16)


def test_nothing_is_covered_at_first() -> None:
    """An empty list has no bit, and neither family touches the other's."""
    empty = bytes(DENY_FILTER.size)
    assert (empty, empty) == (DenyFilter().encode(4), DenyFilter().encode(16))
    everything4, everything6 = DenyFilter([PackedPrefix(bytes(4), 0)]), DenyFilter([PackedPrefix(bytes(16), 0)])
    assert (EVERY, empty) == (everything4.encode(4), everything4.encode(16))
    assert (empty, EVERY) == (everything6.encode(4), everything6.encode(16))
