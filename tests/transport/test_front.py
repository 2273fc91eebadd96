"""The public socket: who calls, limits, half-close, stale paths, and hostile clients."""

import asyncio
import contextlib
import os
import random
import socket
from pathlib import Path

import pytest

from fakes.control import Lab, run, running, until
from x0d.errors import AddressUnavailable
from x0d.transport import front
from x0d.transport.access import Caller
from x0d.transport.grpc_server import ControlServer
from x0d.v1 import node_pb2, node_pb2_grpc


async def answers(lab: Lab) -> str:
    """Name of the node, asked over a new connection."""
    async with lab.channel() as channel:
        reply = await node_pb2_grpc.NodeServiceStub(channel).GetStatus(node_pb2.GetStatusRequest(), timeout=5)
    return str(reply.node)


def names(lab: Lab) -> list[str]:
    """Names of relayed connections that exist now."""
    return sorted(entry.name for entry in lab.private.iterdir() if entry.name != "grpc.sock")


def test_name_lives_as_long_as_the_connection() -> None:
    """A connection's name says its uid, and is gone when the connection is."""

    async def scene() -> None:
        async with running() as lab:
            async with lab.channel() as channel:
                await node_pb2_grpc.NodeServiceStub(channel).GetStatus(node_pb2.GetStatusRequest())
                assert [f"u{os.geteuid()}-p{os.getpid()}-1"] == names(lab)
            await until(lambda: lab.server.connections == 0)
            assert [] == names(lab)

    run(scene())


def test_caller_is_known_while_the_connection_lives() -> None:
    """A connection's name stands for pid, uid and wanted groups until it ends, and for nobody after."""

    async def scene() -> None:
        async with running() as lab:
            async with lab.channel() as channel:
                await node_pb2_grpc.NodeServiceStub(channel).GetStatus(node_pb2.GetStatusRequest())
                peer = f"unix:{lab.private}/{names(lab)[0]}"
                expected = Caller(os.getpid(), os.geteuid(), frozenset())
                assert expected == lab.server._front.caller_of(peer)
                assert expected == lab.server._front.caller_of(peer.replace("-", "%2D"))
            await until(lambda: lab.server.connections == 0)
            assert lab.server._front.caller_of(peer) is None

    run(scene())


def test_names_that_the_front_has_not_made() -> None:
    """Whoever binds such a name past the front, be it under the daemon's own uid, is nobody."""

    async def scene() -> None:
        async with running() as lab:
            with socket.socket(socket.AF_UNIX) as forged:
                forged.setblocking(False)
                forged.bind(str(lab.private / "u0-p1-1"))
                await asyncio.get_running_loop().sock_connect(forged, str(lab.private / "grpc.sock"))
                for peer in (f"unix:{lab.private}/u0-p1-1", "unix:", "unix:@", "ipv4:127.0.0.1:1", ""):
                    assert lab.server._front.caller_of(peer) is None

    run(scene())


def test_refused_standing(tmp_path: Path) -> None:
    """A caller of no standing is closed at once and counted; nothing of it reaches the private socket."""

    async def scene() -> None:
        path = tmp_path / "s"
        seen: list[Caller] = []

        def refuse(caller: Caller) -> front.Standing:
            seen.append(caller)
            return front.Standing.REFUSED

        closed = front.Front(path, tmp_path / "private", gids=lambda: frozenset({os.getegid()}), standing_of=refuse)
        closed.prepare()
        closed.start()
        reader, writer = await asyncio.open_unix_connection(str(path))
        assert b"" == await reader.read()
        writer.close()
        assert [Caller(os.getpid(), os.geteuid(), frozenset({os.getegid()}))] == seen
        assert (1, 0) == (closed.strangers_total, closed.connections)
        await closed.stop()

    run(scene())


def test_modes() -> None:
    """Anyone may connect to the public socket; only the daemon's uid may enter the private directory."""

    async def scene() -> None:
        async with running() as lab:
            assert 0o666 == (lab.runtime_dir / "x0d.sock").stat().st_mode & 0o777
            assert 0o700 == lab.private.stat().st_mode & 0o777

    run(scene())


def test_stop_leaves_nothing() -> None:
    """After a stop neither socket nor name is left."""

    async def scene() -> None:
        async with running() as lab, lab.channel() as channel:
            await node_pb2_grpc.NodeServiceStub(channel).GetStatus(node_pb2.GetStatusRequest())
            await lab.server.stop(0.0)
            assert ["private"] == [entry.name for entry in lab.runtime_dir.rglob("*")]

    run(scene())


def test_stale_socket_is_replaced() -> None:
    """A socket that nobody listens on is removed, with the names of the earlier life."""

    async def scene() -> None:
        async with running() as lab:
            await lab.server.stop(0.0)
            for path in (lab.runtime_dir / "x0d.sock", lab.private / "grpc.sock", lab.private / "u0-7"):
                with socket.socket(socket.AF_UNIX) as left:
                    left.bind(str(path))
            again = ControlServer(lab.runtime_dir)
            await again.start()
            assert [] == names(lab)
            await again.stop(0.0)

    run(scene())


def test_live_socket_is_not_stolen() -> None:
    """A second server is refused, and the first goes on answering."""

    async def scene() -> None:
        async with running() as lab:
            second = ControlServer(lab.runtime_dir)
            with pytest.raises(AddressUnavailable, match="another process answers"):
                await second.start()
            await second.stop(0.0)
            assert "n1" == await answers(lab)

    run(scene())


def test_file_in_the_way(tmp_path: Path) -> None:
    """A file that is no socket is never removed."""
    path = tmp_path / "x0d.sock"
    path.write_text("mine")
    with pytest.raises(AddressUnavailable, match="not a socket"):
        front.clear_stale(path)
    assert "mine" == path.read_text()


def test_long_path() -> None:
    """A runtime directory too long for a socket is refused in words."""
    with pytest.raises(AddressUnavailable, match=r"at most 107 bytes.*node\.runtime_dir"):
        run(ControlServer(Path("/tmp") / ("d" * 100)).start())  # noqa: S108 - refused before it is made


def test_missing_directory(tmp_path: Path) -> None:
    """A runtime directory that does not exist is refused in words."""
    with pytest.raises(AddressUnavailable, match="No such file"):
        run(ControlServer(tmp_path / "no").start())


def test_garbage_ends_its_connection_only(seed: int) -> None:
    """Random bytes end the connection they came on; others are answered."""

    async def scene() -> None:
        chance = random.Random(seed)
        async with running() as lab:
            for size in (1, 24, 100, 5_000, 200_000):
                reader, writer = await asyncio.open_unix_connection(str(lab.runtime_dir / "x0d.sock"))
                with contextlib.suppress(OSError):
                    writer.write(chance.randbytes(size))
                    writer.write_eof()
                    await reader.read()
                writer.close()
            assert "n1" == await answers(lab)
            await until(lambda: lab.server.connections == 0)

    run(scene())


def test_half_close_ends_both_sides() -> None:
    """A client that shuts its sending side down is released, though it never closes."""

    async def scene() -> None:
        async with running() as lab:
            reader, writer = await asyncio.open_unix_connection(str(lab.runtime_dir / "x0d.sock"))
            await until(lambda: lab.server.connections == 1)
            async with asyncio.timeout(gate_closes_s / 2):
                writer.write_eof()
                await reader.read()
                await until(lambda: lab.server.connections == 0)
            writer.close()

    gate_closes_s = 5.0  # gRPC itself gives up a connection on which no call ever began after so long
    run(scene())


def test_limits_of_others() -> None:
    """A uid that is not admin has a limit of its own, and all such uids leave room for admins."""
    path, ordinary, privileged = Path("/run/x0d/x0d.sock"), front.Standing.ORDINARY, front.Standing.PRIVILEGED
    admin, viewer = Caller(1, 0, frozenset()), Caller(2, 7, frozenset({998}))
    crowded = front.Front(path, path, gids=frozenset, standing_of=lambda _: ordinary)
    crowded._by_uid[7] = front.CONNECTIONS_PER_UID_MAX
    assert [True, False] == [crowded._full(viewer, ordinary), crowded._full(admin, privileged)]
    crowded._by_uid[8] = front.CONNECTIONS_MAX - front.CONNECTIONS_RESERVED - front.CONNECTIONS_PER_UID_MAX
    assert [True, False] == [crowded._full(Caller(3, 9, frozenset()), ordinary), crowded._full(admin, privileged)]
    crowded._by_uid[0] = front.CONNECTIONS_RESERVED
    assert crowded._full(admin, privileged)


def test_connection_limit() -> None:
    """Connections beyond the limit are closed at once and counted; room is made when others leave."""

    async def scene() -> None:
        async with running() as lab:
            path = str(lab.runtime_dir / "x0d.sock")
            held = [await asyncio.open_unix_connection(path) for _ in range(front.CONNECTIONS_MAX)]
            await until(lambda: lab.server.connections == front.CONNECTIONS_MAX)
            reader, writer = await asyncio.open_unix_connection(path)
            assert b"" == await reader.read()
            writer.close()
            assert 1 == lab.server.connections_refused
            for _, other in held:
                other.close()
            await until(lambda: lab.server.connections == 0)
            assert "n1" == await answers(lab)

    run(scene())


def test_relay_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that reads nothing stops the sender, and is dropped once it was stuck too long."""
    monkeypatch.setattr(front, "STUCK_S_MAX", 0.2)

    async def scene() -> int:
        sent = 0
        client, client_end = socket.socketpair()
        grpc_end, backend = socket.socketpair()
        for end in (client, client_end, grpc_end, backend):
            end.setblocking(False)
        relay = asyncio.create_task(front._relay(client_end, backend))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                while True:
                    await asyncio.get_running_loop().sock_sendall(grpc_end, bytes(65_536))
                    sent += 65_536
        with pytest.raises(TimeoutError):
            await relay
        for end in (client, client_end, grpc_end, backend):
            end.close()
        return sent

    assert run(scene()) < 2 << 20
