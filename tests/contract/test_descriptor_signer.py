"""What every signer of descriptors promises: the fake that tests use, and the one with keys and certificates."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

from fakes.authority import CA, NOW
from fakes.descriptors import FakeDescriptorSigner
from x0d.errors import IdentityRefused, NoIdentity
from x0d.identity.descriptor import PUBLIC_KEY_BYTES, Claim, SignedDescriptor, Verdict
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.ports.descriptors import DescriptorSigner
from x0d.spiffe.bundles import Bundles
from x0d.spiffe.descriptor_signing import DescriptorSigning
from x0d.spiffe.local_svids import svid_of
from x0d.spiffe.snapshot import Snapshot

LOCAL = TrustDomain("dev.x0d.test")
N1, N2 = SpiffeId(LOCAL, "/node/n1"), SpiffeId(LOCAL, "/node/n2")
ROOTS = {"root1": CA(), "root2": CA()}


@dataclass
class FixedSource:
    """``SnapshotSource`` that never changes."""

    current: Snapshot | None

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Nothing will."""


@dataclass
class World:
    """Makes signers of one kind: of an ID, under a root, who trust roots."""

    make: Callable[[SpiffeId | None, str, set[str]], DescriptorSigner]

    def signer(self, spiffe_id: SpiffeId | None = N1, root: str = "root1", trusted: str = "root1") -> DescriptorSigner:
        """``trusted``: names of roots, separated by blanks; ``spiffe_id`` None: no SVID and no bundle."""
        return self.make(spiffe_id, root, set(trusted.split()) if spiffe_id else set())


def fake(spiffe_id: SpiffeId | None, root: str, trusted: set[str]) -> DescriptorSigner:
    """Make the fake."""
    signer = FakeDescriptorSigner(spiffe_id, root)
    signer.trusted = trusted
    return signer


@pytest.fixture(params=["fake", "real"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Signers of both kinds."""
    made: list[DescriptorSigning] = []

    def real(spiffe_id: SpiffeId | None, root: str, trusted: set[str]) -> DescriptorSigner:
        source = FixedSource(None)
        if spiffe_id is not None:
            issued = ROOTS[root].issue(str(spiffe_id))
            svid = svid_of(spiffe_id, (issued.leaf_der, *issued.chain_ders), issued.key_der)
            source.current = Snapshot(1, svid, Bundles.of({LOCAL: [ROOTS[name].der for name in trusted]}))
        made.append(DescriptorSigning(MLDSA65PrivateKey.generate(), source, LOCAL))
        return made[-1]

    yield World(fake if request.param == "fake" else real)
    for signer in made:
        signer.close()


def claim_of(signer: DescriptorSigner, spiffe_id: SpiffeId = N1) -> Claim:
    """What a signer may sign."""
    return Claim(spiffe_id, IPv4Address("10.255.0.1"), signer.public_key, 7, 1, int(NOW * 1000))


def verdict_of(signer: DescriptorSigner, descriptor: SignedDescriptor) -> str:
    """What a signer says of a descriptor."""

    async def verify() -> None:
        await signer.verify(descriptor)

    try:
        asyncio.run(verify())
    except IdentityRefused as refusal:
        return refusal.reason
    return Verdict.OK


def signed_by(signer: DescriptorSigner, claim: Claim) -> SignedDescriptor:
    """Let a signer sign."""
    signing: Awaitable[SignedDescriptor] = signer.sign(claim)

    async def sign() -> SignedDescriptor:
        return await signing

    return asyncio.run(sign())


def test_what_is_signed_verifies_anywhere(world: World) -> None:
    """A descriptor is good to whoever trusts its root, also after it was written and read again."""
    signer = world.signer()
    assert PUBLIC_KEY_BYTES == len(signer.public_key)
    descriptor = signed_by(signer, claim_of(signer))
    assert claim_of(signer) == descriptor.claim
    assert Verdict.OK == verdict_of(signer, descriptor)
    assert Verdict.OK == verdict_of(
        world.signer(N2, "root2", "root2 root1"), SignedDescriptor.decode(descriptor.encode())
    )


def test_root_that_is_not_trusted(world: World) -> None:
    """A descriptor under another root is refused."""
    signer = world.signer(N1, "root2", "root2")
    assert Verdict.UNTRUSTED == verdict_of(world.signer(N2), signed_by(signer, claim_of(signer)))


def test_certificate_of_another_node(world: World) -> None:
    """Nobody can sign another node's claim with his own certificate, nor put the other's certificate beside it."""
    mallory, victim = world.signer(N2), world.signer(N1)
    own = signed_by(mallory, claim_of(mallory, N2))
    stolen = replace(claim_of(mallory), spiffe_id=N1)
    forged = replace(own, claim=stolen, payload=stolen.encode())
    assert Verdict.WRONG_ID == verdict_of(victim, forged)
    theirs = signed_by(victim, claim_of(victim))
    assert Verdict.BAD_SIGNATURE == verdict_of(victim, replace(forged, chain_ders=theirs.chain_ders))


def test_changed_in_any_part(world: World) -> None:
    """Another claim, and another signature of either key, are refused."""
    signer, other = world.signer(), world.signer()
    good = signed_by(signer, claim_of(signer))
    later = replace(good.claim, sequence=2)
    another = signed_by(other, claim_of(other))
    for changed in (
        replace(good, claim=later, payload=later.encode()),
        replace(good, svid_signature=good.svid_signature[:-1] + bytes((good.svid_signature[-1] ^ 1,))),
        replace(good, svid_signature=b"s"),
        replace(good, mldsa_signature=bytes((good.mldsa_signature[0] ^ 1,)) + good.mldsa_signature[1:]),
        replace(another, claim=later, payload=later.encode()),
    ):
        assert Verdict.BAD_SIGNATURE == verdict_of(signer, changed)


def test_nobody_signs_without_an_svid(world: World) -> None:
    """Without an SVID, or for another ID, nothing is signed; without a bundle nothing is verified."""
    nobody, signer = world.signer(None), world.signer()
    with pytest.raises(NoIdentity):
        signed_by(nobody, claim_of(nobody))
    with pytest.raises(NoIdentity):
        signed_by(signer, claim_of(signer, N2))
    assert Verdict.NO_BUNDLE == verdict_of(nobody, signed_by(signer, claim_of(signer)))
