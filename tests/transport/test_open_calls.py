"""Calls that are held open take up their holder's room and nobody else's, and give it back soon."""

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from fakes import raw_http2
from fakes.control import DAEMON, STRANGER_GID, VIEWER_GID, Lab, as_other, run, running, until
from fakes.tls_lab import DOMAIN, OPERATOR, STATUS, WATCH, Answer, TlsLab, ask, ask_as, tls_port
from x0d.identity.model import Principal
from x0d.identity.roles import Role
from x0d.transport import gate
from x0d.transport.open_calls import (
    CALLS_MAX,
    CALLS_OTHERS_MAX,
    CALLS_PER_ADMIN_MAX,
    CALLS_PER_PRINCIPAL_MAX,
    OpenCalls,
)

CONNECTIONS = 9
CALLS_EACH = 127
"""Together more calls than a listener has places."""
VIEWER = f"spiffe://{DOMAIN}/operator/bob"
ADMIN = f"spiffe://{DOMAIN}/operator/root"
NO_ROOM = Answer(StatusCode.RESOURCE_EXHAUSTED, "64 calls of yours are under way, the most that are allowed", "calls")
HOLD = """
import socket, sys
from fakes.raw_http2 import hold
held = []
for _ in range(int(sys.argv[3])):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(sys.argv[1])
    hold(connection, sys.argv[2], int(sys.argv[4]))
    held.append(connection)
print("held", flush=True)
sys.stdin.read()
"""
ASK = """
import sys, grpc
call = grpc.insecure_channel(sys.argv[1]).unary_unary(sys.argv[2]).with_call
try:
    call(b"", timeout=20)
except grpc.RpcError as error:
    print(error.code().name, dict(error.trailing_metadata()).get("x0d-reason"))
else:
    print("OK")
"""


def principal(name: str, *roles: Role) -> Principal:
    return Principal(name, frozenset(roles))


def filled(calls: OpenCalls, stack: contextlib.ExitStack, caller: Principal) -> int:
    """Take as many places as this caller gets."""
    taken = 0
    while not calls.excess(caller):
        stack.enter_context(calls.hold(caller))
        taken += 1
    return taken


def test_nobody_takes_it_all() -> None:
    """Each caller has its own room, those who are not admins share less than half, and all of it is given back."""
    calls = OpenCalls()
    with contextlib.ExitStack() as stack:
        taken = [filled(calls, stack, principal(f"v{number}", Role.VIEWER)) for number in range(10)]
        assert [CALLS_PER_PRINCIPAL_MAX] * 7 + [0] * 3 == taken
        assert CALLS_OTHERS_MAX == len(calls) < CALLS_MAX / 2
        assert CALLS_PER_ADMIN_MAX == filled(calls, stack, principal("a0", Role.VIEWER, Role.ADMIN))
        assert CALLS_PER_ADMIN_MAX == filled(calls, stack, principal("a1", Role.ADMIN))
        assert "" != calls.excess(principal("v9", Role.PEER))
        assert CALLS_MAX - CALLS_OTHERS_MAX - 2 * CALLS_PER_ADMIN_MAX == filled(
            calls, stack, principal("a2", Role.ADMIN)
        )
    assert 0 == len(calls)
    assert ({}, 0, 0) == (dict(calls._by_name), calls._others, calls._total)


@asynccontextmanager
async def held_over_tcp(lab: TlsLab, method: str) -> AsyncIterator[None]:
    """A viewer's connections, each full of calls without a request."""
    context = raw_http2.context_of(lab.ca, lab.ca.issue(VIEWER))
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS):
            connection = stack.enter_context(raw_http2.tls(lab.server.bound_port, context))
            await asyncio.to_thread(raw_http2.hold, connection, method, CALLS_EACH)
        yield


def test_viewer_over_tcp() -> None:
    """A viewer that holds all it can is refused its next call; an admin and another operator are answered."""

    async def scene() -> None:
        async with tls_port() as lab, held_over_tcp(lab, STATUS):
            for other in (ADMIN, OPERATOR):
                async with lab.channel(lab.ca.issue(other)) as channel:
                    assert {StatusCode.OK} == {(await ask(channel)).status for _ in range(5)}
            assert NO_ROOM == await ask_as(lab, lab.ca.issue(VIEWER))

    run(scene())


def test_streams_held_over_tcp() -> None:
    """A viewer that holds streams without a request leaves everybody's calls and an admin's streams."""

    async def scene() -> None:
        async with tls_port() as lab, held_over_tcp(lab, WATCH):
            for other, method in ((ADMIN, STATUS), (ADMIN, WATCH), (OPERATOR, STATUS)):
                assert StatusCode.OK == (await ask_as(lab, lab.ca.issue(other), method)).status

    run(scene())


def test_request_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call whose request does not come in time ends, and its place is free again."""
    monkeypatch.setattr(gate, "REQUEST_S_MAX", 0.2)

    async def scene() -> None:
        async with tls_port() as lab, lab.channel(lab.ca.issue(VIEWER)) as channel:
            for method in (STATUS, WATCH):
                stub: Any = channel.stream_stream(method)
                call = stub(timeout=60)
                async with asyncio.timeout(5):
                    assert StatusCode.DEADLINE_EXCEEDED == await call.code()
                assert "no request came within 0.2 s" == await call.details()
                assert "request" == dict(await call.trailing_metadata())["x0d-reason"]
            async with held_over_tcp(lab, STATUS):
                await until(lambda: len(lab.server._gate._calls) == 0)
                assert StatusCode.OK == (await ask(channel)).status

    run(scene())


async def as_uid(gid: int, code: str, *arguments: str) -> asyncio.subprocess.Process:
    """Start a program of uid 65534 with this group."""
    paths = f"{DAEMON}:{Path(__file__).parents[1]}"
    return await asyncio.create_subprocess_exec(
        *(*as_other(gid), sys.executable, "-c", code, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )


@asynccontextmanager
async def held_on_socket(lab: Lab, gid: int, method: str) -> AsyncIterator[None]:
    """Connections of uid 65534, each full of calls without a request."""
    path = lab.endpoint.removeprefix("unix://")
    holder = await as_uid(gid, HOLD, path, method, str(CONNECTIONS), str(CALLS_EACH))
    assert holder.stdout is not None
    assert b"held\n" == await holder.stdout.readline()
    try:
        yield
    finally:
        await holder.communicate(b"")


async def asked(lab: Lab, gid: int) -> str:
    """Status and reason of one call of uid 65534."""
    process = await as_uid(gid, ASK, lab.endpoint, STATUS)
    out, _ = await process.communicate()
    return out.decode().strip()


@pytest.mark.kernel
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
@pytest.mark.parametrize("gid", [VIEWER_GID, STRANGER_GID], ids=["viewer", "stranger"])
def test_other_uid_on_the_socket(gid: int) -> None:
    """A uid that holds all it can is alone without an answer: root's calls are answered; a stranger holds nothing."""

    async def scene() -> None:
        async with running() as lab, held_on_socket(lab, gid, STATUS), lab.channel() as channel:
            assert {StatusCode.OK} == {(await ask(channel)).status for _ in range(5)}
            expected = "RESOURCE_EXHAUSTED calls" if gid == VIEWER_GID else "PERMISSION_DENIED role"
            assert expected == await asked(lab, gid)
            assert (CALLS_PER_PRINCIPAL_MAX if gid == VIEWER_GID else 0) == len(lab.server._gate._calls)

    run(scene())
