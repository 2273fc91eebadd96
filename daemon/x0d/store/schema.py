"""The layout of the knowledge file, as a list of migrations.

``user_version`` in the file counts how many of them it has seen.  A file is brought up one migration
at a time, each in a transaction with its new ``user_version``: a crash leaves one version or the
next.  A file of a newer x0d is refused untouched, since only that version knows what it means.
"""

import sqlite3
from dataclasses import dataclass

from x0d.errors import StorageFailed


@dataclass(frozen=True, slots=True)
class Migration:
    """One change of layout."""

    reason: str
    statements: tuple[str, ...]


MIGRATIONS = (
    Migration(
        "incidents, whole as a document beside the columns that are searched",
        (
            """CREATE TABLE incidents (
                id TEXT PRIMARY KEY,
                link TEXT NOT NULL,
                generation INTEGER NOT NULL,
                state TEXT NOT NULL,
                cause TEXT NOT NULL,
                opened_at_unix_ms INTEGER NOT NULL,
                document TEXT NOT NULL
            ) STRICT""",
        ),
    ),
    Migration(
        "listing the newest, and the open ones at each start, read and sorted every document of the table",
        (
            "CREATE INDEX incidents_by_opening ON incidents (opened_at_unix_ms)",
            "CREATE INDEX incidents_not_closed ON incidents (opened_at_unix_ms) WHERE state <> 'closed'",
        ),
    ),
)
SCHEMA_VERSION = len(MIGRATIONS)


def read_version(connection: sqlite3.Connection) -> int:
    """Read the schema version of an open file; 0 for an empty one.

    Raises:
        StorageFailed: the file is of a newer x0d, or a database of something else.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise StorageFailed(
            f"the file has schema version {version}, this x0d knows up to {SCHEMA_VERSION}: "
            "start the newer x0d again or move the file away; it was not touched"
        )
    if version < 0 or (version == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]):
        raise StorageFailed("the file is a database of something other than x0d; it was not touched")
    return version


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring a file of ``version`` to ``SCHEMA_VERSION``; ``connection`` is in autocommit mode."""
    for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in migration.statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
