"""Signatures of descriptors with real keys and chains, checked as a third party would, and every forgery refused."""

import asyncio
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

from fakes.authority import CA, CLIENT, HOUR_S, NOW, Issued
from x0d.errors import IdentityRefused, NoIdentity, NotSupported, StorageFailed
from x0d.identity.descriptor import Claim, SignedDescriptor, Verdict, svid_text
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.spiffe.bundles import Bundles
from x0d.spiffe.descriptor_signing import DescriptorSigning, sign_with_svid
from x0d.spiffe.local_svids import svid_of
from x0d.spiffe.mldsa import FILE_NAME, open_key, probe, probe_key_exchange
from x0d.spiffe.snapshot import Snapshot

LOCAL, PARTNER = TrustDomain("dev.x0d.test"), TrustDomain("partner.example")
N1 = SpiffeId(LOCAL, "/node/n1")
ROOT, PARTNER_ROOT = CA(), CA("partner.example")
MIDDLE = CA(parent=ROOT)
KEY = MLDSA65PrivateKey.generate()
CLAIM = Claim(N1, IPv4Address("10.255.0.1"), KEY.public_key().public_bytes_raw(), 7, 1, int(NOW * 1000))
PAYLOAD = CLAIM.encode()


@dataclass
class Source:
    """``SnapshotSource`` that a test changes."""

    current: Snapshot | None = None

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Nobody here asks."""

    def show(self, issued: Issued, roots: dict[TrustDomain, list[CA]] | None = None) -> None:
        """Take an SVID, and authorities by domain."""
        bundles = Bundles.of({d: [ca.der for ca in cas] for d, cas in (roots or {LOCAL: [ROOT]}).items()})
        self.current = Snapshot(1, svid_of(N1, (issued.leaf_der, *issued.chain_ders), issued.key_der), bundles)


@contextmanager
def signing(source: Source) -> Iterator[DescriptorSigning]:
    """Sign and verify with KEY."""
    made = DescriptorSigning(KEY, source, LOCAL)
    try:
        yield made
    finally:
        made.close()


def signed(issued: Issued, claim: Claim = CLAIM, text: bytes | None = None, key: MLDSA65PrivateKey = KEY) -> bytes:
    """A descriptor made by hand: with any SVID, over any text, with any ML-DSA-65 key and whatever it claims."""
    payload = claim.encode()
    signature = key.sign(payload, context=b"x0d-beacon-v1")
    chain = (issued.leaf_der, *issued.chain_ders)
    by_svid = sign_with_svid(issued.key_der, svid_text(payload, signature) if text is None else text)
    return SignedDescriptor(claim, payload, signature, chain, by_svid).encode()


def verdict_on(raw: bytes, roots: dict[TrustDomain, list[CA]] | None = None) -> str:
    """What this node says of a descriptor."""
    source = Source()
    source.show(ROOT.issue(), roots)
    with signing(source) as verifier:
        try:
            asyncio.run(verifier.verify(SignedDescriptor.decode(raw)))
        except IdentityRefused as refusal:
            return refusal.reason
        return Verdict.OK


@pytest.mark.parametrize("kind", ["p256", "p384", "ed25519", "rsa2048", "rsa4096"])
def test_every_kind_of_svid_signs(kind: str) -> None:
    """Whatever key an SVID may have, what it signs verifies, after writing and reading."""
    source = Source()
    source.show(MIDDLE.issue(key=kind))
    with signing(source) as node:
        descriptor = SignedDescriptor.decode(asyncio.run(node.sign(CLAIM)).encode())
        asyncio.run(node.verify(descriptor))
        other = replace(CLAIM, sequence=2)
        with pytest.raises(IdentityRefused, match=r"the SVID of .* has not signed"):
            asyncio.run(node.verify(replace(descriptor, claim=other, payload=other.encode())))


def test_third_party_checks_by_the_format_alone() -> None:
    """With what the module says about the format, and no code of ours, both signatures are found and verify."""
    source = Source()
    source.show(ROOT.issue())
    with signing(source) as node:
        raw = asyncio.run(node.sign(CLAIM)).encode()
    fields, at = [], 1
    for _ in range(2):
        size = int.from_bytes(raw[at : at + 2])
        fields.append(raw[at + 2 : at + 2 + size])
        at += 2 + size
    count, at = raw[at], at + 1
    for _ in range(count + 1):
        size = int.from_bytes(raw[at : at + 2])
        fields.append(raw[at + 2 : at + 2 + size])
        at += 2 + size
    payload, mldsa_signature, leaf, svid_signature = fields
    assert (1, 1, len(raw)) == (raw[0], count, at)
    MLDSA65PublicKey.from_public_bytes(payload[-1952:]).verify(mldsa_signature, payload, context=b"x0d-beacon-v1")
    key = x509.load_der_x509_certificate(leaf).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    text = b"x0d-descriptor-svid-v1\0" + payload + mldsa_signature
    key.verify(svid_signature, text, ec.ECDSA(hashes.SHA256()))
    assert b"x0dd\1" + (7).to_bytes(8) + (1).to_bytes(8) + int(NOW * 1000).to_bytes(8) == payload[:29]
    assert b"\4\x0a\xff\0\1" + len(str(N1)).to_bytes(2) + str(N1).encode() == payload[29:-1952]


def changed(issued: Issued, **parts: object) -> bytes:
    """A good descriptor with parts that are not."""
    return replace(SignedDescriptor.decode(signed(issued)), **parts).encode()  # type: ignore[arg-type]


def without_middle() -> bytes:
    """The intermediate is left out."""
    issued = MIDDLE.issue()
    return changed(issued, chain_ders=(issued.leaf_der,))


def with_chain_of(signer: Issued, shown: Issued) -> bytes:
    """One certificate signs, another one of the same ID is shown."""
    return changed(signer, chain_ders=(shown.leaf_der, *shown.chain_ders))


def mldsa_signed(context: bytes) -> bytes:
    """The right key under another context; the SVID has signed that too."""
    issued = ROOT.issue()
    signature = KEY.sign(PAYLOAD, context=context)
    by_svid = sign_with_svid(issued.key_der, svid_text(PAYLOAD, signature))
    return changed(issued, mldsa_signature=signature, svid_signature=by_svid)


def at(after_s: float) -> Claim:
    """The claim, signed at another instant."""
    return replace(CLAIM, signed_at_unix_ms=int((NOW + after_s) * 1000))


@pytest.mark.parametrize(
    ("expected", "make"),
    [
        (Verdict.OK, lambda: signed(ROOT.issue())),
        (Verdict.OK, lambda: signed(MIDDLE.issue())),
        (Verdict.OK, lambda: signed(ROOT.issue(ttl_s=-10, not_before_s=-60), at(-30))),
        (Verdict.UNTRUSTED, lambda: signed(ROOT.issue(ttl_s=-10, not_before_s=-60), at(-5))),
        (Verdict.UNTRUSTED, lambda: signed(ROOT.issue(ttl_s=-10, not_before_s=-60), at(-61))),
        (Verdict.UNTRUSTED, lambda: signed(ROOT.issue(), at(10**9))),
        (Verdict.UNTRUSTED, lambda: signed(ROOT.issue(), at(-NOW))),
        (Verdict.UNTRUSTED, lambda: signed(CA().issue())),
        (Verdict.UNTRUSTED, lambda: signed(PARTNER_ROOT.issue(str(N1)))),
        (Verdict.UNTRUSTED, lambda: signed(PARTNER_ROOT.issue())),
        (Verdict.UNTRUSTED, without_middle),
        (Verdict.UNTRUSTED, lambda: signed(ROOT.issue(ca=True))),
        (Verdict.UNTRUSTED, lambda: signed(ROOT.issue(uris=[str(N1), str(N1)]))),
        (Verdict.UNTRUSTED, lambda: signed(ROOT.issue(uris=[]))),
        (Verdict.UNTRUSTED, lambda: signed(ROOT.issue(eku=(CLIENT,)))),
        (Verdict.UNTRUSTED, lambda: signed(ROOT.issue(key="p521"))),
        (Verdict.UNTRUSTED, lambda: changed(ROOT.issue(), chain_ders=(b"\x30\x03abc",))),
        (Verdict.WRONG_ID, lambda: signed(ROOT.issue("spiffe://dev.x0d.test/node/n2"))),
        (Verdict.WRONG_ID, lambda: signed(ROOT.issue("spiffe://dev.x0d.test/node/N1"))),
        (Verdict.WRONG_ID, lambda: signed(ROOT.issue("spiffe://dev.x0d.test/node/n1/x"))),
        (Verdict.BAD_SIGNATURE, lambda: with_chain_of(ROOT.issue(), ROOT.issue())),
        (Verdict.BAD_SIGNATURE, lambda: with_chain_of(ROOT.issue(), ROOT.issue(key="ed25519"))),
        (Verdict.BAD_SIGNATURE, lambda: with_chain_of(ROOT.issue(), ROOT.issue(key="rsa2048"))),
        (Verdict.BAD_SIGNATURE, lambda: signed(ROOT.issue(), text=PAYLOAD)),
        (Verdict.BAD_SIGNATURE, lambda: signed(ROOT.issue(), text=b" " * 64 + b"TLS 1.3, server CertificateVerify\0")),
        (Verdict.BAD_SIGNATURE, lambda: signed(ROOT.issue(), key=MLDSA65PrivateKey.generate())),
        (Verdict.BAD_SIGNATURE, lambda: mldsa_signed(b"")),
        (Verdict.BAD_SIGNATURE, lambda: mldsa_signed(b"another context")),
        (Verdict.BAD_SIGNATURE, lambda: changed(ROOT.issue(), svid_signature=b"\x30\x06\x02\x01\0\x02\x01\0")),
        (Verdict.BAD_SIGNATURE, lambda: changed(ROOT.issue(), svid_signature=bytes(512))),
        (Verdict.BAD_SIGNATURE, lambda: signed(ROOT.issue(), replace(CLAIM, public_key=b"\xff" * 1952))),
    ],
)
def test_forgeries_are_refused(expected: str, make: Callable[[], bytes]) -> None:
    """Only a claim that its own ID's SVID and its own ML-DSA-65 key have signed, in the SVID's life, is good."""
    assert expected == verdict_on(make(), {LOCAL: [ROOT], PARTNER: [PARTNER_ROOT]})


def test_root_of_now_counts() -> None:
    """A chain whose root has gone is refused, although it was good when it was signed; a new root counts at once."""
    source, other = Source(), CA()
    raw = SignedDescriptor.decode(signed(ROOT.issue()))
    source.show(ROOT.issue())
    with signing(source) as verifier:
        asyncio.run(verifier.verify(raw))
        source.show(ROOT.issue(), {LOCAL: [other]})
        with pytest.raises(IdentityRefused) as refused:
            asyncio.run(verifier.verify(raw))
        assert Verdict.UNTRUSTED == refused.value.reason
        source.show(ROOT.issue(), {LOCAL: [other, ROOT]})
        asyncio.run(verifier.verify(raw))


def test_expired_svid_signs_nothing() -> None:
    """An SVID signs from its first to its last second, and not outside of them."""
    source = Source()
    source.show(ROOT.issue())
    with signing(source) as node:
        asyncio.run(node.sign(at(HOUR_S - 1)))
        for claim in (at(HOUR_S), at(-61)):
            with pytest.raises(NoIdentity):
                asyncio.run(node.sign(claim))


def test_event_loop_goes_on() -> None:
    """Signatures are made and checked in another thread: the loop turns while that one is busy."""
    source = Source()
    source.show(ROOT.issue())

    async def main(node: DescriptorSigning) -> int:
        turns = 0
        signing_now = asyncio.create_task(node.sign(CLAIM))
        while not signing_now.done():
            await asyncio.sleep(0)  # tidy: a turn of the loop
            turns += 1
        return turns

    with signing(source) as node:
        assert asyncio.run(main(node)) > 2


# ---- the key ----


def test_key_is_made_once_and_private(tmp_path: Path) -> None:
    """The key is made at the first opening, 0600 below 0700, and is the same afterwards."""
    first = open_key(tmp_path / "identity").public_key().public_bytes_raw()
    assert first == open_key(tmp_path / "identity").public_key().public_bytes_raw()
    path = tmp_path / "identity" / FILE_NAME
    assert (0o600, 0o700) == (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode))
    assert first != open_key(tmp_path / "other").public_key().public_bytes_raw()


@pytest.mark.parametrize(
    "content", [b"", bytes(32), b"x0d", b"x0d ML-DSA-65 seed\n" + bytes(31), b"x0d ML-DSA-65 seed " + bytes(32)]
)
def test_damaged_key_is_told(tmp_path: Path, content: bytes) -> None:
    """A damaged file is refused with what to do, and left as it is."""
    open_key(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(StorageFailed, match="remove it"):
        open_key(tmp_path)
    assert content == (tmp_path / FILE_NAME).read_bytes()


def test_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A key that may have been copied is not used."""
    open_key(tmp_path)
    (tmp_path / FILE_NAME).chmod(0o640)
    with pytest.raises(StorageFailed, match="holds keys"):
        open_key(tmp_path)


def test_probe() -> None:
    """This OpenSSL has ML-DSA; one that lacks it is named, with what needs it."""

    def lacking() -> MLDSA65PrivateKey:
        raise UnsupportedAlgorithm("not here")

    probe()
    with pytest.raises(NotSupported, match=r"identity\.pqc_beacons .* OpenSSL"):
        probe(lacking)


def test_probe_of_the_key_exchange() -> None:
    """A TLS library without ML-KEM-768 is told by the key that needs it, before anything listens."""

    def lacking() -> MLKEM768PrivateKey:
        raise UnsupportedAlgorithm("none here")

    probe_key_exchange()
    with pytest.raises(NotSupported, match=r"identity\.require_pq"):
        probe_key_exchange(lacking)


def test_signature_is_none_of_the_tls_kind() -> None:
    """What the SVID signs begins unlike anything that TLS 1.3 or a certificate request signs with the same key."""
    assert not svid_text(PAYLOAD, b"m").startswith((b" ", b"\x30"))
