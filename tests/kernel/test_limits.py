"""Limits in the kernel: what the tries lead to, fallbacks, generations, adoption."""

import random
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel import xdp_values
from kernel.policy_maps import PolicyMaps, index_key, policy_maps
from x0d.errors import KernelRefused
from x0d.kernel import bpf
from x0d.kernel.layout_policy import EXPIRES_AT_NS_MAX, LIMIT, LIMIT_INDEX, NET4_KEY, NET6_KEY
from x0d.kernel.limit_model import decode_key, decode_limit, encode_key, encode_limit, fallback_of
from x0d.kernel.limits import LimitTable
from x0d.kernel.policy_word import PolicyWord
from x0d.policy.model import PackedPrefix, mask, parse_prefix
from x0d.ports.policy import LimitRate

ALL, WIDE, NARROW, HOST = map(parse_prefix, ("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3"))
NET6 = parse_prefix("2001:db8::/32")
Limits = dict[PackedPrefix, LimitRate]


@pytest.fixture
def maps() -> Iterator[PolicyMaps]:
    with policy_maps() as made:
        yield made


def _open(maps: PolicyMaps) -> LimitTable:
    table = LimitTable(maps.fds, PolicyWord(maps.fds["x0d_policy"]))
    table.adopt()
    return table


def _generation(maps: PolicyMaps) -> int:
    return PolicyWord(maps.fds["x0d_policy"]).policy.limit_generation


def _kernel_limits(maps: PolicyMaps) -> dict[PackedPrefix, tuple[int, int, int, PackedPrefix | None]]:
    """Interval, tolerance, expiry and fallback of all that XDP finds."""
    indices = {}
    for name, key_size in (("x0d_limit4", NET4_KEY.size), ("x0d_limit6", NET6_KEY.size)):
        for key, value in bpf.entries(maps.fds[name], key_size, LIMIT_INDEX.size):
            indices[decode_key(key)] = LIMIT_INDEX.unpack(value)[0]
    assert len(indices) == len(set(indices.values()))
    prefix_of = {index: prefix for prefix, index in indices.items()}
    found = {}
    for prefix, index in indices.items():
        element = bpf.lookup(maps.fds["x0d_limits"], index_key(index), LIMIT.size)
        assert element is not None
        limit = xdp_values.decode_limit(element)
        fallback = prefix_of[limit.fallback - 1] if limit.fallback else None
        found[prefix] = limit.interval_ns, limit.tolerance_ns, limit.expires_at_ns, fallback
    return found


def _check(maps: PolicyMaps, expected: Mapping[PackedPrefix, LimitRate]) -> None:
    found = _kernel_limits(maps)
    assert expected.keys() == found.keys()
    for prefix, limit in expected.items():
        interval_ns = 10**9 // limit.rate_pps
        assert (interval_ns, interval_ns * limit.burst, limit.expires_at_ns) == found[prefix][:3]
        assert fallback_of(prefix, expected) == found[prefix][3]
    assert bool(expected) == bool(_generation(maps))


nested_limits = st.dictionaries(
    st.sampled_from([ALL, WIDE, NARROW, HOST, parse_prefix("10.1.2.0/24"), parse_prefix("11.0.0.0/8")]),
    st.builds(LimitRate, st.just(100), st.just(10), st.sampled_from([0, 5, 7, 9])),
)


@given(nested_limits)
def test_an_expired_limit_leads_to_the_next_that_holds(limits: Limits) -> None:
    """At any moment the chain of fallbacks ends at the longest prefix that has not expired."""
    for now in (4, 5, 6, 8, 10):
        for prefix in limits:
            at: PackedPrefix | None = prefix
            while at is not None and limits[at].expires_at_ns and limits[at].expires_at_ns <= now:
                at = fallback_of(at, limits)
            holding = [
                other
                for other, limit in limits.items()
                if other.covers(prefix) and not (limit.expires_at_ns and limit.expires_at_ns <= now)
            ]
            assert max(holding, key=lambda other: other.length, default=None) == at


@given(st.integers(1, 10**7), st.integers(1, 10**6), st.integers(0, 1 << 80))
def test_a_limit_returns(rate_pps: int, burst: int, expires_at_ns: int) -> None:
    """Any limit that may be asked for is read back as it was; one that expires too late holds for ever."""
    element = encode_limit(LimitRate(rate_pps, burst, expires_at_ns), 5)
    interval_ns, expires = 10**9 // rate_pps, min(expires_at_ns, EXPIRES_AT_NS_MAX)
    plain = xdp_values.Limit(interval_ns, interval_ns * burst, expires, 5, rate_pps)
    assert xdp_values.encode_limit(plain) == element
    assert LimitRate(rate_pps, burst, expires) == decode_limit(element)


@pytest.mark.kernel
def test_any_history_ends_in_the_limits_that_were_asked_for(maps: PolicyMaps, seed: int) -> None:
    """After each of many random replacements and restarts, kernel and daemon hold the same, hits included."""
    rng = random.Random(seed)
    table, hits = _open(maps), dict[PackedPrefix, int]()
    for step in range(40):
        limits = Limits()
        for _ in range(rng.choice([0, 1, 5, 60])):
            size = rng.choice([4, 16])
            length = rng.randrange(size * 8 + 1)
            address = bytes([10, rng.randrange(2), rng.randrange(4), 1]).ljust(size, b"\1")
            rate = LimitRate(rng.randrange(1, 10**7), rng.randrange(1, 10**6), rng.choice([0, rng.randrange(99)]))
            limits[PackedPrefix(mask(address, length), length)] = rate
        limits.update(rng.sample(sorted(table.limits.items(), key=str), len(table.limits) // 2))
        before = _generation(maps)
        table.replace(limits)
        _check(maps, limits)
        assert not limits or _generation(maps) != before
        if rng.random() < 0.3:
            table = _open(maps)
            _check(maps, limits)
        assert limits == table.limits
        hits = {prefix: hits.get(prefix, 0) for prefix in limits}
        assert hits == table.hits()
        for prefix in rng.sample(sorted(limits), len(limits) // 2):
            hits[prefix] += (step + 1) * bpf.possible_cpus()
            value = (hits[prefix] // bpf.possible_cpus()).to_bytes(8, "little") * bpf.possible_cpus()
            bpf.update(maps.fds["x0d_limit_hits"], index_key(table._index_of[prefix]), value)


@pytest.mark.kernel
def test_the_same_limits_again_disturb_nobody(maps: PolicyMaps) -> None:
    """Sources keep what they have cached when nothing has changed."""
    table = _open(maps)
    table.replace({WIDE: LimitRate(100, 10)})
    before = _generation(maps)
    table.replace({WIDE: LimitRate(100, 10)})
    assert before == _generation(maps)


@pytest.mark.kernel
def test_a_generation_is_not_used_twice(maps: PolicyMaps) -> None:
    """Without limits, then with some again, also after a restart: sources of an earlier one ask anew."""
    seen = set()
    for _ in range(5):
        table = _open(maps)
        table.replace({WIDE: LimitRate(100, 10)})
        seen.add(_generation(maps))
        table.replace({})
        assert 0 == _generation(maps)
    assert 5 == len(seen)


@pytest.mark.kernel
def test_a_refused_change_changes_nothing(maps: PolicyMaps, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses the third new prefix: the limits are as they were, and no index is lost."""
    table, old = _open(maps), {WIDE: LimitRate(100, 10), NET6: LimitRate(5, 5)}
    table.replace(old)
    write, free = bpf.update, len(table._free)

    def refuse_host(map_fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
        if key == encode_key(HOST):
            raise KernelRefused("write a map entry", 12)
        write(map_fd, key, value, flags)

    monkeypatch.setattr(bpf, "update", refuse_host)
    with pytest.raises(KernelRefused):
        table.replace({ALL: LimitRate(1, 1), NARROW: LimitRate(1, 1), HOST: LimitRate(1, 1)})
    monkeypatch.undo()
    _check(maps, old)
    assert old == table.limits
    assert free == len(table._free)


@pytest.mark.kernel
def test_what_a_killed_change_left_is_tidied(maps: PolicyMaps, capsys: pytest.CaptureFixture[str]) -> None:
    """Entries without a generation, or that lead nowhere, are removed, and a start says so."""
    for prefix in (WIDE, HOST):
        bpf.update(maps.fds["x0d_limit4"], encode_key(prefix), LIMIT_INDEX.pack(3))
    assert {} == _open(maps).limits
    assert "limits_remade" in capsys.readouterr().out
    assert {} == _kernel_limits(maps)
    table = _open(maps)
    table.replace({WIDE: LimitRate(100, 10)})
    bpf.update(maps.fds["x0d_limit4"], encode_key(HOST), LIMIT_INDEX.pack(5000))
    assert {WIDE: LimitRate(100, 10)} == _open(maps).limits
    _check(maps, {WIDE: LimitRate(100, 10)})
