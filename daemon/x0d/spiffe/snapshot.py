"""What the Workload API has told us last, in one immutable value: our SVID and whom to trust.

Whoever needs an identity takes the newest ``Snapshot`` once and uses that object throughout: a rotation swaps one
reference and is never half seen.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from x0d.identity.spiffe_id import SpiffeId
from x0d.spiffe.bundles import Bundles
from x0d.spiffe.certificate import to_pem


@dataclass(frozen=True)
class Svid:
    """Our own certificates and key."""

    spiffe_id: SpiffeId
    leaf_der: bytes
    chain_ders: tuple[bytes, ...]
    """Intermediates, without the leaf."""
    key_der: bytes = field(repr=False)
    """PKCS#8."""
    not_before_unix_s: float
    not_after_unix_s: float
    """Of the leaf."""
    serial: str
    """Of the leaf, in hexadecimal."""

    @cached_property
    def leaf_pem(self) -> bytes:
        """One PEM block."""
        return to_pem(self.leaf_der)

    @cached_property
    def chain_pem(self) -> bytes:
        """PEM blocks of the intermediates; may be empty."""
        return b"".join(map(to_pem, self.chain_ders))

    @cached_property
    def certificates_pem(self) -> bytes:
        """Leaf, then intermediates: what is shown in a handshake."""
        return self.leaf_pem + self.chain_pem

    @cached_property
    def key_pem(self) -> bytes:
        """PKCS#8 PEM; kept in memory, never written to a file."""
        key = load_der_private_key(self.key_der, password=None)
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass(frozen=True)
class Snapshot:
    generation: int
    """Rises with every change, be it of the SVID or of a bundle; 1 is the first."""
    svid: Svid
    bundles: Bundles


class SnapshotSource(Protocol):
    """Whoever keeps the newest snapshot."""

    @property
    def current(self) -> Snapshot | None:
        """The newest good one; None before the first."""

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Call back on the event loop after each change."""
