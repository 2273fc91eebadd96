"""Incidents on disk: one SQLite file, written by one thread of its own.

A file that SQLite cannot read is moved aside with its journals and told of, never overwritten; one of
a newer x0d is refused.  Every write is one transaction in WAL mode, so a killed daemon leaves a
readable file with everything that ``save`` returned for; after a power cut the last writes may be
missing (``synchronous = NORMAL``), the file is whole all the same.
"""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from x0d.errors import InvalidInput, StorageFailed
from x0d.mapek.document import incident_from_document, incident_to_document
from x0d.mapek.model import Incident
from x0d.store.schema import SCHEMA_VERSION, migrate, read_version

INCIDENTS_MAX = 10_000
"""Incidents kept by default; then the oldest closed ones are deleted, open ones only if none is closed."""
LOCK_WAIT_S = 1.0
"""How long another process, such as a backup, may hold the file before a write fails."""
JOURNAL_BYTES_MAX = 4 * 1024 * 1024
"""Size to which SQLite cuts its write-ahead log after a checkpoint."""
UNREADABLE = frozenset([sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB])
"""Result codes that mean that the file itself is damaged."""
COMPANIONS = ("-wal", "-shm", "")
"""Files of one database, the journals first: a log left without its file could be replayed into a new one."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OpenReport:
    """What was found and done when the file was opened."""

    schema_version: int
    migrated_from: int | None
    """The older schema version that the file had; None when it was current or new."""
    moved_aside: Path | None
    """Where an unreadable file was moved; None when there was none."""
    reason: str
    """Why it was moved aside; empty when it was not."""


class Corrupt(StorageFailed):
    """The file is damaged."""


class Knowledge:
    """``ports.KnowledgeStore`` on a file; one instance for a file, under the state directory's lock."""

    def __init__(self, path: Path, *, incidents_max: int = INCIDENTS_MAX) -> None:
        assert incidents_max > 0
        self._path = path
        self._incidents_max = incidents_max
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="knowledge")
        self._connection: sqlite3.Connection | None = None
        self._count = 0
        self._unreadable = 0

    @property
    def unreadable(self) -> int:
        """Records that could not be decoded so far; they are left in the file and out of answers."""
        return self._unreadable

    async def open(self) -> OpenReport:
        """Open, check, migrate; move an unreadable file aside and begin a new one.

        Raises:
            StorageFailed: the file is of a newer x0d or of something else (and untouched), or the
                directory is full, read-only or absent.
        """
        return await self._run(self._open)

    async def close(self) -> None:
        """Write what is pending and close; nothing happens if it is closed."""
        await self._run(self._close)
        self._executor.shutdown(wait=False)

    async def save(self, incident: Incident) -> None:
        """Insert or replace; beyond the bound, the oldest closed incidents are deleted."""
        await self._run(lambda: self._save(incident))

    async def load(self, incident_id: str) -> Incident | None:
        """Read one incident, whole; None if it is unknown.  StorageFailed if its record is damaged."""
        return await self._run(lambda: self._load(incident_id))

    async def list(self, limit: int, *, open_only: bool) -> Sequence[Incident]:
        """Read the newest first; damaged records are left out and counted in ``unreadable``."""
        return await self._run(lambda: self._list(limit, open_only))

    async def generations(self) -> dict[str, int]:
        """Read the highest generation on record of each link, by its text."""
        return await self._run(self._generations)

    async def _run(self, work: Callable[[], T]) -> T:
        """Do something in the thread of the file, whose errors are translated here."""

        def translated() -> T:
            with _storage_errors(self._path):
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._executor, translated)

    # ---- in the thread ----

    def _open(self) -> OpenReport:
        assert self._connection is None, "opened twice"
        moved_aside, reason = None, ""
        try:
            found = self._connect()
        except Corrupt as error:
            reason = str(error)
            moved_aside = _move_aside(self._path)
            found = self._connect()
        return OpenReport(SCHEMA_VERSION, found if 0 < found < SCHEMA_VERSION else None, moved_aside, reason)

    def _connect(self) -> int:
        """Open the file and return the schema version that it had; the connection is kept if all went well."""
        with _storage_errors(self._path):
            connection = sqlite3.connect(self._path, timeout=LOCK_WAIT_S, isolation_level=None)
            try:
                version = read_version(connection)
                _check(connection)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES_MAX}")
                migrate(connection, version)
                connection.execute("BEGIN IMMEDIATE")  # fails now rather than at the first save
                self._count = connection.execute("SELECT count(*) FROM incidents").fetchone()[0]
                connection.execute("COMMIT")
            except BaseException:  # whatever ends the opening, a cancel too, leaves no connection; it goes on
                connection.close()
                raise
        self._connection = connection
        return version

    def _close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StorageFailed("the file is not open")
        return self._connection

    def _save(self, incident: Incident) -> None:
        connection = self._opened()
        document = json.dumps(incident_to_document(incident), ensure_ascii=False, separators=(",", ":"))
        key = str(incident.id)
        with _transaction(connection):
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

    def _load(self, incident_id: str) -> Incident | None:
        query = "SELECT document FROM incidents WHERE id = ?"
        row = self._opened().execute(query, (incident_id,)).fetchone()
        if row is None:
            return None
        try:
            return _decode(row[0])
        except InvalidInput as error:
            raise StorageFailed(f"the record of {incident_id} is damaged: {error}") from error

    def _list(self, limit: int, open_only: bool) -> Sequence[Incident]:
        where = "WHERE state <> 'closed'" if open_only else ""
        query = f"SELECT document FROM incidents {where} ORDER BY opened_at_unix_ms DESC, rowid DESC LIMIT ?"  # noqa: S608 (constants)
        found = []
        with closing(self._opened().execute(query, (limit,))) as rows:
            for (document,) in rows:
                try:
                    found.append(_decode(document))
                except InvalidInput:
                    self._unreadable += 1
        return found

    def _generations(self) -> dict[str, int]:
        return dict(self._opened().execute("SELECT link, max(generation) FROM incidents GROUP BY link").fetchall())


def _check(connection: sqlite3.Connection) -> None:
    problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise Corrupt(f"damaged: {problem}")


def _decode(document: str) -> Incident:
    try:
        return incident_from_document(json.loads(document))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"not JSON: {error}") from error


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:  # whatever ends the block, a cancel too, leaves no transaction; it goes on
        if connection.in_transaction:  # SQLite has rolled back by itself after some errors
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    """Translate what SQLite and the file system refuse; texts begin with the path once."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        kind = Corrupt if code & 0xFF in UNREADABLE else StorageFailed
        raise kind(f"{path}: {error}") from error
    except OSError as error:
        raise StorageFailed(f"{path}: {error.strerror}") from error
    except StorageFailed as error:
        if str(error).startswith(str(path)):
            raise
        raise type(error)(f"{path}: {error}") from error


def _move_aside(path: Path) -> Path:
    """Rename the file and its journals; an earlier one that was moved aside is never replaced."""
    aside = path.with_name(f"{path.name}.corrupt-{int(time.time())}")
    number = 0
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.corrupt-{int(time.time())}.{number}")
    for suffix in COMPANIONS:
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            companion.rename(aside.with_name(aside.name + suffix))
    return aside
