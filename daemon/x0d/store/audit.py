"""Audit records on disk, in the knowledge file and its thread.

A record is on the disk before ``insert`` returns, power cuts included: what was changed without one would be a change
that nobody can explain.  Its completion may be lost with the power; the record then says ``begun``, which is true.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

from x0d.errors import StorageFailed
from x0d.ports import AuditRecord
from x0d.store.database import Database, transaction

RECORDS_MAX: Final = 100_000
"""The newest are kept: about 40 MB of them as they are in practice."""

INSERT: Final = (
    "INSERT INTO audit (at_unix_ms, who, address, method, what, before, after, outcome, detail, took_ms)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
FINISH: Final = "UPDATE audit SET before = ?, after = ?, outcome = ?, detail = ?, took_ms = ? WHERE id = ?"
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

    async def insert(self, record: AuditRecord) -> int:
        """Write a record, whose ``id`` is not looked at; the number it got.  The oldest make room."""
        return await self._database.run(lambda connection: _insert(connection, record, self._records_max))

    async def finish(self, number: int, *, before: str, after: str, outcome: str, detail: str, took_ms: float) -> None:
        """Complete a record.  Raises StorageFailed also when there is none of this number."""
        values = (before, after, outcome, detail, took_ms, number)
        await self._database.run(lambda connection: _finish(connection, values))

    async def latest(self, limit: int) -> Sequence[AuditRecord]:
        """Newest first."""
        return await self._database.run(lambda connection: _latest(connection, limit))


def _insert(connection: sqlite3.Connection, record: AuditRecord, records_max: int) -> int:
    values = (
        *(record.at_unix_ms, record.who, record.address, record.method, record.what),
        *(record.before, record.after, record.outcome, record.detail, record.took_ms),
    )
    connection.execute("PRAGMA synchronous = FULL")
    try:
        with transaction(connection):
            number = connection.execute(INSERT, values).lastrowid
            assert number is not None
            connection.execute("DELETE FROM audit WHERE id <= ?", (number - records_max,))
    finally:
        connection.execute("PRAGMA synchronous = NORMAL")
    return number


def _finish(connection: sqlite3.Connection, values: tuple[object, ...]) -> None:
    if connection.execute(FINISH, values).rowcount == 0:
        raise StorageFailed(f"there is no audit record {values[-1]}")


def _latest(connection: sqlite3.Connection, limit: int) -> Sequence[AuditRecord]:
    return [AuditRecord(*row) for row in connection.execute(SELECT, (limit,)).fetchall()]
