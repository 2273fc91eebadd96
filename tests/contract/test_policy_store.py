"""What every store of deny-list and limits promises: the fake that tests use, and the SQLite file."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.policy_store import FakePolicyStore
from x0d.errors import StorageFailed
from x0d.policy.model import DenyEntry, Limit, PackedPrefix, PrefixKey, Terms, parse_prefix
from x0d.ports import PolicyStore
from x0d.store.policy import PolicyDatabase

Scenario = Callable[[PolicyStore, Callable[[], None]], Awaitable[None]]
Play = Callable[[Scenario], None]

ADDRESS = DenyEntry(parse_prefix("192.0.2.1"), 0, "scanner é")
NETWORK = DenyEntry(parse_prefix("192.0.2.0/24"), 1_700_000_000_000, "")
NETWORK6 = DenyEntry(parse_prefix("2001:db8::/32"))
EVERYTHING = DenyEntry(PackedPrefix(bytes(4), 0))
LIMIT = Limit(parse_prefix("0.0.0.0/0"), 1000, 100, 5, "all")
LIMIT6 = Limit(parse_prefix("::/0"), 2000, 200)


@pytest.fixture(params=["fake", "file"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Run a scenario on an empty store, with a way to break it."""
    path = tmp_path / "policy.db"

    async def on_fake(scenario: Scenario) -> None:
        store = FakePolicyStore()

        def break_it() -> None:
            store.broken = "no longer"

        await scenario(store, break_it)

    async def on_file(scenario: Scenario) -> None:
        store = PolicyDatabase(path)
        await store.open()

        def break_it() -> None:
            with closing(sqlite3.connect(path)) as other:
                other.executescript("DROP TABLE deny; DROP TABLE limits")

        try:
            await scenario(store, break_it)
        finally:
            await store.close()

    on = on_fake if request.param == "fake" else on_file
    return lambda scenario: asyncio.run(on(scenario))


async def deny_of(store: PolicyStore) -> set[DenyEntry]:
    """The stored deny-list."""
    deny, _ = await store.load()
    assert len(set(deny)) == len(deny)
    return set(deny)


async def limits_of(store: PolicyStore) -> set[Limit]:
    """The stored limits."""
    _, limits = await store.load()
    assert len(set(limits)) == len(limits)
    return set(limits)


def test_deny_entries_are_saved_changed_and_deleted(play: Play) -> None:
    """An entry comes back whole, a second save replaces it, deleting what is not there is no error."""

    async def scenario(store: PolicyStore, _: Callable[[], None]) -> None:
        assert set() == await deny_of(store)
        await store.save_deny([ADDRESS, NETWORK, NETWORK6, EVERYTHING])
        assert {ADDRESS, NETWORK, NETWORK6, EVERYTHING} == await deny_of(store)
        changed = replace(ADDRESS, expires_unix_ms=7, comment="for a while")
        await store.save_deny([changed])
        await store.delete_deny([NETWORK.prefix, EVERYTHING.prefix, parse_prefix("10.0.0.0/24")])
        assert {changed, NETWORK6} == await deny_of(store)

    play(scenario)


def test_whole_list_is_replaced(play: Play) -> None:
    """After a replacement nothing of the old list is left, and the limits are as they were."""

    async def scenario(store: PolicyStore, _: Callable[[], None]) -> None:
        await store.save_deny([ADDRESS, NETWORK])
        await store.save_limit(LIMIT)
        await store.replace_deny({NETWORK6.prefix: Terms(), NETWORK.prefix: Terms(NETWORK.expires_unix_ms, "new")})
        assert {NETWORK6, replace(NETWORK, comment="new")} == await deny_of(store)
        assert {LIMIT} == await limits_of(store)
        await store.replace_deny({})
        assert set() == await deny_of(store)

    play(scenario)


def test_long_list_of_all_kinds_is_replaced(play: Play) -> None:
    """Hundreds of entries that say the same, others that say something of their own, both families: all come back."""

    async def scenario(store: PolicyStore, _: Callable[[], None]) -> None:
        terms = [
            Terms(),
            Terms(1_700_000_000_000, "scanner é"),
            *(Terms(number, f"no {number}") for number in range(40)),
        ]
        entries: dict[PrefixKey, Terms] = {}
        for number in range(3000):
            size = 4 if number % 3 else 16
            said = terms[number % 2] if number % 8 else terms[number % len(terms)]
            entries[(number % 256).to_bytes() + number.to_bytes(size - 1, "little"), size * 8] = said
        for _again in range(2):
            await store.replace_deny(entries)
            assert {DenyEntry(PackedPrefix(*prefix), *said) for prefix, said in entries.items()} == await deny_of(store)

    play(scenario)


def test_limits_are_saved_changed_and_deleted(play: Play) -> None:
    """A limit comes back whole, a second save replaces it, and the deny-list is not touched."""

    async def scenario(store: PolicyStore, _: Callable[[], None]) -> None:
        await store.save_deny([ADDRESS])
        await store.save_limit(LIMIT)
        await store.save_limit(LIMIT6)
        changed = replace(LIMIT, rate_pps=5, burst=6, expires_unix_ms=0, comment="")
        await store.save_limit(changed)
        assert {changed, LIMIT6} == await limits_of(store)
        await store.delete_limits([LIMIT6.prefix, parse_prefix("10.0.0.1")])
        assert {changed} == await limits_of(store)
        assert {ADDRESS} == await deny_of(store)

    play(scenario)


def test_trouble_is_storage_failed(play: Play) -> None:
    """Every call on a store in trouble raises StorageFailed, nothing else."""

    async def scenario(store: PolicyStore, break_it: Callable[[], None]) -> None:
        await store.save_deny([ADDRESS])
        break_it()
        with pytest.raises(StorageFailed):
            await store.load()
        with pytest.raises(StorageFailed):
            await store.replace_deny({NETWORK.prefix: Terms()})
        with pytest.raises(StorageFailed):
            await store.save_deny([NETWORK])
        with pytest.raises(StorageFailed):
            await store.delete_deny([NETWORK.prefix])
        with pytest.raises(StorageFailed):
            await store.save_limit(LIMIT)
        with pytest.raises(StorageFailed):
            await store.delete_limits([LIMIT.prefix])

    play(scenario)
