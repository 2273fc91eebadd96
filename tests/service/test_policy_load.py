"""Loading a whole deny-list: the old one or the new one, and the event loop goes on meanwhile."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from service.policies import REFUSAL, World
from x0d.errors import Busy, InvalidInput, KernelRefused, StorageFailed, TooMany, WouldLockOut
from x0d.policy.model import parse_prefix
from x0d.store.policy import PolicyDatabase


def play(scenario: Callable[[World], Awaitable[None]], deny_entries_max: int = 1000) -> None:
    """Run a scenario in the first life of a daemon."""

    async def run() -> None:
        world = World(deny_entries_max)
        await world.service.start()
        await scenario(world)

    asyncio.run(run())


def test_list_is_replaced_by_the_file() -> None:
    """After a load the list is the file's, what was in both keeps its hits, and the answer says what changed."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1", "10.1.0.2")
        world.plane.drop(parse_prefix("10.1.0.1"), 3)
        loaded = await world.load("# new\n10.1.0.1 # both\n10.1.", "0.3 for=1h\n10.1.0.3\n10.1.0.4")
        assert (3, 2, 1, 1, ()) == (loaded.entries, loaded.added, loaded.removed, loaded.duplicates, loaded.warnings)
        await world.holds_everywhere("10.1.0.1", "10.1.0.3", "10.1.0.4")
        rows = {str(row.entry.prefix): row for row in await world.service.list_deny(None)}
        assert (3, "both", 0) == (
            rows["10.1.0.1"].hits, rows["10.1.0.1"].entry.comment, rows["10.1.0.3"].entry.expires_unix_ms
        )  # fmt: skip
        assert ["put_deny", "replace_deny"] == world.plane.calls

    play(scenario)


def test_durations_of_a_file_run_from_its_loading() -> None:
    """An entry with for= expires that long after the load began, in the kernel as on disk."""

    async def scenario(world: World) -> None:
        await world.load("10.1.0.3 for=1h # scanner\n")
        prefix = parse_prefix("10.1.0.3")
        assert world.clock.unix_ms() + 3_600_000 == world.store.deny[prefix].expires_unix_ms
        assert world.clock.now_ns + 3_600_000_000_000 == world.plane.entries[prefix]

    play(scenario)


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("10.1.0.5\n10.1.0.555\n", InvalidInput, "line 2: '10.1.0.555'"),
        ("10.1.0.5\n10.0.0.0/8\n", WouldLockOut, "10.0.0.0/8 covers 10.0.0.2, neighbour n2"),
        ("10.1.0.5\n203.0.113.0/24\n", WouldLockOut, "203.0.113.5, the address that you call from"),
        ("10.1.0.5\n10.1.0.6\n10.1.0.7\n10.1.0.8", TooMany, "deny_entries_max"),
    ],
)
def test_bad_file_changes_nothing(text: str, error: type[Exception], reason: str) -> None:
    """A file with a fault, one that locks out, and one that is too long leave the old list; the next load can begin."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1")
        with pytest.raises(error) as refused:
            await world.load(text, callers=["203.0.113.5"])
        assert reason in str(refused.value)
        await world.holds_everywhere("10.1.0.1")
        await world.load("10.1.0.2")
        await world.holds_everywhere("10.1.0.2")

    play(scenario, deny_entries_max=3)


def test_forced_file_comes_with_warnings() -> None:
    """A file that locks out holds if it is forced, and the answer tells of it."""

    async def scenario(world: World) -> None:
        loaded = await world.load("10.0.0.0/8\n", force=True)
        assert ("10.0.0.0/8 covers 10.0.0.2, neighbour n2",) == loaded.warnings
        await world.holds_everywhere("10.0.0.0/8")

    play(scenario)


def test_file_without_an_entry_is_refused() -> None:
    """A file that came empty takes the list away only if it is forced; where there is no list it changes nothing."""

    async def scenario(world: World) -> None:
        await world.load("# nothing\n")
        await world.deny("10.1.0.1", "10.1.0.2")
        for text in ("", "# a failed download\n\n"):
            with pytest.raises(InvalidInput, match="no entry: this would remove all 2 entries; --force"):
                await world.load(text)
        await world.holds_everywhere("10.1.0.1", "10.1.0.2")
        assert 2 == (await world.load("", force=True)).removed
        await world.holds_everywhere()

    play(scenario)


def test_dry_run_and_abandoned_loads_change_nothing() -> None:
    """A dry run says what would change; one load at a time, and an abandoned one makes room."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1")
        calls = list(world.plane.calls)
        loaded = await world.load("10.1.0.2\n10.1.0.3", dry_run=True)
        assert (2, 2, 1) == (loaded.entries, loaded.added, loaded.removed)
        load = world.service.begin_load(name="f", force=False, caller_addresses=(), dry_run=False)
        await load.feed("10.1.0.9\n10.1.0.9\n")
        assert (2, 1) == (load.lines, load.entries)
        with pytest.raises(Busy):
            world.service.begin_load(name="g", force=False, caller_addresses=(), dry_run=False)
        load.abandon()
        with pytest.raises(InvalidInput, match="over"):
            await load.finish()
        with pytest.raises(InvalidInput, match="over"):
            await load.feed("10.1.0.8\n")
        assert calls == world.plane.calls
        await world.holds_everywhere("10.1.0.1")
        await world.load("10.1.0.7")

    play(scenario)


def test_refused_load_leaves_the_old_list() -> None:
    """When the kernel refuses the new list, the store has the old one again, terms included."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1", comment="old")
        before = dict(world.store.deny)
        world.plane.refusal = REFUSAL
        with pytest.raises(KernelRefused):
            await world.load("10.1.0.2")
        assert before == world.store.deny
        await world.holds_everywhere("10.1.0.1")

    play(scenario)


def test_load_that_is_not_stored_leaves_nothing() -> None:
    """The kernel builds a list while the store writes it; when the store refuses, that is dropped, never in force."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1")
        world.store.free.clear()
        loading = asyncio.create_task(world.load("10.1.0.2"))
        await world.plane.is_prepared.wait()
        assert {parse_prefix("10.1.0.2"): 0} == world.plane.prepared
        world.store.broken = "disk full"
        world.store.free.set()
        with pytest.raises(StorageFailed):
            await loading
        assert world.plane.prepared is None
        assert ["put_deny"] == world.plane.calls

    play(scenario)


def test_event_loop_goes_on_during_a_load(tmp_path: Path, seed: int) -> None:
    """While 100,000 lines are read, checked and stored, the event loop never waits long; the figures are printed."""
    numbers = random.Random(seed).sample(range(2**32), 100_000)
    lines = [f"{IPv4Address(number)}\n" for number in numbers]
    pieces = ["".join(lines[start : start + 30_000]) for start in range(0, len(lines), 30_000)]
    gaps: list[float] = []

    async def beat() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)  # tidy: how late it wakes is what is measured
            gaps.append(time.perf_counter() - before)

    async def scenario(world: World) -> None:
        beating = asyncio.ensure_future(beat())
        started = time.perf_counter()
        loaded = await world.load(*pieces, force=True)
        took_ms = (time.perf_counter() - started) * 1000
        await world.load("".join(lines[:50_000]), force=True)
        started = time.perf_counter()
        assert 50_000 == sum(row.hits == 0 for row in await world.service.list_deny(None))
        listed_ms = (time.perf_counter() - started) * 1000
        beating.cancel()
        assert (100_000, 50_000) == (loaded.entries, len(world.plane.entries))
        gaps.sort()
        print(f"100,000 lines in {took_ms:.0f} ms; 50,000 entries listed in {listed_ms:.0f} ms")
        print(f"the loop waited {gaps[-1] * 1000:.0f} ms at most, {gaps[len(gaps) // 2] * 1000:.1f} ms in the median")
        assert gaps[-1] < 0.5

    async def run() -> None:
        world = World(200_000)
        store = PolicyDatabase(tmp_path / "policy.db")
        await store.open()
        world.use(store)
        await world.service.start()
        await scenario(world)
        await store.close()

    asyncio.run(run())
