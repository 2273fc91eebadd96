"""What the API shows of identity and of the audit: frozen data with the field names of the protos, and the views."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from x0d.ports import AuditRecord
from x0d.ports.issuer import CreatedToken, OpenToken
from x0d.service.peers_told import PeerRow


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """Roots of one trust domain."""

    trust_domain: str
    own: bool
    authorities: int
    not_after_unix_ms: int
    """Of the root that lasts longest; 0: there is none."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """The issuer of a development cluster."""

    root_sha256: str
    root_not_after_unix_ms: int
    open_tokens: int
    join_open: bool


@dataclass(frozen=True, slots=True)
class RoleBinding:
    """A role, and who has it: exactly one of the others is set."""

    role: str
    id: str = ""
    user: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is, and whom it trusts."""

    spiffe_id: str
    """Empty while there is none."""
    source: str
    """``issuer``, ``joined`` or ``spire``."""
    state: str
    """``valid``, ``expired``, ``missing`` or ``not_yet_valid``."""
    reason: str
    """Why it is not valid, or what the Workload API said last; empty when all is well."""
    serial: str
    not_before_unix_ms: int
    not_after_unix_ms: int
    renewal_due_unix_ms: int
    workload_socket: str
    workload_connected: bool
    bundle_generation: int
    updates: int
    updates_rejected: int
    require_pq: bool
    bundles: tuple[TrustBundle, ...] = ()
    peers: tuple[PeerRow, ...] = ()
    issuer: Issuer | None = None
    renewal_endpoint: str = ""
    outage_hurts_unix_ms: int = 0
    """When the issuer's absence begins to hurt; 0: not a joined node."""
    bindings: tuple[RoleBinding, ...] = ()


@dataclass(frozen=True, slots=True)
class IdentityCheck:
    """One thing that was tried."""

    name: str
    outcome: str
    """``ok``, ``warning`` or ``failed``."""
    detail: str
    remedy: str = ""
    """What to do about it; empty when ``outcome`` is ``ok``."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a node has signed about itself."""

    spiffe_id: str
    address: str
    key_id: str
    boot_id: str
    signed_at_unix_ms: int
    received_from: str
    raw: bytes


class IdentityView(Protocol):
    """Who this node is, whom it trusts, who may join."""

    def identity(self) -> Identity:
        """Answer from memory."""

    async def check(self) -> Sequence[IdentityCheck]:
        """Really try: the Workload API, and a handshake with each neighbour; bounded to some seconds."""

    async def create_token(self, spiffe_id: str, address: str) -> CreatedToken:
        """Make a join token for a node, named by its ID or bare name; an empty ``address`` lets this node choose.

        Raises:
            InvalidInput: no such ID, or one that cannot join.
            NotSupported: this node issues nothing.
            TokenRefused, TooMany, StorageFailed, AddressUnavailable: the issuer's reasons.
        """

    def open_tokens(self) -> Sequence[OpenToken]:
        """Tokens that could be spent now.  Raises NotSupported: this node issues nothing."""

    async def revoke_tokens(self, which: str) -> Sequence[OpenToken]:
        """Take the token with this id out of use, else all of a node.

        Raises:
            NotThere: there is none.
            InvalidInput: the text can be neither.
            NotSupported: this node issues nothing.
            StorageFailed: it could not be written.
        """

    async def descriptors(self) -> Sequence[Descriptor]:
        """Those that this node keeps.  Raises StorageFailed."""


class AuditView(Protocol):
    """What was changed, by whom; ``ports.AuditStore`` satisfies it."""

    async def latest(self, limit: int) -> Sequence[AuditRecord]:
        """Newest first.  Raises StorageFailed."""
