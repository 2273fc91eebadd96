"""One contract for whoever serves the Workload API: the fake agent of tests, and our own server."""

import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import grpc
import pytest

from fakes.agent import serving, update_of
from fakes.authority import CA, Issued
from fakes.watching import LOCAL, N1, run
from x0d.errors import NoIdentity
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.spiffe.local_svids import svid_of
from x0d.spiffe.snapshot import Svid
from x0d.spiffe.stream import workload_stream
from x0d.spiffe.validation import Accepted, Expectation, validate
from x0d.spiffe.workload_api import FETCH_X509_SVID, SvidUpdate
from x0d.transport.entitlement import JoinedEntitlement
from x0d.transport.workload_server import SOCKET_NAME, WorkloadServer

Rotate = Callable[[Issued], None]
Served = Callable[[CA, Issued], AbstractAsyncContextManager[tuple[Path, Rotate]]]


class OneSvid:
    """What our own server gives out: one SVID, until it is changed."""

    def __init__(self, root: CA, issued: Issued) -> None:
        self._root = root
        self._issued = issued
        self._subscribers: list[Callable[[], None]] = []

    def svid(self, spiffe_id: SpiffeId) -> Svid:
        return svid_of(spiffe_id, (self._issued.leaf_der, *self._issued.chain_ders), self._issued.key_der)

    def bundles(self) -> Mapping[TrustDomain, Sequence[bytes]]:
        return {LOCAL: (self._root.der,)}

    def subscribe(self, on_change: Callable[[], None]) -> None:
        self._subscribers.append(on_change)

    def unsubscribe(self, on_change: Callable[[], None]) -> None:
        self._subscribers.remove(on_change)

    def rotate(self, issued: Issued) -> None:
        self._issued = issued
        for on_change in tuple(self._subscribers):
            on_change()


@asynccontextmanager
async def fake_agent(root: CA, issued: Issued) -> AsyncIterator[tuple[Path, Rotate]]:
    with tempfile.TemporaryDirectory(prefix="x0d-") as directory:
        async with serving(Path(directory) / "agent.sock") as agent:
            agent.push(update_of(issued, root))
            yield agent.path, lambda newer: agent.push(update_of(newer, root))


@asynccontextmanager
async def own_server(root: CA, issued: Issued) -> AsyncIterator[tuple[Path, Rotate]]:
    with tempfile.TemporaryDirectory(prefix="x0d-") as directory:
        svids = OneSvid(root, issued)
        server = WorkloadServer(Path(directory), svids=svids, entitle=JoinedEntitlement(N1), viewer_group="nogroup")
        await server.start()
        try:
            yield Path(directory) / SOCKET_NAME, svids.rotate
        finally:
            await server.stop()


pytestmark = pytest.mark.parametrize("served", [fake_agent, own_server])


def judged(data: bytes) -> Accepted:
    """Take a message as the watcher does."""
    return validate(SvidUpdate.decode(data), Expectation(N1, LOCAL, dev_allowed=True), time.time())


def test_first_message_comes_at_once_and_each_change_follows(served: Served) -> None:
    """A stream begins with what holds now, and every message is one that the watcher takes."""

    async def scene() -> None:
        root = CA(start_unix_s=time.time())
        old, new = root.issue(), root.issue()
        async with served(root, old) as (path, rotate), workload_stream(path) as read:
            first = judged(await read())
            rotate(new)
            second = judged(await read())
            assert (old.leaf_der, new.leaf_der) == (first.svid.leaf_der, second.svid.leaf_der)
            assert first.bundles == second.bundles
            async with workload_stream(path) as read_later:
                assert new.leaf_der == judged(await read_later()).svid.leaf_der

    run("uvloop", scene())


def test_calls_without_the_security_header_are_refused(served: Served) -> None:
    """Who does not carry the header is told so and gets nothing."""

    async def scene() -> None:
        root = CA(start_unix_s=time.time())
        async with served(root, root.issue()) as (path, _), grpc.aio.insecure_channel(f"unix:{path}") as channel:
            fetch: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(FETCH_X509_SVID)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await fetch(b"").read()
            assert grpc.StatusCode.INVALID_ARGUMENT == refused.value.code()

    run("uvloop", scene())


def test_a_server_that_goes_ends_its_streams(served: Served) -> None:
    """Whoever reads learns it with a sentence."""

    async def scene() -> None:
        root = CA(start_unix_s=time.time())
        async with served(root, root.issue()) as (path, _):
            stream = workload_stream(path)
            read = await stream.__aenter__()
            await read()
        with pytest.raises(NoIdentity, match="Workload API"):
            await read()
        await stream.__aexit__(None, None, None)

    run("uvloop", scene())
