"""Handshakes that must not count: no TLS, an older one, a resumed one, a classical one, one that never ends."""

import asyncio
import contextlib
import random
import ssl
import time
from typing import Any

import pytest
from grpc import StatusCode

from fakes import raw_http2
from fakes.authority import Issued
from fakes.control import run, until
from fakes.tls_lab import OPERATOR, STATUS, TlsLab, ask, ask_as, tls_port


def operator(lab: TlsLab, ttl_s: float = 3_600.0) -> Issued:
    """A genuine leaf of an operator's."""
    return lab.ca.issue(OPERATOR, ttl_s=ttl_s)


def test_plaintext() -> None:
    """A request without TLS is not answered, and reaches nothing."""

    async def scene() -> None:
        async with tls_port(handshake_timeout_ms=500) as lab:

            def call() -> bool:
                with raw_http2.tcp(lab.server.bound_port) as connection:
                    return raw_http2.ask(connection, STATUS)

            assert not await asyncio.to_thread(call)
            assert [] == lab.reached.calls
            await until(lambda: lab.failures("handshake") == 1)

    run(scene())


def test_tls_1_3_is_answered() -> None:
    """The same bytes over TLS 1.3 reach the handler: what is refused below is refused for its TLS."""

    async def scene() -> None:
        async with tls_port() as lab:
            context = raw_http2.context_of(lab.ca, operator(lab))

            def call() -> bool:
                with raw_http2.tls(lab.server.bound_port, context) as connection:
                    return raw_http2.ask(connection, STATUS)

            assert await asyncio.to_thread(call)
            assert [(STATUS, OPERATOR)] == lab.reached.calls
            labels = {"side": "server", "group": "X25519", "tls_version": "TLSv1.3", "pq": "false"}
            assert 1.0 == lab.counted.registry.get_sample_value("x0d_tls_handshakes_total", labels)

    run(scene())


def test_tls_1_2() -> None:
    """A genuine SVID over TLS 1.2 reaches nothing."""

    async def scene() -> None:
        async with tls_port() as lab:
            context = raw_http2.context_of(lab.ca, operator(lab), ssl.TLSVersion.TLSv1_2)

            def call() -> bool:
                with raw_http2.tls(lab.server.bound_port, context) as connection:
                    assert "TLSv1.2" == connection.version()
                    return raw_http2.ask(connection, STATUS)

            await asyncio.to_thread(call)
            assert [] == lab.reached.calls
            assert {"tls_version": 1} == lab.failures_by_reason()

    run(scene())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2], ids=["1.3", "1.2"])
@pytest.mark.parametrize("ttl_s", [3_600.0, 2.0], ids=["valid", "expired"])
def test_resumed(version: ssl.TLSVersion, ttl_s: float) -> None:
    """A ticket of an earlier connection opens nothing, whether the SVID behind it is still good or has expired."""

    async def scene() -> None:
        async with tls_port() as lab:
            context = raw_http2.context_of(lab.ca, operator(lab, ttl_s), version)
            ends_at = time.time() + ttl_s

            def call(session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
                with raw_http2.tls(lab.server.bound_port, context, session) as connection:
                    raw_http2.ask(connection, STATUS)
                    return bool(connection.session_reused), connection.session

            _, ticket = await asyncio.to_thread(call, None)
            assert ticket is not None
            if ttl_s < 3_600.0:
                await until(lambda: time.time() > ends_at + 1)
            before = list(lab.reached.calls)
            refused = sum(lab.failures_by_reason().values())
            resumed, _ = await asyncio.to_thread(call, ticket)
            if not resumed:
                pytest.skip("the library gave no ticket that the server took")
            assert before == lab.reached.calls
            assert refused + 1 == sum(lab.failures_by_reason().values())
            if version is ssl.TLSVersion.TLSv1_3:
                assert {"resumed": 1} == lab.failures_by_reason()

    run(scene())


def test_classical_where_post_quantum_is_required() -> None:
    """A genuine SVID over X25519 alone is refused before any handler, counted and told; a hybrid one is answered."""

    async def scene() -> None:
        async with tls_port(require_pq=True) as lab:
            context = raw_http2.context_of(lab.ca, operator(lab))

            def call() -> bool:
                with raw_http2.tls(lab.server.bound_port, context) as connection:
                    return raw_http2.ask(connection, STATUS)

            await asyncio.to_thread(call)
            assert [] == lab.reached.calls
            assert {"not_post_quantum": 1} == lab.failures_by_reason()
            assert ["not_post_quantum"] == lab.refusals
            assert StatusCode.OK == (await ask_as(lab, operator(lab))).status
            labels = {"side": "server", "group": "X25519MLKEM768", "tls_version": "TLSv1.3", "pq": "true"}
            assert 1.0 == lab.counted.registry.get_sample_value("x0d_tls_handshakes_total", labels)

    run(scene())


def test_connection_that_says_nothing() -> None:
    """A connection whose handshake does not come is closed when its time is over."""

    async def scene() -> None:
        async with tls_port(handshake_timeout_ms=700) as lab:
            reader, writer = await asyncio.open_connection("127.0.0.1", lab.server.bound_port)
            began = time.monotonic()
            async with asyncio.timeout(5):
                assert b"" == await _all_of(reader)
            assert 0.6 < time.monotonic() - began < 2.5
            writer.close()
            await until(lambda: lab.failures("handshake") == 1)

    run(scene())


def test_ceiling_of_connections() -> None:
    """Beyond the ceiling a connection is closed at once; those within it are answered, and leaving makes room."""

    async def scene() -> None:
        async with tls_port(connections_max=8) as lab:
            idle: list[Any] = [await asyncio.open_connection("127.0.0.1", lab.server.bound_port) for _ in range(7)]
            async with lab.channel(operator(lab)) as channel:
                method: Any = channel.unary_unary(STATUS)
                await method(b"")
                late_reader, late_writer = await asyncio.open_connection("127.0.0.1", lab.server.bound_port)
                async with asyncio.timeout(2):
                    assert b"" == await _all_of(late_reader)
                late_writer.close()
                await method(b"")
            for _, writer in idle:
                writer.close()
            async with asyncio.timeout(5):
                while (await ask_as(lab, operator(lab))).status is not StatusCode.OK:
                    pass

    run(scene())


async def _all_of(reader: asyncio.StreamReader) -> bytes:
    """Bytes until the end, whichever way it comes."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def test_garbage_over_tls(seed: int) -> None:
    """Random bytes where HTTP/2 is due end the connection they came on; others are answered."""

    async def scene() -> None:
        chance = random.Random(seed)
        async with tls_port() as lab, lab.channel(operator(lab)) as channel:
            context = raw_http2.context_of(lab.ca, operator(lab))

            def send(data: bytes) -> None:
                with raw_http2.tls(lab.server.bound_port, context) as connection, contextlib.suppress(OSError):
                    connection.sendall(data)
                    for _ in raw_http2.frames(connection):
                        pass

            for size in (9, 100, 5_000, 100_000):
                await asyncio.to_thread(send, chance.randbytes(size))
                await asyncio.to_thread(send, raw_http2.PREFACE + chance.randbytes(size))
            method: Any = channel.unary_unary(STATUS)
            await method(b"")
            assert [(STATUS, OPERATOR)] == lab.reached.calls

    run(scene())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_every_address(address: str) -> None:
    """A port on every address takes IPv4 and IPv6, and asks both for the same."""

    async def scene() -> None:
        async with tls_port(address="::") as lab:
            for shown, status in ((operator(lab), StatusCode.OK), (None, StatusCode.UNAVAILABLE)):
                async with lab.channel(shown, address) as channel:
                    assert status == (await ask(channel)).status

    run(scene())
