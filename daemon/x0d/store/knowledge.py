"""Incidents on disk: one SQLite file, written by one thread of its own.

A killed daemon leaves a readable file with everything that ``save`` returned for; after a power cut the
last writes may be missing (``synchronous = NORMAL``), the file is whole all the same.
"""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from x0d.errors import InvalidInput, StorageFailed
from x0d.mapek.document import incident_from_document, incident_to_document
from x0d.mapek.model import Incident
from x0d.store import schema
from x0d.store.database import Database, Opened, transaction

INCIDENTS_MAX = 10_000
"""Incidents kept by default; then the oldest closed ones are deleted, open ones only if none is closed."""


class Knowledge:
    """``ports.KnowledgeStore`` on a file; one instance for a file, under the state directory's lock."""

    def __init__(self, path: Path, *, incidents_max: int = INCIDENTS_MAX) -> None:
        assert incidents_max > 0
        self._database = Database(path, schema.MIGRATIONS, synchronous="NORMAL")
        self._incidents_max = incidents_max
        self._count = 0
        self._unreadable = 0

    @property
    def database(self) -> Database:
        """The file, for what else is kept in it."""
        return self._database

    @property
    def unreadable(self) -> int:
        """Records that could not be decoded so far; they are left in the file and out of answers."""
        return self._unreadable

    async def open(self) -> Opened:
        """Open, check, migrate; an unreadable file is moved aside.  Raises StorageFailed."""
        opened = await self._database.open()
        self._count = await self._database.run(_count)
        return opened

    async def close(self) -> None:
        """Write what is pending and close; nothing happens if it is closed."""
        await self._database.close()

    async def save(self, incident: Incident) -> None:
        """Insert or replace; beyond the bound, the oldest closed incidents are deleted."""
        await self._database.run(lambda connection: self._save(connection, incident))

    async def load(self, incident_id: str) -> Incident | None:
        """Read one incident, whole; None if it is unknown.  StorageFailed if its record is damaged."""
        return await self._database.run(lambda connection: _load(connection, incident_id))

    async def list(self, limit: int, *, open_only: bool) -> Sequence[Incident]:
        """Read the newest first; damaged records are left out and counted in ``unreadable``."""
        return await self._database.run(lambda connection: self._list(connection, limit, open_only))

    async def generations(self) -> dict[str, int]:
        """Read the highest generation on record of each link, by its text."""
        return await self._database.run(_generations)

    # ---- in the thread ----

    def _save(self, connection: sqlite3.Connection, incident: Incident) -> None:
        document = json.dumps(incident_to_document(incident), ensure_ascii=False, separators=(",", ":"))
        key = str(incident.id)
        with transaction(connection):
            known = connection.execute("SELECT 1 FROM incidents WHERE id = ?", (key,)).fetchone() is not None
            connection.execute(
                "INSERT OR REPLACE INTO incidents (id, link, generation, state, cause, opened_at_unix_ms, document)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(key, incident.id.link, incident.id.generation, incident.state.value, incident.cause.value),
                    *(incident.opened_at_unix_ms, document),
                ),
            )
            count = self._count + (not known)
            surplus = count - self._incidents_max
            if surplus > 0:
                count -= connection.execute(
                    "DELETE FROM incidents WHERE id IN (SELECT id FROM incidents WHERE id <> ?"
                    " ORDER BY state <> 'closed', opened_at_unix_ms LIMIT ?)",
                    (key, surplus),
                ).rowcount
        self._count = count

    def _list(self, connection: sqlite3.Connection, limit: int, open_only: bool) -> Sequence[Incident]:
        where = "WHERE state <> 'closed'" if open_only else ""
        query = f"SELECT document FROM incidents {where} ORDER BY opened_at_unix_ms DESC, rowid DESC LIMIT ?"  # noqa: S608 (constants)
        found = []
        with closing(connection.execute(query, (limit,))) as rows:
            for (document,) in rows:
                try:
                    found.append(_decode(document))
                except InvalidInput:
                    self._unreadable += 1
        return found


def _count(connection: sqlite3.Connection) -> int:
    number: int = connection.execute("SELECT count(*) FROM incidents").fetchone()[0]
    return number


def _generations(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT link, max(generation) FROM incidents GROUP BY link").fetchall())


def _load(connection: sqlite3.Connection, incident_id: str) -> Incident | None:
    row = connection.execute("SELECT document FROM incidents WHERE id = ?", (incident_id,)).fetchone()
    if row is None:
        return None
    try:
        return _decode(row[0])
    except InvalidInput as error:
        raise StorageFailed(f"the record of {incident_id} is damaged: {error}") from error


def _decode(document: str) -> Incident:
    try:
        return incident_from_document(json.loads(document))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"not JSON: {error}") from error
