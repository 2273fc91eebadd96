"""What every audit store promises: the fake that tests use, and the table in the knowledge file."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.audit_store import FakeAuditStore
from x0d.errors import StorageFailed
from x0d.ports import AuditRecord, AuditStore
from x0d.store.audit import AuditRecords
from x0d.store.knowledge import Knowledge

Scenario = Callable[[AuditStore, Callable[[], None]], Awaitable[None]]
Play = Callable[[Scenario], None]

BEGUN = AuditRecord(0, 1_700_000_000_123, "uid 0 (root)", "", "/x0d.v1.S/M", '{"a": "é"}', "", "", "begun", "", 0.0)


@pytest.fixture(params=["fake", "file"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Run a scenario on an empty store, with a way to break it."""

    async def on_fake(scenario: Scenario) -> None:
        store = FakeAuditStore()

        def break_it() -> None:
            store.broken = "no longer"

        await scenario(store, break_it)

    async def on_file(scenario: Scenario) -> None:
        knowledge = Knowledge(tmp_path / "knowledge.db")
        await knowledge.open()

        def break_it() -> None:
            with closing(sqlite3.connect(tmp_path / "knowledge.db")) as other:
                other.execute("DROP TABLE audit")

        try:
            await scenario(AuditRecords(knowledge.database), break_it)
        finally:
            await knowledge.close()

    on = on_fake if request.param == "fake" else on_file
    return lambda scenario: asyncio.run(on(scenario))


def test_begun_then_finished(play: Play) -> None:
    """A record comes back as it was begun, then as it was completed; its other columns stay."""

    async def scenario(store: AuditStore, _: Callable[[], None]) -> None:
        number = await store.insert(replace(BEGUN, id=99))
        begun = replace(BEGUN, id=number)
        assert [begun] == list(await store.latest(10))
        await store.finish(number, before="a", after="b", outcome="failed", detail="é\n", took_ms=1.5)
        done = replace(begun, before="a", after="b", outcome="failed", detail="é\n", took_ms=1.5)
        assert [done] == list(await store.latest(10))

    play(scenario)


def test_newest_first_and_limited(play: Play) -> None:
    """Numbers rise with each record, whatever the clock says, and the list follows them."""

    async def scenario(store: AuditStore, _: Callable[[], None]) -> None:
        numbers = [await store.insert(replace(BEGUN, at_unix_ms=at)) for at in (3, 1, 2)]
        assert sorted(set(numbers)) == numbers
        assert numbers[::-1] == [record.id for record in await store.latest(10)]
        assert [2, 1] == [record.at_unix_ms for record in await store.latest(2)]

    play(scenario)


def test_trouble_is_storage_failed(play: Play) -> None:
    """A number that is not there, and every call on a store in trouble, raise StorageFailed and nothing else."""

    async def scenario(store: AuditStore, break_it: Callable[[], None]) -> None:
        number = await store.insert(BEGUN)
        with pytest.raises(StorageFailed):
            await store.finish(number + 1, before="", after="", outcome="done", detail="", took_ms=0.0)
        break_it()
        with pytest.raises(StorageFailed):
            await store.insert(BEGUN)
        with pytest.raises(StorageFailed):
            await store.finish(number, before="", after="", outcome="done", detail="", took_ms=0.0)
        with pytest.raises(StorageFailed):
            await store.latest(1)

    play(scenario)
