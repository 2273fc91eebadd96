"""Signatures of descriptors: by this node's ML-DSA-65 key and its SVID's, and those of others against the bundle.

Everything runs in one thread of its own: a signature takes 1.2 to 1.7 ms, a verification 0.3 ms and 0.4 ms for a new
chain, which is too long for the event loop, and one thread is all that descriptors may take of the machine.

A chain is verified with the bundle of now, at the instant of signing: the certificate may have expired since, its root
may not have gone.  The authorities are those of our own trust domain alone, in a ``Bundles`` that only this thread
uses, so relayed chains do not push those of live connections out of the cache.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key

from x0d.errors import IdentityRefused, NoIdentity
from x0d.identity.descriptor import CONTEXT, Claim, SignedDescriptor, Verdict, svid_text
from x0d.identity.model import Usage
from x0d.identity.spiffe_id import TrustDomain
from x0d.spiffe.bundles import Bundles
from x0d.spiffe.certificate import load, to_pem
from x0d.spiffe.mldsa import is_signed
from x0d.spiffe.snapshot import SnapshotSource, Svid

T = TypeVar("T")
_PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)
_ECDSA: Final = ec.ECDSA(hashes.SHA256())


class DescriptorSigning:
    """``ports.descriptors.DescriptorSigner``."""

    def __init__(self, key: MLDSA65PrivateKey, source: SnapshotSource, trust_domain: TrustDomain) -> None:
        """``key``: of ``mldsa.open_key``; ``trust_domain``: ours, the only one whose chains count."""
        self._key = key
        self._source = source
        self._trust_domain = trust_domain
        self._public_key = key.public_key().public_bytes_raw()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="descriptors")
        self._authorities: tuple[bytes, ...] = ()
        self._bundles = Bundles.of({trust_domain: ()})

    @property
    def public_key(self) -> bytes:
        """ML-DSA-65, 1,952 bytes."""
        return self._public_key

    def close(self) -> None:
        """End the thread after what it does now."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def sign(self, claim: Claim) -> SignedDescriptor:
        """Sign with both keys.  Raises NoIdentity."""
        snapshot = self._source.current
        if snapshot is None:
            raise NoIdentity("there is no SVID to sign a descriptor with")
        svid = snapshot.svid
        if svid.spiffe_id != claim.spiffe_id:
            raise NoIdentity(f"the SVID is for {svid.spiffe_id}, the descriptor would be for {claim.spiffe_id}")
        if not svid.not_before_unix_s <= claim.signed_at_unix_ms / 1e3 < svid.not_after_unix_s:
            raise NoIdentity(f"the SVID of {svid.spiffe_id} is not in force now: no descriptor is signed with it")
        return await self._in_thread(lambda: self._sign(claim, svid))

    async def verify(self, descriptor: SignedDescriptor) -> None:
        """Check chain, ID and both signatures.  Raises IdentityRefused."""
        snapshot = self._source.current
        if snapshot is None:
            raise IdentityRefused(Verdict.NO_BUNDLE, "there is no trust bundle yet")
        authorities = snapshot.bundles.authorities(self._trust_domain)
        await self._in_thread(lambda: self._verify(descriptor, authorities))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _sign(self, claim: Claim, svid: Svid) -> SignedDescriptor:
        payload = claim.encode()
        signature = self._key.sign(payload, context=CONTEXT)
        chain = (svid.leaf_der, *svid.chain_ders)
        return SignedDescriptor(
            claim, payload, signature, chain, sign_with_svid(svid.key_der, svid_text(payload, signature))
        )

    def _verify(self, descriptor: SignedDescriptor, authorities: tuple[bytes, ...]) -> None:
        if authorities != self._authorities:
            self._bundles = Bundles.of({self._trust_domain: authorities})
            self._authorities = authorities
        claim = descriptor.claim
        leaf, *others = map(to_pem, descriptor.chain_ders)
        try:
            verified = self._bundles.verify(leaf, b"".join(others), Usage.SERVER, claim.signed_at_unix_ms / 1e3)
        except IdentityRefused as refusal:
            raise IdentityRefused(Verdict.UNTRUSTED, f"{refusal.reason}: {refusal}") from refusal
        if verified.spiffe_id != claim.spiffe_id:
            text = f"the certificate is {verified.spiffe_id}'s, the claim {claim.spiffe_id}'s"
            raise IdentityRefused(Verdict.WRONG_ID, text)
        if not is_signed_by_svid(descriptor.chain_ders[0], descriptor.svid_signature, descriptor.signed_by_svid):
            raise IdentityRefused(Verdict.BAD_SIGNATURE, f"the SVID of {claim.spiffe_id} has not signed this")
        if not is_signed(claim.public_key, descriptor.mldsa_signature, descriptor.payload, CONTEXT):
            raise IdentityRefused(Verdict.BAD_SIGNATURE, f"the ML-DSA-65 key of {claim.spiffe_id} has not signed this")


def sign_with_svid(key_der: bytes, text: bytes) -> bytes:
    """Sign with an SVID's key (PKCS#8), in the way of its type."""
    key = load_der_private_key(key_der, password=None)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(text, _ECDSA)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(text, _PSS, hashes.SHA256())
    assert isinstance(key, ed25519.Ed25519PrivateKey), "the rules of leaves allow no other"
    return key.sign(text)


def is_signed_by_svid(leaf_der: bytes, signature: bytes, text: bytes) -> bool:
    """Whether the key of a verified leaf has signed a text, in the way of its type."""
    key = load(leaf_der).public_key()
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, text, _ECDSA)
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, text, _PSS, hashes.SHA256())
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, text)
        else:
            return False
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True
