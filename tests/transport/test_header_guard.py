"""What header blocks cost, counted on bytes: what gRPC sends passes, floods do not, however the bytes are cut."""

import asyncio
import contextlib
import random
from functools import cache

import grpc
import pytest
from grpc import aio

from fakes.control import run
from fakes.header_floods import (
    CONTINUATION,
    END_HEADERS,
    HEADERS,
    PADDED,
    PRIORITY,
    PUSH_PROMISE,
    SETTINGS,
    floods,
    frame,
    integer,
    literal,
    request_fields,
    text,
)
from x0d.errors import InvalidInput
from x0d.transport.header_guard import BLOCK_COST_MAX, FIELD_COST, PREFACE, HeaderGuard

FLOODS = floods(request_fields())
BEGIN = PREFACE + frame(SETTINGS, 0, b"", 0)
CALL = frame(HEADERS, END_HEADERS, request_fields())
TABLE_BYTES = 4096
STATIC_NAMES = {2: b":method", 17: b"accept-language", 20: b"access-control-allow-origin", 58: b"user-agent"}
"""Some of RFC 7541 appendix A."""


def refused_at(data: bytes, cuts: list[int], *, is_server_side: bool = True) -> tuple[int, int] | None:
    """Between which bytes the guard refuses, fed with ``data`` cut there; None: it takes all."""
    guard, begin = HeaderGuard(is_server_side=is_server_side), 0
    for end in [*cuts, len(data)]:
        try:
            guard.feed(data[begin:end])
        except InvalidInput:
            return begin, end
        begin = end
    return None


def bytewise(data: bytes, *, is_server_side: bool = True) -> int | None:
    """The byte at which the guard refuses."""
    found = refused_at(data, list(range(1, len(data))), is_server_side=is_server_side)
    return None if found is None else found[0]


def check_splits(chance: random.Random, data: bytes, *, is_server_side: bool = True) -> int | None:
    """Assert that each of some splits is refused at the byte of the split into bytes, and give that byte."""
    expected = bytewise(data, is_server_side=is_server_side)
    for _ in range(10):
        cuts = sorted(chance.choices(range(len(data) + 1), k=chance.randint(0, 30)))
        actual = refused_at(data, cuts, is_server_side=is_server_side)
        assert (expected is None) == (actual is None)
        assert actual is None or expected is None or actual[0] <= expected < actual[1]
    return expected


@cache
def honest() -> tuple[bytes, bytes]:
    """What gRPC's client and its server say to each other, in one connection."""

    async def echo(request: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        if not request:
            await context.abort(grpc.StatusCode.NOT_FOUND, "a long explanation: " + "café " * 300)
        context.set_trailing_metadata((("x-detail", "v" * 500), ("trace-bin", bytes(range(200)))))
        return request

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: bytearray) -> None:
        while data := await reader.read(1 << 16):
            said += data
            writer.write(data)
            await writer.drain()
        writer.close()

    async def scene() -> tuple[bytes, bytes]:
        server = aio.server()
        handler = grpc.method_handlers_generic_handler("t.S", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        sides = bytearray(), bytearray()
        ended = asyncio.Event()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reader_up, writer_up = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pump(reader, writer_up, sides[0]), pump(reader_up, writer, sides[1]))
            ended.set()

        front = await asyncio.start_server(relay, "127.0.0.1", 0)
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with aio.insecure_channel(f"127.0.0.1:{front.sockets[0].getsockname()[1]}", options=options) as channel:
            call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/t.S/Echo")
            for number in range(60):
                many = tuple((f"x-name-{number}-{index}", "v" * number) for index in range(number % 20))
                metadata: list[tuple[str, str | bytes]] = [("x-id", str(number)), ("trace-bin", bytes(60)), *many]
                await call(bytes(number + 1), metadata=metadata, timeout=10)
                with contextlib.suppress(aio.AioRpcError):
                    await call(b"", timeout=10)
            await call(bytes(200_000), timeout=10)
        await ended.wait()
        front.close()
        await server.stop(None)
        return bytes(sides[0]), bytes(sides[1])

    return run(scene())


@pytest.mark.parametrize("is_server_side", [True, False])
def test_what_grpc_says_passes(is_server_side: bool, seed: int) -> None:
    """Calls with metadata, errors and long messages pass in both directions, however their bytes are cut."""
    data = honest()[0 if is_server_side else 1]
    assert len(data) > 200_000
    assert check_splits(random.Random(seed), data, is_server_side=is_server_side) is None


@pytest.mark.parametrize("is_server_side", [True, False])
def test_what_grpc_says_costs_little(is_server_side: bool) -> None:
    """Blocks with twenty fields of metadata and with long errors take less than a fifth of what a block may cost."""
    data, guard, costs = honest()[0 if is_server_side else 1], HeaderGuard(is_server_side=is_server_side), []
    for begin in range(0, len(data), 10):
        guard.feed(data[begin : begin + 10])
        costs.append(guard._cost)
    assert 0 < max(costs) < BLOCK_COST_MAX / 5


@pytest.mark.parametrize("shape", FLOODS)
@pytest.mark.parametrize("is_server_side", [True, False])
def test_floods_are_refused(shape: str, is_server_side: bool, seed: int) -> None:
    """Each shape of flood is refused at the same byte however it is cut, also after an honest call."""
    begin = (BEGIN if is_server_side else BEGIN[len(PREFACE) :]) + CALL
    refused = check_splits(random.Random(seed), begin + FLOODS[shape], is_server_side=is_server_side)
    assert refused is not None
    assert refused >= len(begin)


@pytest.mark.parametrize(
    "data",
    [
        frame(HEADERS, END_HEADERS | PADDED, b"\x82" + request_fields()),
        frame(HEADERS, END_HEADERS | PRIORITY, b"\x82" * 5 + request_fields()),
        frame(HEADERS, 0, request_fields()) + frame(CONTINUATION, END_HEADERS | PRIORITY, b"\x82" * 5),
        frame(PUSH_PROMISE, END_HEADERS, bytes(4) + request_fields()),
        frame(CONTINUATION, END_HEADERS, request_fields()),
        frame(HEADERS, 0, request_fields()) + frame(CONTINUATION, END_HEADERS, b"", 3),
        frame(HEADERS, 0, request_fields()) + frame(0, 0, b""),
        frame(HEADERS, 0, request_fields()) + frame(HEADERS, END_HEADERS, request_fields()),
        frame(HEADERS, END_HEADERS, request_fields() + b"\0\x05abc"),
        frame(HEADERS, END_HEADERS, request_fields() + b"\xff"),
        frame(HEADERS, END_HEADERS, b"\xff\x80\x80\x80\x80\x01"),
    ],
)
def test_what_grpc_might_read_differently(data: bytes, seed: int) -> None:
    """Padding, priority, pushes, interrupted blocks, cut fields and endless integers are refused."""
    assert check_splits(random.Random(seed), BEGIN + data) is not None


def test_other_openings() -> None:
    """A client that does not begin with HTTP/2's preface is refused at the first byte that differs."""
    assert bytewise(b"GET / HTTP/1.1\r\n\r\n") == 0
    assert bytewise(PREFACE.replace(b"SM", b"SN")) == PREFACE.index(b"M\r")
    assert bytewise(PREFACE[:10]) is None


def test_continued_blocks_pass(seed: int) -> None:
    """An honest block in a few frames passes, and what follows it is counted anew."""
    fields = request_fields()
    block = frame(HEADERS, 0, fields[:7]) + frame(CONTINUATION, 0, fields[7:9]) + frame(CONTINUATION, 4, fields[9:])
    assert check_splits(random.Random(seed), BEGIN + (block + frame(0, 0, b"\x01" * 300)) * 50) is None


def test_garbage_is_taken_or_refused(seed: int) -> None:
    """Any bytes pass or raise InvalidInput, at the same byte for each split: noise, and honest bytes with errors."""
    chance = random.Random(seed)
    for number in range(60):
        if number % 3 == 0:
            data = chance.randbytes(chance.randint(0, 400))
        elif number % 3 == 1:
            kinds = [HEADERS, HEADERS, CONTINUATION, 0, 17]
            frames = [frame(chance.choice(kinds), chance.choice((0, 4, 5)), chance.randbytes(30)) for _ in range(20)]
            data = BEGIN + b"".join(frames)
        else:
            wrong = bytearray(honest()[0][:3000])
            for _ in range(chance.randint(1, 5)):
                wrong[chance.randrange(len(wrong))] = chance.randrange(256)
            data = bytes(wrong)
        check_splits(chance, data)
        check_splits(chance, data, is_server_side=False)


def test_the_count_is_never_too_low(seed: int) -> None:
    """Against a model with a real dynamic table: what passes costs at most what was counted, names by reference too."""
    chance = random.Random(seed)
    for _ in range(200):
        guard = HeaderGuard(is_server_side=False)
        table: list[bytes] = []
        with contextlib.suppress(InvalidInput):
            for _ in range(5):
                block, cost = b"", 0
                for _ in range(chance.randint(1, 40)):
                    field, taken = random_field(chance, table)
                    block, cost = block + field, cost + taken
                guard.feed(frame(HEADERS, END_HEADERS, block))
                assert cost <= guard._cost <= BLOCK_COST_MAX


def random_field(chance: random.Random, table: list[bytes]) -> tuple[bytes, int]:
    """Give a field and what it costs; ``table`` has the names of the dynamic table, the newest first."""
    names = {**STATIC_NAMES, **{62 + place: name for place, name in enumerate(table)}}
    index = chance.choice(list(names))
    value = b"v" * chance.randint(0, 300)
    form = chance.randrange(4)
    if form == 0:
        return integer(index, 7, 0x80), FIELD_COST + len(names[index])
    if form == 1:
        return integer(index, 4) + text(value), FIELD_COST + len(names[index]) + len(value)
    name = names[index] if form == 2 else b"n" * chance.randint(1, 2000)
    field = integer(index, 6, 0x40) + text(value) if form == 2 else literal(name, value, is_kept=True)
    table.insert(0, name)
    while sum(map(len, table)) > TABLE_BYTES:
        table.pop()
    return field, FIELD_COST + len(name) + len(value)


def test_huffman_is_counted_at_its_longest() -> None:
    """A name in Huffman's code counts as long as it can become, where it is sent and where it is referred to."""
    name = b"a" * 800
    code = int("00011" * len(name), 2).to_bytes(len(name) * 5 // 8)  # RFC 7541 appendix B: five bits for an "a"
    guard = HeaderGuard(is_server_side=False)
    block = b"\x40" + integer(len(code), 7, 0x80) + code + text(b"") + b"\xbe" * 3
    guard.feed(frame(HEADERS, END_HEADERS, block))
    assert 4 * (FIELD_COST + len(name)) <= guard._cost <= 4 * (FIELD_COST + len(name) + 1)


def test_little_is_held() -> None:
    """Of long frames, long fields and long silence amid them nothing is held but one field."""
    guard = HeaderGuard(is_server_side=True)
    guard.feed(BEGIN + b"\xff\xff\xff" + bytes(6) + bytes((1 << 24) - 1))
    assert 0 == len(guard._field) + len(guard._head)
    guard.feed(frame(HEADERS, END_HEADERS, literal(b"a", b"v" * 16_000))[:-1])
    assert len(guard._field) < 16_384
