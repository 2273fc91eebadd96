"""Join tokens on disk: hashes of their secrets, and whether they are spent.

A token is spent by one transaction with ``synchronous = FULL`` that finds it unspent: of two that try, one wins, and a
daemon killed between this and the certificate has lost the token and nothing else.  Rows of spent and expired tokens
stay for a while, so that their holder can be told which it is; the secret itself is nowhere.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from x0d.errors import TokenRefused
from x0d.ports.issuer import TokenRecord
from x0d.store.database import Database, Migration, Opened, transaction

MIGRATIONS: Final = (
    Migration(
        "join tokens by the hash of their secret",
        (
            """CREATE TABLE tokens (
                secret_hash BLOB PRIMARY KEY,
                spiffe_id TEXT NOT NULL,
                root_sha256 BLOB NOT NULL,
                expires_unix_s INTEGER NOT NULL,
                spent_unix_s INTEGER NOT NULL DEFAULT 0
            ) STRICT, WITHOUT ROWID""",
        ),
    ),
)
UNKNOWN: Final = "this token is not known here; make one with x0ctl identity token on the issuer"


class Tokens:
    """``ports.issuer.TokenStore`` on a file; one instance for a file, under the state directory's lock."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, MIGRATIONS, synchronous="FULL")

    async def open(self) -> Opened:
        """Open, check, migrate; an unreadable file is moved aside.  Raises StorageFailed."""
        return await self._database.open()

    async def close(self) -> None:
        """Close; nothing happens if it is closed."""
        await self._database.close()

    async def add(self, record: TokenRecord) -> None:
        """Keep a token; on disk when this returns."""
        row = (record.secret_hash, record.spiffe_id, record.root_sha256, record.expires_unix_s)

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.execute(
                    "INSERT INTO tokens (secret_hash, spiffe_id, root_sha256, expires_unix_s) VALUES (?, ?, ?, ?)", row
                )

        await self._database.run(work)

    async def spend(self, secret_hash: bytes, spiffe_id: str, now_unix_s: float) -> None:
        """Take a token out of use for good; on disk when this returns.  Raises TokenRefused."""

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                row = connection.execute(
                    "SELECT spiffe_id, expires_unix_s, spent_unix_s FROM tokens WHERE secret_hash = ?", (secret_hash,)
                ).fetchone()
                _check(row, spiffe_id, now_unix_s)
                connection.execute(
                    "UPDATE tokens SET spent_unix_s = ? WHERE secret_hash = ?", (max(1, int(now_unix_s)), secret_hash)
                )

        await self._database.run(work)

    async def unspent(self) -> Sequence[TokenRecord]:
        """Those that nobody has spent, expired ones too, the earliest to expire first."""

        def work(connection: sqlite3.Connection) -> Sequence[TokenRecord]:
            rows = connection.execute(
                "SELECT secret_hash, spiffe_id, root_sha256, expires_unix_s FROM tokens"
                " WHERE spent_unix_s = 0 ORDER BY expires_unix_s"
            )
            return [TokenRecord(*row) for row in rows]

        return await self._database.run(work)

    async def remove(self, secret_hashes: Sequence[bytes]) -> Sequence[bytes]:
        """Remove those of these that nobody has spent, and return them; on disk when this returns."""
        wanted = tuple(secret_hashes)

        def work(connection: sqlite3.Connection) -> Sequence[bytes]:
            statement = "DELETE FROM tokens WHERE secret_hash = ? AND spent_unix_s = 0"
            with transaction(connection):
                return [each for each in wanted if connection.execute(statement, (each,)).rowcount]

        return await self._database.run(work)

    async def forget(self, expired_before_unix_s: float) -> None:
        """Remove what expired before that, spent or not."""

        def work(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.execute("DELETE FROM tokens WHERE expires_unix_s < ?", (expired_before_unix_s,))

        await self._database.run(work)


def _check(row: tuple[str, int, int] | None, spiffe_id: str, now_unix_s: float) -> None:
    """Only whoever has the secret gets as far as to be told more than that it is unknown."""
    if row is None:
        raise TokenRefused(UNKNOWN)
    made_for, expires_unix_s, spent_unix_s = row
    if spent_unix_s:
        raise TokenRefused("this token is spent: each lets one node in, once; make another one on the issuer")
    if now_unix_s >= expires_unix_s:
        raise TokenRefused("this token has expired; make another one on the issuer")
    if made_for != spiffe_id:
        raise TokenRefused(f"this token is for {made_for}")
