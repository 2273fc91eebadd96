"""What every knowledge store promises: the fake that tests use, and the SQLite file."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.store import FakeStore
from x0d.errors import StorageFailed
from x0d.mapek.model import Cause, Evidence, Incident, IncidentId, IncidentState, Role
from x0d.ports import KnowledgeStore
from x0d.store.knowledge import Knowledge

Scenario = Callable[[KnowledgeStore, Callable[[], None]], Awaitable[None]]
Play = Callable[[Scenario], None]

OPEN = Incident(
    IncidentId("n1-n2.5c1e", 1), Cause.LINK_DEAD, "why", IncidentState.OPEN, Role.END, "auto", 10,
    evidence=(Evidence(10, "loss", "é"),),
)  # fmt: skip
CLOSED = replace(
    OPEN, id=IncidentId("n1-n2.5c1e", 2), state=IncidentState.CLOSED, opened_at_unix_ms=20, closed_at_unix_ms=25
)
ESCALATED = replace(OPEN, id=IncidentId("n1-n3.77aa", 1), state=IncidentState.ESCALATED, opened_at_unix_ms=30)


@pytest.fixture(params=["fake", "file"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Run a scenario on an empty store, with a way to break it."""

    async def on_fake(scenario: Scenario) -> None:
        store = FakeStore()

        def break_it() -> None:
            store.broken = "no longer"

        await scenario(store, break_it)

    async def on_file(scenario: Scenario) -> None:
        store = Knowledge(tmp_path / "state" / "knowledge.db")
        (tmp_path / "state").mkdir()
        await store.open()

        def break_it() -> None:
            with closing(sqlite3.connect(tmp_path / "state" / "knowledge.db")) as other:
                other.execute("DROP TABLE incidents")

        try:
            await scenario(store, break_it)
        finally:
            await store.close()

    on = on_fake if request.param == "fake" else on_file
    return lambda scenario: asyncio.run(on(scenario))


def test_what_is_saved_is_read(play: Play) -> None:
    """An incident comes back whole; one saved again is replaced; one that was never saved is None."""

    async def scenario(store: KnowledgeStore, _: Callable[[], None]) -> None:
        assert await store.load(str(OPEN.id)) is None
        await store.save(OPEN)
        assert OPEN == await store.load(str(OPEN.id))
        later = replace(OPEN, explanation="known by now", packets_lost=7)
        await store.save(later)
        assert later == await store.load(str(OPEN.id))
        assert [later] == list(await store.list(10, open_only=False))

    play(scenario)


def test_list_is_newest_first_and_limited(play: Play) -> None:
    """The list is in the order of opening, newest first, as long as asked for; closed ones are left out on demand."""

    async def scenario(store: KnowledgeStore, _: Callable[[], None]) -> None:
        for incident in (CLOSED, ESCALATED, OPEN):
            await store.save(incident)
        assert [ESCALATED, CLOSED, OPEN] == list(await store.list(10, open_only=False))
        assert [ESCALATED, CLOSED] == list(await store.list(2, open_only=False))
        assert [ESCALATED, OPEN] == list(await store.list(10, open_only=True))

    play(scenario)


def test_trouble_is_storage_failed(play: Play) -> None:
    """Every call on a store in trouble raises StorageFailed, nothing else."""

    async def scenario(store: KnowledgeStore, break_it: Callable[[], None]) -> None:
        await store.save(OPEN)
        break_it()
        with pytest.raises(StorageFailed):
            await store.save(CLOSED)
        with pytest.raises(StorageFailed):
            await store.load(str(OPEN.id))
        with pytest.raises(StorageFailed):
            await store.list(10, open_only=False)

    play(scenario)
