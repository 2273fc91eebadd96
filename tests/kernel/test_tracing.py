"""What the tracepoints count of real traffic, and in which namespace."""

import asyncio
import errno
import itertools
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from socket import inet_aton

import pytest

from kernel.trace_world import CLOSED_PORT, Pair, new_pair, tracer, until
from x0d.ports import TraceSample

pytestmark = pytest.mark.kernel

DATAGRAMS = 20
SYN, ACK = 2, 16


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two joined namespaces of the test's own."""
    with new_pair() as made:
        yield made


@pytest.mark.parametrize("version", [4, 6])
def test_drops_are_counted_by_reason_in_their_namespace(pair: Pair, version: int) -> None:
    """20 datagrams to a closed port are 20 times no_socket where the port is closed, and nothing elsewhere."""

    async def main() -> None:
        async with tracer(("drops",), pair.one) as here, tracer(("drops",), pair.other) as there:
            with pair.open_socket(pair.one, version, socket.SOCK_DGRAM) as sender:
                for _ in range(DATAGRAMS):
                    sender.sendto(b"x", (pair.addresses(version)[1], CLOSED_PORT))
            sample = await until(there, lambda seen: seen.drops.get("no_socket", 0) >= DATAGRAMS)
            assert DATAGRAMS == sample.drops.get("no_socket")
            assert 0 == (await here.read()).drops.get("no_socket", 0)

    asyncio.run(main())


@pytest.mark.parametrize("version", [4, 6])
def test_full_socket_is_counted_in_its_namespace(pair: Pair, version: int) -> None:
    """Datagrams that a socket has no room for: their device is forgotten by then, and they count all the same."""

    async def main() -> None:
        async with tracer(("drops",), pair.one) as here, tracer(("drops",), pair.other) as there:
            with (
                pair.open_socket(pair.other, version, socket.SOCK_DGRAM) as receiver,
                pair.open_socket(pair.one, version, socket.SOCK_DGRAM) as sender,
            ):
                receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                receiver.bind((pair.addresses(version)[1], 0))
                sender.connect(receiver.getsockname()[:2])
                for _ in range(DATAGRAMS):
                    sender.send(bytes(1000))
                receiver.setblocking(False)
                received = 0
                with suppress(BlockingIOError):
                    while receiver.recv(1000):
                        received += 1
            assert 0 < received < DATAGRAMS
            sample = await until(there, lambda seen: received + seen.drops.get("socket_rcvbuff", 0) >= DATAGRAMS)
            assert DATAGRAMS - received == sample.drops.get("socket_rcvbuff")
            assert 0 == (await here.read()).drops.get("socket_rcvbuff", 0)

    asyncio.run(main())


def test_drops_inside_tcp_are_counted_in_their_namespace(pair: Pair) -> None:
    """TCP takes a segment's device away before it looks at it: those outside the window count all the same."""

    async def main() -> None:
        async with tracer(("drops",), pair.one) as here, tracer(("drops",), pair.other) as there:
            with (
                pair.listen(4) as listener,
                pair.open_socket(pair.one, 4, socket.SOCK_STREAM) as client,
                pair.one.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)) as raw,
            ):
                client.connect(listener.getsockname())
                (mine, port), (peer, peer_port) = client.getsockname(), client.getpeername()
                segment = _segment(inet_aton(mine), inet_aton(peer), (port, peer_port), ACK)
                for _ in range(DATAGRAMS):
                    raw.sendto(segment, (peer, 0))
                sample = await until(there, lambda seen: _tcp_drops(seen) >= DATAGRAMS)
            assert DATAGRAMS == _tcp_drops(sample)
            assert 0 == _tcp_drops(await here.read())

    asyncio.run(main())


def _tcp_drops(sample: TraceSample) -> int:
    return sum(count for reason, count in sample.drops.items() if reason.startswith("tcp_"))


def test_tracer_of_all_namespaces_counts_each(pair: Pair) -> None:
    """Without a namespace of its own a tracer counts every namespace's drops."""

    async def main() -> None:
        async with tracer(("drops",), None) as everywhere:
            with pair.open_socket(pair.one, 4, socket.SOCK_DGRAM) as sender:
                for _ in range(DATAGRAMS):
                    sender.sendto(b"x", (pair.addresses(4)[1], CLOSED_PORT))
            sample = await until(everywhere, lambda seen: seen.drops.get("no_socket", 0) >= DATAGRAMS)
            assert sample.drops["no_socket"] >= DATAGRAMS

    asyncio.run(main())


@pytest.mark.parametrize("version", [4, 6])
def test_resets_are_counted_at_both_ends(pair: Pair, version: int) -> None:
    """A connection to a closed port: one reset sent there, though no socket sent it, and one received here."""

    async def main() -> None:
        async with tracer(("tcp",), pair.one) as here, tracer(("tcp",), pair.other) as there:
            with pair.open_socket(pair.one, version, socket.SOCK_STREAM) as client:
                refusal = client.connect_ex((pair.addresses(version)[1], CLOSED_PORT))
                assert errno.ECONNREFUSED == refusal
            sent, received = await there.read(), await here.read()
            prefix = pair.prefix(version)
            assert ({prefix: 1}, {}) == (sent.resets_sent, sent.resets_received)
            assert ({}, {prefix: 1}) == (received.resets_sent, received.resets_received)

    asyncio.run(main())


def test_reset_of_a_socket_is_counted(pair: Pair) -> None:
    """A connection that is torn down by its owner: the reset counts under the socket's peer."""

    async def main() -> None:
        async with tracer(("tcp",), pair.one) as here:
            with pair.listen(6) as listener:
                client = pair.open_socket(pair.one, 6, socket.SOCK_STREAM)
                client.connect(listener.getsockname()[:2])
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.close()
            assert {pair.prefix(6): 1} == (await here.read()).resets_sent

    asyncio.run(main())


def test_peers_past_the_table_are_counted_together(pair: Pair) -> None:
    """1,100 peers, each with two packets that are answered by a reset: 1,024 have a row, the others share one."""
    peers, rows, each = 1100, 1024, 2
    pair.other.ip("route add default dev vb")

    async def main() -> None:
        async with tracer(("tcp",), pair.other) as there:
            with pair.one.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)) as raw:
                for number in list(range(peers)) * each:
                    source = bytes((10, 100 + number // 256, number % 256, 1))
                    raw.sendto(
                        _segment(source, inet_aton(pair.addresses(4)[1]), (40_000, CLOSED_PORT), SYN),
                        (pair.addresses(4)[1], 0),
                    )
            sample = await until(there, lambda seen: sum(seen.resets_sent.values()) >= peers * each)
            sent = dict(sample.resets_sent)
            assert (peers - rows) * each == sent.pop("other")
            assert (rows, {each}) == (len(sent), set(sent.values()))

    asyncio.run(main())


def _segment(source: bytes, destination: bytes, ports: tuple[int, int], flags: int) -> bytes:
    """An empty TCP segment with sequence number 1; the kernel fills in the IP header's rest."""
    segment = struct.pack("!HHIIBBHHH", *ports, 1, 0, 5 << 4, flags, 1024, 0, 0)
    pseudo = source + destination + struct.pack("!HH", socket.IPPROTO_TCP, len(segment)) + segment
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    segment = segment[:16] + struct.pack("!H", checksum) + segment[18:]
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0, 64, socket.IPPROTO_TCP, 0)
    return header + source + destination + segment


@pytest.mark.parametrize("version", [4, 6])
def test_retransmits_are_counted_by_peer(pair: Pair, version: int) -> None:
    """Segments of a connection that lead nowhere are sent again, and count under the peer's prefix."""

    async def main() -> None:
        async with tracer(("tcp",), pair.one) as here, tracer(("tcp", "drops"), pair.other) as there:
            with pair.listen(version) as listener, pair.open_socket(pair.one, version, socket.SOCK_STREAM) as client:
                client.connect(listener.getsockname()[:2])
                assert {} == (await here.read()).retransmits
                pair.lose(version)
                client.send(b"x")
                sample = await until(here, lambda seen: sum(seen.retransmits.values()) >= 2)
            assert {pair.prefix(version)} == set(sample.retransmits)
            assert sample.retransmits[pair.prefix(version)] >= 2
            other = await there.read()
            assert {} == other.retransmits
            assert other.drops.get("otherhost", 0) >= 2

    asyncio.run(main())


@pytest.mark.parametrize("version", [4, 6])
def test_transitions_of_one_connection(pair: Pair, version: int) -> None:
    """A client that connects and closes goes through each state once; the server's are in its own namespace."""

    async def main() -> None:
        async with tracer(("sockets",), pair.one) as here, tracer(("sockets",), pair.other) as there:
            with pair.listen(version) as listener:
                client = pair.open_socket(pair.one, version, socket.SOCK_STREAM)
                client.connect(listener.getsockname()[:2])
                server, _address = listener.accept()
                client.shutdown(socket.SHUT_WR)
                assert b"" == server.recv(1)
                server.close()
                assert b"" == client.recv(1)
                client.close()
            family = f"ipv{version}"
            path = ("close", "syn_sent", "established", "fin_wait1", "fin_wait2", "close")
            wanted = {(family, before, after): 1 for before, after in itertools.pairwise(path)}
            assert wanted == (await until(here, lambda seen: len(seen.socket_states) >= len(wanted))).socket_states
            states = (await there.read()).socket_states
            assert 1 == states[family, "close", "listen"]
            assert 1 == states[family, "established", "close_wait"]
            assert (family, "close", "syn_sent") not in states

    asyncio.run(main())
