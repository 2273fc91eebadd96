"""Descriptors on disk: what nodes have signed about themselves, the newest few of each.

What is lost in a power cut comes again from the neighbours, so a write need not wait for the disk
(``synchronous = NORMAL``); a killed daemon loses nothing.  Rows whose bytes make no sense are left in the file, out of
answers, and counted.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from x0d.errors import InvalidInput
from x0d.identity.descriptor import DESCRIPTOR_BYTES_MAX, SignedDescriptor
from x0d.ports.descriptors import KeptDescriptor
from x0d.store.database import Database, Migration, Opened, transaction

MIGRATIONS: Final = (
    Migration(
        "descriptors by node and instant of signing",
        (
            """CREATE TABLE descriptors (
                spiffe_id TEXT NOT NULL,
                signed_at_unix_ms INTEGER NOT NULL,
                received_from TEXT NOT NULL,
                raw BLOB NOT NULL,
                PRIMARY KEY (spiffe_id, signed_at_unix_ms)
            ) STRICT, WITHOUT ROWID""",
        ),
    ),
)
COLUMNS: Final = "CAST(spiffe_id AS BLOB), signed_at_unix_ms, CAST(received_from AS BLOB), substr(raw, 1, ?1)"
"""Texts as bytes, because one that is no UTF-8 would end the reading of all rows; no more than a descriptor has."""
SELECT_NEWEST: Final = (
    f"SELECT {COLUMNS} FROM descriptors AS newest WHERE signed_at_unix_ms = (SELECT max(signed_at_unix_ms)"  # noqa: S608
    " FROM descriptors WHERE spiffe_id = newest.spiffe_id) ORDER BY spiffe_id"
)
SELECT_KEYS: Final = (
    "SELECT CAST(spiffe_id AS BLOB), signed_at_unix_ms, length(raw) FROM descriptors"
    " ORDER BY signed_at_unix_ms DESC, spiffe_id"
)
SELECT_ONE: Final = f"SELECT {COLUMNS} FROM descriptors WHERE spiffe_id = CAST(?2 AS TEXT) AND signed_at_unix_ms = ?3"  # noqa: S608
FORGET_OLD: Final = (
    "DELETE FROM descriptors WHERE spiffe_id = ?1 AND signed_at_unix_ms NOT IN (SELECT signed_at_unix_ms"
    " FROM descriptors WHERE spiffe_id = ?1 ORDER BY signed_at_unix_ms DESC LIMIT ?2)"
)

_Row = tuple[bytes, int, bytes, bytes | None]


class DescriptorDatabase:
    """``ports.descriptors.DescriptorStore`` on a file; one instance for a file, under the state directory's lock."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, MIGRATIONS, synchronous="NORMAL")
        self._unreadable = 0

    @property
    def unreadable(self) -> int:
        """Rows that made no sense at the last reading."""
        return self._unreadable

    async def open(self) -> Opened:
        """Open, check, migrate; an unreadable file is moved aside.  Raises StorageFailed."""
        return await self._database.open()

    async def close(self) -> None:
        """Close; nothing happens if it is closed."""
        await self._database.close()

    async def newest(self) -> Sequence[KeptDescriptor]:
        """The newest one of each node, by node."""
        return await self._database.run(
            lambda connection: self._read_all(connection.execute(SELECT_NEWEST, (DESCRIPTOR_BYTES_MAX + 1,)))
        )

    async def latest(self, bytes_max: int) -> Sequence[KeptDescriptor]:
        """All that fit into so many bytes of ``raw``, the newest first."""
        return await self._database.run(lambda connection: self._read_all(_latest(connection, bytes_max)))

    async def keep(self, kept: KeptDescriptor, *, per_node: int, in_place_of: str = "") -> None:
        """Add one, and forget those of its node beyond the newest ``per_node``, and all of node ``in_place_of``."""
        row = (kept.spiffe_id, kept.signed_at_unix_ms, kept.received_from, kept.raw)

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.execute("DELETE FROM descriptors WHERE spiffe_id = ?", (in_place_of,))
                connection.execute("INSERT OR REPLACE INTO descriptors VALUES (?, ?, ?, ?)", row)
                connection.execute(FORGET_OLD, (kept.spiffe_id, per_node))

        await self._database.run(work)

    async def forget(self, spiffe_id: str) -> None:
        """Forget all of a node; nothing happens if there are none."""

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.execute("DELETE FROM descriptors WHERE spiffe_id = ?", (spiffe_id,))

        await self._database.run(work)

    def _read_all(self, rows: Iterable[_Row]) -> Sequence[KeptDescriptor]:
        found, self._unreadable = [], 0
        for row in rows:
            try:
                found.append(_read(*row))
            except (InvalidInput, UnicodeDecodeError):
                self._unreadable += 1
        return found


def _latest(connection: sqlite3.Connection, bytes_max: int) -> Iterator[_Row]:
    """Read the order first and the bytes one by one: a sort would hold all of them."""
    for spiffe_id, signed_at_unix_ms, size in connection.execute(SELECT_KEYS).fetchall():
        bytes_max -= size
        if bytes_max < 0:
            return
        yield from connection.execute(SELECT_ONE, (DESCRIPTOR_BYTES_MAX + 1, spiffe_id, signed_at_unix_ms))


def _read(spiffe_id: bytes, signed_at_unix_ms: int, received_from: bytes, raw: bytes | None) -> KeptDescriptor:
    """Read one row.  Raises InvalidInput or UnicodeDecodeError."""
    descriptor = SignedDescriptor.decode(raw or b"")  # SQLite's substr makes NULL of no bytes
    claim = descriptor.claim
    if (str(claim.spiffe_id).encode(), claim.signed_at_unix_ms) != (spiffe_id, signed_at_unix_ms):
        raise InvalidInput("a row under another node or instant than its descriptor's")
    return KeptDescriptor(
        str(claim.spiffe_id), signed_at_unix_ms, descriptor.digest, received_from.decode(), descriptor.encode()
    )
