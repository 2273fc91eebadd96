"""What every store of descriptors promises: the fake that tests use, and the SQLite file."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from fakes.descriptors import FakeDescriptorSigner, FakeDescriptorStore
from x0d.errors import StorageFailed
from x0d.identity.descriptor import Claim
from x0d.identity.spiffe_id import SpiffeId
from x0d.ports.descriptors import DescriptorStore, KeptDescriptor
from x0d.store.descriptors import DescriptorDatabase

Scenario = Callable[[DescriptorStore, Callable[[], None]], Awaitable[None]]
Play = Callable[[Scenario], None]
AT = 1_800_000_000_000


def kept(node: str, after_ms: int = 0) -> KeptDescriptor:
    """A descriptor of a node, so long after the first."""
    spiffe_id = SpiffeId.parse(f"spiffe://dev.x0d.test/node/{node}")
    signer = FakeDescriptorSigner(spiffe_id)
    claim = Claim(spiffe_id, IPv4Address("10.255.0.1"), signer.public_key, 7, 1 + after_ms, AT + after_ms)
    signed = asyncio.run(signer.sign(claim))
    return KeptDescriptor(str(spiffe_id), AT + after_ms, signed.digest, "spiffe://dev.x0d.test/node/é", signed.encode())


N1 = [kept("n1", after_ms) for after_ms in range(10)]
N2 = [kept("n2", 5), kept("n2", 20)]
SIZE = len(N1[0].raw)


@pytest.fixture(params=["fake", "file"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Run a scenario on an empty store, with a way to break it."""
    path = tmp_path / "descriptors.db"

    async def on_fake(scenario: Scenario) -> None:
        store = FakeDescriptorStore()

        def break_it() -> None:
            store.broken = "no longer"

        await scenario(store, break_it)

    async def on_file(scenario: Scenario) -> None:
        store = DescriptorDatabase(path)
        await store.open()

        def break_it() -> None:
            with closing(sqlite3.connect(path)) as other:
                other.executescript("DROP TABLE descriptors")

        try:
            await scenario(store, break_it)
        finally:
            await store.close()

    on = on_fake if request.param == "fake" else on_file
    return lambda scenario: asyncio.run(on(scenario))


def test_newest_of_each_node(play: Play) -> None:
    """Of each node the newest comes back whole, in whatever order they were kept."""

    async def scenario(store: DescriptorStore, _: Callable[[], None]) -> None:
        assert [] == list(await store.newest()) == list(await store.latest(10**6))
        for each in (N1[1], N2[1], N1[2], N1[0], N2[0]):
            await store.keep(each, per_node=8)
        assert [N1[2], N2[1]] == list(await store.newest())
        assert [N2[1], N2[0], N1[2], N1[1], N1[0]] == list(await store.latest(10**6))

    play(scenario)


def test_kept_again_is_kept_once(play: Play) -> None:
    """What is kept already takes the place of itself."""

    async def scenario(store: DescriptorStore, _: Callable[[], None]) -> None:
        await store.keep(N1[0], per_node=8)
        await store.keep(N1[0], per_node=8)
        assert [N1[0]] == list(await store.latest(10**6))

    play(scenario)


def test_so_many_of_a_node(play: Play) -> None:
    """Beyond the newest few of a node the oldest go, and those of other nodes stay."""

    async def scenario(store: DescriptorStore, _: Callable[[], None]) -> None:
        await store.keep(N2[0], per_node=3)
        for each in N1:
            await store.keep(each, per_node=3)
        assert [*reversed(N1[-3:]), N2[0]] == [
            each for node in ("n1", "n2") for each in await store.latest(10**6) if each.spiffe_id.endswith(node)
        ]

    play(scenario)


def test_one_node_in_place_of_another(play: Play) -> None:
    """All of the node that gives way go when another's comes."""

    async def scenario(store: DescriptorStore, _: Callable[[], None]) -> None:
        for each in N1[:3]:
            await store.keep(each, per_node=8)
        await store.keep(N2[0], per_node=8, in_place_of=N1[0].spiffe_id)
        assert [N2[0]] == list(await store.latest(10**6))

    play(scenario)


def test_forget(play: Play) -> None:
    """All of a node are forgotten; of one that is not there nothing happens."""

    async def scenario(store: DescriptorStore, _: Callable[[], None]) -> None:
        for each in (*N1[:2], N2[0]):
            await store.keep(each, per_node=8)
        await store.forget("spiffe://dev.x0d.test/node/n9")
        await store.forget(N1[0].spiffe_id)
        assert [N2[0]] == list(await store.latest(10**6))

    play(scenario)


def test_answer_is_bounded(play: Play) -> None:
    """Only as many come back as fit, the newest ones."""

    async def scenario(store: DescriptorStore, _: Callable[[], None]) -> None:
        for each in N1[:4]:
            await store.keep(each, per_node=8)
        assert [N1[3], N1[2]] == list(await store.latest(3 * SIZE - 1))
        assert [] == list(await store.latest(SIZE - 1))

    play(scenario)


def test_broken_store(play: Play) -> None:
    """A store that does not work raises StorageFailed from every method."""

    async def scenario(store: DescriptorStore, break_it: Callable[[], None]) -> None:
        break_it()
        for work in (store.newest(), store.latest(1), store.keep(N1[0], per_node=8), store.forget("")):
            with pytest.raises(StorageFailed):
                await work

    play(scenario)
