"""Servers that are not who was asked for: the connector refuses each, names why, and their application sees no byte."""

import hashlib
import random
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from grpc import StatusCode, aio

from fakes.authority import CA, CLIENT, HOUR_S, Issued
from fakes.tls_peer import (
    DOMAIN,
    LOOPS,
    OWN_ID,
    PEER_ID,
    PREFACE,
    FakeSource,
    bundles_of,
    connecting,
    hostile,
    new_ca,
    run_on,
    source_of,
    svid_of,
    tls_context,
    until,
)
from x0d.errors import IdentityRefused
from x0d.identity.spiffe_id import SpiffeId
from x0d.spiffe.certificate import from_pem
from x0d.spiffe.snapshot import Snapshot
from x0d.transport import connector_dial
from x0d.transport.connector import Expect, ExpectId, ExpectPinnedRoot
from x0d.transport.connector_tls import Contexts

both_loops = pytest.mark.parametrize("loop", LOOPS)
METHOD = "/x0d.v1.PeerService/AgreeKey"
PEER = SpiffeId.parse(PEER_ID)
ISSUER_ID = f"spiffe://{DOMAIN}/issuer/join"


@dataclass
class Attempt:
    """A call through a connector, and what came of it."""

    code: StatusCode | None = None
    reason: str = ""
    """Of the connector's last error."""
    detail: str = ""
    counted: list[str] = field(default_factory=list)
    """Reasons told to ``on_refusal``, each once."""
    accepted: list[str] = field(default_factory=list)
    """IDs told to ``on_handshake``."""
    seen: bytes = b""
    """What the server's application was given."""
    connections: int = 0
    """TCP connections that the server accepted."""


@cache
def own_ca() -> CA:
    """Our cluster's; keys take time to make."""
    return new_ca()


@cache
def federated_ca() -> CA:
    return new_ca("partner.test")


async def attempt(expect: Expect, context: ssl.SSLContext | None, **more: Any) -> Attempt:  # noqa: ANN401  options
    """Call a method at a server, which is never answered, and let everything end."""
    found = Attempt()
    with hostile(context, **more) as server:
        async with connecting(
            server.port,
            expect,
            on_handshake=lambda proof: found.accepted.append(str(proof.spiffe_id)),
            on_refusal=found.counted.append,
        ) as connector:
            async with aio.insecure_channel(connector.target, options=connector.channel_options) as channel:
                method: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
                call = method(b"", timeout=4)
                try:
                    await until(lambda: call.done() or PREFACE in server.seen)
                    if call.done():
                        await call
                except grpc.RpcError:
                    found.code = await call.code()
                call.cancel()
            if connector.last_error is not None:
                found.reason, found.detail = connector.last_error.reason, connector.last_error.detail
    found.counted = sorted(set(found.counted))
    found.seen, found.connections = server.seen, server.connections
    return found


def expecting(source: FakeSource | None = None, spiffe_id: SpiffeId = PEER, *, require_pq: bool = False) -> ExpectId:
    """Expect PEER_ID with what our CA has issued to us, which trusts the partner for its own domain."""
    return ExpectId(spiffe_id, source or source_of(own_ca(), federated_ca()), require_pq)


def refused(attempted: Attempt, reason: str) -> None:
    """Hold what every refusal has in common."""
    assert b"" == attempted.seen
    assert [] == attempted.accepted
    assert (reason, [reason]) == (attempted.reason, attempted.counted), attempted.detail
    assert StatusCode.UNAVAILABLE == attempted.code


@both_loops
def test_right_server_is_called(loop: str) -> None:
    """The server with exactly the expected ID is accepted and gets the call."""
    found = run_on(loop, attempt(expecting(), tls_context(own_ca().issue(PEER_ID))))
    assert ([PEER_ID], "", []) == (found.accepted, found.reason, found.counted)
    assert found.seen.startswith(PREFACE)


@both_loops
def test_right_server_below_an_intermediate(loop: str) -> None:
    """A chain over an intermediate to the bundle's root is accepted."""
    found = run_on(loop, attempt(expecting(), tls_context(new_ca(parent=own_ca()).issue(PEER_ID))))
    assert ([PEER_ID], "") == (found.accepted, found.reason)


@both_loops
def test_slow_server_is_waited_for(loop: str) -> None:
    """A peer that takes a second to shake hands is not given up by gRPC before our own deadline."""
    found = run_on(loop, attempt(expecting(), tls_context(own_ca().issue(PEER_ID)), delay_s=1.0))
    assert ([PEER_ID], 1) == (found.accepted, found.connections)


@both_loops
def test_server_that_waits_for_the_client(loop: str) -> None:
    """A server that does not speak first gets the call all the same, half a second later."""
    found = run_on(loop, attempt(expecting(), tls_context(own_ca().issue(PEER_ID)), first_words=b""))
    assert found.seen.startswith(PREFACE)


def defective() -> dict[str, tuple[Issued, str]]:
    """Certificates of servers, and why each is refused."""
    ca, federated = own_ca(), federated_ca()
    deep = new_ca(parent=new_ca(parent=new_ca(parent=new_ca(parent=ca))))
    return {
        "wrong ID": (ca.issue(f"spiffe://{DOMAIN}/node/n3"), "wrong_id"),
        "longer ID": (ca.issue(f"{PEER_ID}2"), "wrong_id"),
        "ID below": (ca.issue(f"{PEER_ID}/x"), "wrong_id"),
        "our own ID": (ca.issue(OWN_ID), "wrong_id"),
        "case of the path": (ca.issue(f"spiffe://{DOMAIN}/node/N2"), "wrong_id"),
        "case of the domain": (ca.issue(uris=["spiffe://DEV.x0d.test/node/n2"]), "bad_spiffe_id"),
        "federated trust domain": (federated.issue("spiffe://partner.test/node/n2"), "untrusted"),
        "federated CA forges our ID": (federated.issue(PEER_ID), "untrusted"),
        "stranger's CA": (new_ca().issue(PEER_ID), "untrusted"),
        "our CA signs a foreign ID": (ca.issue("spiffe://partner.test/node/n2"), "untrusted"),
        "expired": (ca.issue(PEER_ID, not_before_s=-HOUR_S, ttl_s=-1), "expired"),
        "not yet valid": (ca.issue(PEER_ID, not_before_s=HOUR_S, ttl_s=2 * HOUR_S), "not_yet_valid"),
        "two URIs": (ca.issue(uris=[PEER_ID, f"spiffe://{DOMAIN}/node/n3"]), "uri_san_count"),
        "no SAN": (ca.issue(uris=[]), "no_uri_san"),
        "DNS only": (ca.issue(uris=[], dns=["n2.x0d.test", PEER_ID.removeprefix("spiffe://")]), "no_uri_san"),
        "ID as common name": (ca.issue(uris=[], common_name=PEER_ID), "no_uri_san"),
        "NUL": (ca.issue(uris=[f"{PEER_ID}\0.evil"]), "bad_spiffe_id"),
        "newline": (ca.issue(uris=[f"{PEER_ID}\n"]), "bad_spiffe_id"),
        "no path": (ca.issue(uris=[f"spiffe://{DOMAIN}"]), "bad_spiffe_id"),
        "https": (ca.issue(uris=[f"https://{DOMAIN}/node/n2"]), "bad_spiffe_id"),
        "over-long": (ca.issue(uris=[f"{PEER_ID}/{'a' * 2048}"]), "bad_spiffe_id"),
        "CA:true": (ca.issue(PEER_ID, ca=True), "leaf_is_ca"),
        "certSign": (ca.issue(PEER_ID, key_usage=("digital_signature", "key_cert_sign")), "key_usage"),
        "no digitalSignature": (ca.issue(PEER_ID, key_usage=("key_agreement",)), "key_usage"),
        "no KeyUsage": (ca.issue(PEER_ID, key_usage=None), "key_usage"),
        "for clients only": (ca.issue(PEER_ID, eku=(CLIENT,)), "extended_key_usage"),
        "odd key": (ca.issue(PEER_ID, key="p521"), "key_type"),
        "four intermediates": (deep.issue(PEER_ID), "chain_too_long"),
        "signer that is no CA": (new_ca_without_flag().issue(PEER_ID), "untrusted"),
    }


def new_ca_without_flag() -> CA:
    """Make an SVID that signs others, as anyone who has one could."""
    return CA(DOMAIN, parent=own_ca(), start_unix_s=own_ca().start_unix_s, ca=False)


@both_loops
def test_defective_servers_are_refused(loop: str) -> None:
    """Each defect of a certificate is refused with its own reason before a byte of the call has left."""

    async def scene() -> None:
        for name, (issued, reason) in defective().items():
            found = await attempt(expecting(), tls_context(issued))
            print(name, found.reason, found.detail)
            refused(found, reason)

    run_on(loop, scene())


@both_loops
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"alpn": ["http/1.1"]}, "alpn"),
        ({"alpn": []}, "alpn"),
        ({"version": ssl.TLSVersion.TLSv1_2}, "handshake"),
    ],
    ids=["http/1.1", "no ALPN", "TLS 1.2"],
)
def test_other_protocols_are_refused(loop: str, options: dict[str, Any], reason: str) -> None:
    """The right certificate does not make up for another protocol."""
    refused(run_on(loop, attempt(expecting(), tls_context(own_ca().issue(PEER_ID), **options))), reason)


@both_loops
def test_plaintext_server_gets_no_call(loop: str) -> None:
    """A server without TLS sees a ClientHello and nothing of the application."""
    found = run_on(loop, attempt(expecting(), None))
    assert PREFACE not in found.seen
    refused(replace(found, seen=b""), "handshake")


@both_loops
def test_classical_key_exchange_is_refused_where_asked(loop: str) -> None:
    """Under require_pq a server with X25519 alone is refused, right though it is."""
    found = run_on(loop, attempt(expecting(require_pq=True), tls_context(own_ca().issue(PEER_ID))))
    refused(found, "not_post_quantum")


@both_loops
def test_handshake_that_never_ends(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that accepts TCP and says nothing is given up at the deadline."""
    monkeypatch.setattr(connector_dial, "DEADLINE_S", 0.3)
    refused(run_on(loop, attempt(expecting(), None, is_silent=True)), "timeout")


@both_loops
def test_nobody_listens(loop: str) -> None:
    """A refused connection is told as one, and counted as nobody's refusal."""

    async def scene() -> tuple[str, list[str]]:
        with hostile(None) as server:
            port = server.port
        counted: list[str] = []
        async with connecting(port, expecting(), on_refusal=counted.append) as connector:
            async with aio.insecure_channel(connector.target, options=connector.channel_options) as channel:
                method: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
                with pytest.raises(aio.AioRpcError):
                    await method(b"", timeout=4)
            assert connector.last_error is not None
            return connector.last_error.reason, counted

    assert ("unreachable", []) == run_on(loop, scene())


@both_loops
def test_server_that_refuses_us_says_so(loop: str) -> None:
    """A server that does not know our CA: its alert, which comes after the handshake, becomes the reason."""
    context = tls_context(own_ca().issue(PEER_ID), client_ca=federated_ca())
    found = run_on(loop, attempt(expecting(), context))
    assert (b"", "handshake", StatusCode.UNAVAILABLE) == (found.seen, found.reason, found.code)
    assert "the peer refused us" in found.detail


@both_loops
def test_unknown_trust_domain_is_not_dialled(loop: str) -> None:
    """Nobody is dialled for an ID of a trust domain that we have no bundle of."""
    spiffe_id = SpiffeId.parse("spiffe://nowhere.test/node/n2")
    found = run_on(loop, attempt(expecting(spiffe_id=spiffe_id), tls_context(own_ca().issue(PEER_ID))))
    assert 0 == found.connections
    refused(found, "unknown_trust_domain")


@both_loops
def test_empty_bundle_trusts_nobody(loop: str) -> None:
    """A trust domain whose bundle is empty is known and trusts nobody."""
    bundles = type(bundles_of()).of({PEER.trust_domain: ()})
    source = FakeSource(Snapshot(1, svid_of(own_ca().issue(OWN_ID)), bundles))
    refused(run_on(loop, attempt(expecting(source), tls_context(own_ca().issue(PEER_ID)))), "untrusted")


@both_loops
def test_nothing_is_dialled_without_an_svid_in_force(loop: str) -> None:
    """Without an SVID, or with an expired one, nobody is dialled."""
    expired = own_ca().issue(OWN_ID, not_before_s=-HOUR_S, ttl_s=-1)
    context = tls_context(own_ca().issue(PEER_ID))
    found = run_on(loop, attempt(expecting(source_of(own_ca(), own=expired)), context))
    assert 0 == found.connections
    refused(found, "own_svid_expired")
    found = run_on(loop, attempt(expecting(FakeSource(None)), context))
    assert 0 == found.connections
    refused(found, "no_own_svid")


@both_loops
def test_other_process_on_the_private_socket(loop: str) -> None:
    """Another process that connects, be it root, gets a closed connection, and the peer is not dialled for it."""

    async def scene() -> tuple[int, bytes, str, list[str]]:
        counted: list[str] = []
        with hostile(tls_context(own_ca().issue(PEER_ID))) as server:
            async with connecting(server.port, expecting(), on_refusal=counted.append) as connector:
                path = connector.target.removeprefix("unix:")
                code = (
                    "import socket, sys\n"
                    "with socket.socket(socket.AF_UNIX) as connection:\n"
                    f"    connection.connect({path!r})\n"
                    "    connection.settimeout(5)\n"
                    "    sys.stdout.write(repr(connection.recv(1)))"
                )
                process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)  # noqa: ASYNC220
                await until(lambda: process.poll() is not None)
                said, _ = process.communicate()
                assert connector.last_error is not None
                return server.connections, said, connector.last_error.reason, counted

    assert (0, b"b''", "foreign_process", ["foreign_process"]) == run_on(loop, scene())


def pin_of(ca: CA) -> bytes:
    """Hash the public key of a root, as a join token does."""
    key = x509.load_der_x509_certificate(ca.der).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


@both_loops
def test_pinned_root_is_enough_to_join(loop: str) -> None:
    """A joiner, who has no bundle and no SVID, accepts the issuer by the hash of its root's key."""
    expect = ExpectPinnedRoot(pin_of(own_ca()), SpiffeId.parse(ISSUER_ID))
    found = run_on(loop, attempt(expect, tls_context(own_ca().issue(ISSUER_ID), also=(own_ca().der,))))
    assert ([ISSUER_ID], "", True) == (found.accepted, found.reason, found.seen.startswith(PREFACE))


@both_loops
@pytest.mark.parametrize(
    "case", ["wrong root", "wrong ID", "no root", "root of others", "root that is no CA", "expired", "root as leaf"]
)
def test_pinned_root_refuses(loop: str, case: str) -> None:
    """Another root, a missing one, somebody else's leaf beside the right root: none of it joins."""
    ca, stranger, bare = own_ca(), new_ca(), CA(DOMAIN, start_unix_s=own_ca().start_unix_s, ca=False)
    servers: dict[str, tuple[Issued, Sequence[bytes], str]] = {
        "wrong root": (stranger.issue(ISSUER_ID), (stranger.der,), "untrusted"),
        "wrong ID": (ca.issue(PEER_ID), (ca.der,), "wrong_id"),
        "no root": (ca.issue(ISSUER_ID), (), "untrusted"),
        "root of others": (stranger.issue(ISSUER_ID), (stranger.der, ca.der), "untrusted"),
        "root that is no CA": (bare.issue(ISSUER_ID), (bare.der,), "untrusted"),
        "expired": (ca.issue(ISSUER_ID, not_before_s=-HOUR_S, ttl_s=-1), (ca.der,), "expired"),
        "root as leaf": (Issued(ca.der, (), ca.key), (ca.der,), "bad_spiffe_id"),
    }
    issued, also, reason = servers[case]
    expect = ExpectPinnedRoot(pin_of(bare if case == "root that is no CA" else ca), SpiffeId.parse(ISSUER_ID))
    refused(run_on(loop, attempt(expect, tls_context(issued, also=also))), reason)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_any_bytes_of_a_chain_are_judged(seed: int) -> None:
    """A chain with a few bytes changed anywhere proves the expected ID or is refused; nothing is thrown."""
    rng = random.Random(seed)
    ca = own_ca()
    leaf = ca.issue(ISSUER_ID)
    contexts = Contexts(ExpectPinnedRoot(pin_of(ca), SpiffeId.parse(ISSUER_ID)), time.time)
    refusals = 0
    for _ in range(600):
        chain = [bytearray(leaf.leaf_der), bytearray(ca.der)]
        for _ in range(rng.choice((1, 1, 2, 5))):
            certificate = rng.choice(chain)
            certificate[rng.randrange(len(certificate))] = rng.randrange(256)
        try:
            proof = contexts._prove(tuple(map(bytes, chain)), "X25519MLKEM768")
        except IdentityRefused:
            refusals += 1
        else:
            assert (ISSUER_ID, leaf.leaf_der) == (str(proof.spiffe_id), from_pem(proof.leaf_pem)[0])
    assert refusals > 300
