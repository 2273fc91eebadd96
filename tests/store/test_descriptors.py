"""The file of descriptors: kept over lives, damage passed over and counted, never more of a node than its newest."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

import pytest

from fakes.descriptors import FakeDescriptorSigner
from x0d.identity.descriptor import KEPT_PER_NODE, Claim
from x0d.identity.spiffe_id import SpiffeId
from x0d.ports.descriptors import KeptDescriptor
from x0d.store.database import Opened
from x0d.store.descriptors import DescriptorDatabase

AT = 1_800_000_000_000
T = TypeVar("T")


def kept(node: str, after_ms: int = 0) -> KeptDescriptor:
    """A descriptor of a node, so long after the first."""
    spiffe_id = SpiffeId.parse(f"spiffe://dev.x0d.test/node/{node}")
    signer = FakeDescriptorSigner(spiffe_id)
    claim = Claim(spiffe_id, IPv4Address("10.255.0.1"), signer.public_key, 7, 1 + after_ms, AT + after_ms)
    signed = asyncio.run(signer.sign(claim))
    return KeptDescriptor(
        str(spiffe_id), AT + after_ms, signed.digest, "spiffe://dev.x0d.test/node/n9", signed.encode()
    )


N1, N2 = kept("n1"), kept("n2")


def with_file(path: Path, work: Callable[[DescriptorDatabase, Opened], Awaitable[T]]) -> T:
    """Open the file, do something with it, close it."""

    async def run() -> T:
        store = DescriptorDatabase(path)
        try:
            return await work(store, await store.open())
        finally:
            await store.close()

    return asyncio.run(run())


def keep(path: Path, *every: KeptDescriptor) -> Opened:
    """Keep some in a life of their own."""

    async def work(store: DescriptorDatabase, opened: Opened) -> Opened:
        for each in every:
            await store.keep(each, per_node=KEPT_PER_NODE)
        return opened

    return with_file(path, work)


def found(path: Path) -> tuple[Sequence[KeptDescriptor], Sequence[KeptDescriptor], int]:
    """Newest, all, and how many rows made no sense."""

    async def work(
        store: DescriptorDatabase, _: Opened
    ) -> tuple[Sequence[KeptDescriptor], Sequence[KeptDescriptor], int]:
        return await store.newest(), await store.latest(10**7), store.unreadable

    return with_file(path, work)


def test_kept_over_lives(tmp_path: Path) -> None:
    """What one life kept the next one finds, the newest eight of each node."""
    path = tmp_path / "descriptors.db"
    every = [kept("n1", after_ms) for after_ms in range(KEPT_PER_NODE + 3)]
    assert keep(path, N2, *every).is_new
    newest, latest, unreadable = found(path)
    assert [every[-1], N2] == list(newest)
    assert [*reversed(every[-KEPT_PER_NODE:]), N2] == list(latest)
    assert 0 == unreadable


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE descriptors SET raw = x'' WHERE spiffe_id LIKE '%n1'",
        "UPDATE descriptors SET raw = substr(raw, 1, 500) WHERE spiffe_id LIKE '%n1'",
        "UPDATE descriptors SET raw = (SELECT raw FROM descriptors WHERE spiffe_id LIKE '%n2')",
        "UPDATE descriptors SET signed_at_unix_ms = 5 WHERE spiffe_id LIKE '%n1'",
        "UPDATE descriptors SET spiffe_id = 'spiffe://dev.x0d.test/node/n0' WHERE spiffe_id LIKE '%n1'",
        "UPDATE descriptors SET spiffe_id = CAST(x'ff6e31' AS TEXT) WHERE spiffe_id LIKE '%n1'",
        "UPDATE descriptors SET received_from = CAST(x'ff' AS TEXT) WHERE spiffe_id LIKE '%n1'",
        "UPDATE descriptors SET raw = CAST(raw || zeroblob(24576) AS BLOB) WHERE spiffe_id LIKE '%n1'",
        "UPDATE descriptors SET raw = zeroblob(5000000) WHERE spiffe_id LIKE '%n1'",
    ],
)
def test_damaged_rows_are_passed_over(tmp_path: Path, damage: str) -> None:
    """A row that makes no sense is left out and counted, and the others are found."""
    path = tmp_path / "descriptors.db"
    keep(path, N1, N2)
    with closing(sqlite3.connect(path)) as other:
        other.executescript(damage)
    assert ([N2], [N2], 1) == tuple(list(part) if not isinstance(part, int) else part for part in found(path))


def test_unreadable_file_is_moved_aside(tmp_path: Path) -> None:
    """A file that is no database any more is moved aside and told of, and a new one begun."""
    path = tmp_path / "descriptors.db"
    path.write_bytes(b"rubbish" * 1000)
    opened = keep(path, N1)
    assert opened.moved_aside is not None
    assert b"rubbish" * 1000 == opened.moved_aside.read_bytes()
    assert [N1] == list(found(path)[0])
