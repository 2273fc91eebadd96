"""Chains against bundles: whose ID is accepted, why the others are refused, and that time is asked at each look."""

import random
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from cryptography import x509

from fakes.authority import CA, CLIENT, HOUR_S, NOW, SERVER, Issued
from x0d.errors import IdentityRefused, InvalidInput
from x0d.identity.model import Reason, Usage
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.spiffe import bundles as module
from x0d.spiffe.bundles import AUTHORITIES_MAX, Bundles
from x0d.spiffe.certificate import to_pem

LOCAL, PARTNER = TrustDomain("dev.x0d.test"), TrustDomain("partner.example")
N1 = SpiffeId(LOCAL, "/node/n1")
ROOT = CA()
MIDDLE = CA(parent=ROOT)
PARTNER_ROOT = CA("partner.example")
BUNDLES = Bundles.of({LOCAL: [ROOT.der], PARTNER: [PARTNER_ROOT.der]})
DAY_S = 24 * HOUR_S


def refusal_of(issued: Issued, bundles: Bundles = BUNDLES, usage: Usage = Usage.CLIENT, now: float = NOW) -> str:
    """Return the reason why a chain is refused, or the ID for which it is accepted."""
    try:
        return str(bundles.verify(issued.leaf_pem, issued.chain_pem, usage, now).spiffe_id)
    except IdentityRefused as refused:
        return str(refused.reason)


def local(*uris: str) -> Callable[[], Issued]:
    """Make a leaf of the local root with these URIs."""
    return lambda: ROOT.issue(uris=uris)


@pytest.mark.parametrize(
    ("expected", "make"),
    [
        (str(N1), ROOT.issue),
        (str(N1), MIDDLE.issue),
        (str(N1), CA(parent=MIDDLE).issue),
        ("spiffe://partner.example/node/n1", PARTNER_ROOT.issue),
        *((str(N1), lambda kind=kind: ROOT.issue(key=kind)) for kind in ("p384", "ed25519", "rsa2048")),
        (str(N1), lambda: ROOT.issue(ca=None)),
        (str(N1), lambda: ROOT.issue(eku=None)),
        (str(N1), lambda: ROOT.issue(dns=["n1.example"], common_name="spiffe://dev.x0d.test/operator/root")),
    ],
)
def test_good_chains_are_accepted_for_their_own_id(expected: str, make: Callable[[], Issued]) -> None:
    """A chain to its own trust domain's bundle is accepted in both parts, with or without intermediates."""
    issued = make()
    assert [expected] * 2 == [refusal_of(issued, usage=usage) for usage in Usage]


@pytest.mark.parametrize(
    ("expected", "make"),
    [
        (Reason.NO_URI_SAN, local()),
        (Reason.NO_URI_SAN, lambda: ROOT.issue(uris=(), dns=["n1.example"])),
        (Reason.URI_SAN_COUNT, local("spiffe://dev.x0d.test/node/n1", "spiffe://dev.x0d.test/node/n2")),
        (Reason.URI_SAN_COUNT, local("spiffe://dev.x0d.test/node/n1", "https://dev.x0d.test/")),
        (Reason.BAD_SPIFFE_ID, local("spiffe://dev.x0d.test/operator/root\0.evil")),
        (Reason.BAD_SPIFFE_ID, local("spiffe://dev.x0d.test/node/n1\n")),
        (Reason.BAD_SPIFFE_ID, local("spiffe://dev.x0d.test")),
        (Reason.BAD_SPIFFE_ID, local("spiffe://dev.x0d.test/")),
        (Reason.BAD_SPIFFE_ID, local("https://dev.x0d.test/node/n1")),
        (Reason.BAD_SPIFFE_ID, local("SPIFFE://dev.x0d.test/node/n1")),
        (Reason.BAD_SPIFFE_ID, local("spiffe://DEV.x0d.test/node/n1")),
        (Reason.BAD_SPIFFE_ID, local("spiffe://dev.x0d.test/node/%6e1")),
        (Reason.BAD_SPIFFE_ID, local("spiffe://dev.x0d.test/" + "n" * 2_048)),
        (Reason.LEAF_IS_CA, lambda: ROOT.issue(ca=True)),
        (Reason.KEY_USAGE, lambda: ROOT.issue(key_usage=None)),
        (Reason.KEY_USAGE, lambda: ROOT.issue(key_usage=("key_encipherment",))),
        (Reason.KEY_USAGE, lambda: ROOT.issue(key_usage=("digital_signature", "key_cert_sign"))),
        (Reason.KEY_USAGE, lambda: ROOT.issue(key_usage=("digital_signature", "crl_sign"))),
        (Reason.EXTENDED_KEY_USAGE, lambda: ROOT.issue(eku=(SERVER,))),
        (Reason.KEY_TYPE, lambda: ROOT.issue(key="rsa1024")),
        (Reason.KEY_TYPE, lambda: ROOT.issue(key="p521")),
        (Reason.EXPIRED, lambda: ROOT.issue(ttl_s=-1, not_before_s=-HOUR_S)),
        (Reason.NOT_YET_VALID, lambda: ROOT.issue(not_before_s=60)),
        (Reason.EXPIRED, CA(parent=ROOT, ttl_s=-1).issue),
        (Reason.UNKNOWN_TRUST_DOMAIN, CA("else.example").issue),
        (Reason.UNKNOWN_TRUST_DOMAIN, local("spiffe://else.example/node/n1")),
        (Reason.UNTRUSTED, CA().issue),
        (Reason.UNTRUSTED, CA(parent=CA()).issue),
        (Reason.UNTRUSTED, CA(parent=ROOT, ca=False).issue),
        (Reason.UNTRUSTED, CA(parent=ROOT, ca=None).issue),
        (Reason.UNTRUSTED, CA(parent=ROOT, key_usage=("digital_signature",)).issue),
        (Reason.UNTRUSTED, CA(parent=CA(parent=ROOT, path_length=0)).issue),
        (Reason.KEY_TYPE, CA(parent=ROOT, key="rsa1024").issue),
        (Reason.CHAIN_TOO_LONG, CA(parent=CA(parent=CA(parent=MIDDLE))).issue),
        (Reason.UNTRUSTED, lambda: ROOT.issue(extra=[(unknown_extension(), True)])),
        (str(N1), lambda: ROOT.issue(extra=[(unknown_extension(), False)])),
        (Reason.MALFORMED, lambda: ROOT.issue(extra=[(broken_key_usage(), True)], key_usage=None)),
    ],
)
def test_bad_chains_are_refused_with_their_reason(expected: str, make: Callable[[], Issued]) -> None:
    """Each defect of a leaf or of what signs it has its reason, whatever else the chain has right."""
    assert expected == refusal_of(make())


def unknown_extension() -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")


def broken_key_usage() -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.KeyUsage.oid, b"\x04\x01")


@pytest.mark.parametrize(
    ("expected", "authorities"),
    [
        (Reason.UNKNOWN_TRUST_DOMAIN, {}),
        (Reason.UNKNOWN_TRUST_DOMAIN, {PARTNER: [ROOT.der]}),
        (Reason.UNTRUSTED, {LOCAL: []}),
        (Reason.UNTRUSTED, {LOCAL: [PARTNER_ROOT.der], PARTNER: [ROOT.der]}),
        (str(N1), {LOCAL: [PARTNER_ROOT.der, ROOT.der]}),
        (str(N1), {LOCAL: [MIDDLE.der]}),
    ],
)
def test_only_the_own_domains_bundle_counts(expected: str, authorities: Mapping[TrustDomain, list[bytes]]) -> None:
    """No bundle, an empty one or another domain's trusts nobody; an intermediate may be the authority."""
    assert expected == refusal_of(MIDDLE.issue(), Bundles.of(authorities))


def test_federated_authority_cannot_make_local_ids_nor_the_other_way_round() -> None:
    """An authority that is trusted for its own domain is nobody in another one, as client and as server."""
    forged_here = PARTNER_ROOT.issue(str(N1))
    forged_there = ROOT.issue("spiffe://partner.example/node/n1")
    for usage in Usage:
        assert Reason.UNTRUSTED == refusal_of(forged_here, usage=usage)
        assert Reason.UNTRUSTED == refusal_of(forged_there, usage=usage)


def test_victims_certificate_in_the_chain_lends_nothing() -> None:
    """Only the leaf says who it is: a victim's certificate among the intermediates neither helps nor signs."""
    victim = ROOT.issue("spiffe://dev.x0d.test/operator/root")
    attacker = ROOT.issue("spiffe://dev.x0d.test/node/evil")
    shown = Issued(attacker.leaf_der, (victim.leaf_der,), attacker.key)
    assert "spiffe://dev.x0d.test/node/evil" == refusal_of(shown)
    stranger = CA().issue("spiffe://dev.x0d.test/node/evil")
    assert Reason.UNTRUSTED == refusal_of(Issued(stranger.leaf_der, (victim.leaf_der,), stranger.key))


def test_leaf_cannot_sign_another_leaf() -> None:
    """Who holds an SVID cannot issue one: its certificate is no CA's."""
    holder = ROOT.issue("spiffe://dev.x0d.test/node/evil", key_usage=("digital_signature", "key_cert_sign"))
    signer = CA(parent=ROOT)
    signer.key, signer.der = holder.key, holder.leaf_der
    signer._certificate = x509.load_der_x509_certificate(holder.leaf_der)
    assert Reason.UNTRUSTED == refusal_of(signer.issue("spiffe://dev.x0d.test/operator/root"))


def test_usages_are_told_apart() -> None:
    """A certificate for servers only is refused to a client that verifies nothing else, and the other way round."""
    server_only, client_only = ROOT.issue(eku=(SERVER,)), ROOT.issue(eku=(CLIENT,))
    assert str(N1) == refusal_of(server_only, usage=Usage.SERVER)
    assert Reason.EXTENDED_KEY_USAGE == refusal_of(server_only, usage=Usage.CLIENT)
    assert Reason.EXTENDED_KEY_USAGE == refusal_of(client_only, usage=Usage.SERVER)


def with_odd_name(der: bytes) -> bytes:
    """Break the UTF-8 of a certificate's names: one of the two libraries that read it does not mind."""
    return der.replace(b"x0d tests", b"x0d\xfftests")


def test_bytes_that_are_no_chain_are_refused() -> None:
    """No leaf, two leaves, text, corrupt DER, trailing bytes and more than 16 KiB are refusals, not exceptions."""
    good = MIDDLE.issue()
    corrupt = to_pem(good.leaf_der[:-10] + bytes(10)[:5])
    cases = [
        (Reason.NO_CERTIFICATE, b"", b""),
        (Reason.NO_CERTIFICATE, b"", good.chain_pem),
        (Reason.NO_CERTIFICATE, good.leaf_pem * 2, good.chain_pem),
        (Reason.MALFORMED, b"no certificate", b""),
        (Reason.MALFORMED, good.leaf_pem + b"x", good.chain_pem),
        (Reason.MALFORMED, good.leaf_pem, b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"),
        (Reason.MALFORMED, corrupt, good.chain_pem),
        (Reason.MALFORMED, to_pem(good.leaf_der + b"\x05\x00"), good.chain_pem),
        (Reason.MALFORMED, good.leaf_pem, corrupt),
        (Reason.MALFORMED, to_pem(with_odd_name(good.leaf_der)), good.chain_pem),
        (Reason.MALFORMED, good.leaf_pem, to_pem(with_odd_name(MIDDLE.der))),
        (Reason.UNTRUSTED, good.leaf_pem, b""),
        (Reason.CHAIN_TOO_LONG, good.leaf_pem, good.chain_pem + b"\n" * 16_384),
    ]
    for expected, leaf, chain in cases:
        with pytest.raises(IdentityRefused) as refused:
            BUNDLES.verify(leaf, chain, Usage.CLIENT, NOW)
        assert expected == refused.value.reason


@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
def test_sha1_signatures_are_refused(tmp_path: Path, kind: str) -> None:
    """A chain that is signed with SHA-1 leads nowhere."""
    root = CA(key=kind, start_unix_s=time.time())
    for digest, expected in (("sha256", str(N1)), ("sha1", Reason.UNTRUSTED)):
        signed = Issued(signed_by_openssl(tmp_path, root, digest), (), root.key)
        assert expected == refusal_of(signed, Bundles.of({LOCAL: [root.der]}), now=time.time() + 60)


def signed_by_openssl(directory: Path, root: CA, digest: str) -> bytes:
    """Make a leaf with a hash that our own library signs with no more; DER."""
    leaf = root.issue()
    extensions = (
        "subjectAltName=URI:spiffe://dev.x0d.test/node/n1\nkeyUsage=critical,digitalSignature\n"
        "authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
    )
    files = {"root.pem": root.pem, "root.key": Issued(b"", (), root.key).key_pem, "leaf.key": leaf.key_pem}
    for name, content in {**files, "extensions": extensions.encode()}.items():
        (directory / name).write_bytes(content)
    for command in (
        "openssl req -new -key leaf.key -subj /O=x0d -out leaf.csr",
        f"openssl x509 -req -in leaf.csr -CA root.pem -CAkey root.key -{digest} -extfile extensions -out leaf.pem",
        "openssl x509 -in leaf.pem -outform DER -out leaf.der",
    ):
        subprocess.run(command.split(), cwd=directory, check=True, capture_output=True)
    return (directory / "leaf.der").read_bytes()


def test_expired_chain_of_a_removed_root_is_untrusted_not_expired() -> None:
    """Revocation is told apart from age: operators' streams outlive the one and not the other."""
    issued = ROOT.issue(ttl_s=-1, not_before_s=-HOUR_S)
    assert Reason.UNTRUSTED == refusal_of(issued, Bundles.of({LOCAL: [CA().der]}))


def test_clock_that_jumps_opens_and_closes_nothing_for_longer_than_a_look() -> None:
    """Each look answers for its own instant, cached or not: back in time is accepted again, and only then."""
    issued, bundles = MIDDLE.issue(), Bundles.of({LOCAL: [ROOT.der]})
    seen = [
        refusal_of(issued, bundles, now=NOW + offset_s)
        for offset_s in (0, 2 * HOUR_S, 0, -DAY_S, 0, 365 * DAY_S, -60 * DAY_S, 1e12, -1e12, 0)
    ]
    late, early = Reason.EXPIRED, Reason.NOT_YET_VALID
    assert [str(N1), late, str(N1), early, str(N1), late, early, late, early, str(N1)] == seen


def test_cached_verdicts_are_those_of_a_fresh_look(seed: int) -> None:
    """At random instants, on the edges too, a cache that has seen others says what an empty one says."""
    rng = random.Random(seed)
    issued = CA(parent=ROOT, ttl_s=HOUR_S / 2).issue(not_before_s=-HOUR_S)
    used = Bundles.of({LOCAL: [ROOT.der]})
    edges = (-60.0, 0.0, HOUR_S / 2, HOUR_S)
    for _ in range(60):
        now = NOW + rng.choice(edges) + rng.choice((-1.0, -0.5, -0.001, 0.0, 0.001, 0.5, 1.0))
        fresh = Bundles.of({LOCAL: [ROOT.der]})
        assert refusal_of(issued, fresh, now=now) == refusal_of(issued, used, now=now)


def test_cache_is_bounded_and_knows_the_part_played(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its limit the oldest verdict gives way, and a client's verdict is none for a server."""
    monkeypatch.setattr(module, "CACHED_MAX", 3)
    bundles = Bundles.of({LOCAL: [ROOT.der]})
    for number in range(5):
        assert f"spiffe://dev.x0d.test/node/{number}" == refusal_of(
            ROOT.issue(f"spiffe://dev.x0d.test/node/{number}", eku=(CLIENT,)), bundles
        )
    last = ROOT.issue(eku=(CLIENT,))
    assert str(N1) == refusal_of(last, bundles)
    assert Reason.EXTENDED_KEY_USAGE == refusal_of(last, bundles, usage=Usage.SERVER)
    assert 3 == len(bundles._cache)


def test_moving_a_certificate_between_leaf_and_chain_is_another_question() -> None:
    """The verdict on a leaf with its chain is no verdict on the same bytes cut elsewhere."""
    issued = MIDDLE.issue()
    assert str(N1) == refusal_of(issued)
    with pytest.raises(IdentityRefused) as refused:
        BUNDLES.verify(issued.leaf_pem + issued.chain_pem, b"", Usage.CLIENT, NOW)
    assert Reason.NO_CERTIFICATE == refused.value.reason


@pytest.mark.parametrize(
    "der",
    [
        b"no certificate",
        ROOT.der[:-1],
        ROOT.der + b"\0",
        with_odd_name(ROOT.der),
        ROOT.issue().leaf_der,
        CA(ca=None).der,
        CA(ca=False).der,
    ],
)
def test_bundles_admit_only_authorities(der: bytes) -> None:
    """Bytes that are no certificate, and certificates that are no CA's, make no bundle: a leaf there would vouch."""
    with pytest.raises(InvalidInput, match="bundle of dev"):
        Bundles.of({LOCAL: [ROOT.der, der]})


def test_bundles_are_bounded() -> None:
    """A domain has at most AUTHORITIES_MAX authorities."""
    with pytest.raises(InvalidInput, match="at most 256"):
        Bundles.of({LOCAL: [bytes([0x30, 2]) + number.to_bytes(2) for number in range(AUTHORITIES_MAX + 1)]})


def test_bundles_say_what_they_hold() -> None:
    """Equal sets are equal bundles in whatever order, repetitions are dropped, and PEM holds each authority once."""
    other = CA()
    one = Bundles.of({LOCAL: [ROOT.der, other.der], PARTNER: []})
    two = Bundles.of({PARTNER: [], LOCAL: [other.der, ROOT.der, other.der]})
    assert one == two
    assert hash(one) == hash(two)
    assert one != BUNDLES
    assert {LOCAL, PARTNER} == one.trust_domains
    assert {ROOT.der, other.der} == set(one.authorities(LOCAL))
    assert () == one.authorities(PARTNER)
    assert () == one.authorities(TrustDomain("else.example"))
    assert 2 == one.pem(LOCAL).count(b"BEGIN")
    assert b"" == one.pem(PARTNER)
    assert sorted((ROOT.pem, PARTNER_ROOT.pem)) == sorted((BUNDLES.pem(LOCAL), BUNDLES.pem(PARTNER)))
    assert 2 == BUNDLES.all_pem().count(b"BEGIN")
    assert NOW + DAY_S == one.not_after_unix_s(LOCAL)
    assert 0.0 == one.not_after_unix_s(PARTNER)
