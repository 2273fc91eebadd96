"""Audit records in the knowledge file: bounded, in order, and on the disk before anything is changed."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest

from x0d.ports import AuditRecord
from x0d.store import schema
from x0d.store.audit import AuditRecords
from x0d.store.knowledge import Knowledge

DAEMON = Path(__file__).parents[2] / "daemon"
T = TypeVar("T")


def record(number: int = 0, outcome: str = "begun", who: str = "uid 0 (root)") -> AuditRecord:
    """Make a record that is told from others by its instant."""
    return AuditRecord(0, number, who, "", "/x0d.v1.S/M", "{}", "", "", outcome, "", 0.0)


def with_file(path: Path, work: Callable[[AuditRecords], Awaitable[T]], **options: int) -> T:
    """Open the file, do something with its records, close it."""

    async def run() -> T:
        knowledge = Knowledge(path)
        try:
            await knowledge.open()
            return await work(AuditRecords(knowledge.database, **options))
        finally:
            await knowledge.close()

    return asyncio.run(run())


async def outcomes(records: AuditRecords) -> list[tuple[int, str]]:
    """Number and outcome of every record, oldest first."""
    return [(row.id, row.outcome) for row in reversed(await records.latest(1_000_000))]


def test_newest_are_kept(tmp_path: Path) -> None:
    """Beyond the bound the oldest go, and no number is given twice, whether or not the file is opened again."""
    path = tmp_path / "knowledge.db"

    async def fill(records: AuditRecords) -> list[int]:
        for number in range(25):
            await records.insert(record(number))
        return [row.id for row in await records.latest(100)]

    assert list(range(25, 15, -1)) == with_file(path, fill, records_max=10)
    assert list(range(50, 45, -1)) == with_file(path, fill, records_max=5)


def test_nobody_pushes_out_others(tmp_path: Path) -> None:
    """A caller that calls without end loses its own oldest records, once it has more than half of all."""

    async def work(records: AuditRecords) -> list[str]:
        for number in range(8):
            await records.insert(record(number, who="operator"))
        for number in range(100):
            await records.insert(record(number, who="peer"))
        return [row.who for row in reversed(await records.latest(100))]

    assert ["operator"] * 4 + ["peer"] * 6 == with_file(tmp_path / "knowledge.db", work, records_max=10)


def test_room_in_a_full_table(tmp_path: Path) -> None:
    """A full table is cut by a small part at a time, and the number of records never exceeds its bound."""

    async def work(records: AuditRecords) -> list[int]:
        counts = []
        for number in range(700):
            await records.insert(record(number, who=f"peer {number % 7}"))
            if number >= 512:
                counts.append(len(await records.latest(600)))
        return counts

    counts = with_file(tmp_path / "knowledge.db", work, records_max=512)
    assert (511, 512) == (min(counts), max(counts))


def test_insert_is_on_the_disk(tmp_path: Path) -> None:
    """A record is synchronised to the disk, and writes of incidents after it are as quick as before."""

    async def work(records: AuditRecords) -> tuple[list[int], list[int]]:
        at_commit: list[int] = []

        def watch(connection: sqlite3.Connection) -> None:
            def look(statement: str) -> None:
                if statement == "COMMIT":
                    at_commit.append(synchronous(connection))

            def synchronous(connection: sqlite3.Connection) -> int:
                connection.set_trace_callback(None)
                level: int = connection.execute("PRAGMA synchronous").fetchone()[0]
                connection.set_trace_callback(look)
                return level

            connection.set_trace_callback(look)

        await records._database.run(watch)
        await records.insert(record())
        await records._database.run(lambda connection: connection.set_trace_callback(None))
        after = await records._database.run(lambda connection: connection.execute("PRAGMA synchronous").fetchall())
        return at_commit, [level for (level,) in after]

    full, normal = 2, 1
    assert ([full], [normal]) == with_file(tmp_path / "knowledge.db", work)


def test_earlier_file_gets_the_table(tmp_path: Path) -> None:
    """A file from before the audit opens, and takes records."""
    path = tmp_path / "knowledge.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for migration in schema.MIGRATIONS[:2]:
            for statement in migration.statements:
                connection.execute(statement)
        connection.execute("PRAGMA user_version = 2")

    async def work(records: AuditRecords) -> list[tuple[int, str]]:
        await records.insert(record())
        return await outcomes(records)

    assert [(1, "begun")] == with_file(path, work)


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from x0d.ports import AuditRecord
from x0d.store.audit import AuditRecords
from x0d.store.knowledge import Knowledge

async def main(path):
    knowledge = Knowledge(Path(path))
    await knowledge.open()
    records = AuditRecords(knowledge.database)
    for number in range(3):
        await records.insert(AuditRecord(0, number, "w", "", "m", "{}", "", "", "begun", "", 0.0))
    await records.finish(1, before="", after="", outcome="done", detail="", took_ms=1.0)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(sys.argv[1]))
"""


def test_killed_between_begin_and_end(tmp_path: Path) -> None:
    """After SIGKILL what had ended says so and the others say begun, and the next life leaves them so."""
    path = tmp_path / "knowledge.db"
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)],
        env={**os.environ, "PYTHONPATH": str(DAEMON)},
        check=False,
        timeout=30,
    )
    assert -signal.SIGKILL == child.returncode
    expected = [(1, "done"), (2, "begun"), (3, "begun")]
    assert expected == with_file(path, outcomes)

    async def one_more(records: AuditRecords) -> list[tuple[int, str]]:
        number = await records.insert(record(9))
        await records.finish(number, before="", after="", outcome="failed", detail="", took_ms=0.0)
        return await outcomes(records)

    assert [*expected, (4, "failed")] == with_file(path, one_more)


FULL_DISK = """
import asyncio, sys
from pathlib import Path
import grpc
from fakes.control import outcome, run, running
from x0d.ports import AuditRecord
from x0d.service.alerts import Alerts
from x0d.service.audit import Audit
from x0d.kernel.clock import SystemClock
from x0d.store.audit import AuditRecords
from x0d.store.knowledge import Knowledge
from x0d.telemetry import Telemetry
from x0d.v1 import dataplane_pb2, dataplane_pb2_grpc

directory = Path(sys.argv[1])
ballast = directory / "ballast"

def fill():
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(512)):
                pass
        except OSError:
            pass

def told(*words):
    print("told", *words)

async def main():
    knowledge = Knowledge(directory / "knowledge.db")
    await knowledge.open()
    alerts = Alerts()
    audit = Audit(AuditRecords(knowledge.database), SystemClock(), alerts, Telemetry())
    async with running() as lab, lab.channel() as channel:
        lab.server.auditor = audit
        stub = dataplane_pb2_grpc.DataplaneServiceStub(channel)
        request = dataplane_pb2.AddDenyRequest(prefixes=["192.0.2.7"], comment="x" * 100)
        lab.policy.deny.clear()
        made = 0
        fill()
        while (answer := await outcome(stub.AddDeny(request)))[0] is grpc.StatusCode.OK:
            made += 1
            lab.policy.deny.clear()
        told(answer[0].name, answer[1].split(": ")[-1], alerts.names(), len(lab.policy.deny))
        ballast.unlink()
        told((await outcome(stub.AddDeny(request)))[0].name, alerts.names(), len(lab.policy.deny))
        await audit.settle()
        records = await AuditRecords(knowledge.database).latest(10_000)
        left = [record for record in records if record.outcome != "done"]  # at most the one that filled the disk
        told(made + 1 == len(records), len(left) <= 1)
    await knowledge.close()

run(main())
"""


@pytest.mark.kernel
def test_full_disk_changes_nothing(tmp_path: Path) -> None:
    """With a full disk a call that would change something is refused before it does, until there is room again."""
    command = f'mount -t tmpfs -o size=512k,mode=700 x0dt-full {tmp_path} && exec "$0" -c "$1" "$2"'
    child = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, sys.executable, FULL_DISK, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{DAEMON}:{DAEMON.parent / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert 0 == child.returncode, child.stderr
    assert [
        "told UNAVAILABLE database or disk is full ('audit',) 0",
        "told OK () 1",
        "told True True",
    ] == [line for line in child.stdout.splitlines() if line.startswith("told ")]
