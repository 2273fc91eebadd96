"""Audit records on disk, in the knowledge file and its thread.

A record is on the disk before ``insert`` returns, power cuts included: what was changed without one would be a change
that nobody can explain.  Its completion may be lost with the power; the record then says ``begun``, which is true.

The number of records is bounded.  When it is reached, the oldest make room; but where one caller has more than half of
them, the oldest of its own do, so that nobody can push out what others did by calling often.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

from x0d.errors import StorageFailed
from x0d.ports import AuditRecord
from x0d.store.database import Database, transaction

RECORDS_MAX: Final = 100_000
"""About 40 MB of them as they are in practice."""
ROOM: Final = 1 / 256
"""Share of them that is deleted at a time: whose they are is counted seldom."""

INSERT: Final = (
    "INSERT INTO audit (at_unix_ms, who, address, method, what, before, after, outcome, detail, took_ms)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
FINISH: Final = "UPDATE audit SET before = ?, after = ?, outcome = ?, detail = ?, took_ms = ? WHERE id = ?"
BUSIEST: Final = "SELECT who, count(*) AS records FROM audit GROUP BY who ORDER BY records DESC LIMIT 1"
DELETE_OF_ONE: Final = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE who = ? ORDER BY id LIMIT ?)"
DELETE_OLDEST: Final = "DELETE FROM audit WHERE id IN (SELECT id FROM audit ORDER BY id LIMIT ?)"
SELECT: Final = (
    "SELECT id, at_unix_ms, who, address, method, what, before, after, outcome, detail, took_ms"
    " FROM audit ORDER BY id DESC LIMIT ?"
)


class AuditRecords:
    """``ports.AuditStore`` on an open knowledge file."""

    def __init__(self, database: Database, *, records_max: int = RECORDS_MAX) -> None:
        assert records_max > 0
        self._database = database
        self._records_max = records_max
        self._count: int | None = None

    async def insert(self, record: AuditRecord) -> int:
        """Write a record, whose ``id`` is not looked at; the number it got.  Others make room."""
        return await self._database.run(lambda connection: self._insert(connection, record))

    async def finish(self, number: int, *, before: str, after: str, outcome: str, detail: str, took_ms: float) -> None:
        """Complete a record.  Raises StorageFailed also when there is none of this number."""
        values = (before, after, outcome, detail, took_ms, number)
        await self._database.run(lambda connection: _finish(connection, values))

    async def latest(self, limit: int) -> Sequence[AuditRecord]:
        """Newest first."""
        return await self._database.run(lambda connection: _latest(connection, limit))

    # ---- in the thread ----

    def _insert(self, connection: sqlite3.Connection, record: AuditRecord) -> int:
        values = (
            *(record.at_unix_ms, record.who, record.address, record.method, record.what),
            *(record.before, record.after, record.outcome, record.detail, record.took_ms),
        )
        count = self._count if self._count is not None else _count(connection)
        connection.execute("PRAGMA synchronous = FULL")
        try:
            with transaction(connection):
                if count >= self._records_max:
                    room = count - self._records_max + max(1, int(self._records_max * ROOM))
                    count -= _make_room(connection, count, room)
                number = connection.execute(INSERT, values).lastrowid
        finally:
            connection.execute("PRAGMA synchronous = NORMAL")
        assert number is not None
        self._count = count + 1
        return number


def _finish(connection: sqlite3.Connection, values: tuple[object, ...]) -> None:
    if connection.execute(FINISH, values).rowcount == 0:
        raise StorageFailed(f"there is no audit record {values[-1]}")


def _latest(connection: sqlite3.Connection, limit: int) -> Sequence[AuditRecord]:
    return [AuditRecord(*row) for row in connection.execute(SELECT, (limit,)).fetchall()]


def _count(connection: sqlite3.Connection) -> int:
    number: int = connection.execute("SELECT count(*) FROM audit").fetchone()[0]
    return number


def _make_room(connection: sqlite3.Connection, count: int, room: int) -> int:
    """Delete ``room`` of ``count`` records; how many there were."""
    who, of_one = connection.execute(BUSIEST).fetchone()
    if of_one * 2 > count:
        return connection.execute(DELETE_OF_ONE, (who, room)).rowcount
    return connection.execute(DELETE_OLDEST, (room,)).rowcount
