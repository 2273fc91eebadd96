"""A real control server over fake views, in a short temporary directory (socket paths are short)."""

import asyncio
import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from grpc import StatusCode, aio

from fakes.audit import FakeAuditor
from fakes.views import FakeIncidentView, FakeNodeView, fake_views
from fakes.views_dataplane import FakeDataplaneView, FakePolicyView, FakeTracingView
from x0ctl.__main__ import main
from x0d.identity.roles import Binding
from x0d.service.api import Servicers
from x0d.service.views import Views
from x0d.transport.grpc_server import ControlServer

VIEWER_GROUP = "nogroup"
"""A group that every Debian has; its members play the viewers."""
VIEWER_GID = 65534
STRANGER_GID = 65533
UID = 65534

DAEMON = Path(__file__).parents[2] / "daemon"

Result = TypeVar("Result")


@dataclass
class Lab:
    """The server and what its views hold."""

    runtime_dir: Path
    server: ControlServer
    views: Views
    node: FakeNodeView
    incidents: FakeIncidentView
    dataplane: FakeDataplaneView
    policy: FakePolicyView
    tracing: FakeTracingView
    auditor: FakeAuditor

    @property
    def endpoint(self) -> str:
        return f"unix://{self.runtime_dir}/x0d.sock"

    @property
    def private(self) -> Path:
        return self.runtime_dir / "private"

    def channel(self) -> aio.Channel:
        """A channel of its own: a connection is not shared with earlier ones."""
        return aio.insecure_channel(self.endpoint, options=(("grpc.use_local_subchannel_pool", 1),))


@asynccontextmanager
async def running(*, ready: bool = True, bindings: Iterable[Binding] = ()) -> AsyncIterator[Lab]:
    """Start a server; stop it and remove its directory at the end."""
    runtime_dir = Path(tempfile.mkdtemp(prefix="x0dt-"))
    os.chmod(runtime_dir, 0o755)  # noqa: PTH101, S103 - other uids come to call
    views = fake_views()
    node, incidents = views.node, views.incidents
    assert isinstance(node, FakeNodeView)
    assert isinstance(incidents, FakeIncidentView)
    dataplane, policy, tracing = views.dataplane, views.policy, views.tracing
    assert isinstance(dataplane, FakeDataplaneView)
    assert isinstance(policy, FakePolicyView)
    assert isinstance(tracing, FakeTracingView)
    auditor = FakeAuditor()
    server = ControlServer(runtime_dir, VIEWER_GROUP, bindings=bindings, auditor=auditor)
    server.add(Servicers(views))
    await server.start()
    if ready:
        server.set_ready()
    try:
        yield Lab(runtime_dir, server, views, node, incidents, dataplane, policy, tracing, auditor)
    finally:
        await server.stop(0.0)
        shutil.rmtree(runtime_dir)


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run on uvloop, as the daemon does, within 30 s."""

    async def bounded() -> Result:
        async with asyncio.timeout(30):
            return await coroutine

    return uvloop.run(bounded())


async def until(condition: Any) -> None:  # noqa: ANN401 - any callable that gives a truth value
    """Yield to the loop until the condition holds."""
    while not condition():  # noqa: ASYNC110 - conditions of several kinds
        await asyncio.sleep(0.001)


async def outcome(call: Any) -> tuple[StatusCode, str]:  # noqa: ANN401 - any call
    """Status and details of a unary call."""
    try:
        await call
    except aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return StatusCode.OK, ""


async def stream_outcome(call: Any) -> tuple[list[Any], StatusCode, str]:  # noqa: ANN401 - any call
    """Messages of a stream, then its status and details."""
    messages: list[Any] = []
    try:
        while (message := await call.read()) is not aio.EOF:
            messages.append(message)
    except aio.AioRpcError as error:
        return messages, error.code(), error.details() or ""
    return messages, await call.code(), ""


@dataclass
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str


async def x0ctl(lab: Lab | str, *arguments: str) -> Finished:
    """Run the client in a thread of this process; one at a time, as it writes to the process's stdout."""
    endpoint = lab if isinstance(lab, str) else lab.endpoint
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = await asyncio.to_thread(main, ["--endpoint", endpoint, *arguments])
    return Finished(code, out.getvalue(), err.getvalue())


async def x0ctl_as(lab: Lab, *arguments: str, gid: int | None, extra_gids: tuple[int, ...] = ()) -> Finished:
    """Run the client as a process; with ``gid`` as uid 65534 with that group and ``extra_gids``."""
    process = await asyncio.create_subprocess_exec(
        *(*as_other(gid, extra_gids), sys.executable, "-m", "x0ctl", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "X0CTL_ENDPOINT": lab.endpoint, "PYTHONPATH": str(DAEMON)},
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


def as_other(gid: int | None, extra_gids: tuple[int, ...] = ()) -> list[str]:
    """Prefix of a command that runs as uid 65534; empty without ``gid``."""
    if gid is None:
        return []
    groups = ["--groups", ",".join(map(str, extra_gids))] if extra_gids else ["--clear-groups"]
    return ["setpriv", "--reuid", str(UID), "--regid", str(gid), *groups]
