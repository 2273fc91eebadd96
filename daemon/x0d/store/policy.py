"""Deny-list and limits on disk.

A row's key is the address in network order followed by one byte of length, so that a prefix is found
by one comparison; the table is ordered by it and has no second index, which makes replacing 100,000 rows
twice as fast.  An operator's change is answered once it is on the disk (``synchronous = FULL``): changes
are rare, and a block that a power cut takes back is worse than ten milliseconds.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from x0d.policy.model import (
    BURST_MAX,
    COMMENT_CHARACTERS_MAX,
    EXPIRES_UNIX_MS_MAX,
    RATE_PPS_MAX,
    DenyEntry,
    Limit,
    PackedPrefix,
    PrefixKey,
    Terms,
    clean_comment,
    mask,
)
from x0d.store.database import Database, Migration, Opened, transaction

MIGRATIONS: Final = (
    Migration(
        "deny-list and limits, keyed by address and length",
        (
            """CREATE TABLE deny (
                prefix BLOB PRIMARY KEY,
                expires_unix_ms INTEGER NOT NULL,
                comment TEXT NOT NULL
            ) STRICT, WITHOUT ROWID""",
            """CREATE TABLE limits (
                prefix BLOB PRIMARY KEY,
                rate_pps INTEGER NOT NULL,
                burst INTEGER NOT NULL,
                expires_unix_ms INTEGER NOT NULL,
                comment TEXT NOT NULL
            ) STRICT, WITHOUT ROWID""",
        ),
    ),
)
SHARED_MIN: Final = 100
"""So many entries of the same expiry and comment go in one statement."""
INSERT_DENY: Final = "INSERT INTO deny VALUES (?, ?, ?)"
INSERT_SHARED: Final = """WITH RECURSIVE place (at) AS
    (VALUES (1) UNION ALL SELECT at + ?1 FROM place WHERE at + ?1 <= length(?2))
    INSERT INTO deny SELECT substr(?2, at, ?1), ?3, ?4 FROM place ORDER BY 1"""
"""Length of a key, keys one after the other, their expiry, their comment; the table's order is twice as fast."""
SAVE_DENY: Final = (
    f"{INSERT_DENY} ON CONFLICT (prefix) DO UPDATE SET expires_unix_ms = excluded.expires_unix_ms,"
    " comment = excluded.comment"
)
SAVE_LIMIT: Final = (
    "INSERT INTO limits VALUES (?, ?, ?, ?, ?) ON CONFLICT (prefix) DO UPDATE SET rate_pps = excluded.rate_pps,"
    " burst = excluded.burst, expires_unix_ms = excluded.expires_unix_ms, comment = excluded.comment"
)

SELECT_DENY: Final = "SELECT prefix, expires_unix_ms, CAST(substr(comment, 1, ?) AS BLOB) FROM deny"
"""Comments as bytes, because one that is no UTF-8 would end the reading of all rows; cut, however long they are."""
SELECT_LIMITS: Final = (
    "SELECT prefix, rate_pps, burst, expires_unix_ms, CAST(substr(comment, 1, ?) AS BLOB) FROM limits"
)

_LENGTHS = tuple(bytes((length,)) for length in range(129))


class PolicyDatabase:
    """``ports.PolicyStore`` on a file; one instance for a file, under the state directory's lock."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, MIGRATIONS, synchronous="FULL")
        self._unreadable = 0

    @property
    def unreadable(self) -> int:
        """Rows that made no sense so far; they are left in the file and out of answers."""
        return self._unreadable

    async def open(self) -> Opened:
        """Open, check, migrate; an unreadable file is moved aside.  Raises StorageFailed."""
        return await self._database.open()

    async def close(self) -> None:
        """Close; nothing happens if it is closed."""
        await self._database.close()

    async def load(self) -> tuple[Sequence[DenyEntry], Sequence[Limit]]:
        """Read everything, expired entries included."""
        return await self._database.run(self._load)

    async def replace_deny(self, entries: Mapping[PrefixKey, Terms]) -> None:
        """Put a whole list in place of the old one, in one transaction."""
        await self._write(lambda connection: _replace_deny(connection, entries))

    async def save_deny(self, entries: Collection[DenyEntry]) -> None:
        """Insert or replace."""
        await self._write(lambda connection: connection.executemany(SAVE_DENY, map(_deny_row, entries)))

    async def delete_deny(self, prefixes: Collection[PrefixKey]) -> None:
        """Remove; those that are not there are passed over."""
        await self._write(lambda connection: _delete(connection, "DELETE FROM deny WHERE prefix = ?", prefixes))

    async def save_limit(self, limit: Limit) -> None:
        """Insert or replace."""
        row = (_key(limit.prefix), limit.rate_pps, limit.burst, limit.expires_unix_ms, limit.comment)
        await self._write(lambda connection: connection.execute(SAVE_LIMIT, row))

    async def delete_limits(self, prefixes: Collection[PrefixKey]) -> None:
        """Remove; those that are not there are passed over."""
        await self._write(lambda connection: _delete(connection, "DELETE FROM limits WHERE prefix = ?", prefixes))

    async def _write(self, work: Callable[[sqlite3.Connection], object]) -> None:
        def in_transaction(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                work(connection)

        await self._database.run(in_transaction)

    def _load(self, connection: sqlite3.Connection) -> tuple[Sequence[DenyEntry], Sequence[Limit]]:
        deny, limits = [], []
        rows = connection.execute(SELECT_DENY, (COMMENT_CHARACTERS_MAX,))
        for key, expires_unix_ms, comment in rows:
            prefix = _read_key(key)
            if prefix is None or not 0 <= expires_unix_ms <= EXPIRES_UNIX_MS_MAX:
                self._unreadable += 1
            else:
                deny.append(DenyEntry(prefix, expires_unix_ms, _read_comment(comment)))
        rows = connection.execute(SELECT_LIMITS, (COMMENT_CHARACTERS_MAX,))
        for key, rate_pps, burst, expires_unix_ms, comment in rows:
            prefix = _read_key(key)
            in_range = 1 <= rate_pps <= RATE_PPS_MAX and 1 <= burst <= BURST_MAX
            if prefix is None or not in_range or not 0 <= expires_unix_ms <= EXPIRES_UNIX_MS_MAX:
                self._unreadable += 1
            else:
                limits.append(Limit(prefix, rate_pps, burst, expires_unix_ms, _read_comment(comment)))
        return deny, limits


def _key(prefix: PrefixKey) -> bytes:
    return prefix[0] + _LENGTHS[prefix[1]]


def _read_key(key: bytes) -> PackedPrefix | None:
    """Take a key apart; None if no prefix has it."""
    address, length = key[:-1], key[-1:]
    if len(address) not in {4, 16} or length[0] > len(address) * 8 or mask(address, length[0]) != address:
        return None
    return PackedPrefix(address, length[0])


def _read_comment(comment: bytes) -> str:
    return clean_comment(comment.decode("utf-8", "replace")) if comment else ""


def _deny_row(entry: DenyEntry) -> tuple[bytes, int, str]:
    return _key(entry.prefix), entry.expires_unix_ms, entry.comment


def _replace_deny(connection: sqlite3.Connection, entries: Mapping[PrefixKey, Terms]) -> None:
    """Most entries of a list have the terms of many others, so their keys go to SQLite in one piece.

    It takes the piece apart and sorts it without the interpreter, which the event loop has meanwhile.
    """
    shared = {terms for terms, count in Counter(entries.values()).items() if count >= SHARED_MIN}
    keys: dict[tuple[Terms, int], list[bytes]] = {}
    rows = []
    for (address, length), terms in entries.items():
        if terms in shared:
            keys.setdefault((terms, len(address)), []).append(address + _LENGTHS[length])
        else:
            rows.append((address + _LENGTHS[length], *terms))
    connection.execute("DELETE FROM deny")
    for (terms, size), of_size in keys.items():
        connection.execute(INSERT_SHARED, (size + 1, b"".join(of_size), *terms))
    connection.executemany(INSERT_DENY, rows)


def _delete(connection: sqlite3.Connection, statement: str, prefixes: Iterable[PrefixKey]) -> None:
    connection.executemany(statement, ((_key(prefix),) for prefix in prefixes))
