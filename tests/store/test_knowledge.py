"""The knowledge file: what is saved is read back, and no damage, age or full disk is passed over."""

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from x0d.errors import StorageFailed
from x0d.mapek.document import incident_to_document
from x0d.mapek.model import Cause, Evidence, Incident, IncidentId, IncidentState, Role
from x0d.store import schema
from x0d.store.database import Migration, Opened
from x0d.store.knowledge import Knowledge

DAEMON = Path(__file__).parents[2] / "daemon"
T = TypeVar("T")


def incident(number: int, state: IncidentState = IncidentState.CLOSED) -> Incident:
    """Make an incident that opened ``number`` ms after the epoch."""
    closed_at = number + 5 if state is IncidentState.CLOSED else None
    evidence = (Evidence(number, "loss", "22 % towards n2"),)
    identity = IncidentId("n1-n2.5c1e", number)
    return Incident(identity, Cause.LINK_DEAD, "é", state, Role.END, "auto", number, closed_at, evidence)


def with_file(path: Path, work: Callable[[Knowledge, Opened], Awaitable[T]], **options: int) -> T:
    """Open the file, do something with it, close it."""

    async def run() -> T:
        knowledge = Knowledge(path, **options)
        try:
            return await work(knowledge, await knowledge.open())
        finally:
            await knowledge.close()

    return asyncio.run(run())


async def report_of(_: Knowledge, report: Opened) -> Opened:
    """Only open."""
    return report


async def list_all(knowledge: Knowledge, _: Opened) -> list[Incident]:
    """Everything in the file."""
    return list(await knowledge.list(1_000_000, open_only=False))


def test_saved_incidents_are_read_back_newest_first(tmp_path: Path) -> None:
    """An incident is replaced by its id, found whole by its text, and listed newest first."""
    path = tmp_path / "knowledge.db"

    async def work(knowledge: Knowledge, report: Opened) -> None:
        assert Opened(schema.SCHEMA_VERSION, None, None, "", is_new=True) == report
        for number in (1, 3, 2):
            await knowledge.save(incident(number, IncidentState.OPEN))
        await knowledge.save(incident(2))
        assert incident(2) == await knowledge.load("n1-n2.5c1e:2")
        assert await knowledge.load("n1-n2.5c1e:9") is None
        assert [3, 2, 1] == [found.id.generation for found in await knowledge.list(9, open_only=False)]
        assert [3, 1] == [found.id.generation for found in await knowledge.list(9, open_only=True)]
        assert [3] == [found.id.generation for found in await knowledge.list(1, open_only=False)]
        assert {"n1-n2.5c1e": 3} == await knowledge.generations()

    with_file(path, work)
    assert 3 == len(with_file(path, list_all))


def test_oldest_closed_incidents_make_room(tmp_path: Path) -> None:
    """Beyond the bound the oldest closed ones go first, open ones only when none is closed."""

    async def work(knowledge: Knowledge, _: Opened) -> list[int]:
        await knowledge.save(incident(1, IncidentState.OPEN))
        for number in (2, 3, 4, 5):
            await knowledge.save(incident(number))
        assert [5, 4, 1] == [found.id.generation for found in await knowledge.list(9, open_only=False)]
        for number in (6, 7, 8):
            await knowledge.save(incident(number, IncidentState.ESCALATED))
        return [found.id.generation for found in await knowledge.list(9, open_only=False)]

    assert [8, 7, 6] == with_file(tmp_path / "knowledge.db", work, incidents_max=3)


def test_lowered_bound_takes_hold(tmp_path: Path) -> None:
    """A file with more than the bound is cut down at the next save."""
    path = tmp_path / "knowledge.db"

    async def fill(knowledge: Knowledge, _: Opened) -> None:
        for number in range(20):
            await knowledge.save(incident(number))

    async def one_more(knowledge: Knowledge, _: Opened) -> int:
        await knowledge.save(incident(99))
        return len(await knowledge.list(99, open_only=False))

    with_file(path, fill)
    assert 5 == with_file(path, one_more, incidents_max=5)


def make_version_1(path: Path) -> None:
    """Write a file as the first schema version had it, with one incident."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in schema.MIGRATIONS[0].statements:
        connection.execute(statement)
    row = ("n1-n2.5c1e:7", "n1-n2.5c1e", 7, "closed", "link_dead", 7, json.dumps(incident_to_document(incident(7))))
    connection.execute("INSERT INTO incidents VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    connection.execute("PRAGMA user_version = 1")
    connection.close()


def test_older_file_is_migrated(tmp_path: Path) -> None:
    """A version 1 file keeps its incidents and gets what later versions added."""
    path = tmp_path / "knowledge.db"
    make_version_1(path)
    assert Opened(schema.SCHEMA_VERSION, 1, None, "") == with_file(path, report_of)
    assert [incident(7)] == with_file(path, list_all)
    connection = sqlite3.connect(path)
    plan = connection.execute("EXPLAIN QUERY PLAN SELECT id FROM incidents ORDER BY opened_at_unix_ms DESC").fetchall()
    tables = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'audit'").fetchone()
    connection.close()
    assert "incidents_by_opening" in plan[0][3]
    assert (1,) == tables


def test_failed_migration_leaves_the_older_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that fails half way is rolled back, version number and all."""
    path = tmp_path / "knowledge.db"
    make_version_1(path)
    broken = Migration("breaks", ("CREATE TABLE half (x)", "CREATE TABLE incidents (x)"))
    monkeypatch.setattr(schema, "MIGRATIONS", (schema.MIGRATIONS[0], broken))
    with pytest.raises(StorageFailed, match="already exists"):
        with_file(path, report_of)
    connection = sqlite3.connect(path)
    assert (1,) == connection.execute("PRAGMA user_version").fetchone()
    assert [] == connection.execute("SELECT name FROM sqlite_schema WHERE name = 'half'").fetchall()
    connection.close()


@pytest.mark.parametrize(("statement", "reason"), [("PRAGMA user_version = 99", "99"), ("SELECT 1", "something other")])
def test_file_of_others_is_refused_untouched(tmp_path: Path, statement: str, reason: str) -> None:
    """A file of a newer x0d, or of another program, is refused by name and keeps every byte."""
    path = tmp_path / "knowledge.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE theirs (x)")
    connection.execute(statement)
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StorageFailed, match=reason) as refused:
        with_file(path, report_of)
    assert str(refused.value).startswith(str(path))
    assert before == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())


def fill_and_damage(path: Path, damage: Callable[[bytes], bytes]) -> bytes:
    """Write a file of 200 incidents and change its bytes."""

    async def fill(knowledge: Knowledge, _: Opened) -> None:
        for number in range(200):
            await knowledge.save(incident(number))

    with_file(path, fill)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    return damaged


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"this is no database" * 500,
        lambda data: data[: len(data) // 2],
        lambda data: data[:4096] + bytes([255]) * (len(data) - 4096),
        lambda data: data[:100] + bytes(4096 - 100) + data[4096:],
    ],
    ids=["text", "cut", "overwritten", "no_schema"],
)
def test_damaged_file_is_moved_aside(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """A damaged file is kept beside the new one with every byte, its journals too, and the reason is told."""
    path = tmp_path / "knowledge.db"
    damaged = fill_and_damage(path, damage)
    path.with_name("knowledge.db-wal").write_bytes(b"")
    report = with_file(path, report_of)
    assert report.moved_aside is not None
    assert report.moved_aside.name.startswith("knowledge.db.corrupt-")
    assert damaged == report.moved_aside.read_bytes()
    assert str(path) in report.reason
    assert [] == with_file(path, list_all)
    second = fill_and_damage(path, damage)
    again = with_file(path, report_of).moved_aside
    assert again is not None
    assert again != report.moved_aside
    assert (damaged, second) == (report.moved_aside.read_bytes(), again.read_bytes())


def test_one_damaged_record_hides_no_other(tmp_path: Path) -> None:
    """A record that does not decode is left out of lists, counted, and refused by name."""
    path = tmp_path / "knowledge.db"
    make_version_1(path)
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO incidents VALUES ('x:1', 'x', 1, 'open', 'link_dead', 8, '{')")
    connection.commit()
    connection.close()

    async def work(knowledge: Knowledge, _: Opened) -> None:
        assert [incident(7)] == list(await knowledge.list(9, open_only=False))
        assert 1 == knowledge.unreadable
        with pytest.raises(StorageFailed, match="x:1"):
            await knowledge.load("x:1")

    with_file(path, work)


def test_missing_directory_is_told_of(tmp_path: Path) -> None:
    """A directory that is not there is StorageFailed with the path, and so is use without open."""
    path = tmp_path / "none" / "knowledge.db"
    with pytest.raises(StorageFailed, match=r"none/knowledge\.db"):
        with_file(path, report_of)
    with pytest.raises(StorageFailed, match="not open"):
        asyncio.run(Knowledge(path).save(incident(1)))


WRITER = """
import asyncio, sys
from pathlib import Path
from x0d.mapek.model import *
from x0d.store.knowledge import Knowledge

async def main(path):
    knowledge = Knowledge(Path(path))
    await knowledge.open()
    for number in range(1_000_000):
        await knowledge.save(Incident(IncidentId("n1-n2.5c1e", number), Cause.LINK_DEAD, "x" * 500,
            IncidentState.OPEN, Role.END, "auto", number))
        print(number, flush=True)

asyncio.run(main(sys.argv[1]))
"""


def environment() -> dict[str, str]:
    """Let a child import x0d."""
    return {**os.environ, "PYTHONPATH": str(DAEMON), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.mark.parametrize("saves", [1, 37, 150])
def test_killed_writer_leaves_what_save_returned_for(tmp_path: Path, saves: int) -> None:
    """After SIGKILL in the middle of writing, the file opens and has every incident whose save returned."""
    path = tmp_path / "knowledge.db"
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env=environment(), text=True
    )
    assert child.stdout is not None
    with child, child.stdout as lines:
        for _ in range(saves):
            assert lines.readline()
        child.send_signal(signal.SIGKILL)
        rest = lines.read().splitlines()
    returned = saves + sum(line.isdigit() for line in rest)
    assert with_file(path, report_of).moved_aside is None
    assert returned <= len(with_file(path, list_all)) <= returned + 1


FULL_DISK = """
import asyncio, os, sys
from dataclasses import replace
from pathlib import Path
from x0d.errors import StorageFailed
from x0d.mapek.model import *
from x0d.store.knowledge import Knowledge
from x0d.store.lock import StateLock

directory = Path(sys.argv[1])
ballast = directory / "ballast"

def fill():
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(512)):
                pass
        except OSError:
            pass

async def main():
    base = Incident(IncidentId("n1-n2.5c1e", 0), Cause.LINK_DEAD, "x" * 500, IncidentState.CLOSED, Role.END, "auto", 0)
    knowledge = Knowledge(directory / "knowledge.db")
    await knowledge.open()
    await knowledge.save(base)
    fill()
    saved = 1
    try:
        for number in range(1, 5000):
            await knowledge.save(replace(base, id=IncidentId("n1-n2.5c1e", number)))
            saved += 1
    except StorageFailed as error:
        assert "full" in str(error), error
    else:
        raise AssertionError("the disk was never full")
    assert saved == len(await knowledge.list(9999, open_only=False))
    ballast.unlink()
    await knowledge.save(replace(base, id=IncidentId("n1-n2.5c1e", 9999)))
    assert saved + 1 == len(await knowledge.list(9999, open_only=False))
    await knowledge.close()
    for path in directory.glob("knowledge.db*"):
        path.unlink()
    fill()
    for work in (Knowledge(directory / "knowledge.db").open, StateLock(directory).acquire):
        try:
            result = work()
            if result is not None:
                await result
        except StorageFailed as error:
            print(error)
        else:
            raise AssertionError(f"{work} on a full disk")

asyncio.run(main())
"""


@pytest.mark.kernel
def test_full_disk_is_refused_and_outlived(tmp_path: Path) -> None:
    """On a full disk save and open are StorageFailed; nothing saved is lost, and saving goes on once there is room."""
    mount = f"mount -t tmpfs -o size=512k,mode=700 x0dt-full {tmp_path} && exec "
    command = mount + '"$0" -c "$1" "$2"'
    child = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, sys.executable, FULL_DISK, str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (0, "") == (child.returncode, child.stderr)
    assert "full" in child.stdout


READ_ONLY = """
import asyncio, sys
from pathlib import Path
from x0d.errors import StorageFailed
from x0d.store.knowledge import Knowledge
from x0d.store.lock import StateLock

directory = Path(sys.argv[1])
for work in (lambda: asyncio.run(Knowledge(directory / "knowledge.db").open()), StateLock(directory).acquire):
    try:
        work()
    except StorageFailed as error:
        print(error)
    else:
        raise AssertionError("written in a read-only directory")
"""


@pytest.mark.kernel
@pytest.mark.parametrize("has_file", [True, False])
def test_read_only_directory_is_refused(tmp_path: Path, *, has_file: bool) -> None:
    """A file system that is read-only is StorageFailed for the file and for the lock, each with its path."""
    if has_file:
        with_file(tmp_path / "knowledge.db", report_of)
    mount = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path} && exec "
    child = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount + '"$0" -c "$1" "$2"', sys.executable, READ_ONLY, str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (0, "") == (child.returncode, child.stderr)
    assert [str(tmp_path / name) for name in ("knowledge.db", "lock")] == [
        line.split(": ")[0] for line in child.stdout.splitlines()
    ]


@pytest.mark.kernel
def test_directory_of_another_user_is_refused() -> None:
    """Without the right to write there, the file and the lock are StorageFailed, not a traceback."""
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    with tempfile.TemporaryDirectory(prefix="x0dt-") as name:  # not tmp_path: its parents are root's alone
        directory = Path(name)
        shutil.copytree(DAEMON / "x0d", directory / "x0d", ignore=shutil.ignore_patterns("__pycache__", "v1"))
        with_file(directory / "knowledge.db", report_of)
        directory.chmod(0o755)
        drop = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")
        child = subprocess.run(
            [*drop, "/usr/bin/python3", "-S", "-c", READ_ONLY, name],
            env={**os.environ, "PYTHONPATH": name, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )
    assert (0, "") == (child.returncode, child.stderr)
    assert 2 == len(child.stdout.splitlines())


def test_replacing_an_incident_keeps_its_row(tmp_path: Path) -> None:
    """Saving one incident many times does not grow the table."""

    async def work(knowledge: Knowledge, _: Opened) -> int:
        for number in range(50):
            await knowledge.save(replace(incident(1), packets_lost=number))
        return len(await knowledge.list(99, open_only=False))

    assert 1 == with_file(tmp_path / "knowledge.db", work, incidents_max=10)
