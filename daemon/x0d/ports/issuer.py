"""The issuer of a development cluster: its authority, its tokens, its join port, and what a joined node holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from x0d.identity.spiffe_id import SpiffeId, TrustDomain

TOKEN_ID_CHARACTERS: Final = 8


def join_id(trust_domain: TrustDomain) -> SpiffeId:
    """Who answers on the join port; nobody gets a certificate for it."""
    return SpiffeId(trust_domain, "/issuer/join")


@dataclass(frozen=True, slots=True)
class CreatedToken:
    """One way in, for one node."""

    token: str
    """Holds a secret: whoever has it can join as that node, once."""
    spiffe_id: str
    address: str
    """Host at which the new node reaches the join port, without the port."""
    expires_at_unix_ms: int


@dataclass(frozen=True, slots=True)
class OpenToken:
    """A token that could be spent now, without what would let anybody in."""

    id: str
    """Of ``TokenRecord.id``."""
    spiffe_id: str
    expires_at_unix_ms: int


@dataclass(frozen=True, slots=True)
class IssuerStatus:
    root_sha256: str
    """Of the public key of the root that signs now, hex."""
    root_not_after_unix_s: float
    open_tokens: int
    join_open: bool
    """Whether the join port listens: while a token is open."""
    own_renewal_due_unix_s: float = 0.0
    """When the issuer makes its own SVID anew; 0: it has made none in this life."""


class IssuerView(Protocol):
    """What the control API shows and asks of the issuer."""

    async def create_token(self, spiffe_id_text: str, address: str) -> CreatedToken:
        """Make a token for a node, by its ID or its bare name; ``address`` empty: one is chosen.

        Raises:
            InvalidInput: no ID of a node of this trust domain, no address, or none that could be chosen.
            TooMany: too many tokens are open.
            StorageFailed: the token could not be kept.
            AddressUnavailable: the join port could not be opened.
        """

    def open_tokens(self) -> Sequence[OpenToken]:
        """Those that could be spent now, the earliest to expire first.  From memory."""

    async def revoke_tokens(self, which: str) -> Sequence[OpenToken]:
        """Take tokens out of use that nobody has spent: the one with this id, else all of a node, by ID or name.

        Raises:
            NotThere: there is none.
            InvalidInput: the text can be neither.
            StorageFailed: it could not be written; all stand.
        """

    def status(self) -> IssuerStatus:
        """Answer from memory."""


@dataclass(frozen=True, slots=True)
class SignedSvid:
    """A certificate that the authority has made."""

    chain_ders: tuple[bytes, ...]
    """Leaf first; roots are not in it."""
    not_after_unix_s: float


class SvidAuthority(Protocol):
    """Roots of one trust domain and their keys."""

    @property
    def root_sha256(self) -> bytes:
        """SHA-256 of the public key (SubjectPublicKeyInfo) of the root that signs now."""

    @property
    def root_not_after_unix_s(self) -> float:
        """End of the root that signs now."""

    def bundle(self) -> tuple[bytes, ...]:
        """Every root that is to be trusted now, DER, oldest first."""

    def root_der(self, sha256: bytes) -> bytes | None:
        """Certificate of a root of the bundle, by the hash of its public key; None if it is not there (any more)."""

    def check_request(self, csr_der: bytes) -> None:
        """Look at a PKCS#10 request without doing anything.

        Raises:
            InvalidInput: it is malformed, not signed by its key, or its key is of a kind that SVIDs have not.
        """

    def issue_for_request(self, spiffe_id: SpiffeId, csr_der: bytes) -> SignedSvid:
        """Certify the key of a PKCS#10 request under an ID of our choice.

        Raises:
            InvalidInput: the request is malformed, not signed by its key, or its key is of a kind that SVIDs have not.
            NoIdentity: no root can sign now.
        """

    def is_rotation_due(self, now_unix_s: float) -> bool:
        """Whether ``rotate`` has something to do.  From memory."""

    def rotate(self, now_unix_s: float) -> bool:
        """Do the steps of the roots' lives that are due, on disk and then here; whether there were any.

        Writes: call in a thread.

        Raises:
            StorageFailed: the step that could not be written is not done.
        """


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token as it is kept: without its secret."""

    secret_hash: bytes
    spiffe_id: str
    root_sha256: bytes
    """Root that its holder will accept."""
    expires_unix_s: int

    @property
    def id(self) -> str:
        """How people name it: of the hash, from which nobody comes to the secret."""
        return self.secret_hash.hex()[:TOKEN_ID_CHARACTERS]


class TokenStore(Protocol):
    """Tokens on disk; each method raises StorageFailed."""

    async def add(self, record: TokenRecord) -> None:
        """Keep a token; on disk when this returns."""

    async def spend(self, secret_hash: bytes, spiffe_id: str, now_unix_s: float) -> None:
        """Take a token out of use for good; on disk when this returns, and never twice.

        Raises:
            TokenRefused: unknown, spent, expired, or for another ID; nothing has changed.
        """

    async def unspent(self) -> Sequence[TokenRecord]:
        """Those that nobody has spent, expired ones too, the earliest to expire first."""

    async def remove(self, secret_hashes: Sequence[bytes]) -> Sequence[bytes]:
        """Remove those of these that nobody has spent, and return them; on disk when this returns."""

    async def forget(self, expired_before_unix_s: float) -> None:
        """Remove what expired before that, spent or not."""


class JoinListener(Protocol):
    """The join port; whoever opens it says which root its certificate is of."""

    @property
    def is_open(self) -> bool:
        """Whether it listens."""

    @property
    def root_sha256(self) -> bytes:
        """Root that it shows; empty while it is closed."""

    async def open(self, root_sha256: bytes) -> None:
        """Listen, showing a certificate of this root (empty, or a root that is gone: of the one that signs now).

        Raises:
            AddressUnavailable: the port cannot be bound.
            NoIdentity: no root can sign now.
        """

    async def close(self, grace_s: float) -> None:
        """Stop listening; calls under way have ``grace_s`` seconds.  Nothing happens if it is closed."""


class LocalSvids(Protocol):
    """Certificates that the Workload API of this node gives out."""

    def refresh(self, now_unix_s: float) -> None:
        """Make anew what is past its half-life, and push what has changed to those who listen."""

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Call back after each change."""

    def due_unix_s(self, spiffe_id: SpiffeId) -> float:
        """When the certificate of an ID is made anew; 0: there is none."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What an issuer answers to a request for a certificate."""

    chain_ders: tuple[bytes, ...]
    bundle_ders: tuple[bytes, ...]
    federated: Mapping[TrustDomain, tuple[bytes, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Admission:
    """What a node gets that joins."""

    grant: Grant
    renewal_endpoint: str
    """``10.255.0.1:9471`` or ``[fd00::1]:9471``."""
    issuer_id: SpiffeId
    """Who answers there."""


class HeldIdentity(Protocol):
    """The identity of a node that has joined."""

    @property
    def spiffe_id(self) -> SpiffeId:
        """Ours."""

    @property
    def issuer_id(self) -> SpiffeId:
        """Who renews it."""

    @property
    def renewal_endpoint(self) -> str:
        """Where that is."""

    @property
    def not_before_unix_s(self) -> float:
        """Begin of the certificate's life."""

    @property
    def not_after_unix_s(self) -> float:
        """End of the certificate's life."""

    @property
    def issued_unix_s(self) -> float:
        """When it was made: certificates begin some time before that."""

    def request(self) -> bytes:
        """Make a new key, keep it aside, and return a PKCS#10 request (DER) for it."""

    def accept(self, grant: Grant) -> None:
        """Take the answer to the last request: check all of it, write it, then use it.  Writes: call in a thread.

        Raises:
            IdentityRefused: it is not for this ID or key, or does not verify; nothing has changed.
            StorageFailed: it could not be written; nothing has changed.
        """

    def announce(self) -> None:
        """Tell those who listen that ``accept`` has changed something; on the event loop."""


class RenewalChannel(Protocol):
    """The issuer's peer port, over mTLS."""

    async def renew(self, csr_der: bytes) -> Grant:
        """Ask for a new certificate.

        Raises:
            PeerUnreachable: no answer, or a refusal; says which.
            IdentityRefused: somebody else answers there.
            InvalidInput: the answer is no answer.
        """
