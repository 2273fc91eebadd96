"""What a stranger can take up at the open join port: little, and not for long; honest nodes join all the while."""

import asyncio
import contextlib
import gc
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from grpc import aio
from OpenSSL import SSL

from fakes import raw_http2
from transport.issuer_world import N2, World, issuer_world, play, stranger, until
from x0d.transport import join_front
from x0d.transport.join_front import CONNECTIONS_MAX, CONNECTIONS_PER_SOURCE_MAX, place_of
from x0d.v1 import peer_pb2, peer_pb2_grpc

JOIN = "/x0d.v1.JoinService/Join"
ATTACK_S = 3.0
GROWTH_BYTES_MAX = 30 << 20
ATTACKERS = ("127.0.0.2", "127.0.0.3")
HEADERS, CONTINUATION = 1, 9
END_HEADERS = 4


def counted(world: World) -> dict[str, int]:
    """Refusals by reason."""
    return {
        sample.labels["reason"]: int(sample.value)
        for family in world.counted.registry.collect()
        for sample in family.samples
        if sample.name == "x0d_tls_handshake_failures_total" and sample.value
    }


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One of HTTP/2."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def bomb() -> bytes:
    """15 KB for gRPC's 40 MB: one field of a long name enters the table, and 11,000 bytes name it again each."""
    name = b"\x7f\xa1\x1e" + b"a" * 4_000  # RFC 7541 section 5.1: 127 + 3,873
    return frame(HEADERS, END_HEADERS, 1, b"\x40" + name + b"\0" + b"\xbe" * 11_000)


def endless() -> bytes:
    """A block that never ends, of fields that gRPC would keep."""
    field = b"\0\x3c" + b"a" * 60 + b"\x64" + b"b" * 100
    return frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, field * 90) * 8


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    """TCP from one of this host's loopback addresses."""
    return socket.create_connection(("127.0.0.1", port), raw_http2.TIMEOUT_S, (source, 0))


def opening() -> bytes:
    """What an HTTP/2 client says first."""
    return raw_http2.PREFACE + frame(raw_http2.SETTINGS, 0, 0, b"")


@contextlib.contextmanager
def under_attack(port: int, payload: bytes) -> Iterator[None]:
    """Meanwhile eight connections of two addresses send it, each made anew whenever it is cut."""
    is_over = threading.Event()

    def go_on(source: str) -> None:
        while not is_over.wait(0.02):
            with contextlib.suppress(OSError), stranger().wrap_socket(connect(port, source)) as connection:
                connection.sendall(opening() + payload)
                while connection.recv(4096):
                    pass

    attackers = [threading.Thread(target=go_on, args=(source,)) for source in ATTACKERS * CONNECTIONS_PER_SOURCE_MAX]
    for each in attackers:
        each.start()
    try:
        yield
    finally:
        is_over.set()


def rss_bytes() -> int:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def is_cut(connection: socket.socket) -> bool:
    """Whether the other end closes it in time; what it says first is passed over."""

    def drain() -> bool:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while connection.recv(4096):
                pass
        return True

    try:
        return await asyncio.to_thread(drain)
    except TimeoutError:
        return False


def hello() -> bytes:
    """A client's first flight."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        stranger().wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


def group_of(port: int) -> str | None:
    """Key exchange that a modern client and the port agree on."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_alpn_protos([b"h2"])
    with connect(port) as plain:
        plain.settimeout(None)
        connection = SSL.Connection(context, plain)
        connection.set_connect_state()
        connection.do_handshake()
        return connection.get_group_name()


@pytest.mark.parametrize("payload", [bomb(), endless()], ids=["names-from-the-table", "a-block-without-end"])
def test_headers_take_no_memory(tmp_path: Path, payload: bytes) -> None:
    """Header floods from several addresses are cut before gRPC: memory stays, and a node joins meanwhile."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            first, token, _ = await world.token("n3"), await world.token(), await world.token("n4")
            await world.join(first)  # what the first join loads is not the attack's
            await until(lambda: world.listener.connections == 0)
            gc.collect()
            before = peak = rss_bytes()
            with under_attack(token.port, payload):
                end_s = time.monotonic() + ATTACK_S
                joining = asyncio.get_running_loop().create_task(world.join(token))
                while time.monotonic() < end_s:
                    peak = max(peak, rss_bytes())
                    await asyncio.sleep(0.02)  # tidy: memory is watched for so long
                await joining
            assert peak - before < GROWTH_BYTES_MAX, f"{(peak - before) >> 20} MB"
            assert counted(world)["policy"] >= len(ATTACKERS) * CONNECTIONS_PER_SOURCE_MAX

    play(scenario)


# ---- connections that end ----


def test_who_takes_its_time_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that shakes hands and then sends a byte now and then is cut when its connection's life is over."""
    monkeypatch.setattr(join_front, "LIFE_S_MAX", 1.0)

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()

            def drip() -> None:
                with raw_http2.tls(token.port, stranger()) as connection, contextlib.suppress(OSError):
                    connection.sendall(opening())
                    while True:
                        connection.sendall(frame(0x20, 0, 0, b""))  # of no known kind: passed over
                        time.sleep(0.1)  # tidy: a slow caller's pace

            await asyncio.to_thread(drip)
            assert {"timeout": 1} == counted(world)
            await world.join(token)

    play(scenario)


def test_half_open_connections_are_cut(tmp_path: Path) -> None:
    """Silence, half a record, and half a handshake end at the handshake's timeout, and are told apart from others."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            sockets = [connect(token.port) for _ in range(3)]
            for each, said in zip(sockets, (b"", b"\x16\x03\x01\x02", hello()[:100]), strict=True):
                each.sendall(said)
            assert [True] * 3 == await asyncio.gather(*map(is_cut, sockets))
            for each in sockets:
                each.close()
            await until(lambda: counted(world) == {"timeout": 3})
            await world.join(token)

    play(scenario)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        raw_http2.PREFACE,
        bytes(5000),
        b"\xff" * 60_000,
        b"\x16\x03\x01\xff\xff" + bytes(66_000),
    ],
    ids=["http", "h2c", "zeros", "ones", "long-record"],
)
def test_garbage_ends_at_once(tmp_path: Path, garbage: bytes) -> None:
    """What is no TLS is refused as soon as that can be seen, and counted."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            with connect(token.port) as connection:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(garbage)
                assert await is_cut(connection)
            await until(lambda: counted(world) == {"handshake": 1})
            await world.join(token)

    play(scenario)


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        (stranger(ssl.TLSVersion.TLSv1_2), "handshake"),
        (stranger(protocols=("http/1.1",)), "alpn"),
        (stranger(protocols=()), "alpn"),
    ],
    ids=["tls-1.2", "http-1.1", "no-protocol"],
)
def test_other_handshakes_are_refused(tmp_path: Path, context: ssl.SSLContext, reason: str) -> None:
    """Older TLS and other protocols than h2 get no connection to gRPC."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()

            def call() -> bool:
                with contextlib.suppress(ssl.SSLError), raw_http2.tls(token.port, context) as connection:
                    return raw_http2.ask(connection, JOIN)
                return False

            assert not await asyncio.to_thread(call)
            await until(lambda: counted(world) == {reason: 1})
            assert [] == world.auditor.records

    play(scenario)


def test_nothing_is_resumed(tmp_path: Path) -> None:
    """Each connection shakes hands anew, with a post-quantum key exchange where the caller knows one."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()

            def call(session: ssl.SSLSession | None) -> tuple[bool | None, ssl.SSLSession | None]:
                context.minimum_version = ssl.TLSVersion.TLSv1_3
                with raw_http2.tls(token.port, context, session) as connection:
                    connection.sendall(opening())
                    connection.recv(100)  # whatever tickets there are have come with it
                    return connection.session_reused, connection.session

            context = stranger()
            _, session = await asyncio.to_thread(call, None)
            assert (False, True) == ((await asyncio.to_thread(call, session))[0], session is not None)
            assert "X25519MLKEM768" == await asyncio.to_thread(group_of, token.port)

    play(scenario)


def test_a_caller_sends_so_much(tmp_path: Path) -> None:
    """Bytes are counted on the wire for the whole connection, whatever they are."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()

            def flood() -> None:
                with raw_http2.tls(token.port, stranger()) as connection, contextlib.suppress(OSError):
                    connection.sendall(opening())
                    for _ in range(100):
                        connection.sendall(frame(0x20, 0, 0, bytes(1000)))
                    while connection.recv(4096):
                        pass

            await asyncio.to_thread(flood)
            assert {"policy": 1} == counted(world)
            await world.join(token)

    play(scenario)


# ---- how many ----


def test_a_source_has_few_connections(tmp_path: Path) -> None:
    """The fifth of an address is closed at once; another address has its own."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            held = [connect(token.port, ATTACKERS[0]) for _ in range(CONNECTIONS_PER_SOURCE_MAX + 1)]
            assert await is_cut(held[-1])
            assert {"policy": 1} == counted(world)
            await world.join(token)
            for each in held:
                each.close()

    play(scenario)


def test_the_port_makes_room(tmp_path: Path) -> None:
    """With all connections taken a new one is closed, until one is older than any join: that one goes instead."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            held = [connect(token.port, f"127.0.0.{2 + number // 4}") for number in range(CONNECTIONS_MAX)]
            await until(lambda: world.listener.connections == CONNECTIONS_MAX)
            with connect(token.port) as late:
                assert await is_cut(late)
            world.clock.advance(join_front.ROOM_S)
            await world.join(token)
            assert await is_cut(held[0])
            for each in held:
                each.close()

    play(scenario)


def test_connecting_is_slow(tmp_path: Path) -> None:
    """One address connects so often at once, then once a second: handshakes are work, too."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            for _ in range(join_front.SOURCE_BURST):
                with connect(token.port, ATTACKERS[0]) as early:
                    early.shutdown(socket.SHUT_WR)
                    assert await is_cut(early)
            await until(lambda: counted(world) == {"handshake": join_front.SOURCE_BURST})
            with connect(token.port, ATTACKERS[0]) as late:
                assert await is_cut(late)
            await until(lambda: counted(world).get("policy") == 1)
            await world.join(token)

    play(scenario)


# ---- the private side ----


def test_the_private_socket_is_for_the_front(tmp_path: Path) -> None:
    """Whoever dials it without the front, as a process of the same user could, is refused and counted."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            await world.token()
            private = world.runtime_dir / "join"
            assert 0o700 == private.stat().st_mode & 0o777
            request = peer_pb2.JoinRequest(secret=bytes(16), spiffe_id=str(N2))
            async with aio.insecure_channel(f"unix:{private}/grpc.sock") as channel:
                with pytest.raises(aio.AioRpcError, match="for its front alone"):
                    await peer_pb2_grpc.JoinServiceStub(channel).Join(request)
            assert {"foreign_process": 1} == counted(world)

    play(scenario)


def test_what_an_earlier_life_left_is_removed(tmp_path: Path) -> None:
    """Sockets of a killed daemon are in nobody's way, and a closed port leaves none."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            private = world.runtime_dir / "join"
            private.mkdir(mode=0o755)
            with socket.socket(socket.AF_UNIX) as left, socket.socket(socket.AF_UNIX) as backend:
                left.bind(str(private / "c1"))
                backend.bind(str(private / "grpc.sock"))
            await world.join(await world.token())
            await until(lambda: not world.listener.is_open)
            assert ([], 0o700) == (list(private.iterdir()), private.stat().st_mode & 0o777)

    play(scenario)


def test_a_closed_port_has_no_connections(tmp_path: Path) -> None:
    """Closing cuts whoever only holds on, and the port opens again, twice over if need be."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            with connect(token.port) as silent:
                await until(lambda: world.listener.connections == 1)
                async with asyncio.timeout(1):  # half of the handshake's
                    await world.listener.close(0)
                    await world.listener.close(0)
                assert await is_cut(silent)
            assert (0, 0) == (world.listener.connections, world.listener.bound_port)
            await until(lambda: world.listener.is_open)
            await world.join(replace(token, endpoint=f"127.0.0.1:{world.listener.bound_port}"))

    play(scenario)


@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("192.0.2.1", "192.0.2.1:7"),
        ("::ffff:192.0.2.1", "192.0.2.1:7"),
        ("2001:db8::1", "[2001:db8::1]:7"),
        ("fe80::1%eth0", "[fe80::1%eth0]:7"),
    ],
)
def test_places_are_as_people_write_them(host: str, place: str) -> None:
    """Log and audit name a caller's address so that it can be copied."""
    assert place == place_of(host, 7)
