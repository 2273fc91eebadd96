"""Floods of headers at real ends: the sender is cut, the memory stays, and everybody else is answered."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from fakes.control import run, running
from fakes.header_floods import SETTINGS, floods, frame, literal, request_fields
from fakes.tls_peer import LOOPS, PATIENCE_S, PEER_ID, connecting, new_ca, run_on, source_of, tls_context, until
from x0d.errors import InvalidInput
from x0d.identity.spiffe_id import SpiffeId
from x0d.transport import front
from x0d.transport.connector import ExpectId
from x0d.transport.header_guard import PREFACE
from x0d.v1 import node_pb2, node_pb2_grpc

GROWTH_BYTES_MAX = 30 << 20
FLOODERS = 4
COSTLY = ("dynamic references", "a last byte that never comes", "references in continuations")
"""Without a guard each of these takes tens of megabytes a connection."""
ANSWER = literal(b":status", b"200") + literal(b"content-type", b"application/grpc")


def rss_bytes() -> int:
    """Memory of this process, in which server and client are, too."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) << 10


@pytest.mark.parametrize("shape", COSTLY)
def test_flood_on_the_control_socket(shape: str) -> None:
    """Connections that flood are cut and counted, memory grows by less than 30 MB, and a caller beside is answered."""
    flood = PREFACE + frame(SETTINGS, 0, b"", 0) + floods(request_fields())[shape]

    async def scene() -> None:
        async with running() as lab, lab.channel() as channel:
            stub = node_pb2_grpc.NodeServiceStub(channel)
            await stub.GetStatus(node_pb2.GetStatusRequest(), timeout=5)
            before = rss_bytes()
            senders = []
            for _ in range(FLOODERS):
                reader, writer = await asyncio.open_unix_connection(str(lab.runtime_dir / "x0d.sock"))
                writer.write(flood)
                senders.append((reader, writer))
            assert "n1" == (await stub.GetStatus(node_pb2.GetStatusRequest(), timeout=5)).node
            for reader, writer in senders:
                with contextlib.suppress(ConnectionError):
                    async with asyncio.timeout(5):
                        await reader.read()
                writer.close()
            assert "n1" == (await stub.GetStatus(node_pb2.GetStatusRequest(), timeout=5)).node
            assert rss_bytes() - before < GROWTH_BYTES_MAX
            assert FLOODERS == lab.server.connections_refused
            assert 1 == lab.server.connections

    run(scene())


def test_flooder_that_reads_nothing() -> None:
    """A client that leaves the other direction waiting for it and then floods is cut at once all the same."""

    async def scene() -> None:
        with contextlib.ExitStack() as ends:
            client, client_end, grpc_end, backend = (
                ends.enter_context(end) for _ in range(2) for end in socket.socketpair()
            )
            for end in (client, client_end, grpc_end, backend):
                end.setblocking(False)
            relay = asyncio.create_task(front._relay(client_end, backend))
            loop = asyncio.get_running_loop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    while True:
                        await loop.sock_sendall(grpc_end, bytes(65_536))
            client.send(PREFACE + floods(b"")["dynamic references"])
            async with asyncio.timeout(front.STUCK_S_MAX / 10):
                with pytest.raises(InvalidInput):
                    await relay

    run(scene())


@contextlib.contextmanager
def flooding(context: ssl.SSLContext, answer: bytes) -> Iterator[int]:
    """Give the port of a server that gives this answer to whatever it is asked first."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = listener.accept()
                plain.settimeout(PATIENCE_S)
                with contextlib.suppress(OSError), plain, context.wrap_socket(plain, server_side=True) as tls:
                    tls.sendall(frame(SETTINGS, 0, b"", 0))
                    asked = b""
                    while b"/t.S/Ask" not in asked:
                        asked += tls.recv(1 << 16)
                    tls.sendall(answer)
                    while tls.recv(1 << 16):
                        pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENCE_S)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("shape", COSTLY)
def test_flood_from_a_server(shape: str, loop: str) -> None:
    """A server that is who it should be and floods is cut, last_error says for what, and memory stays."""
    ca = new_ca()
    expect = ExpectId(SpiffeId.parse(PEER_ID), source_of(ca), require_pq=False)

    async def scene(port: int) -> None:
        async with connecting(port, expect) as connector:
            options = [*connector.channel_options, ("grpc.enable_retries", 0)]
            async with grpc.aio.insecure_channel(connector.target, options=options) as channel:
                ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/t.S/Ask")
                before = rss_bytes()
                with pytest.raises(grpc.aio.AioRpcError):
                    await ask(b"", timeout=5)
                assert rss_bytes() - before < GROWTH_BYTES_MAX
                assert connector.last_error is not None
                assert "ended for what it sends: a header block" in connector.last_error.detail
                await until(lambda: connector.connections == 0)

    with flooding(tls_context(ca.issue(PEER_ID)), floods(ANSWER)[shape]) as port:
        run_on(loop, scene(port))
