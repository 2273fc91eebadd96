"""Whom to trust: the authorities of each trust domain, and the verification of chains against them.

A chain is verified against the bundle of its leaf's OWN trust domain and no other: with one store for all, a federated
authority could issue our IDs.  A store takes only certificates that say ``ca: true``: with PARTIAL_CHAIN, which lets an
intermediate be the anchor, a leaf placed there would vouch for itself.

Time is an argument.  Good verdicts are cached with the span in which the whole chain is in force, and each look
compares its own instant with that span, so a clock that jumps opens and closes nothing for longer than one
look.  The cache belongs to its ``Bundles``, which never change: an update of the bundles comes with an empty one.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.x509.oid import SignatureAlgorithmOID
from OpenSSL import crypto

from x0d.errors import IdentityRefused, InvalidInput
from x0d.identity.leaf import CHAIN_BYTES_MAX, CHAIN_CERTIFICATES_MAX, RSA_BITS, check_leaf
from x0d.identity.model import Reason, Usage
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.spiffe.certificate import facts_of, from_pem, key_word, load, to_openssl, to_pem

AUTHORITIES_MAX: Final = 256
"""Of one trust domain."""
CACHED_MAX: Final = 4_096
"""Verdicts; at the limit the oldest gives way."""

_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_REASONS: Final = {_NOT_YET_VALID: Reason.NOT_YET_VALID, _EXPIRED: Reason.EXPIRED}
"""Numbers of OpenSSL's x509_vfy.h.  A leaf both expired and of a removed root gives 20 (no issuer): untrusted."""
_SIGNER_KEYS: Final = frozenset({"p256", "p384", "p521", "ed25519", *(f"rsa{bits}" for bits in RSA_BITS)})
_PREFIXES: Final = {usage: usage.encode() for usage in Usage}
_WEAK_SIGNATURES: Final = frozenset(
    {
        SignatureAlgorithmOID.RSA_WITH_MD5,
        SignatureAlgorithmOID.RSA_WITH_SHA1,
        x509.ObjectIdentifier("1.3.14.3.2.29"),  # RSA with SHA-1, an older number
        SignatureAlgorithmOID.ECDSA_WITH_SHA1,
    }
)
_TIME_MAX: Final = 253_402_300_799.0
"""The last second of the year 9999, the last one that a certificate can name."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A chain that leads to an authority of its own trust domain."""

    spiffe_id: SpiffeId
    not_before_unix_s: float
    """Of the chain, its authority included: the latest."""
    not_after_unix_s: float
    """Of the chain, its authority included: the earliest."""


class Bundles:
    """Authorities by trust domain, immutable; equal to others with the same certificates in whatever order."""

    def __init__(self, admitted: Mapping[TrustDomain, Sequence["_Authority"]]) -> None:
        """Take authorities that ``of`` has read."""
        self._authorities = {domain: tuple(one.der for one in those) for domain, those in admitted.items()}
        self._anchors = {domain: tuple(one.anchor for one in those) for domain, those in admitted.items()}
        self._last_after = {
            domain: max((one.not_after_unix_s for one in those), default=0.0) for domain, those in admitted.items()
        }
        self._pem = {domain: b"".join(map(to_pem, ders)) for domain, ders in self._authorities.items()}
        self._all_pem = b"".join(map(to_pem, sorted({der for ders in self._authorities.values() for der in ders})))
        self._cache: dict[bytes, Verified] = {}

    @classmethod
    def of(cls, authorities: Mapping[TrustDomain, Sequence[bytes]]) -> "Bundles":
        """Read the authorities of each trust domain, in DER; a domain without any trusts nobody.

        Raises:
            InvalidInput: one does not parse, is no CA's certificate, or there are more than AUTHORITIES_MAX.
        """
        return cls({domain: _admit(domain, sorted(set(authorities[domain]))) for domain in sorted(authorities)})

    @property
    def trust_domains(self) -> frozenset[TrustDomain]:
        """Every domain that has a bundle, be it an empty one."""
        return frozenset(self._authorities)

    def authorities(self, domain: TrustDomain) -> tuple[bytes, ...]:
        """DER certificates of a domain's authorities; none for an unknown domain."""
        return self._authorities.get(domain, ())

    def not_after_unix_s(self, domain: TrustDomain) -> float:
        """End of the authority that lasts longest; 0 where there is none."""
        return self._last_after.get(domain, 0.0)

    def pem(self, domain: TrustDomain) -> bytes:
        """Authorities of one domain; empty for an unknown domain."""
        return self._pem.get(domain, b"")

    def all_pem(self) -> bytes:
        """Authorities of all domains, each once: for a TLS library's first sieve, never for a verdict."""
        return self._all_pem

    def store(self, domain: TrustDomain) -> crypto.X509Store:
        """Make a store of one domain's authorities; the caller may set its time.

        Raises:
            IdentityRefused: ``unknown_trust_domain``.
        """
        anchors = self._anchors.get(domain)
        if anchors is None:
            raise IdentityRefused(Reason.UNKNOWN_TRUST_DOMAIN, f"there is no bundle of trust domain {domain}")
        store = crypto.X509Store()
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
        for anchor in anchors:
            store.add_cert(anchor)
        return store

    def verify(self, leaf_pem: bytes, chain_pem: bytes, usage: Usage, now_unix_s: float) -> Verified:
        """Say whose chain this is, if it is good now.

        Args:
            leaf_pem: exactly one certificate: the one whose key was used.
            chain_pem: intermediates in any order, without the leaf; may be empty.
            usage: the part that the peer plays.
            now_unix_s: the instant that counts.

        Raises:
            IdentityRefused: it breaks a rule of the leaf's, or does not lead to its own trust domain's bundle now.
        """
        key = _cache_key(leaf_pem, chain_pem, usage)
        known = self._cache.get(key)
        if known is not None and known.not_before_unix_s <= now_unix_s < known.not_after_unix_s:
            return known
        verified = self._verify(leaf_pem, chain_pem, usage, now_unix_s)
        while len(self._cache) >= CACHED_MAX:
            self._cache.pop(next(iter(self._cache)), None)
        self._cache[key] = verified
        return verified

    def _verify(self, leaf_pem: bytes, chain_pem: bytes, usage: Usage, now_unix_s: float) -> Verified:
        leaf, intermediates = _read(leaf_pem, chain_pem)
        spiffe_id = check_leaf(facts_of(leaf), usage)
        store = self.store(spiffe_id.trust_domain)
        store.set_time(datetime.fromtimestamp(min(max(now_unix_s, 0.0), _TIME_MAX), UTC))
        context = crypto.X509StoreContext(
            store,
            to_openssl(load(leaf)),
            [to_openssl(_intermediate(der)) for der in intermediates],
        )
        try:
            chain = [certificate.to_cryptography() for certificate in context.get_verified_chain()]
        except crypto.X509StoreContextError as failure:
            number, depth, text = failure.errors
            reason = _REASONS.get(number, Reason.UNTRUSTED)
            raise IdentityRefused(
                reason, f"the chain of {spiffe_id}: {text} (OpenSSL {number}, depth {depth})"
            ) from failure
        _check_signatures(spiffe_id, chain)
        return Verified(
            spiffe_id,
            not_before_unix_s=max(certificate.not_valid_before_utc.timestamp() for certificate in chain),
            not_after_unix_s=min(certificate.not_valid_after_utc.timestamp() for certificate in chain),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bundles) and self._authorities == other._authorities

    def __hash__(self) -> int:
        return hash(self._all_pem)


def _cache_key(leaf_pem: bytes, chain_pem: bytes, usage: Usage) -> bytes:
    # The length keeps a byte from moving between leaf and chain.  One digest over one text: several cost more calls.
    return hashlib.sha256(b"".join((_PREFIXES[usage], len(leaf_pem).to_bytes(4), leaf_pem, chain_pem))).digest()


@dataclass(frozen=True, slots=True)
class _Authority:
    der: bytes
    anchor: crypto.X509
    not_after_unix_s: float


def _admit(domain: TrustDomain, ders: Sequence[bytes]) -> tuple[_Authority, ...]:
    if len(ders) > AUTHORITIES_MAX:
        raise InvalidInput(f"the bundle of {domain} has {len(ders)} authorities: at most {AUTHORITIES_MAX}")
    admitted = []
    for der in ders:
        try:
            certificate = load(der)
            anchor = to_openssl(certificate)
        except IdentityRefused as refusal:
            raise InvalidInput(f"the bundle of {domain}: {refusal}") from refusal
        if not is_authority(certificate):
            raise InvalidInput(f"the bundle of {domain} holds a certificate that is no CA's")
        admitted.append(_Authority(der, anchor, certificate.not_valid_after_utc.timestamp()))
    return tuple(admitted)


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate may sign others: BasicConstraints say so, and KeyUsage, where present, too."""
    try:
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound as missing:
        return missing.oid == x509.KeyUsage.oid


def _read(leaf_pem: bytes, chain_pem: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """DER of the leaf and of its intermediates, within the bounds."""
    if len(leaf_pem) + len(chain_pem) > CHAIN_BYTES_MAX:
        raise IdentityRefused(Reason.CHAIN_TOO_LONG, f"the chain has more than {CHAIN_BYTES_MAX} bytes")
    try:
        leaves, intermediates = from_pem(leaf_pem), from_pem(chain_pem)
    except InvalidInput as failure:
        raise IdentityRefused(Reason.MALFORMED, str(failure)) from failure
    if len(leaves) != 1:
        raise IdentityRefused(Reason.NO_CERTIFICATE, f"{len(leaves)} certificates stand where one leaf is wanted")
    if len(intermediates) >= CHAIN_CERTIFICATES_MAX:
        raise IdentityRefused(Reason.CHAIN_TOO_LONG, f"the chain has more than {CHAIN_CERTIFICATES_MAX} certificates")
    return leaves[0], intermediates


def _intermediate(der: bytes) -> x509.Certificate:
    """Parse an intermediate whose key may cost something to verify with, before it does."""
    certificate = load(der)
    if key_word(certificate) not in _SIGNER_KEYS:
        raise IdentityRefused(Reason.KEY_TYPE, f"an intermediate's key is {key_word(certificate)[:40]!r}")
    return certificate


def _check_signatures(spiffe_id: SpiffeId, chain: Sequence[x509.Certificate]) -> None:
    """Hold what OpenSSL leaves open without a security level: nobody signs with a hash that is broken."""
    for signed in chain[:-1]:
        if signed.signature_algorithm_oid in _WEAK_SIGNATURES:
            raise IdentityRefused(Reason.UNTRUSTED, f"the chain of {spiffe_id} is signed with a hash that is broken")
