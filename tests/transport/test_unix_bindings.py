"""Bindings of unix users and groups to roles, called for real by another uid."""

import asyncio
import os
import pwd
import shutil
import sys
import threading
from typing import Any

import pytest
from grpc import StatusCode, aio

from fakes.control import DAEMON, STRANGER_GID, VIEWER_GID, Lab, as_other, run, running, until
from x0d.identity.roles import Binding, Role

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)"),
]

CALL = """
import sys, grpc
channel = grpc.insecure_channel(sys.argv[1])
call = channel.unary_stream(sys.argv[2])(b"", timeout=20)
try:
    for _ in call:
        pass
except grpc.RpcError:
    pass
print(call.code().name, call.details())
"""
"""Calls one method, reads it to its end, and prints how that was."""
RELOAD = "/x0d.v1.NodeService/Reload"
WATCH = "/x0d.v1.IncidentService/WatchIncidents"


async def called(lab: Lab, method: str, gid: int = STRANGER_GID, extra: tuple[int, ...] = ()) -> tuple[str, str]:
    """Status and details of a call by uid 65534 with these groups."""
    process = await asyncio.create_subprocess_exec(
        *(*as_other(gid, extra), sys.executable, "-c", CALL, lab.endpoint, method),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(DAEMON)},
    )
    out, _ = await process.communicate()
    status, _, details = out.decode().strip().partition(" ")
    return status, details


@pytest.mark.parametrize(
    ("binding", "gid", "extra"),
    [
        (Binding(Role.OPERATOR, user="nobody"), STRANGER_GID, ()),
        (Binding(Role.OPERATOR, group="daemon"), 1, ()),
        (Binding(Role.ADMIN, group="daemon"), STRANGER_GID, (1,)),
    ],
    ids=["user", "primary group", "supplementary group"],
)
def test_bound(binding: Binding, gid: int, extra: tuple[int, ...]) -> None:
    """Who is bound to a role may do what it allows, and is named in the record."""

    async def scene() -> None:
        async with running(bindings=[binding]) as lab:
            assert StatusCode.OK.name == (await called(lab, RELOAD, gid, extra))[0]
            assert ["uid 65534 (nobody)"] == [record.who for record in lab.auditor.records]

    run(scene())


def test_not_bound() -> None:
    """Viewer and stranger are told which role is missing, a stranger what gives roles; neither leaves a record."""

    async def scene() -> None:
        async with running(bindings=[Binding(Role.OPERATOR, user="daemon")]) as lab:
            denied = StatusCode.PERMISSION_DENIED.name
            text = f"uid 65534 (nobody) may not call {RELOAD}: it needs the role operator or admin"
            assert (denied, text) == await called(lab, RELOAD, VIEWER_GID)
            text = f"uid 65534 (nobody) has no role here, and {RELOAD} needs the role operator or admin; root is admin"
            assert (denied, f"{text}, group nogroup viewer, [[identity.bindings]] give more") == await called(
                lab, RELOAD
            )
            assert [] == lab.auditor.records
            assert 0 == lab.node.reloads

    run(scene())


def test_new_bindings_hold_at_once() -> None:
    """Bindings that are taken away end the streams they had allowed, and refuse the next call."""

    async def scene() -> None:
        async with running(bindings=[Binding(Role.VIEWER, user="nobody")]) as lab:
            watching = asyncio.create_task(called(lab, WATCH))
            await until(lambda: lab.incidents.subscribers)
            await lab.server.set_bindings([])
            async with asyncio.timeout(5):
                assert (StatusCode.PERMISSION_DENIED.name, "not permitted") == await watching
            assert not lab.incidents.subscribers
            assert StatusCode.PERMISSION_DENIED.name == (await called(lab, WATCH))[0]

    run(scene())


def test_directory_of_accounts_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can say an account's name its number is recorded, and meanwhile others are answered."""
    answer = threading.Event()

    async def scene() -> None:
        async with running(bindings=[Binding(Role.OPERATOR, user="nobody")]) as lab, lab.channel() as channel:
            monkeypatch.setattr(pwd, "getpwuid", lambda _: answer.wait(20))
            calling = asyncio.create_task(called(lab, RELOAD))
            await until(lambda: lab.server.connections == 1)
            assert StatusCode.OK == await call_of(channel)
            assert not calling.done()
            assert StatusCode.OK.name == (await calling)[0]
            assert ["uid 65534"] == [record.who for record in lab.auditor.records]

    try:
        run(scene())
    finally:
        answer.set()


async def call_of(channel: aio.Channel) -> StatusCode:
    """Status of a call of our own."""
    stub: Any = channel.unary_unary("/x0d.v1.NodeService/GetStatus")
    call = stub(b"", timeout=10)
    return await call.code()  # type: ignore[no-any-return]  # the stub is Any
