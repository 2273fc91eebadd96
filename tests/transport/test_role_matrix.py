"""Every method of the data plane, called over the wire by each kind of caller."""

import asyncio
import json
import os
import shutil
import sys

import pytest

from fakes.control import DAEMON, STRANGER_GID, VIEWER_GID, as_other, run, running
from x0d.identity.roles import Role
from x0d.transport.access import METHODS
from x0d.v1 import dataplane_pb2

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)"),
]

SERVICE = dataplane_pb2.DESCRIPTOR.services_by_name["DataplaneService"]
CALL_ALL = """
import json, sys, grpc
from x0d.v1 import dataplane_pb2
refused = []
channel = grpc.insecure_channel(sys.argv[1])
for method in dataplane_pb2.DESCRIPTOR.services_by_name["DataplaneService"].methods:
    path = f"/x0d.v1.DataplaneService/{method.name}"
    call = channel.stream_stream(path)(iter([b""]), timeout=10)
    try:
        next(call, None)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.PERMISSION_DENIED:
            refused.append(method.name)
    call.cancel()
print(json.dumps(refused))
"""
"""Calls each method with an empty request and prints those that were not permitted; a unary call is a short stream."""


def refused_to(gid: int | None) -> list[str]:
    """Methods that are not permitted to root, or to uid 65534 with this group."""

    async def scene() -> list[str]:
        async with running() as lab:
            process = await asyncio.create_subprocess_exec(
                *(*as_other(gid), sys.executable, "-c", CALL_ALL, lab.endpoint),
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(DAEMON)},
            )
            out, _ = await process.communicate()
            refused: list[str] = json.loads(out)
            return refused

    return run(scene())


def test_root_may_do_everything() -> None:
    """No method is refused to root."""
    assert [] == refused_to(None)


def test_viewers_may_read() -> None:
    """A member of the viewer group may list, get and watch; what changes, or costs, is refused."""
    roles = {method.name: METHODS[f"/{SERVICE.full_name}/{method.name}"] for method in SERVICE.methods}
    admins = {name for name, allowed in roles.items() if Role.VIEWER not in allowed}
    expected = {"AddDeny", "AddLimit", "Attach", "Detach", "LoadDeny", "RemoveDeny", "RemoveLimit", "Trace", "Upgrade"}
    assert expected == admins == set(refused_to(VIEWER_GID))


def test_strangers_may_do_nothing() -> None:
    """Every method is refused to somebody without a role."""
    assert [method.name for method in SERVICE.methods] == refused_to(STRANGER_GID)
