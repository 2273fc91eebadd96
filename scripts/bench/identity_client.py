"""A child that calls: ``x0d DIRECTORY PORT`` through our connector, ``native DIRECTORY PORT`` by gRPC's own TLS."""

import asyncio
import secrets
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import grpc
from grpc import aio

from bench.identity_agent import SERVER_ID, SERVER_NAME, SOCKETS
from bench.identity_children import Order, obey, run_child
from bench.identity_load import Load
from bench.identity_server import until_there, watcher_of
from x0d.identity.agreement import agree
from x0d.identity.model import Proof
from x0d.identity.spiffe_id import SpiffeId
from x0d.ports.identity import KeyOffer, PeerTarget
from x0d.spiffe.watcher import Watcher
from x0d.telemetry import Telemetry
from x0d.transport.connector import Connector, ExpectId
from x0d.transport.connector_dial import Dialer
from x0d.transport.peer_channel import GrpcPeerChannel

STATUS = "/x0d.v1.NodeService/GetStatus"
CALL_S = 20.0
HOST = "127.0.0.1"
SERVER = SpiffeId.parse(SERVER_ID)


class Way(ABC):
    """How the server is reached."""

    @abstractmethod
    def channel(self) -> AbstractAsyncContextManager[aio.Channel]:
        """A new channel, which dials at its first call."""


class Native(Way):
    """gRPC's own TLS, which asks for a DNS name."""

    def __init__(self, directory: Path, port: int) -> None:
        """Read the certificates."""
        self._target = f"{HOST}:{port}"
        self._credentials = grpc.ssl_channel_credentials(
            (directory / "root.pem").read_bytes(),
            (directory / "client.key").read_bytes(),
            (directory / "client.pem").read_bytes(),
        )

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[aio.Channel]:
        """Dial by gRPC."""
        options = [("grpc.ssl_target_name_override", SERVER_NAME), ("grpc.use_local_subchannel_pool", 1)]
        async with aio.secure_channel(self._target, self._credentials, options=options) as channel:
            yield channel


class Ours(Way):
    """The connector, with an SVID from the Workload API."""

    def __init__(self, watcher: Watcher, directory: Path, port: int) -> None:
        """``directory`` is for private sockets."""
        self.watcher = watcher
        self.port = port
        self.directory = directory
        self.handshakes = 0
        """Of all channels so far."""

    @property
    def expect(self) -> ExpectId:
        """Exactly the server's ID."""
        return ExpectId(SERVER, self.watcher, require_pq=False)

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[aio.Channel]:
        """Dial by a connector of its own."""
        connector = Connector(
            host=HOST,
            port=self.port,
            interface="",
            expect=self.expect,
            directory=self.directory,
            unix_s=time.time,
            on_handshake=self._count,
        )
        await connector.start()
        try:
            async with aio.insecure_channel(connector.target, options=connector.channel_options) as channel:
                yield channel
        finally:
            await connector.stop()

    def _count(self, _: Proof) -> None:
        self.handshakes += 1

    async def dial(self) -> None:
        """One TCP connection and handshake, judged."""
        session = await Dialer(HOST, self.port, "", self.expect, time.time).dial()
        session.close()

    async def agree(self) -> None:
        """Agree on a key as two neighbours do, ours computed as well."""
        peers = GrpcPeerChannel(self.watcher, False, self.directory, Telemetry(), time.time)
        target = PeerTarget(SERVER, ip_address(HOST), "", self.port)
        own = KeyOffer(7, secrets.token_bytes(32))
        theirs, proof = await peers.agree(target, own)
        assert self.watcher.current is not None
        own_id = self.watcher.current.svid.spiffe_id
        agree(own_id, (own.boot_id, own.nonce), proof.spiffe_id, (theirs.boot_id, theirs.nonce))


class Caller:
    """Answers the benchmark's orders."""

    def __init__(self, way: Way, channel: aio.Channel) -> None:
        """``channel`` is the one that is kept."""
        self._way = way
        self._channel = channel
        self._load: Load | None = None

    async def answer(self, order: Order) -> Order:
        """``calls``, ``fresh``, ``load``, ``unload``, ``dials``, ``agreements`` or ``updates``."""
        count = int(order.get("count", 0))
        if order["do"] == "calls":
            return {"ms": await self._calls(count, secrets.token_bytes(int(order["size"])))}
        if order["do"] == "fresh":
            return {"ms": [await _timed(self._call_anew) for _ in range(count)]}
        assert isinstance(self._way, Ours), "the rest is ours alone"
        match order["do"]:
            case "dials":
                return {"ms": [await _timed(self._way.dial) for _ in range(count)]}
            case "agreements":
                return {"ms": [await _timed(self._way.agree) for _ in range(count)]}
            case "load":
                self._way.handshakes = 0
                self._load = Load(self._way.channel)
                await self._load.start()
            case "unload":
                assert self._load is not None
                return {**await self._load.stop(), "handshakes": self._way.handshakes}
        return {"updates": self._way.watcher.status().updates}

    async def _calls(self, count: int, message: bytes) -> list[float]:
        """So many calls, one after the other."""
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(STATUS)
        took = []
        for _ in range(count):
            begun = time.perf_counter()
            await call(message, timeout=CALL_S)
            took.append((time.perf_counter() - begun) * 1e3)
        return took

    async def _call_anew(self) -> None:
        """A call on a new connection, and the end of that."""
        async with self._way.channel() as channel:
            call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(STATUS)
            await call(b"x", timeout=CALL_S)


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    begun = time.perf_counter()
    await work()
    return (time.perf_counter() - begun) * 1e3


async def main(argv: Sequence[str]) -> None:
    """Call until the input ends."""
    kind, directory, port = argv[0], Path(argv[1]), int(argv[2])
    if kind == "native":
        way: Way = Native(directory, port)
        async with way.channel() as channel:
            await obey(Caller(way, channel).answer)
        return
    watcher = watcher_of(directory / SOCKETS["client"])
    watching = asyncio.create_task(watcher.run())
    await until_there(watcher)
    with tempfile.TemporaryDirectory(prefix="c-", dir=directory) as private:
        way = Ours(watcher, Path(private), port)
        async with way.channel() as channel:
            await obey(Caller(way, channel).answer)
    watching.cancel()


if __name__ == "__main__":
    run_child(main(sys.argv[1:]))
