"""Certificates that prove nothing, shown to the real TLS port: none reaches a handler, and each is counted."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from grpc import StatusCode

from fakes.authority import CA, CLIENT, HOUR_S, SERVER, Issued
from fakes.control import run, until
from fakes.tls_lab import (
    DOMAIN,
    FOREIGN,
    OPERATOR,
    STATUS,
    Answer,
    TlsLab,
    ask_as,
    bound,
    tls_port,
)  # fmt: skip
from x0d.identity.roles import Role

UNAUTHENTICATED = Answer(
    StatusCode.UNAUTHENTICATED, "not authenticated: show an SVID that this node trusts", "identity"
)
FORBIDDEN = Answer(StatusCode.PERMISSION_DENIED, "not permitted", "role")
Make = Callable[[TlsLab], Issued]


def uris(*names: str) -> Make:
    """A leaf of the right CA with these URIs."""
    return lambda lab: lab.ca.issue(uris=names)


def leaf_signs(lab: TlsLab) -> Issued:
    """A leaf signed by somebody whose own certificate is no CA's."""
    signer = CA(DOMAIN, parent=lab.ca, start_unix_s=time.time(), ca=False, key_usage=("digital_signature",))
    return signer.issue(OPERATOR)


def padded(lab: TlsLab, count: int) -> Issued:
    """A good leaf with so many certificates beside it."""
    others = tuple(lab.ca.issue(f"spiffe://{DOMAIN}/node/n{number}").leaf_der for number in range(count))
    return replace(lab.ca.issue(OPERATOR), chain_ders=others)


FORGED: dict[str, tuple[Make, str]] = {
    "federated CA mints a local ID": (lambda lab: lab.foreign.issue(OPERATOR), "untrusted"),
    "local CA mints a federated ID": (lambda lab: lab.ca.issue(f"spiffe://{FOREIGN}/operator/x"), "untrusted"),
    "ID of an unknown domain": (lambda lab: lab.ca.issue("spiffe://third.x0d.test/x"), "unknown_trust_domain"),
    "two URIs": (uris(OPERATOR, f"spiffe://{DOMAIN}/node/n1"), "uri_san_count"),
    "the same URI twice": (uris(OPERATOR, OPERATOR), "uri_san_count"),
    "no URI": (lambda lab: lab.ca.issue(uris=(), dns=["a.test"], common_name=OPERATOR), "no_uri_san"),
    "no alternative name": (lambda lab: lab.ca.issue(uris=(), common_name=OPERATOR), "no_uri_san"),
    "NUL": (uris(f"{OPERATOR}\0.evil"), "bad_spiffe_id"),
    "newline": (uris(f"{OPERATOR}\n"), "bad_spiffe_id"),
    "root path": (uris(f"spiffe://{DOMAIN}"), "bad_spiffe_id"),
    "slash alone": (uris(f"spiffe://{DOMAIN}/"), "bad_spiffe_id"),
    "upper-case scheme": (uris(OPERATOR.replace("spiffe", "SPIFFE")), "bad_spiffe_id"),
    "upper-case domain": (uris(OPERATOR.replace("dev", "DEV")), "bad_spiffe_id"),
    "percent-encoded": (uris(OPERATOR.replace("alice", "%61lice")), "bad_spiffe_id"),
    "dots in the path": (uris(f"spiffe://{DOMAIN}/node/../operator/alice"), "bad_spiffe_id"),
    "port": (uris(f"spiffe://{DOMAIN}:1/operator/alice"), "bad_spiffe_id"),
    "query": (uris(f"{OPERATOR}?x"), "bad_spiffe_id"),
    "https": (uris(OPERATOR.replace("spiffe", "https")), "bad_spiffe_id"),
    "over-long": (uris(f"{OPERATOR}/{'x' * 2_048}"), "bad_spiffe_id"),
    "CA:true": (lambda lab: lab.ca.issue(OPERATOR, ca=True), "leaf_is_ca"),
    "no KeyUsage": (lambda lab: lab.ca.issue(OPERATOR, key_usage=None), "key_usage"),
    "keyCertSign": (lambda lab: lab.ca.issue(OPERATOR, key_usage=("digital_signature", "key_cert_sign")), "key_usage"),
    "cRLSign": (lambda lab: lab.ca.issue(OPERATOR, key_usage=("digital_signature", "crl_sign")), "key_usage"),
    "RSA of 1,024 bits": (lambda lab: lab.ca.issue(OPERATOR, key="rsa1024"), "key_type"),
    "very long chain": (lambda lab: padded(lab, 8), "chain_too_long"),
}
"""By name: the leaf, and the reason that is counted."""

AT_THE_DOOR: dict[str, Callable[[TlsLab], Issued | None]] = {
    "unknown CA": lambda _: CA(DOMAIN, start_unix_s=time.time()).issue(OPERATOR),
    "expired": lambda lab: lab.ca.issue(OPERATOR, not_before_s=-HOUR_S, ttl_s=-1),
    "not yet valid": lambda lab: lab.ca.issue(OPERATOR, not_before_s=HOUR_S, ttl_s=2 * HOUR_S),
    "no certificate": lambda _: None,
    "for servers only": lambda lab: lab.ca.issue(OPERATOR, eku=(SERVER,)),
    "P-521": lambda lab: lab.ca.issue(OPERATOR, key="p521"),
    "signed by a leaf": leaf_signs,
    "no digitalSignature": lambda lab: lab.ca.issue(OPERATOR, key_usage=("key_agreement",)),
}
"""What gRPC's own TLS library refuses; the client sees no more than a lost connection."""


@pytest.mark.parametrize("name", FORGED)
def test_forged(name: str) -> None:
    """Whoever shows it is told the one sentence for all who prove nothing; the reason is ours to know."""
    make, reason = FORGED[name]

    async def scene() -> None:
        async with tls_port() as lab:
            answer = await ask_as(lab, make(lab))
            assert [] == lab.reached.calls
            if answer.status is StatusCode.UNAVAILABLE:
                pytest.fail(f"refused in the handshake already: {answer.details}")
            assert UNAUTHENTICATED == answer
            assert {reason: 1} == lab.failures_by_reason()
            assert [reason] == lab.refusals

    run(scene())


def test_refused_in_the_handshake() -> None:
    """None of these reaches a call at all, and each is counted as a handshake that led to nothing."""

    async def scene() -> None:
        async with tls_port(handshake_timeout_ms=500) as lab:
            for name, make in AT_THE_DOOR.items():
                assert StatusCode.UNAVAILABLE == (await ask_as(lab, make(lab))).status, name
            assert [] == lab.reached.calls
            await until(lambda: lab.failures("handshake") >= len(AT_THE_DOOR))
            assert {"handshake"} == set(lab.failures_by_reason())

    run(scene())


def test_expired_by_our_clock() -> None:
    """What the TLS library lets in is judged by our own clock on every call, on a connection that exists too."""

    async def scene() -> None:
        async with tls_port() as lab, lab.channel(lab.ca.issue(OPERATOR)) as channel:
            method: Any = channel.unary_unary(STATUS)
            await method(b"")
            lab.source.ahead_s = 2 * HOUR_S
            with pytest.raises(Exception, match="not authenticated"):
                await method(b"")
            assert {"expired": 1} == lab.failures_by_reason()
            lab.source.ahead_s = 0.0
            await method(b"")
            assert 2 == len(lab.reached.calls)

    run(scene())


def test_removed_authority() -> None:
    """A caller whose authority has left the bundle is refused on the connection that it has."""

    async def scene() -> None:
        async with tls_port() as lab, lab.channel(lab.foreign.issue(f"spiffe://{FOREIGN}/ci")) as channel:
            lab.server.set_bindings([bound(Role.VIEWER, f"spiffe://{FOREIGN}/ci")])
            method: Any = channel.unary_unary(STATUS)
            await method(b"")
            lab.put(lab.ca)
            with pytest.raises(Exception, match="not authenticated"):
                await method(b"")
            assert {"unknown_trust_domain": 1} == lab.failures_by_reason()

    run(scene())


def test_victims_certificate_in_the_chain() -> None:
    """The leaf is the one whose key was used, whatever certificates lie beside it."""

    async def scene() -> None:
        async with tls_port() as lab:
            victim = lab.ca.issue(f"spiffe://{DOMAIN}/operator/root")
            attacker = lab.ca.issue(f"spiffe://{DOMAIN}/guest")
            answer = await ask_as(lab, replace(attacker, chain_ders=(victim.leaf_der,)))
            assert FORBIDDEN == answer
            assert [] == lab.reached.calls
            assert {"policy": 1} == lab.failures_by_reason()
            first = replace(attacker, leaf_der=victim.leaf_der, chain_ders=(attacker.leaf_der,))
            assert StatusCode.OK != (await ask_as(lab, first)).status
            assert [] == lab.reached.calls

    run(scene())


@pytest.mark.parametrize(
    "spiffe_id",
    [
        f"spiffe://{DOMAIN}/operatorX/alice",
        f"spiffe://{DOMAIN}/operator",
        f"spiffe://{DOMAIN}/nodeX",
        f"spiffe://{DOMAIN}/Operator/alice",
        f"spiffe://{DOMAIN}/x/operator/alice",
        f"spiffe://{FOREIGN}/operator/alice",
    ],
)
def test_without_binding(spiffe_id: str) -> None:
    """A genuine ID that no binding names holds no role, however much it looks like one that is named."""

    async def scene() -> None:
        async with tls_port() as lab:
            ca = lab.foreign if FOREIGN in spiffe_id else lab.ca
            assert FORBIDDEN == await ask_as(lab, ca.issue(spiffe_id))
            assert [] == lab.reached.calls
            assert {"policy": 1} == lab.failures_by_reason()

    run(scene())


def test_development_in_production() -> None:
    """In production an identity of a reserved trust domain is refused, be it genuine."""

    async def scene() -> None:
        async with tls_port(dev_allowed=False) as lab:
            assert UNAUTHENTICATED == await ask_as(lab, lab.ca.issue(OPERATOR))
            assert [] == lab.reached.calls
            assert {"dev_identity": 1} == lab.failures_by_reason()

    run(scene())


@pytest.mark.parametrize("shows_chain", [True, False])
def test_an_intermediate_may_be_the_anchor(shows_chain: bool) -> None:
    """Of a foreign domain whose bundle is an intermediate, what is below it gets through, and its sibling does not."""

    async def scene() -> None:
        async with tls_port(bindings=[bound(Role.VIEWER, f"spiffe://{FOREIGN}/ci")]) as lab:
            below, sibling = (CA(FOREIGN, parent=lab.foreign, start_unix_s=time.time()) for _ in range(2))
            lab.put(lab.ca, below)
            for maker, expected in ((below, StatusCode.OK), (sibling, StatusCode.UNAVAILABLE)):
                leaf = maker.issue(f"spiffe://{FOREIGN}/ci")
                shown = leaf if shows_chain else replace(leaf, chain_ders=())
                assert expected == (await ask_as(lab, shown)).status

    run(scene())


def test_good_ones_get_through() -> None:
    """The same port answers a genuine leaf, one below an intermediate, and a federated one that is bound."""

    async def scene() -> None:
        async with tls_port() as lab:
            lab.server.set_bindings(
                [bound(Role.VIEWER, f"spiffe://{DOMAIN}/operator/*"), bound(Role.VIEWER, f"spiffe://{FOREIGN}/ci")]
            )
            below = CA(DOMAIN, parent=lab.ca, start_unix_s=time.time())
            ids = [OPERATOR, f"spiffe://{DOMAIN}/operator/bob", f"spiffe://{FOREIGN}/ci"]
            leaves = [lab.ca.issue(ids[0], eku=(CLIENT,)), below.issue(ids[1]), lab.foreign.issue(ids[2])]
            for leaf in leaves:
                assert StatusCode.OK == (await ask_as(lab, leaf)).status
            assert [(STATUS, name) for name in ids] == lab.reached.calls
            assert {} == lab.failures_by_reason()

    run(scene())
