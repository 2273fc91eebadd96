"""Signatures of descriptors as hashes, and descriptors kept in memory.

``FakeDescriptorSigner`` knows roots by name, as ``fakes.peers.FakeSvids`` does, and needs no thread, so it works in
virtual time.  ``tests/contract`` holds both to one contract with the real ones.

Not modelled: certificates and their rules, the instants at which they are in force, what a signature costs; of the
store damaged rows and what survives a power cut.
"""

import asyncio
from collections.abc import Sequence
from hashlib import sha256

from x0d.errors import IdentityRefused, NoIdentity, StorageFailed
from x0d.identity.descriptor import (
    MLDSA_SIGNATURE_BYTES,
    PUBLIC_KEY_BYTES,
    Claim,
    SignedDescriptor,
    Verdict,
    svid_text,
)
from x0d.identity.spiffe_id import SpiffeId
from x0d.ports.descriptors import KeptDescriptor


def stretched(seed: bytes, size: int) -> bytes:
    """Bytes that follow from a seed."""
    return b"".join(sha256(seed + bytes((block,))).digest() for block in range(size // 32 + 1))[:size]


class FakeDescriptorSigner:
    """``ports.descriptors.DescriptorSigner``; ``spiffe_id`` None: there is no SVID, ``trusted`` empty: no bundle."""

    def __init__(self, spiffe_id: SpiffeId | None, root: str = "root1") -> None:
        self.spiffe_id = spiffe_id
        self.root = root
        self.trusted = {root}
        self.verified = 0

    @property
    def public_key(self) -> bytes:
        return stretched(b"key of %s" % str(self.spiffe_id).encode(), PUBLIC_KEY_BYTES)

    async def sign(self, claim: Claim) -> SignedDescriptor:
        if self.spiffe_id != claim.spiffe_id:
            raise NoIdentity(f"the SVID is for {self.spiffe_id}")
        payload = claim.encode()
        signature = stretched(claim.public_key + payload, MLDSA_SIGNATURE_BYTES)
        leaf = f"{self.spiffe_id} {self.root}".encode()
        return SignedDescriptor(
            claim, payload, signature, (leaf,), sha256(leaf + svid_text(payload, signature)).digest()
        )

    async def verify(self, descriptor: SignedDescriptor) -> None:
        self.verified += 1
        await asyncio.sleep(0)  # others come in between, as while a thread works
        if not self.trusted:
            raise IdentityRefused(Verdict.NO_BUNDLE, "there is no trust bundle")
        leaf, claim = descriptor.chain_ders[0], descriptor.claim
        spiffe_id, _, root = leaf.decode(errors="replace").partition(" ")
        if root not in self.trusted:
            raise IdentityRefused(Verdict.UNTRUSTED, f"signed by {root}")
        if spiffe_id != str(claim.spiffe_id):
            raise IdentityRefused(Verdict.WRONG_ID, f"the certificate is {spiffe_id}'s")
        signature = stretched(claim.public_key + descriptor.payload, MLDSA_SIGNATURE_BYTES)
        if descriptor.svid_signature != sha256(leaf + descriptor.signed_by_svid).digest():
            raise IdentityRefused(Verdict.BAD_SIGNATURE, "another SVID's")
        if descriptor.mldsa_signature != signature:
            raise IdentityRefused(Verdict.BAD_SIGNATURE, "another key's")


class FakeDescriptorStore:
    """``ports.descriptors.DescriptorStore``; ``broken`` is what every call fails with."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, int], KeptDescriptor] = {}
        self.broken = ""

    def _answer(self) -> list[KeptDescriptor]:
        """All, the newest first."""
        if self.broken:
            raise StorageFailed(self.broken)
        return sorted(self.kept.values(), key=lambda kept: (-kept.signed_at_unix_ms, kept.spiffe_id))

    async def newest(self) -> Sequence[KeptDescriptor]:
        newest = {kept.spiffe_id: kept for kept in reversed(self._answer())}
        return [newest[spiffe_id] for spiffe_id in sorted(newest)]

    async def latest(self, bytes_max: int) -> Sequence[KeptDescriptor]:
        fitting = []
        for kept in self._answer():
            bytes_max -= len(kept.raw)
            if bytes_max < 0:
                break
            fitting.append(kept)
        return fitting

    async def keep(self, kept: KeptDescriptor, *, per_node: int, in_place_of: str = "") -> None:
        self._answer()
        await self.forget(in_place_of)
        self.kept[kept.spiffe_id, kept.signed_at_unix_ms] = kept
        for surplus in [held for held in self._answer() if held.spiffe_id == kept.spiffe_id][per_node:]:
            del self.kept[surplus.spiffe_id, surplus.signed_at_unix_ms]

    async def forget(self, spiffe_id: str) -> None:
        self.kept = {(held.spiffe_id, held.signed_at_unix_ms): held for held in self._answer()
                     if held.spiffe_id != spiffe_id}  # fmt: skip
