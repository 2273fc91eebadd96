"""A SQLite file of x0d's own: opened with care, worked on by one thread, its troubles translated.

A file that SQLite cannot read is moved aside with its journals and told of, never overwritten; one of a
newer x0d, or of another program, is refused untouched.  The layout is a list of migrations;
``user_version`` counts how many of them a file has seen, and each runs in a transaction with its new
number.  Every write is one transaction in WAL mode: a killed daemon leaves the old content or the new.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from x0d.errors import StorageFailed

LOCK_WAIT_S: Final = 1.0
"""How long another process, such as a backup, may hold the file before a write fails."""
JOURNAL_BYTES_MAX: Final = 4 * 1024 * 1024
"""Size to which SQLite cuts its write-ahead log after a checkpoint."""
UNREADABLE: Final = frozenset([sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB])
"""Result codes that mean that the file itself is damaged."""
COMPANIONS: Final = ("-wal", "-shm", "")
"""Files of one database, the journals first: a log left without its file could be replayed into a new one."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Migration:
    """One change of layout."""

    reason: str
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """What was found and done when a file was opened."""

    schema_version: int
    migrated_from: int | None
    """The older schema version that the file had; None when it was current or new."""
    moved_aside: Path | None
    """Where an unreadable file was moved; None when there was none."""
    reason: str
    """Why it was moved aside; empty when it was not."""
    is_new: bool = False
    """The file was begun now: there was none, or what there was is moved aside."""


class Corrupt(StorageFailed):
    """The file is damaged."""


class Database:
    """One file under the state directory's lock; ``work`` runs in its thread with the open connection."""

    def __init__(self, path: Path, migrations: Sequence[Migration], *, synchronous: str) -> None:
        assert synchronous in {"NORMAL", "FULL"}
        self._path = path
        self._migrations = migrations
        self._synchronous = synchronous
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=path.stem)
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> Opened:
        """Open, check, migrate; move an unreadable file aside and begin a new one.

        Raises:
            StorageFailed: the file is of a newer x0d or of something else (and untouched), or the
                directory is full, read-only or absent.
        """
        return await self._in_thread(self._open)

    async def close(self) -> None:
        """Write what is pending and close; nothing happens if it is closed."""
        await self._in_thread(self._close)
        self._executor.shutdown(wait=False)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something with the connection.  Raises StorageFailed."""
        return await self._in_thread(lambda: work(self._opened()))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        def translated() -> T:
            with storage_errors(self._path):
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._executor, translated)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StorageFailed("the file is not open")
        return self._connection

    def _open(self) -> Opened:
        assert self._connection is None, "opened twice"
        moved_aside, reason = None, ""
        try:
            found = self._connect()
        except Corrupt as error:
            reason = str(error)
            moved_aside = move_aside(self._path)
            found = self._connect()
        version = len(self._migrations)
        return Opened(version, found if 0 < found < version else None, moved_aside, reason, is_new=found == 0)

    def _connect(self) -> int:
        """Open the file and return the schema version that it had; the connection is kept if all went well."""
        with storage_errors(self._path):
            connection = sqlite3.connect(self._path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
            try:
                version = self._prepare(connection)
            except BaseException:  # whatever ends the opening, a cancel too, leaves no connection; it goes on
                connection.close()
                raise
        self._connection = connection
        return version

    def _prepare(self, connection: sqlite3.Connection) -> int:
        version = read_version(connection, len(self._migrations))
        problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise Corrupt(f"damaged: {problem}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES_MAX}")
        for number, migration in enumerate(self._migrations[version:], start=version + 1):
            with transaction(connection):
                for statement in migration.statements:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")
        with transaction(connection):  # fails now rather than at the first write
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        return version

    def _close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()


def read_version(connection: sqlite3.Connection, known: int) -> int:
    """Read the schema version of an open file; 0 for an empty one.

    Raises:
        StorageFailed: the file is of a newer x0d, or a database of something else.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > known:
        raise StorageFailed(
            f"the file has schema version {version}, this x0d knows up to {known}: "
            "start the newer x0d again or move the file away; it was not touched"
        )
    if version < 0 or (version == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]):
        raise StorageFailed("the file is a database of something other than x0d; it was not touched")
    return version


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that the block writes, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:  # whatever ends the block, a cancel too, leaves no transaction; it goes on
        if connection.in_transaction:  # SQLite has rolled back by itself after some errors
            connection.execute("ROLLBACK")
        raise


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
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


def move_aside(path: Path) -> Path:
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
