"""One stream of the Workload API: bytes as they come, and every failure as a sentence.

Each stream has a channel of its own: whatever was proved about the socket is proved again before the next one is
dialled, and gRPC does not reconnect behind our back.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import grpc

from x0d.errors import NoIdentity
from x0d.spiffe.workload_api import EMPTY_REQUEST, FETCH_X509_SVID, SECURITY_HEADER

_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.default_authority", "localhost"),
    ("grpc.enable_http_proxy", 0),
)


@asynccontextmanager
async def workload_stream(path: Path) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    """Ask for our SVIDs; the value reads the next message and raises NoIdentity once there will be none."""
    async with grpc.aio.insecure_channel(f"unix:{path}", options=_OPTIONS) as channel:
        fetch: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(FETCH_X509_SVID)
        call = fetch(EMPTY_REQUEST, metadata=(SECURITY_HEADER,))

        async def read() -> bytes:
            try:
                data = await call.read()
            except grpc.aio.AioRpcError as failure:
                raise NoIdentity(_sentence(path, failure)) from failure
            if not isinstance(data, bytes):  # grpc.aio.EOF
                raise NoIdentity(f"the Workload API at {path} has ended the stream")
            return data

        try:
            yield read
        finally:
            call.cancel()


def _sentence(path: Path, failure: grpc.aio.AioRpcError) -> str:
    code, details = failure.code(), (failure.details() or "")[:1_000]
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return f"the Workload API at {path} has no identity for this process: register it there ({details})"
    if code is grpc.StatusCode.UNAVAILABLE:
        cause = details.rpartition("error: ")[2]  # gRPC tells the path four times before it tells the errno
        return f"the Workload API at {path} cannot be reached; is it running? ({cause})"
    return f"the Workload API at {path} answered {code.name}: {details}"
