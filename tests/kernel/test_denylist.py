"""The deny-list in the kernel: whatever is done to it, what the maps hold is the list that was asked for."""

import errno
import os
import random
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address

import pytest

from kernel.policy_maps import PolicyMaps, index_key, policy_maps
from kernel.xdp_values import decode_deny, filter_start
from x0d.errors import KernelRefused, TooMany
from x0d.kernel import bpf
from x0d.kernel.deny_model import DENY_LISTS
from x0d.kernel.denylist import DenyList
from x0d.kernel.layout_policy import (
    COVERED_FOR_EVER,
    DENY,
    DENY_4,
    DENY_6_NETS,
    DENY_FILTER,
    decode_policy,
    filter_element,
)
from x0d.kernel.policy_word import PolicyWord
from x0d.policy.model import PackedPrefix, PrefixKey, mask, parse_prefix

pytestmark = pytest.mark.kernel

ENTRIES_MAX = 3000
Entries = dict[PrefixKey, int]


@pytest.fixture
def maps() -> Iterator[PolicyMaps]:
    with policy_maps(ENTRIES_MAX) as made:
        yield made


def _open(maps: PolicyMaps, entries_max: int = ENTRIES_MAX) -> DenyList:
    deny = DenyList(maps.fds, maps.directory, PolicyWord(maps.fds["x0d_policy"]), entries_max)
    deny.adopt()
    return deny


def _entries(*texts: str, expires: int = 0) -> Entries:
    return {parse_prefix(text): expires for text in texts}


def _random_entries(rng: random.Random, count: int) -> Entries:
    """Few addresses, so that lists overlap and prefixes nest."""
    entries: Entries = {}
    while len(entries) < count:
        size = rng.choice([4, 4, 16])
        length = rng.choice([size * 8, rng.randrange(8, size * 8)])
        address = bytes([10, rng.randrange(4), rng.randrange(256), rng.randrange(256)]).ljust(size, b"\1")
        entries[PackedPrefix(mask(address, length), length)] = rng.choice([0, 0, rng.randrange(1, 1000)])
    return entries


def _kernel_rows(maps: PolicyMaps) -> dict[PrefixKey, tuple[int, int, int]]:
    """Slot, expiry and covered_until of all that XDP finds, read without the code under test."""
    word = bpf.lookup(maps.fds["x0d_policy"], bytes(4), 8)
    assert word is not None
    policy = decode_policy(word)
    rows = {}
    for kind in DENY_LISTS:
        fd = bpf.open_pin(maps.directory / f"{kind.outer[4:]}-{policy.deny_index}")
        assert fd is not None
        with bpf.closing(fd):
            element = bpf.lookup(maps.fds[kind.outer], index_key(policy.deny_index), 4)
            assert element == index_key(bpf.map_id(fd)), "what is pinned is what XDP asks"
            found = list(bpf.entries(fd, kind.key_size, DENY.size))
        assert bool(found) == bool(policy.deny_kinds & kind.bit)
        for key, value in found:
            prefix = (key, len(key) * 8) if kind.is_exact else (key[4:], key[0])
            deny = decode_deny(value)
            rows[prefix] = deny.slot, deny.expires_at_ns, deny.covered_until_ns
    return rows


def _check(maps: PolicyMaps, expected: Mapping[PrefixKey, int]) -> None:
    """The kernel has these entries, each with a slot of its own, the cover of its own, and a filter bit."""
    rows = _kernel_rows(maps)
    assert expected == {prefix: expires for prefix, (_slot, expires, _covered) in rows.items()}
    assert len(rows) == len({slot for slot, _expires, _covered in rows.values()})
    for (address, length), (_slot, expires, covered) in rows.items():
        if expires and length < len(address) * 8:
            around = [expected.get((mask(address, shorter), shorter)) for shorter in range(length)]
            assert covered == max([until or COVERED_FOR_EVER for until in around if until is not None], default=0)
    filters = {size: _filter(maps, size) for size in (4, 16)}
    for address, _length in rows:
        start = filter_start(ip_address(address))
        assert filters[len(address)][start >> 3] >> (start & 7) & 1


def _filter(maps: PolicyMaps, address_bytes: int) -> bytes:
    element = index_key(filter_element(_policy_index(maps), address_bytes))
    words = bpf.lookup(maps.fds["x0d_deny_filter"], element, DENY_FILTER.size)
    assert words is not None
    return words


def _policy_index(maps: PolicyMaps) -> int:
    word = bpf.lookup(maps.fds["x0d_policy"], bytes(4), 8)
    assert word is not None
    return decode_policy(word).deny_index


def _hit(maps: PolicyMaps, prefix: PrefixKey, count: int) -> None:
    """Count so many packets for an entry on each CPU, as XDP would."""
    slot = _kernel_rows(maps)[prefix][0]
    bpf.update(maps.fds["x0d_deny_hits"], index_key(slot), struct.pack("=Q", count) * bpf.possible_cpus())


def test_any_history_ends_in_the_list_that_was_asked_for(maps: PolicyMaps, seed: int) -> None:
    """After each of many random changes, restarts among them, kernel and daemon hold the same, hits included."""
    rng = random.Random(seed)
    deny, model = _open(maps), Entries()
    hits: dict[PrefixKey, int] = {}
    for step in range(60):
        kind = rng.choice(["replace", "put", "put", "delete", "delete", "restart"])
        change = _random_entries(rng, rng.choice([1, 3, 40, 400]))
        print(step, kind, len(change))
        if kind == "replace":
            kept = dict(rng.sample(sorted(model.items()), len(model) // 2))
            model = {**change, **kept}
            deny.replace(model)
            if rng.random() < 0.8:
                deny.sweep()
        elif kind == "put" and len(model) + len(change) <= ENTRIES_MAX:
            model.update(change)
            deny.put(change)
        elif kind == "delete":
            doomed = [*change, *rng.sample(sorted(model), len(model) // rng.choice([2, 10]))]
            model = {prefix: expires for prefix, expires in model.items() if prefix not in doomed}
            deny.delete(doomed)
        else:
            deny.close()
            deny = _open(maps)
        assert model == deny.entries
        _check(maps, model)
        hits = {prefix: hits.get(prefix, 0) for prefix in model}
        assert hits == deny.hits()
        if model:
            lucky = rng.choice(sorted(model))
            hits[lucky] += bpf.possible_cpus() * (step + 1)
            _hit(maps, lucky, hits[lucky] // bpf.possible_cpus())
    deny.close()


def test_a_full_list_is_replaced_by_a_full_list(maps: PolicyMaps) -> None:
    """Two lists that share nothing and fill the hits map each: the new one is in force, with hits of its own."""
    deny = _open(maps)
    one = {(struct.pack("!I", number), 32): 0 for number in range(ENTRIES_MAX)}
    other = {(struct.pack("!I", number), 32): 0 for number in range(ENTRIES_MAX, 2 * ENTRIES_MAX)}
    deny.replace(one)
    for prefix in list(one)[::1000]:
        _hit(maps, prefix, 9)
    deny.replace(other)
    _check(maps, other)
    assert dict.fromkeys(other, 0) == deny.hits()
    deny.sweep()
    deny.close()


def test_the_same_list_again_costs_nothing(maps: PolicyMaps) -> None:
    """A start that puts what is in force already leaves it as it is."""
    deny, model = _open(maps), _entries("192.0.2.1", "10.0.0.0/8", expires=9)
    deny.replace(model)
    index = _policy_index(maps)
    deny.replace(dict(model))
    assert index == _policy_index(maps)
    deny.replace({**model, parse_prefix("10.0.0.0/8"): 10})
    assert index != _policy_index(maps)
    deny.close()


def test_too_many_entries_change_nothing(maps: PolicyMaps) -> None:
    """One entry above the limit, put or as a list, is refused and the list stays."""
    deny = _open(maps)
    full = {(struct.pack("!I", number), 32): 0 for number in range(ENTRIES_MAX)}
    deny.replace(full)
    one_more = _entries("192.0.2.0/24")
    with pytest.raises(TooMany, match="deny_entries_max = 3000"):
        deny.put(one_more)
    with pytest.raises(TooMany):
        deny.replace({**full, **one_more})
    _check(maps, full)
    deny.put({next(iter(full)): 77})  # a change of an expiry needs no room
    _check(maps, {**full, next(iter(full)): 77})
    deny.close()


def test_a_list_grows_beyond_its_map(maps: PolicyMaps) -> None:
    """Entries are put one batch after the other, until the inner map was too small twice."""
    deny, model = _open(maps), Entries()
    for batch in range(29):
        change = {(struct.pack("!I", batch << 16 | number), 32): 0 for number in range(100)}
        model.update(change)
        deny.put(change)
    _check(maps, model)
    deny.close()


def test_a_refused_replacement_changes_nothing(maps: PolicyMaps) -> None:
    """The kernel refuses to pin: the old list is in force, nothing is left, and the next attempt succeeds."""
    deny, old, new = _open(maps), _entries("192.0.2.1", "10.0.0.0/8"), _entries("192.0.2.2", "2001:db8::/32")
    deny.replace(old)
    deny.sweep()
    hidden = maps.directory.with_name("hidden")
    maps.directory.rename(hidden)
    for _ in range(5):
        with pytest.raises(KernelRefused) as refusal:
            deny.replace(new)
        assert errno.ENOENT == refusal.value.errno
    hidden.rename(maps.directory)
    _check(maps, old)
    assert 4 == len(list(maps.directory.iterdir()))
    deny.replace(new)
    _check(maps, new)
    deny.close()


def test_a_refused_put_changes_nothing(maps: PolicyMaps, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel runs out of memory in the middle of a put: entries and expiries are as they were."""
    deny, old = _open(maps), _entries("192.0.2.1", "10.0.0.0/8", expires=500)
    deny.replace(old)
    write, left = bpf.update_batch, [1]

    def write_one_then_fail(map_fd: int, keys: bytes, values: bytes, count: int) -> None:
        if not left:
            monkeypatch.setattr(bpf, "update_batch", write)
            raise KernelRefused("write map entries", errno.ENOMEM)
        left.pop()
        write(map_fd, keys, values, count)

    monkeypatch.setattr(bpf, "update_batch", write_one_then_fail)
    with pytest.raises(KernelRefused):
        deny.put(_entries("192.0.2.1", "192.0.2.9", "10.1.0.0/16", "10.0.0.0/8"))
    assert old == deny.entries
    _check(maps, old)
    deny.close()


def test_a_lost_pin_costs_only_what_was_in_it(maps: PolicyMaps, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody unpinned one list: a start says so, and puts the rest in force anew."""
    deny = _open(maps)
    deny.replace(_entries("192.0.2.1", "10.0.0.0/8"))
    deny.close()
    (maps.directory / f"deny4_nets-{_policy_index(maps)}").unlink()
    deny = _open(maps)
    assert "deny_list_remade" in capsys.readouterr().out
    _check(maps, _entries("192.0.2.1"))
    deny.close()


def test_what_a_killed_replacement_left_is_removed(maps: PolicyMaps) -> None:
    """Built but not put in force, or in force but the old one not freed: four pins remain, of the right list."""
    deny, old, new = _open(maps), _entries("192.0.2.1"), _entries("192.0.2.2")
    deny.replace(old)
    deny.sweep()
    index = 1 - _policy_index(maps)
    deny._maps.close(deny._maps.make(index, (list(new), [], [], []), dict.fromkeys(new, 7), new))
    deny.close()
    deny = _open(maps)
    _check(maps, old)
    deny.replace(new)  # and killed before sweep
    deny.close()
    deny = _open(maps)
    _check(maps, new)
    assert 4 == len(list(maps.directory.iterdir()))
    assert bpf.lookup(maps.fds["x0d_deny4"], index_key(1 - _policy_index(maps)), 4) is None
    deny.close()


def test_a_slot_that_a_killed_daemon_freed_counts_from_zero(maps: PolicyMaps) -> None:
    """Killed before the hits of departed entries were cleared: whoever gets their slots begins at none."""
    deny, old, new = _open(maps), _entries("192.0.2.1", "10.0.0.0/8"), _entries("192.0.2.2", "10.0.0.0/9")
    deny.replace(old)
    for prefix in old:
        _hit(maps, prefix, 5)
    deny.replace({})
    deny.close()
    deny = _open(maps)
    deny.replace(new)
    assert dict.fromkeys(new, 0) == deny.hits()
    deny.close()


def test_what_is_prepared_leaves_no_trace(maps: PolicyMaps) -> None:
    """Abandoned, refused, or killed before it was in force: the old list is as it was, and all slots are free again."""
    old = {(struct.pack("!I", number), 32): 0 for number in range(ENTRIES_MAX // 2)}
    new = {(struct.pack("!I", number), 32): 0 for number in range(ENTRIES_MAX, 2 * ENTRIES_MAX)}
    deny = _open(maps)
    deny.replace(old)
    deny.sweep()
    free = deny._slots.free
    for _ in range(3):
        deny.prepare(new)
        _check(maps, old)
        deny.abandon()
        assert free == deny._slots.free
        assert bpf.lookup(maps.fds["x0d_deny4"], index_key(1 - _policy_index(maps)), 4) is None
    deny.prepare(new)
    deny.close()
    deny = _open(maps)
    _check(maps, old)
    deny.replace(new)
    _check(maps, new)
    deny.close()


def test_the_word_changes_one_field_at_a_time(maps: PolicyMaps, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the kernel copies it, no packet reads the new index with the old kinds alone."""
    word = PolicyWord(maps.fds["x0d_policy"])
    word.flip_deny(1, DENY_4)
    words = []
    monkeypatch.setattr(bpf, "update", lambda _fd, _key, value: words.append(decode_policy(value)))
    word.flip_deny(0, DENY_6_NETS)
    both = DENY_4 | DENY_6_NETS
    assert [(1, both), (0, both), (0, DENY_6_NETS)] == [(policy.deny_index, policy.deny_kinds) for policy in words]


def test_new_outer_and_hits_maps_under_an_old_list(maps: PolicyMaps) -> None:
    """The hits map was made anew and smaller: the list stays in force, and every entry counts again."""
    deny, model = _open(maps), {(struct.pack("!I", number), 32): 0 for number in range(100)}
    deny.replace({(struct.pack("!I", number), 32): 0 for number in range(500, 1000)})
    deny.replace(model)
    deny.close()
    smaller = bpf.create_map("x0d_deny_hits", replace(_shape(maps, "x0d_deny_hits"), entries_max=200))
    os.dup2(smaller, maps.fds["x0d_deny_hits"])
    os.close(smaller)
    bpf.delete(maps.fds["x0d_deny4"], index_key(_policy_index(maps)))
    deny = _open(maps, entries_max=200)
    _check(maps, model)
    assert max(slot for slot, _expires, _covered in _kernel_rows(maps).values()) < 200
    deny.close()


def _shape(maps: PolicyMaps, name: str) -> bpf.MapKind:
    key_size, value_size, entries_max = bpf.map_shape(maps.fds[name])
    return bpf.MapKind(bpf.PERCPU_ARRAY, key_size, value_size, entries_max)


@pytest.mark.parametrize("stop_after", range(24))
def test_killed_at_any_write_one_list_is_found(maps: PolicyMaps, stop_after: int) -> None:
    """A child that ends at its Nth system call of a replacement leaves the old list or the new one, whole."""
    old, new = _entries("192.0.2.1", "10.0.0.0/8"), _entries("192.0.2.2", "2001:db8::/32", "10.0.0.0/8")
    deny = _open(maps)
    deny.replace(old)
    deny.sweep()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            _exit_at_write(stop_after)
            deny.replace(new)
            deny.sweep()
        os._exit(0)
    os.waitpid(child, 0)
    deny.close()
    deny = _open(maps)
    assert deny.entries in (old, new)
    _check(maps, deny.entries)
    assert 4 == len(list(maps.directory.iterdir()))
    deny.close()


def _exit_at_write(number: int) -> None:
    """End this process when a map or pin is about to be changed for the ``number``th time."""
    left = [number]

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*values: object, **named: object) -> object:
            if not left[0]:
                os._exit(9)
            left[0] -= 1
            return real(*values, **named)

        return call

    for name in ("update", "update_batch", "pin", "delete"):
        setattr(bpf, name, counted(getattr(bpf, name)))
