"""Signed descriptors: who makes and checks the signatures, and where descriptors are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from x0d.identity.descriptor import Claim, SignedDescriptor


@dataclass(frozen=True, slots=True)
class KeptDescriptor:
    """One descriptor as it is kept: verified when it came."""

    spiffe_id: str
    signed_at_unix_ms: int
    digest: bytes
    """SHA-256 of the payload."""
    received_from: str
    """SPIFFE ID of whoever gave it to us: the node itself or one that passed it on."""
    raw: bytes


class DescriptorSigner(Protocol):
    """This node's ML-DSA-65 key and its SVID; works in a thread of its own."""

    @property
    def public_key(self) -> bytes:
        """ML-DSA-65, 1,952 bytes."""

    async def sign(self, claim: Claim) -> SignedDescriptor:
        """Sign with both keys.

        Raises:
            NoIdentity: there is no SVID of the claim's ID that is in force at the claim's instant.
        """

    async def verify(self, descriptor: SignedDescriptor) -> None:
        """Check chain, ID and both signatures, at the instant of signing and with the bundles of now.

        Raises:
            IdentityRefused: ``reason`` is ``no_bundle``, ``untrusted``, ``wrong_id`` or ``bad_signature`` of
                ``identity.descriptor.Verdict``.
        """


class DescriptorStore(Protocol):
    """Descriptors of all nodes, on disk; each method raises StorageFailed."""

    async def newest(self) -> Sequence[KeptDescriptor]:
        """The newest one of each node, by node."""

    async def latest(self, bytes_max: int) -> Sequence[KeptDescriptor]:
        """All that fit into so many bytes of ``raw``, the newest first."""

    async def keep(self, kept: KeptDescriptor, *, per_node: int, in_place_of: str = "") -> None:
        """Add one, and forget those of its node beyond the newest ``per_node``, and all of node ``in_place_of``."""

    async def forget(self, spiffe_id: str) -> None:
        """Forget all of a node; nothing happens if there are none."""
