"""A child that serves: ``x0d DIRECTORY`` our TLS port with its whole gate, ``native DIRECTORY`` gRPC's own TLS.

Both have the same handlers: GetStatus answers with what it was asked, WatchIncidents sends 1, 2, 3, ..., AgreeKey
(ours alone) gives its half.
"""

import asyncio
import random
import secrets
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from bench.identity_agent import CLIENT_ID, DOMAIN, SOCKETS
from bench.identity_children import Order, obey, run_child
from x0d.identity.roles import Binding, IdPattern, Role, default_bindings
from x0d.identity.spiffe_id import TrustDomain
from x0d.spiffe.watcher import Watcher
from x0d.telemetry import Telemetry
from x0d.transport.grpc_server import OPTIONS
from x0d.transport.tls_server import TlsServer
from x0d.v1 import peer_pb2

HANDSHAKE_MS = 5_000
NUMBER_S = 0.002
"""Between two messages of the numbered stream."""


class Handlers:
    """The services."""

    names = ("x0d.v1.NodeService", "x0d.v1.IncidentService", "x0d.v1.PeerService")

    def register(self, server: aio.Server) -> None:
        """Add them."""
        one, many = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        methods: dict[str, Any] = {"GetStatus": one(_echo), "WatchIncidents": many(_count), "AgreeKey": one(_agree)}
        for name, (method, handler) in zip(self.names, methods.items(), strict=True):
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {method: handler}),))


async def _echo(request: bytes, _: Any) -> bytes:  # noqa: ANN401 - gRPC's context
    return request


async def _count(_: bytes, __: Any) -> AsyncIterator[bytes]:  # noqa: ANN401 - gRPC's context
    number = 0
    while True:
        number += 1
        yield b"%d" % number
        await asyncio.sleep(NUMBER_S)


async def _agree(request: bytes, _: Any) -> bytes:  # noqa: ANN401 - gRPC's context
    asked = peer_pb2.AgreeKeyRequest.FromString(request)
    return peer_pb2.AgreeKeyResponse(boot_id=asked.boot_id + 1, nonce=secrets.token_bytes(32)).SerializeToString()


def watcher_of(socket: Path) -> Watcher:
    """What the daemon keeps its own identity with."""
    return Watcher(
        socket=socket,
        own_id=None,
        trust_domain=TrustDomain(DOMAIN),
        federation=frozenset(),
        dev_allowed=True,
        owner_uid=None,
        unix_s=time.time,
        monotonic_ns=time.monotonic_ns,
        rng=random.Random(),
    )


async def until_there(watcher: Watcher) -> None:
    """Wait for the first SVID."""
    there = asyncio.Event()
    watcher.subscribe(there.set)
    while watcher.current is None:
        await there.wait()


async def _serve_ours(directory: Path) -> None:
    watcher = watcher_of(directory / SOCKETS["server"])
    watching = asyncio.create_task(watcher.run())
    await until_there(watcher)
    server = TlsServer(
        name="control",
        address="127.0.0.1",
        port=0,
        source=watcher,
        judge=watcher.judge,
        bindings=(*default_bindings(TrustDomain(DOMAIN)), Binding(Role.PEER, IdPattern.parse(CLIENT_ID))),
        servicers=Handlers(),
        counted=Telemetry(),
        auditor=None,
        require_pq=False,
        dev_allowed=True,
        connections_max=256,
        handshake_timeout_ms=HANDSHAKE_MS,
        unix_s=time.time,
    )
    await server.start()
    server.set_ready()

    async def answer(_: Order) -> Order:
        return {"port": server.bound_port, "updates": watcher.status().updates}

    await obey(answer)
    watching.cancel()
    await server.stop(0.0)


async def _serve_native(directory: Path) -> None:
    pair = ((directory / "server.key").read_bytes(), (directory / "server.pem").read_bytes())
    credentials = grpc.ssl_server_credentials([pair], (directory / "root.pem").read_bytes(), require_client_auth=True)
    server = aio.server(options=OPTIONS)
    Handlers().register(server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()

    async def answer(_: Order) -> Order:
        return {"port": port}

    await obey(answer)
    await server.stop(0.0)


if __name__ == "__main__":
    run_child({"x0d": _serve_ours, "native": _serve_native}[sys.argv[1]](Path(sys.argv[2])))
