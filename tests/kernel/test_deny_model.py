"""The deny-list's arithmetic against plain code: what covers what, keys and values, slots."""

from ipaddress import IPv4Network, IPv6Network, ip_network

from hypothesis import given
from hypothesis import strategies as st

from kernel.xdp_values import Deny, encode_deny, encode_net_key
from x0d.kernel import deny_model
from x0d.kernel.deny_model import DENY_LISTS
from x0d.kernel.deny_slots import DenySlots
from x0d.kernel.layout_policy import COVERED_FOR_EVER, EXPIRES_AT_NS_MAX
from x0d.policy.model import PackedPrefix, PrefixKey, mask


@st.composite
def prefixes(draw: st.DrawFn, size: int = 4) -> PackedPrefix:
    """Prefixes that nest often: few different bits, any length."""
    length = draw(st.integers(0, size * 8))
    address = bytes(draw(st.lists(st.sampled_from([0, 10, 128, 255]), min_size=size, max_size=size)))
    return PackedPrefix(mask(address, length), length)


any_prefix = st.one_of(prefixes(4), prefixes(16))
lists = st.dictionaries(any_prefix, st.sampled_from([0, 5, 7, 9, 11]), max_size=40)


def _network(prefix: PrefixKey) -> IPv4Network | IPv6Network:
    return ip_network(prefix)


def _covers(one: PrefixKey, other: PrefixKey) -> bool:
    return one != other and PackedPrefix(*one).covers(PackedPrefix(*other))


def _covered_until(prefix: PrefixKey, entries: dict[PrefixKey, int]) -> int:
    """Ask every entry whether it is broader: what ``covered_until`` promises, the slow way."""
    if not entries[prefix] or PackedPrefix(*prefix).is_exact:
        return 0
    broader = [expires for other, expires in entries.items() if _covers(other, prefix)]
    return max((expires or COVERED_FOR_EVER for expires in broader), default=0)


@given(lists)
def test_an_expiring_entry_knows_how_long_a_broader_one_holds(entries: dict[PrefixKey, int]) -> None:
    """Both ways of computing it agree with asking every entry."""
    parts = deny_model.split(entries)
    for part in (parts[1], parts[3]):
        nets = deny_model.in_order(part)
        expected = [_covered_until(prefix, entries) for prefix in nets]
        assert expected == deny_model.covered_until(nets, entries)
        assert expected == [deny_model.covered_until_one(prefix, entries) for prefix in nets]


@given(lists)
def test_each_entry_is_in_the_list_of_its_kind(entries: dict[PrefixKey, int]) -> None:
    """Family and exactness choose the list; none is lost, none comes twice."""
    parts = deny_model.split(entries)
    assert sorted(entries) == sorted(prefix for part in parts for prefix in part)
    for kind, part in zip(DENY_LISTS, parts, strict=True):
        assert all(kind.is_exact == PackedPrefix(*prefix).is_exact for prefix in part)
        assert all(kind.address_bytes == len(prefix[0]) for prefix in part)


@given(st.sets(any_prefix, max_size=20), st.sets(any_prefix, max_size=20))
def test_a_change_touches_what_lies_within_it(changed: set[PrefixKey], others: set[PrefixKey]) -> None:
    """Of the others, those that lie within a changed prefix and are longer."""
    expected = {other for other in others if any(_covers(one, other) for one in changed)}
    assert expected == set(deny_model.nested(changed, others))


@given(lists)
def test_keys_and_values_are_those_of_the_layout(entries: dict[PrefixKey, int]) -> None:
    """Entry by entry the bytes of the plain encoders, and they decode to what they were made of."""
    for kind, part in zip(DENY_LISTS, deny_model.split(entries), strict=True):
        keys = deny_model.encode_keys(kind, part)
        expected = [prefix[0] if kind.is_exact else encode_net_key(_network(prefix)) for prefix in part]
        assert b"".join(expected) == keys
        assert part == deny_model.decode_keys(kind, keys)
        columns = list(range(7, 7 + len(part))), [entries[prefix] for prefix in part], [3] * len(part)
        values = bytes(deny_model.encode_values(*columns))
        assert b"".join(encode_deny(Deny(*row)) for row in zip(*columns, strict=True)) == values
        assert columns == deny_model.decode_values(memoryview(values))


def test_what_expires_too_late_holds_for_ever() -> None:
    """An expiry that no u64 has room for is written as the latest there is; all others stay as they are."""
    bounded = [0, 7, EXPIRES_AT_NS_MAX - 1, EXPIRES_AT_NS_MAX, EXPIRES_AT_NS_MAX, EXPIRES_AT_NS_MAX]
    given_ns = [*bounded[:4], EXPIRES_AT_NS_MAX + 1, EXPIRES_AT_NS_MAX * 10**6]
    covered = [0, 7, COVERED_FOR_EVER - 1, COVERED_FOR_EVER, COVERED_FOR_EVER, COVERED_FOR_EVER]
    given_cover_ns = [*covered[:4], COVERED_FOR_EVER + 1, COVERED_FOR_EVER * 10**6]
    values = bytes(deny_model.encode_values([1] * 6, given_ns, given_cover_ns))
    assert ([1] * 6, bounded, covered) == deny_model.decode_values(memoryview(values))


@given(st.lists(st.integers(-5, 5), max_size=60), st.sets(st.integers(0, 39), max_size=40))
def test_a_slot_has_one_owner(steps: list[int], used: set[int]) -> None:
    """Whatever is taken and given back, no slot is given out twice, and the lowest come first."""
    slots = DenySlots(40, used)
    owned = set(used)
    for step in steps:
        if step > 0:
            free = sorted(set(range(40)) - owned)
            taken = slots.take(min(step, slots.free))
            assert free[: len(taken)] == taken
            owned.update(taken)
        else:
            back = sorted(owned)[:-step]
            slots.give_back(back)
            owned.difference_update(back)
        assert 40 - len(owned) == slots.free
        assert set(range(40)) - owned == set(slots.all_free())
