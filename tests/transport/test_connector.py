"""The connector at work: rotation without a loss, distrust that cuts, back-pressure, and an end without traces."""

import asyncio
import contextlib
import hashlib
import os
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from grpc import StatusCode, aio

from fakes.authority import CA, HOUR_S
from fakes.tls_peer import (
    LOOPS,
    OWN_ID,
    PATIENCE_S,
    PEER_ID,
    SETTINGS,
    FakeSource,
    bundles_of,
    connecting,
    new_ca,
    run_on,
    source_of,
    svid_of,
    tls_context,
    until,
)
from fakes.tls_service import COUNT, ECHO, StreamCall, TlsService, UnaryCall, serving
from x0d.errors import AddressUnavailable, IdentityRefused
from x0d.identity.model import Proof
from x0d.identity.spiffe_id import SpiffeId
from x0d.transport.connector import Connector, ExpectId

both_loops = pytest.mark.parametrize("loop", LOOPS)
ROTATIONS = 20
FLOOD_BYTES = 48 << 20
DATA_HEAD = ((1 << 16) - 9).to_bytes(3) + bytes(6)
"""Of a frame that fills a block."""
HELD_BYTES_MAX = 24 << 20
"""What the kernel's socket buffers may take of a flood, and far more than the connector's own slices."""


def expecting(source: FakeSource) -> ExpectId:
    return ExpectId(SpiffeId.parse(PEER_ID), source, require_pq=True)


@contextlib.asynccontextmanager
async def dialled(connector: Connector) -> AsyncIterator[tuple[UnaryCall, StreamCall]]:
    """Yield both methods of the service."""
    async with aio.insecure_channel(connector.target, options=connector.channel_options) as channel:
        yield channel.unary_unary(ECHO), channel.unary_stream(COUNT)


class Counted:
    """Reads COUNT in a task, and holds that no number is left out."""

    def __init__(self, count: StreamCall) -> None:
        self.last = 0
        self.call = count(b"")
        self.task = asyncio.ensure_future(self._read())

    async def _read(self) -> StatusCode:
        try:
            async for message in self.call:
                assert self.last + 1 == int(message)
                self.last += 1
        except aio.AioRpcError as error:
            return error.code()
        return StatusCode.OK

    async def advance(self, messages: int = 5) -> None:
        goal = self.last + messages
        await until(lambda: self.last >= goal or self.task.done())
        assert not self.task.done()

    async def end(self) -> None:
        self.call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@both_loops
def test_leaf_rotations_lose_nothing(loop: str) -> None:
    """Twenty rotations at both ends: the open stream goes on, no call fails, new connections show the new leaves."""

    async def scene() -> None:
        ca = new_ca()
        source = source_of(ca)
        handshakes: list[Proof] = []
        async with (
            serving(ca.issue(PEER_ID), ca, connection_age_ms=30) as service,
            connecting(service.port, expecting(source), on_handshake=handshakes.append) as connector,
            dialled(connector) as (echo, count),
        ):
            stream = Counted(count)
            await stream.advance()
            for number in range(ROTATIONS):
                service.show(ca.issue(PEER_ID))
                source.set(svid_of(ca.issue(OWN_ID)), bundles_of(ca))
                seen = len(handshakes)
                while len(handshakes) == seen:  # the server ends connections at their age; the next call dials
                    assert b"%d" % number == await echo(b"%d" % number, timeout=PATIENCE_S)
                await stream.advance()
            await stream.end()
            assert ROTATIONS <= len({proof.leaf_pem for proof in handshakes})
            assert ROTATIONS <= len(service.clients)

    run_on(loop, scene())


@both_loops
def test_root_rotation_with_overlap_loses_nothing(loop: str) -> None:
    """Old root, both, new leaves, new root alone: the stream that the new root vouches for goes on all along."""

    async def scene() -> None:
        old, new = new_ca(), new_ca()
        source = source_of(old)
        async with (
            serving(old.issue(PEER_ID), old, connection_age_ms=30) as service,
            connecting(service.port, expecting(source)) as connector,
            dialled(connector) as (echo, count),
        ):
            before = Counted(count)
            await before.advance()
            source.set(svid_of(old.issue(OWN_ID)), bundles_of(old, new))
            service.show(old.issue(PEER_ID), old, new)
            await before.advance()
            service.show(new.issue(PEER_ID), old, new)
            source.set(svid_of(new.issue(OWN_ID)), bundles_of(old, new))
            await proved_by(new, connector, echo)
            after = Counted(count)
            await asyncio.gather(before.advance(), after.advance())
            source.set(svid_of(new.issue(OWN_ID)), bundles_of(new))
            async with asyncio.timeout(1.0):
                assert StatusCode.UNAVAILABLE == await before.task
            await after.advance(500)
            await after.end()

    run_on(loop, scene())


async def proved_by(ca: CA, connector: Connector, echo: UnaryCall) -> None:
    """Call until the newest connection was proved by ``ca``."""
    bundles = bundles_of(ca)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await echo(b"", timeout=PATIENCE_S)
            proof = connector.last_proof
            assert proof is not None
            with contextlib.suppress(IdentityRefused):
                bundles.verify(proof.leaf_pem, proof.chain_pem, proof.usage, time.time())
                return


@both_loops
def test_distrust_cuts_within_a_second(loop: str) -> None:
    """When the bundle loses the root that vouched for the peer, the open stream ends, and last_error says why."""

    async def scene() -> None:
        ca, other = new_ca(), new_ca()
        source = source_of(ca)
        counted: list[str] = []
        async with (
            serving(ca.issue(PEER_ID), ca) as service,
            connecting(service.port, expecting(source), on_refusal=counted.append) as connector,
            dialled(connector) as (_, count),
        ):
            stream = Counted(count)
            await stream.advance()
            source.set(svid_of(ca.issue(OWN_ID)), bundles_of(ca, other))
            await stream.advance(700)
            source.set(svid_of(ca.issue(OWN_ID)), bundles_of(other))
            began = time.monotonic()
            assert StatusCode.UNAVAILABLE == await stream.task
            assert time.monotonic() - began < 1.0
            assert connector.last_error is not None
            assert ("untrusted", 0) == (connector.last_error.reason, connector.connections)
            assert {"untrusted"} == set(counted)

    run_on(loop, scene())


@both_loops
def test_expiry_alone_cuts_nothing_for_a_day(loop: str) -> None:
    """A peer's certificate that expires leaves an open stream alone, and ends it a day later."""

    async def scene() -> None:
        ca = new_ca()
        clock = [time.time()]
        async with (
            serving(ca.issue(PEER_ID), ca) as service,
            connecting(service.port, expecting(source_of(ca)), unix_s=lambda: clock[0]) as connector,
            dialled(connector) as (_, count),
        ):
            stream = Counted(count)
            await stream.advance()
            clock[0] += 2 * HOUR_S
            await stream.advance(700)
            clock[0] += 24 * HOUR_S
            assert StatusCode.UNAVAILABLE == await stream.task
            assert connector.last_error is not None
            assert "expired" == connector.last_error.reason

    run_on(loop, scene())


@both_loops
def test_server_killed_ends_the_stream(loop: str) -> None:
    """A server that vanishes ends its streams at once, and the next call dials the next one."""

    async def scene() -> None:
        ca = new_ca()
        service = TlsService(ca.issue(PEER_ID), ca)
        await service.start()
        async with connecting(service.port, expecting(source_of(ca))) as connector, dialled(connector) as (echo, count):
            stream = Counted(count)
            await stream.advance()
            await service.stop()
            assert await stream.task in {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}
            with pytest.raises(aio.AioRpcError):
                await echo(b"", timeout=PATIENCE_S)
            await until(lambda: connector.connections == 0)
            assert connector.last_error is not None
            assert "unreachable" == connector.last_error.reason

    run_on(loop, scene())


class Flooded:
    """A TLS server that waits for the test, then reads or writes a flood."""

    def __init__(self, ca: CA) -> None:
        self._context = tls_context(ca.issue(PEER_ID))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.may_read = threading.Event()
        self.sent = 0
        self.digest = ""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(PATIENCE_S)
        with self._context.wrap_socket(connection, server_side=True) as tls:
            tls.sendall(SETTINGS)
            for block in blocks():
                self.sent += tls.send(block)
            self.may_read.wait(PATIENCE_S)
            received = hashlib.sha256()
            left = FLOOD_BYTES
            while left and (data := tls.recv(1 << 16)):
                received.update(data)
                left -= len(data)
            self.digest = received.hexdigest()

    def stop(self) -> None:
        self.may_read.set()
        self._listener.close()
        self._thread.join(PATIENCE_S)


def blocks() -> Iterator[bytes]:
    for number in range(FLOOD_BYTES >> 16):
        yield DATA_HEAD + (number.to_bytes(8) * 8192)[len(DATA_HEAD) :]


@pytest.mark.parametrize("loop", LOOPS)
def test_floods_are_held_back_and_arrive_whole(loop: str) -> None:
    """Both ways a reader that stops stops the writer, little is held meanwhile, and every byte arrives in order."""
    expected = hashlib.sha256(b"".join(blocks())).hexdigest()

    async def scene() -> None:
        ca = new_ca()
        server = Flooded(ca)
        own = asyncio.get_running_loop()
        expect = ExpectId(SpiffeId.parse(PEER_ID), source_of(ca), require_pq=False)
        try:
            async with connecting(server.port, expect) as connector:
                with socket.socket(socket.AF_UNIX) as inner:
                    inner.setblocking(False)
                    inner.connect(connector.target.removeprefix("unix:"))
                    assert await stands_still(lambda: server.sent) < HELD_BYTES_MAX
                    received = hashlib.sha256()
                    left = FLOOD_BYTES
                    assert SETTINGS == await own.sock_recv(inner, len(SETTINGS))
                    while left:
                        data = await own.sock_recv(inner, 1 << 16)
                        received.update(data)
                        left -= len(data)
                    assert expected == received.hexdigest()
                    up = Upload(inner)
                    assert await stands_still(lambda: up.sent) < HELD_BYTES_MAX
                    server.may_read.set()
                    await up.task
                    await until(lambda: bool(server.digest))
                    assert expected == server.digest
        finally:
            server.stop()

    run_on(loop, scene())


class Upload:
    """Writes the flood in a task."""

    def __init__(self, inner: socket.socket) -> None:
        self.sent = 0
        self._inner = inner
        self.task = asyncio.ensure_future(self._write())

    async def _write(self) -> None:
        for block in blocks():
            await asyncio.get_running_loop().sock_sendall(self._inner, block)
            self.sent += len(block)


async def stands_still(count: Callable[[], int]) -> int:
    """Wait until a counter has begun and then not moved for a while."""
    last, still = -1, 0
    async with asyncio.timeout(PATIENCE_S):
        while still < 40 or not last:
            await asyncio.sleep(0.005)  # tidy: looks whether another thread still moves
            now = count()
            still = still + 1 if now == last else 0
            last = now
    return last


@both_loops
def test_private_socket_is_private_and_goes_away(loop: str, tmp_path: Path) -> None:
    """The socket is 0600 in a fresh directory of 0700; stop removes both, twice if it must, in the midst of calls."""

    async def scene() -> None:
        ca = new_ca()
        async with serving(ca.issue(PEER_ID), ca) as service:
            expect = expecting(source_of(ca))
            connector = Connector(
                host="localhost", port=service.port, interface="", expect=expect,
                directory=tmp_path / "run", unix_s=time.time,
            )  # fmt: skip
            await connector.start()
            path = Path(connector.target.removeprefix("unix:"))
            modes = [stat.S_IMODE(os.stat(each).st_mode) for each in (path, path.parent)]  # noqa: PTH116
            assert [0o600, 0o700] == modes
            async with dialled(connector) as (_, count):
                stream = Counted(count)
                await stream.advance()
                await connector.stop()
                assert StatusCode.UNAVAILABLE == await stream.task
            await connector.stop()
            assert [] == list((tmp_path / "run").iterdir())

    run_on(loop, scene())


@both_loops
def test_socket_path_that_is_too_long(loop: str, tmp_path: Path) -> None:
    """A directory whose path leaves no room for a socket is told, and nothing stays behind."""

    async def scene() -> None:
        directory = tmp_path / ("d" * 100)
        connector = Connector(
            host="::1", port=1, interface="", expect=expecting(FakeSource(None)), directory=directory, unix_s=time.time
        )
        with pytest.raises(AddressUnavailable, match="at most 107 bytes"):
            await connector.start()
        await connector.stop()
        assert [] == list(directory.iterdir())

    run_on(loop, scene())


@both_loops
@pytest.mark.parametrize(
    ("host", "interface", "text"),
    [
        ("no-such-host.invalid", "", "no-such-host.invalid:1"),
        ("x" * 70 + ".invalid", "", "invalid:1"),
        ("127.0.0.1", "no-such-if0", "No such device"),
        ("fe80::1%no-such-if0", "", "no interface with this name"),
        ("fe80::1", "no-such-if0", "no interface with this name"),
    ],
)
def test_unreachable_places_are_told(loop: str, host: str, interface: str, text: str) -> None:
    """A name nobody has, an interface that is not there: unreachable, with what the system says."""

    async def scene() -> str:
        ca = new_ca()
        expect = expecting(source_of(ca))
        async with connecting(1, expect, host=host, interface=interface) as connector, dialled(connector) as (echo, _):
            with pytest.raises(aio.AioRpcError):
                await echo(b"", timeout=PATIENCE_S)
            assert connector.last_error is not None
            assert "unreachable" == connector.last_error.reason
            return connector.last_error.detail

    assert text in run_on(loop, scene())
