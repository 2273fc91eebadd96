"""Who must answer a dial, and the judgement on who did, on pyOpenSSL.

gRPC for Python cannot ask a server for a SPIFFE ID: its name checks know DNS and addresses, and its roots are one
set for everybody.  So TLS is ours on the dialling side.  A context trusts the authorities of ONE trust domain, that
of the expected ID, so that a federated one cannot mint names of ours; it speaks TLS 1.3 and offers ``h2`` alone, keeps
no session, and sends our own chain and nothing of what it trusts.  What a handshake leaves open (the leaf's rules, the
exact ID, the key exchange) is judged right after it, and before any byte of the application passes.

``ExpectPinnedRoot`` is for a node that joins: it has no bundle and no SVID yet, only the hash of a public key.
"""

import hashlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from OpenSSL import SSL, crypto

from x0d.errors import IdentityRefused, InvalidInput
from x0d.identity.leaf import CHAIN_BYTES_MAX, CHAIN_CERTIFICATES_MAX, check_leaf
from x0d.identity.model import MLKEM, Proof, Reason, Usage
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.spiffe.bundles import Bundles
from x0d.spiffe.certificate import facts_of, load, to_pem
from x0d.spiffe.snapshot import Snapshot, SnapshotSource, Svid

ALPN: Final = b"h2"
TLS_VERSION: Final = "TLSv1.3"

_MODE_NO_AUTO_CHAIN: Final = 8
"""SSL_MODE_NO_AUTO_CHAIN, not named by pyOpenSSL: without it OpenSSL adds roots of its store to what we send."""
_NOT_YET_VALID, _EXPIRED, _PURPOSE = 9, 10, 26
_DETAILS: Final = {
    Reason.NOT_YET_VALID: "its certificate, or one above it, is not valid yet: compare the clocks",
    Reason.EXPIRED: "its certificate, or one above it, has expired",
    Reason.UNTRUSTED: "no authority of the expected trust domain vouches for its certificate",
    Reason.EXTENDED_KEY_USAGE: "its certificate is not for servers",
}


@dataclass(frozen=True, slots=True)
class ExpectId:
    """Exactly this ID, vouched for by its own trust domain's bundle of now; we show our own SVID."""

    spiffe_id: SpiffeId
    source: SnapshotSource
    require_pq: bool


@dataclass(frozen=True, slots=True)
class ExpectPinnedRoot:
    """Exactly this ID below a root that is known by its hash alone and comes in the chain; we show nothing."""

    root_sha256: bytes
    """Of the root's public key (SubjectPublicKeyInfo, DER)."""
    spiffe_id: SpiffeId


Expect = ExpectId | ExpectPinnedRoot


@dataclass(slots=True)
class _Failure:
    """What the verify callback was told of one connection."""

    number: int = 0
    leaf_der: bytes = b""
    """Only where the leaf itself failed."""


class Contexts:
    """Contexts for one expectation; a new one with every snapshot, as pyOpenSSL freezes one at its first use."""

    def __init__(self, expect: Expect, unix_s: Callable[[], float]) -> None:
        self._expect = expect
        self._unix_s = unix_s
        self._snapshot: Snapshot | None = None
        self._context: SSL.Context | None = None

    def begin(self) -> SSL.Context:
        """Give the context of the newest snapshot.

        Raises:
            IdentityRefused: ``no_own_svid``, ``own_svid_expired`` or ``unknown_trust_domain``; nothing may be dialled.
        """
        if isinstance(self._expect, ExpectPinnedRoot):
            return _base_context(_accept_for_pin)
        snapshot = self._expect.source.current
        if snapshot is None:
            raise IdentityRefused(Reason.NO_OWN_SVID, "this end has no SVID yet: look at `x0ctl identity show`")
        if snapshot.svid.not_after_unix_s <= self._unix_s():
            raise IdentityRefused(
                Reason.OWN_SVID_EXPIRED, "this end's own SVID has expired: its issuer or agent is gone"
            )
        trust_domain = self._expect.spiffe_id.trust_domain
        if trust_domain not in snapshot.bundles.trust_domains:
            detail = f"no bundle of trust domain {trust_domain}: it is neither ours nor federated"
            raise IdentityRefused(Reason.UNKNOWN_TRUST_DOMAIN, detail)
        if self._context is None or self._snapshot is not snapshot:
            self._context = _context_of(snapshot.svid, snapshot.bundles, trust_domain)
            self._snapshot = snapshot
        return self._context

    def judge(self, connection: SSL.Connection) -> Proof:
        """Judge a finished handshake; nothing has been sent on it yet.

        Raises:
            IdentityRefused: the peer is not who was asked for, or did not shake hands as was asked.
        """
        version = connection.get_protocol_version_name()
        if version != TLS_VERSION:
            raise IdentityRefused(Reason.TLS_VERSION, f"it speaks {version}, {TLS_VERSION} is needed")
        group = connection.get_group_name() or ""
        if isinstance(self._expect, ExpectId) and self._expect.require_pq and MLKEM not in group:
            detail = f"its key exchange is {group}, and identity.require_pq asks for a post-quantum one"
            raise IdentityRefused(Reason.NOT_POST_QUANTUM, detail)
        if connection.get_alpn_proto_negotiated() != ALPN:
            raise IdentityRefused(Reason.ALPN, "it does not speak h2")
        proof = self._prove(_ders(connection), group)
        if proof.spiffe_id != self._expect.spiffe_id:
            raise IdentityRefused(Reason.WRONG_ID, f"it is {proof.spiffe_id}, not {self._expect.spiffe_id}")
        return proof

    def judge_again(self, proof: Proof) -> None:
        """Look at an open connection's proof with the bundles of now.

        Raises:
            IdentityRefused: what it has shown proves nothing any more.
        """
        if isinstance(self._expect, ExpectPinnedRoot):
            return  # its one connection lives for a join, and its pin does not change
        snapshot = self._expect.source.current
        if snapshot is not None:
            snapshot.bundles.verify(proof.leaf_pem, proof.chain_pem, Usage.SERVER, self._unix_s())

    def _prove(self, ders: tuple[bytes, ...], group: str) -> Proof:
        if isinstance(self._expect, ExpectPinnedRoot):
            bundles, ders = _pinned(self._expect, ders)
        else:
            snapshot = self._expect.source.current
            assert snapshot is not None, "a source that had a snapshot keeps one"
            bundles = snapshot.bundles
        _bound(ders)
        leaf_pem, chain_pem = to_pem(ders[0]), b"".join(to_pem(der) for der in ders[1:])
        verified = bundles.verify(leaf_pem, chain_pem, Usage.SERVER, self._unix_s())
        return Proof(verified.spiffe_id, Usage.SERVER, leaf_pem, chain_pem, verified.not_after_unix_s, group)


def open_connection(context: SSL.Context, tcp: socket.socket) -> SSL.Connection:
    """Make a client connection over ``tcp``, which does not block; nothing is sent yet."""
    connection = SSL.Connection(context, tcp)
    connection.set_app_data(_Failure())
    connection.set_connect_state()
    return connection


def refusal_of(connection: SSL.Connection, error: SSL.Error) -> IdentityRefused:
    """Say why a handshake failed: our verdict on the certificate, or what the library says."""
    failure = connection.get_app_data()
    if not isinstance(failure, _Failure) or not failure.number:
        return IdentityRefused(Reason.HANDSHAKE, library_text(error))
    reason = {
        _NOT_YET_VALID: Reason.NOT_YET_VALID,
        _EXPIRED: Reason.EXPIRED,
        _PURPOSE: Reason.EXTENDED_KEY_USAGE,
    }.get(failure.number, Reason.UNTRUSTED)
    if failure.number == _PURPOSE and failure.leaf_der:
        try:  # the library's one number stands for several rules of ours
            check_leaf(facts_of(failure.leaf_der), Usage.SERVER)
        except IdentityRefused as refused:
            return refused
    return IdentityRefused(reason, f"{_DETAILS[reason]} (X.509 error {failure.number})")


def library_text(error: SSL.Error) -> str:
    """Put OpenSSL's queue of errors into words."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    words = ", ".join(entry[-1] for entry in queue if entry[-1]) or str(error) or "the connection ended"
    return f"the peer refused us: {words}" if "alert" in words else f"no TLS handshake: {words}"


def early_end_text(error: SSL.Error) -> str:
    """Say why a connection ended between the handshake and the peer's first byte; gRPC's servers send no alert."""
    if isinstance(error, SSL.ZeroReturnError | SSL.SysCallError):
        return "the peer ended the connection right after the handshake; it may have refused our SVID"
    return library_text(error)


def _base_context(verify: Callable[[SSL.Connection, crypto.X509, int, int, int], bool]) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_alpn_protos([ALPN])
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(_MODE_NO_AUTO_CHAIN)
    context.set_verify_depth(CHAIN_CERTIFICATES_MAX)
    context.set_verify(SSL.VERIFY_PEER, verify)
    return context


def _context_of(svid: Svid, bundles: Bundles, trust_domain: TrustDomain) -> SSL.Context:
    context = _base_context(_note_failure)
    store = context.get_cert_store()
    assert store is not None, "a new context has a store"
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    for der in bundles.authorities(trust_domain):
        store.add_cert(crypto.load_certificate(crypto.FILETYPE_ASN1, der))
    context.use_certificate(x509.load_der_x509_certificate(svid.leaf_der))
    for der in svid.chain_ders:
        context.add_extra_chain_cert(x509.load_der_x509_certificate(der))
    key = load_der_private_key(svid.key_der, password=None)
    assert isinstance(key, EllipticCurvePrivateKey | Ed25519PrivateKey | RSAPrivateKey), "other keys are no SVID's"
    context.use_privatekey(key)
    context.check_privatekey()
    return context


def _note_failure(connection: SSL.Connection, certificate: crypto.X509, number: int, depth: int, is_ok: int) -> bool:
    """Let OpenSSL's verdict stand; keep its first failure, which pyOpenSSL does not show otherwise."""
    failure = connection.get_app_data()
    if not is_ok and isinstance(failure, _Failure) and not failure.number:
        failure.number = number
        if depth == 0:
            failure.leaf_der = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
    return bool(is_ok)


def _accept_for_pin(_: SSL.Connection, __: crypto.X509, ___: int, ____: int, _____: int) -> bool:
    """Let the handshake prove that the peer has the leaf's key; ``_pinned`` judges the chain right after."""
    return True


def _ders(connection: SSL.Connection) -> tuple[bytes, ...]:
    """Give the peer's certificates, leaf first."""
    chain = connection.get_peer_cert_chain()
    if not chain:
        raise IdentityRefused(Reason.NO_CERTIFICATE, "it shows no certificate")
    return tuple(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate) for certificate in chain)


def _bound(ders: tuple[bytes, ...]) -> None:
    size = sum(map(len, ders))
    if len(ders) > CHAIN_CERTIFICATES_MAX or size > CHAIN_BYTES_MAX:
        raise IdentityRefused(Reason.CHAIN_TOO_LONG, f"its chain has {len(ders)} certificates, {size} bytes")


def _pinned(expect: ExpectPinnedRoot, ders: tuple[bytes, ...]) -> tuple[Bundles, tuple[bytes, ...]]:
    """Find the pinned root in the chain: a bundle of it alone, and the chain without it.

    Raises:
        IdentityRefused: it is not there.
    """
    _bound(ders[1:])
    for index, der in enumerate(ders[1:], start=1):
        if _is_root(der, expect.root_sha256):
            try:
                bundles = Bundles.of({expect.spiffe_id.trust_domain: (der,)})
            except InvalidInput as refusal:
                raise IdentityRefused(Reason.UNTRUSTED, f"the root that the token names: {refusal}") from refusal
            return bundles, ders[:index] + ders[index + 1 :]
    raise IdentityRefused(
        Reason.UNTRUSTED, "the root that the token names is not in its chain: another cluster answers"
    )


def _is_root(der: bytes, root_sha256: bytes) -> bool:
    """Whether the public key in ``der`` has this hash.

    Nothing else of it is asked: what counts is that the leaf was signed with that key, which the chain shows.
    """
    try:
        key = load(der).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (IdentityRefused, ValueError, UnsupportedAlgorithm):
        return False
    return hashlib.sha256(key).digest() == root_sha256
