"""A real control server over fake views, in a short temporary directory (socket paths are short)."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from grpc import aio

from fakes.views import FakeIncidentView, FakeNodeView, fake_views
from x0d.service.api import Servicers
from x0d.service.views import Views
from x0d.transport.grpc_server import ControlServer

VIEWER_GROUP = "nogroup"
"""A group that every Debian has; its members play the viewers."""
VIEWER_GID = 65534
STRANGER_GID = 65533
UID = 65534

Result = TypeVar("Result")


@dataclass
class Lab:
    """The server and what its views hold."""

    runtime_dir: Path
    server: ControlServer
    views: Views
    node: FakeNodeView
    incidents: FakeIncidentView

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
async def running(*, ready: bool = True) -> AsyncIterator[Lab]:
    """Start a server; stop it and remove its directory at the end."""
    runtime_dir = Path(tempfile.mkdtemp(prefix="x0dt-"))
    runtime_dir.chmod(0o755)
    views = fake_views()
    node, incidents = views.node, views.incidents
    assert isinstance(node, FakeNodeView)
    assert isinstance(incidents, FakeIncidentView)
    server = ControlServer(runtime_dir, VIEWER_GROUP)
    server.add(Servicers(views))
    await server.start()
    if ready:
        server.set_ready()
    try:
        yield Lab(runtime_dir, server, views, node, incidents)
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
    while not condition():
        await asyncio.sleep(0.001)


@dataclass
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str


async def x0ctl(lab: Lab | str, *arguments: str, gid: int | None = None, extra_gids: tuple[int, ...] = ()) -> Finished:
    """Run the client as a process; with ``gid`` as uid 65534 with that group and ``extra_gids``."""
    endpoint = lab if isinstance(lab, str) else lab.endpoint
    command = [*as_other(gid, extra_gids), sys.executable, "-m", "x0ctl", *arguments]
    daemon = str(Path(__file__).parents[2] / "daemon")
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "X0CTL_ENDPOINT": endpoint, "PYTHONPATH": daemon},
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
