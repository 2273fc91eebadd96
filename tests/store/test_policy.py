"""The policy file: old list or new at any kill, nothing lost on a full disk, no damage passed over."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest

from x0d.errors import StorageFailed
from x0d.policy.model import (
    BURST_MAX,
    EXPIRES_UNIX_MS_MAX,
    RATE_PPS_MAX,
    DenyEntry,
    Limit,
    PrefixKey,
    Terms,
    parse_prefix,
)
from x0d.store.database import Opened
from x0d.store.policy import PolicyDatabase

DAEMON = Path(__file__).parents[2] / "daemon"
LATEST = EXPIRES_UNIX_MS_MAX
ENTRY = DenyEntry(parse_prefix("192.0.2.1"), 0, "why")
T = TypeVar("T")


def with_file(path: Path, work: Callable[[PolicyDatabase, Opened], Awaitable[T]]) -> T:
    """Open the file, do something with it, close it."""

    async def run() -> T:
        store = PolicyDatabase(path)
        try:
            return await work(store, await store.open())
        finally:
            await store.close()

    return asyncio.run(run())


async def report_of(_: PolicyDatabase, report: Opened) -> Opened:
    """Only open."""
    return report


async def all_deny(store: PolicyDatabase, _: Opened) -> list[DenyEntry]:
    """The deny-list in the file."""
    return list((await store.load())[0])


async def save_entry(store: PolicyDatabase, _: Opened) -> None:
    """Write one entry."""
    await store.save_deny([ENTRY])


def test_lists_outlive_the_process(tmp_path: Path) -> None:
    """What was saved is there when the file is opened again."""
    limit = Limit(parse_prefix("10.0.0.0/8"), 7, 8, 9, "c")

    async def save(store: PolicyDatabase, report: Opened) -> None:
        assert Opened(1, None, None, "", is_new=True) == report
        await store.save_deny([ENTRY])
        await store.save_limit(limit)

    with_file(tmp_path / "policy.db", save)
    assert not with_file(tmp_path / "policy.db", report_of).is_new
    assert ([ENTRY], [limit]) == with_file(tmp_path / "policy.db", lambda store, _: store.load())


def test_hundred_thousand_entries_are_replaced_quickly(tmp_path: Path, seed: int) -> None:
    """A list of 100,000 is replaced in one transaction within the second that the whole change may take."""
    rng = random.Random(seed)
    lists: list[dict[PrefixKey, Terms]] = [{(rng.randbytes(4), 32): Terms() for _ in range(100_000)} for _ in range(2)]

    async def work(store: PolicyDatabase, _: Opened) -> list[float]:
        took = []
        for entries in (*lists, *lists):
            started = time.perf_counter()
            await store.replace_deny(entries)
            took.append(time.perf_counter() - started)
        assert lists[1].keys() == {entry.prefix for entry in (await store.load())[0]}
        return took

    took = with_file(tmp_path / "policy.db", work)
    print(f"100,000 rows replaced in {min(took) * 1000:.0f} to {max(took) * 1000:.0f} ms")
    assert min(took) < 0.8


def test_row_that_makes_no_sense_hides_no_other(tmp_path: Path) -> None:
    """A row that is no prefix or out of range is left out and counted."""
    path = tmp_path / "policy.db"
    with_file(path, save_entry)
    with closing(sqlite3.connect(path)) as connection:
        rows = [
            *((key, 0) for key in (b"", b"\x0a\x00\x00\x01\x08", b"\x0a\x00\x00\x00\x21", bytes(500_000))),
            *((bytes((10, 0, 0, number, 32)), expiry) for number, expiry in enumerate((-1, LATEST + 1, 2**63 - 1))),
        ]
        connection.executemany("INSERT INTO deny VALUES (?, ?, '')", rows)
        limits = [(0, 1, 0), (RATE_PPS_MAX + 1, 1, 0), (1, 0, 0), (1, BURST_MAX + 1, 0), (1, 1, -1), (1, 1, LATEST + 1)]
        numbered = ((bytes((10, 0, 0, number, 32)), *limit) for number, limit in enumerate(limits))
        connection.executemany("INSERT INTO limits VALUES (?, ?, ?, ?, '')", numbered)
        connection.commit()

    async def work(store: PolicyDatabase, _: Opened) -> None:
        assert ([ENTRY], []) == await store.load()
        assert 13 == store.unreadable

    with_file(path, work)


def test_comment_of_any_bytes_is_read(tmp_path: Path) -> None:
    """A comment that is no text or too long is cut to what can be shown; its entry holds."""
    path = tmp_path / "policy.db"
    with_file(path, save_entry)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE deny SET comment = CAST(x'61ff1b' || ? AS TEXT)", ("x" * 1_000_000,))
        connection.commit()
    (entry,) = with_file(path, all_deny)
    assert (ENTRY.prefix, 200, "a\ufffd xxx") == (entry.prefix, len(entry.comment), entry.comment[:6])


@pytest.mark.parametrize(("statement", "reason"), [("PRAGMA user_version = 99", "99"), ("SELECT 1", "something other")])
def test_file_of_others_is_refused_untouched(tmp_path: Path, statement: str, reason: str) -> None:
    """A file of a newer x0d, or of another program, is refused by name and keeps every byte."""
    path = tmp_path / "policy.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.execute(statement)
    before = path.read_bytes()
    with pytest.raises(StorageFailed, match=reason) as refused:
        with_file(path, report_of)
    assert str(refused.value).startswith(str(path))
    assert before == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"this is no database" * 500,
        lambda data: data[: len(data) // 2],
        lambda data: data[:100] + bytes(4096 - 100) + data[4096:],
    ],
    ids=["text", "cut", "no_schema"],
)
def test_damaged_file_is_moved_aside(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """A damaged file is kept beside the new one with every byte, and the reason is told."""
    path = tmp_path / "policy.db"
    with_file(path, save_entry)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    report = with_file(path, report_of)
    assert report.moved_aside is not None
    assert report.is_new
    assert report.moved_aside.name.startswith("policy.db.corrupt-")
    assert damaged == report.moved_aside.read_bytes()
    assert str(path) in report.reason
    assert [] == with_file(path, all_deny)


def test_unopened_and_missing_are_told_of(tmp_path: Path) -> None:
    """A directory that is not there is StorageFailed with the path, and so is use without open."""
    path = tmp_path / "none" / "policy.db"
    with pytest.raises(StorageFailed, match=r"none/policy\.db"):
        with_file(path, report_of)
    with pytest.raises(StorageFailed, match="not open"):
        asyncio.run(PolicyDatabase(path).save_deny([ENTRY]))


CHILD = """
import asyncio, sys
from pathlib import Path
from x0d.errors import StorageFailed
from x0d.policy.model import *
from x0d.store.policy import PolicyDatabase

def entries(generation, count):
    return [DenyEntry(PackedPrefix(number.to_bytes(4), 32), generation + 1) for number in range(count)]

def listed(generation, count):
    return {tuple(entry.prefix): Terms(entry.expires_unix_ms) for entry in entries(generation, count)}
"""
REPLACER = (
    CHILD
    + """
async def main(path):
    store = PolicyDatabase(Path(path))
    await store.open()
    for generation in range(1_000_000):
        await store.replace_deny(listed(generation, 2000 + generation % 3))
        print(generation, flush=True)

asyncio.run(main(sys.argv[1]))
"""
)


def environment() -> dict[str, str]:
    """Let a child import x0d."""
    return {**os.environ, "PYTHONPATH": str(DAEMON), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.mark.parametrize("replacements", [1, 7, 20])
def test_killed_writer_leaves_one_whole_list(tmp_path: Path, replacements: int) -> None:
    """After SIGKILL in the middle of replacing, the file has the list last answered for or the next, never both."""
    path = tmp_path / "policy.db"
    child = subprocess.Popen(
        [sys.executable, "-c", REPLACER, str(path)], stdout=subprocess.PIPE, env=environment(), text=True
    )
    assert child.stdout is not None
    with child, child.stdout as lines:
        for _ in range(replacements):
            assert lines.readline()
        child.send_signal(signal.SIGKILL)
        rest = [line for line in lines.read().splitlines() if line.isdigit()]
    answered = replacements - 1 + len(rest)
    assert with_file(path, report_of).moved_aside is None
    found = with_file(path, all_deny)
    generations = {entry.expires_unix_ms - 1 for entry in found}
    assert 1 == len(generations)
    generation = generations.pop()
    assert generation in {answered, answered + 1}
    assert 2000 + generation % 3 == len(found)


FULL_DISK = (
    CHILD
    + """
async def main(path):
    store = PolicyDatabase(path)
    await store.open()
    await store.save_deny(entries(1, 100))
    ballast = path.with_name("ballast")
    try:
        with ballast.open("wb", buffering=0) as file:
            while file.write(bytes(512)):
                pass
    except OSError:
        pass
    before, _ = await store.load()
    for attempt in range(2):
        try:
            await store.replace_deny(listed(2, 20_000))
        except StorageFailed as error:
            assert "full" in str(error), error
        else:
            raise AssertionError("the disk was never full")
        assert before == (await store.load())[0]
    ballast.unlink()
    await store.replace_deny(listed(2, 200))
    assert 200 == len((await store.load())[0])
    await store.close()

asyncio.run(main(Path(sys.argv[1]) / "policy.db"))
"""
)
READ_ONLY = (
    CHILD
    + """
try:
    asyncio.run(PolicyDatabase(Path(sys.argv[1]) / "policy.db").open())
except StorageFailed as error:
    print(error)
"""
)


def in_own_mounts(mount: str, program: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a program with a file system that only it sees."""
    command = ["unshare", "--mount", "sh", "-c", mount + ' && exec "$0" -c "$1" "$2"']
    return subprocess.run(
        [*command, sys.executable, program, str(directory)],
        env=environment(), capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip


@pytest.mark.kernel
def test_full_disk_changes_nothing(tmp_path: Path) -> None:
    """On a full disk a replacement is StorageFailed, the old list is whole, and writing goes on once there is room."""
    child = in_own_mounts(f"mount -t tmpfs -o size=512k,mode=700 x0dt-full {tmp_path}", FULL_DISK, tmp_path)
    assert (0, "") == (child.returncode, child.stderr)


@pytest.mark.kernel
@pytest.mark.parametrize("has_file", [True, False])
def test_read_only_directory_is_refused(tmp_path: Path, *, has_file: bool) -> None:
    """A file system that is read-only is StorageFailed with the path."""
    if has_file:
        with_file(tmp_path / "policy.db", report_of)
    mount = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path}"
    child = in_own_mounts(mount, READ_ONLY, tmp_path)
    assert (0, "") == (child.returncode, child.stderr)
    assert child.stdout.startswith(str(tmp_path / "policy.db"))
