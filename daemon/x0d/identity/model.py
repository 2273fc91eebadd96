"""Words that identity's parts share: reasons of refusal, who calls, what a peer has proved."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from x0d.identity.roles import Role
from x0d.identity.spiffe_id import SpiffeId

MLKEM: Final = "MLKEM"
"""Part of the name of every post-quantum key exchange group: X25519MLKEM768."""


class Usage(StrEnum):
    """What a certificate is shown for."""

    CLIENT = "client"
    SERVER = "server"


class Reason(StrEnum):
    """Why a peer was refused: label of metrics and logs.  The peer itself is told one sentence for all."""

    NOT_TLS = "not_tls"
    TLS_VERSION = "tls_version"
    RESUMED = "resumed"
    NOT_POST_QUANTUM = "not_post_quantum"
    NO_CERTIFICATE = "no_certificate"
    CHAIN_TOO_LONG = "chain_too_long"
    MALFORMED = "malformed"
    KEY_TYPE = "key_type"
    NO_URI_SAN = "no_uri_san"
    URI_SAN_COUNT = "uri_san_count"
    BAD_SPIFFE_ID = "bad_spiffe_id"
    LEAF_IS_CA = "leaf_is_ca"
    KEY_USAGE = "key_usage"
    EXTENDED_KEY_USAGE = "extended_key_usage"
    UNKNOWN_TRUST_DOMAIN = "unknown_trust_domain"
    UNTRUSTED = "untrusted"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    DEV_IDENTITY = "dev_identity"
    WRONG_ID = "wrong_id"
    POLICY = "policy"
    NO_OWN_SVID = "no_own_svid"
    OWN_SVID_EXPIRED = "own_svid_expired"
    ALPN = "alpn"
    HANDSHAKE = "handshake"
    """The TLS library refused: plaintext, an older version, no common group."""
    TIMEOUT = "timeout"
    FOREIGN_PROCESS = "foreign_process"
    """Another process dialled the connector's private socket."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What a peer has shown in a handshake that was accepted; kept so that it can be judged again later."""

    spiffe_id: SpiffeId
    usage: Usage
    """The part that the peer played."""
    leaf_pem: bytes
    chain_pem: bytes
    """Intermediates, concatenated, without the leaf; may be empty."""
    not_after_unix_s: float
    """Of the chain: its earliest."""
    group: str
    """Key exchange group, such as ``X25519MLKEM768``."""
    tls_version: str = "TLSv1.3"

    @property
    def is_post_quantum(self) -> bool:
        """Whether the key exchange withstands a quantum computer."""
        return MLKEM in self.group


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a call comes from, once the gate has let it in."""

    name: str
    """For people and the audit: a SPIFFE ID, or ``uid 1000 (alice)``."""
    roles: frozenset[Role]
    proof: Proof | None = None
    """None on the unix sockets and on the join port."""
    address: str = ""
    """Where a call over TCP comes from, as gRPC writes it; empty on unix sockets."""
    uid: int | None = None
    groups: frozenset[int] = field(default_factory=frozenset)
