"""Join tokens on disk: spent once, whoever tries and whatever is killed."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from x0d.errors import StorageFailed, TokenRefused
from x0d.identity.token import secret_hash
from x0d.ports.issuer import TokenRecord
from x0d.store.tokens import Tokens

NOW = 1_800_000_000
SECRET = b"0123456789abcdef"
N2 = "spiffe://dev.x0d.test/node/n2"
RECORD = TokenRecord(secret_hash(SECRET), N2, b"r" * 32, NOW + 600)


def play(path: Path, scenario: Callable[[Tokens], Awaitable[None]]) -> None:
    """Run a scenario on a store at ``path``."""

    async def run() -> None:
        tokens = Tokens(path)
        await tokens.open()
        try:
            await scenario(tokens)
        finally:
            await tokens.close()

    asyncio.run(run())


async def refusal(spending: Awaitable[None]) -> str:
    """Text with which spending is refused; empty if it is not."""
    try:
        await spending
    except TokenRefused as refused:
        return str(refused)
    return ""


def test_a_token_is_spent_once(tmp_path: Path) -> None:
    """The second spending is refused, in the same life and in the next one."""

    async def first(tokens: Tokens) -> None:
        await tokens.add(RECORD)
        assert [RECORD] == list(await tokens.unspent())
        assert not await refusal(tokens.spend(RECORD.secret_hash, N2, NOW + 1))
        assert "is spent" in await refusal(tokens.spend(RECORD.secret_hash, N2, NOW + 2))
        assert [] == list(await tokens.unspent())

    async def second(tokens: Tokens) -> None:
        assert "is spent" in await refusal(tokens.spend(RECORD.secret_hash, N2, NOW + 3))

    play(tmp_path / "tokens.db", first)
    play(tmp_path / "tokens.db", second)


def test_of_many_that_spend_at_once_one_wins(tmp_path: Path) -> None:
    """Two stores on one file and fifty attempts at a time: exactly one is let in."""

    async def scenario(tokens: Tokens) -> None:
        other = Tokens(tmp_path / "tokens.db")
        await other.open()
        await tokens.add(RECORD)
        stores = [tokens, other] * 25
        told = await asyncio.gather(*(refusal(store.spend(RECORD.secret_hash, N2, NOW)) for store in stores))
        await other.close()
        assert (1, 49) == (told.count(""), sum("is spent" in text for text in told))

    play(tmp_path / "tokens.db", scenario)


@pytest.mark.parametrize(
    ("hashed", "spiffe_id", "at", "reason"),
    [
        (secret_hash(b"another secret.."), N2, NOW, "not known here"),
        (b"", N2, NOW, "not known here"),
        (RECORD.secret_hash, "spiffe://dev.x0d.test/node/n3", NOW, f"is for {N2}"),
        (RECORD.secret_hash, N2, NOW + 600, "has expired"),
    ],
)
def test_what_is_refused_spends_nothing(tmp_path: Path, hashed: bytes, spiffe_id: str, at: int, reason: str) -> None:
    """A wrong secret, ID or time is told, and the right ones still find the token unspent."""

    async def scenario(tokens: Tokens) -> None:
        await tokens.add(RECORD)
        assert reason in await refusal(tokens.spend(hashed, spiffe_id, at))
        assert not await refusal(tokens.spend(RECORD.secret_hash, N2, NOW + 599))

    play(tmp_path / "tokens.db", scenario)


def test_what_is_long_over_is_forgotten(tmp_path: Path) -> None:
    """Tokens that expired before an instant leave the file, spent or not; others stay."""

    async def scenario(tokens: Tokens) -> None:
        await tokens.add(RECORD)
        await tokens.add(replace(RECORD, secret_hash=secret_hash(b"spent"), expires_unix_s=NOW))
        await tokens.spend(secret_hash(b"spent"), N2, NOW - 1)
        await tokens.forget(NOW + 600)
        assert [RECORD] == list(await tokens.unspent())
        await tokens.forget(NOW + 601)
        assert [] == list(await tokens.unspent())
        assert "not known here" in await refusal(tokens.spend(RECORD.secret_hash, N2, NOW))

    play(tmp_path / "tokens.db", scenario)
    with closing(sqlite3.connect(tmp_path / "tokens.db")) as reader:
        assert [(0,)] == reader.execute("SELECT count(*) FROM tokens").fetchall()


def test_what_is_removed_can_not_be_spent(tmp_path: Path) -> None:
    """Of the tokens named those that nobody has spent are gone, on disk; a spent one is still told as spent."""
    hashes = [RECORD.secret_hash, secret_hash(b"spent"), secret_hash(b"stays"), secret_hash(b"unknown")]

    async def first(tokens: Tokens) -> None:
        for hashed in hashes[:3]:
            await tokens.add(replace(RECORD, secret_hash=hashed))
        await tokens.spend(hashes[1], N2, NOW)
        assert hashes[:1] == list(await tokens.remove([hashes[3], hashes[1], hashes[0]]))
        assert [] == list(await tokens.remove([hashes[0]]))

    async def second(tokens: Tokens) -> None:
        assert hashes[2:3] == [record.secret_hash for record in await tokens.unspent()]
        assert "not known here" in await refusal(tokens.spend(hashes[0], N2, NOW))
        assert "is spent" in await refusal(tokens.spend(hashes[1], N2, NOW))

    play(tmp_path / "tokens.db", first)
    play(tmp_path / "tokens.db", second)


def test_a_disk_that_refuses_spends_nothing(tmp_path: Path) -> None:
    """When the row cannot be written, the caller is told so, and the token is unspent afterwards."""

    async def scenario(tokens: Tokens) -> None:
        await tokens.add(RECORD)
        with closing(sqlite3.connect(tmp_path / "tokens.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageFailed, match="locked"):
                await tokens.spend(RECORD.secret_hash, N2, NOW)
            other.execute("ROLLBACK")
        assert not await refusal(tokens.spend(RECORD.secret_hash, N2, NOW))

    play(tmp_path / "tokens.db", scenario)
