"""A Workload API agent of tests: real gRPC on a unix socket, with whatever answers a test wants.

``push`` gives every stream its next message, bytes or an ``SvidUpdate``; ``deny`` makes it answer PERMISSION_DENIED;
``stop`` and ``start`` take it away and bring it back on the same path.  ``update_of`` makes good updates from a
fixture CA, and hands the SVID through ``mangle``.

``tests/contract/test_workload_api.py`` holds it and our own server to one contract.  Not modelled: attestation,
rotation by itself, FetchX509Bundles, JWT-SVIDs, CRLs.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from fakes.authority import CA, Issued
from x0d.spiffe.workload_api import FETCH_X509_SVID, SECURITY_HEADER, SERVICE, SvidUpdate, WorkloadSvid


class FakeAgent:
    """Serves FetchX509SVID on ``path``; the last message pushed is what a new stream gets first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.deny = False
        """Whether there is no identity for whoever asks from now on."""
        self.calls = 0
        """Ever made."""
        self._message: bytes | None = None
        self._streams: set[asyncio.Queue[bytes | None]] = set()
        self._server: grpc.aio.Server | None = None

    @property
    def streams(self) -> int:
        """Open now."""
        return len(self._streams)

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        server = grpc.aio.server()
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(self._fetch)
        method = FETCH_X509_SVID.rpartition("/")[2]
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {method: handler}),))
        server.add_insecure_port(f"unix:{self.path}")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Vanish, with every stream."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace=None)
        self.path.unlink(missing_ok=True)

    def push(self, message: bytes | SvidUpdate) -> None:
        """Send to all streams, and to those that are opened later."""
        self._message = message.encode() if isinstance(message, SvidUpdate) else message
        for stream in self._streams:
            stream.put_nowait(self._message)

    def end_streams(self) -> None:
        """End every open stream: with PERMISSION_DENIED if ``deny`` is set, else as if all were said."""
        for stream in self._streams:
            stream.put_nowait(None)

    async def _fetch(self, _: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        self.calls += 1
        if SECURITY_HEADER not in {(key, value) for key, value in context.invocation_metadata() or ()}:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        if self._message is not None:
            queue.put_nowait(self._message)
        self._streams.add(queue)
        try:
            while not self.deny and (message := await queue.get()) is not None:
                yield message
        finally:
            self._streams.discard(queue)
        if self.deny:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[FakeAgent]:
    """Run an agent for the length of a block."""
    agent = FakeAgent(path)
    await agent.start()
    try:
        yield agent
    finally:
        await agent.stop()


def update_of(
    issued: Issued,
    authority: CA,
    *,
    spiffe_id: str = "",
    federated: Mapping[str, bytes] | None = None,
    mangle: Callable[[WorkloadSvid], WorkloadSvid] = lambda svid: svid,
) -> SvidUpdate:
    """Make an update as an agent does: one SVID of ``authority``'s trust domain, its root as the bundle.

    Args:
        issued: the SVID.
        authority: whose root is the bundle.
        spiffe_id: of the field; empty: ``/node/n1`` of the authority's trust domain.
        federated: DER authorities of foreign domains, by ``spiffe://td``.
        mangle: what a test breaks.
    """
    svid = WorkloadSvid(
        spiffe_id=spiffe_id or f"spiffe://{authority.trust_domain}/node/n1",
        certificates=issued.certificates_der,
        key=issued.key_der,
        bundle=authority.root.der,
    )
    return SvidUpdate((mangle(svid),), dict(federated or {}))
