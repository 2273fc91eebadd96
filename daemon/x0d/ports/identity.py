"""Identity, as services see it: our own SVID, the judgement on others, and the peers' channel."""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Protocol

from x0d.identity.model import Principal, Proof
from x0d.identity.spiffe_id import SpiffeId
from x0d.mesh.model import Address

CALLER: Final[ContextVar[Principal]] = ContextVar("x0d_caller")
"""Who makes the call that is being served; set by the gate, never absent inside a servicer."""


@dataclass(frozen=True, slots=True)
class TrustBundle:
    trust_domain: str
    own: bool
    authorities: int
    not_after_unix_s: float
    """Of the root that lasts longest."""


@dataclass(frozen=True, slots=True)
class SvidStatus:
    """Our own SVID and where it comes from, now."""

    spiffe_id: str
    """Empty while there is none."""
    serial: str
    not_before_unix_s: float
    not_after_unix_s: float
    """0: none."""
    generation: int
    """Of the bundles; rises with each update that changed one of them, not with a new SVID alone. 0: none yet."""
    connected: bool
    """To the Workload API."""
    connected_changed_at_ns: int
    """Monotonic, of the last change of ``connected``."""
    updates: int
    rejected: Mapping[str, int]
    """Updates that were refused, by reason."""
    last_error: str
    """What the Workload API said last, or why its last update was refused; empty when all is well."""
    bundles: tuple[TrustBundle, ...]


class SvidSource(Protocol):
    """The Workload API's latest good answer."""

    def status(self) -> SvidStatus:
        """Answer from memory."""

    def judge(self, proof: Proof) -> None:
        """Look again at what a peer has shown, with the bundles of now and the clock of now.

        Raises:
            IdentityRefused: ``expired``, ``untrusted``, ``unknown_trust_domain``, or ``dev_identity``.
        """

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Call back on the event loop after each update that was taken."""


@dataclass(frozen=True, slots=True)
class PeerTarget:
    """Where a neighbour's daemon is reached, before any route exists, and who must answer."""

    spiffe_id: SpiffeId
    address: Address
    """On the link; IPv6 link-local ones go by ``interface``."""
    interface: str
    """The connection leaves by this device; empty: wherever the kernel's routes lead."""
    port: int


@dataclass(frozen=True, slots=True)
class KeyOffer:
    """One side's half of an agreement."""

    boot_id: int
    """64 bits, random, of this life of the daemon; never 0."""
    nonce: bytes
    """32 random bytes."""


class PeerChannel(Protocol):
    """Calls to other daemons over mTLS.

    Each raises PeerUnreachable (with what the peer said, if it refused us), or IdentityRefused where whoever answers
    is not the one that was asked for.
    """

    async def agree(self, target: PeerTarget, offer: KeyOffer) -> tuple[KeyOffer, Proof]:
        """Agree on a key: the peer's half, and what it has proved; NotKnownToPeer: it has no such neighbour."""

    async def exchange_descriptors(
        self, target: PeerTarget, held: Sequence[bytes], given: Sequence[bytes]
    ) -> tuple[Sequence[bytes], Sequence[bytes], Proof]:
        """Give descriptors: those we lack, the hashes of those that the peer wants, and what it has proved."""

    async def probe(self, target: PeerTarget) -> Proof:
        """Shake hands, see that the peer lets us in (RefusedByPeer if not), and end the connection."""
