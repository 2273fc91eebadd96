"""The life of a TLS port: when it opens, whose certificate it shows, how it is recycled, what it counts."""

import asyncio
import socket
import time
from typing import Any

import pytest
import structlog.testing
from cryptography import x509
from grpc import StatusCode

from fakes import raw_http2
from fakes.authority import CA
from fakes.control import run, until
from fakes.tls_lab import (
    AGREE,
    DOMAIN,
    OPERATOR,
    SERVER_NAME,
    STATUS,
    TlsLab,
    ask,
    ask_as,
    open_watch,
    svid_of,
    tls_port,
)
from x0d.errors import AddressUnavailable, IdentityRefused
from x0d.identity.lifetime import renewal_at
from x0d.spiffe.bundles import Bundles
from x0d.spiffe.snapshot import Snapshot
from x0d.transport.denials import Denials
from x0d.transport.tls_server import Handshakes, age_ms_of

SELF = f"spiffe://{DOMAIN}/node/n0"


def shown_serial(lab: TlsLab) -> int:
    """Serial number of the certificate that a new connection is shown."""
    context = raw_http2.context_of(lab.ca, lab.ca.issue(OPERATOR))
    with raw_http2.tls(lab.server.bound_port, context) as connection:
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def test_opens_with_the_first_svid() -> None:
    """Nothing listens before there is an SVID; the port opens when it comes, and a second start is no error then."""

    async def scene() -> None:
        async with tls_port(has_svid=False) as lab:
            assert 0 == lab.server.bound_port
            lab.source.put(svid_of(lab.own, SELF), lab.ca)
            await until(lambda: lab.server.bound_port)
            assert StatusCode.OK == (await ask_as(lab, lab.ca.issue(OPERATOR))).status

    run(scene())


def test_stopped_before_the_first_svid() -> None:
    """A port that was stopped stays closed when an SVID comes."""

    async def scene() -> None:
        async with tls_port(has_svid=False) as lab:
            await lab.server.stop(0.0)
            lab.source.put(svid_of(lab.own, SELF), lab.ca)
            assert (0, None) == (lab.server.bound_port, lab.server._opening)

    run(scene())


def test_port_in_use() -> None:
    """A port that somebody else has is refused in words that name the key."""

    async def scene() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            async with tls_port() as lab:
                lab.server._port = taken.getsockname()[1]
                with pytest.raises(AddressUnavailable, match=r"in use; change listen.address or listen.control_port"):
                    await lab.server.start()

    run(scene())


def test_leaf_rotation() -> None:
    """New connections are shown the newest certificate, while a stream on an old one goes on."""

    async def scene() -> None:
        async with tls_port() as lab, lab.channel(lab.ca.issue(OPERATOR)) as channel:
            call = await open_watch(lab, channel)
            serials = set()
            for _ in range(5):
                own = lab.ca.issue(SELF, dns=[SERVER_NAME])
                lab.source.put(svid_of(own, SELF), lab.ca)
                serials.add(await asyncio.to_thread(shown_serial, lab))
                assert StatusCode.OK == (await ask(channel)).status
            assert 5 == len(serials)
            assert {OPERATOR} == lab.reached.streams
            call.cancel()

    run(scene())


def test_root_rotation() -> None:
    """A root that joins the bundle is trusted by the next connection; one that has left is not."""

    async def scene() -> None:
        async with tls_port() as lab:
            new = CA(DOMAIN, start_unix_s=time.time())
            assert StatusCode.UNAVAILABLE == (await ask_as(lab, new.issue(OPERATOR))).status
            lab.put(lab.ca, new)
            assert StatusCode.OK == (await ask_as(lab, new.issue(OPERATOR))).status
            lab.put(new)
            assert StatusCode.UNAVAILABLE == (await ask_as(lab, lab.ca.issue(OPERATOR))).status

    run(scene())


def test_connections_are_recycled() -> None:
    """At a part of the SVID's life a client is asked to connect anew: no call fails, and an open stream goes on."""

    async def scene() -> None:
        async with tls_port(ttl_s=2.0) as lab, lab.channel(lab.ca.issue(OPERATOR)) as channel:
            call = await open_watch(lab, channel)
            method: Any = channel.unary_unary(STATUS)
            while lab.server._callers.connections_seen < 3:
                await method(b"", timeout=5)
            assert {OPERATOR} == lab.reached.streams
            assert not call.done()
            call.cancel()

    run(scene())


@pytest.mark.parametrize("life_s", [60, 3_600, 86_400])
def test_a_connection_ends_before_its_svid(life_s: int) -> None:
    """Made at the latest instant of a renewal, with gRPC's jitter on top, a connection is over before its SVID is."""
    svid = svid_of(CA(DOMAIN, start_unix_s=time.time()).issue(SELF), SELF, life_s)
    made_at = renewal_at(svid.not_before_unix_s, svid.not_after_unix_s, 1.0)
    age_s = age_ms_of(Snapshot(1, svid, Bundles.of({}))) / 1e3
    assert age_s > life_s / 4
    assert made_at + 1.1 * age_s < svid.not_after_unix_s


def test_svids_that_live_shorter_are_told_once() -> None:
    """A port opened for long-lived SVIDs says that its connections outlive shorter ones, and says nothing of others."""

    async def scene() -> None:
        async with tls_port(ttl_s=3_600.0) as lab:
            with structlog.testing.capture_logs() as logged:
                for life_s in (3_600.0, 7_200.0, 3_100.0, 600.0, 590.0):
                    lab.source.put(svid_of(lab.own, SELF, life_s), lab.ca)
            assert [("connections_outlive_svid", "control", 1200.0)] == [
                (entry["event"], entry["port"], entry["connection_age_s"]) for entry in logged
            ]

    run(scene())


def test_health_follows_our_own_svid() -> None:
    """Health says NOT_SERVING while the node is not able, and SERVING again after."""

    async def scene() -> None:
        async with tls_port() as lab, lab.channel(lab.ca.issue(OPERATOR)) as channel:
            check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            seen = [await check(b"")]
            lab.server.set_serving(False)
            seen.append(await check(b""))
            lab.server.set_serving(True)
            seen.append(await check(b""))
            assert [b"\x08\x01", b"\x08\x02", b"\x08\x01"] == seen

    run(scene())


def test_while_starting() -> None:
    """Before the node is ready a caller with a role is asked to wait, and one without is refused as ever."""

    async def scene() -> None:
        async with tls_port() as lab:
            lab.server.set_starting("load the data plane")
            answer = await ask_as(lab, lab.ca.issue(OPERATOR), "/x0d.v1.MeshService/ListLinks")
            assert (StatusCode.UNAVAILABLE, "starting: load the data plane") == (answer.status, answer.details)
            assert StatusCode.OK == (await ask_as(lab, lab.ca.issue(OPERATOR))).status
            stranger = await ask_as(lab, lab.ca.issue(f"spiffe://{DOMAIN}/guest"))
            assert StatusCode.PERMISSION_DENIED == stranger.status

    run(scene())


def test_handshakes_are_counted_once_a_connection() -> None:
    """Many calls on one connection are one handshake; what is held for that is bounded."""

    async def scene() -> None:
        async with tls_port(connections_max=8) as lab:
            labels = {"side": "server", "group": "X25519MLKEM768", "tls_version": "TLSv1.3", "pq": "true"}
            async with lab.channel(lab.ca.issue(OPERATOR)) as channel:
                for _ in range(3):
                    await ask(channel)
            assert 1.0 == lab.counted.registry.get_sample_value("x0d_tls_handshakes_total", labels)
            for number in range(100):
                lab.server._callers._note(f"ipv4:192.0.2.1:{number}")
            assert 16 == len(lab.server._callers._seen)

    run(scene())


def test_handshakes_that_led_to_nothing() -> None:
    """A connection without a call counts as failed once its time is over, and never twice."""
    handshakes = Handshakes(patience_s=5.0)
    for _ in range(3):
        handshakes.begin()
    assert 0 == handshakes.failed(0.0, connections_seen=1)
    assert 0 == handshakes.failed(4.0, connections_seen=1)
    assert 2 == handshakes.failed(5.0, connections_seen=1)
    assert 0 == handshakes.failed(6.0, connections_seen=1)
    assert 0 == handshakes.failed(20.0, connections_seen=2)


def test_log_of_refusals_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand refusals of one reason are one line within a second; another reason is not lost among them."""
    denials = Denials("control port")
    for _ in range(1_000):
        denials.tell(IdentityRefused("untrusted", "no"), "ipv4:192.0.2.1:1", STATUS)
    denials.tell(IdentityRefused("policy", "no role"), OPERATOR, STATUS)
    captured = capsys.readouterr()
    assert 2 == (captured.out + captured.err).count("call_denied")


def test_control_and_peer_are_two_servers() -> None:
    """Two ports of one process share nothing but the source: one may be stopped while the other answers."""

    async def scene() -> None:
        async with tls_port() as lab, tls_port(name="peer") as other:
            async with other.channel(other.ca.issue(f"spiffe://{DOMAIN}/node/n1")) as channel:
                assert StatusCode.OK == (await ask(channel, AGREE)).status
                await other.server.stop(0.0)
                assert StatusCode.UNAVAILABLE == (await ask(channel, AGREE)).status
            assert StatusCode.OK == (await ask_as(lab, lab.ca.issue(OPERATOR))).status

    run(scene())
