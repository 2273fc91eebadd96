"""One root of an embedded issuer: its certificate, its key, and the certificates it signs.

Keys are P-256, signatures ECDSA with SHA-256: what SPIRE does by default and every peer understands.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.spiffe.request import SvidKey, load_public_key, make_key
from x0d.spiffe.rotation import RootLife

BACKDATE_S: Final = 60
"""Certificates begin so long before they are made, at the most: clocks of hosts differ."""
BACKDATE_SHARE: Final = 10
"""And at the most this part of what is before them: a begin far in the past would age a short one at birth."""
ROOT_BACKDATE_S: Final = 3600
ORGANISATION: Final = "x0d"


@dataclass(frozen=True, slots=True)
class Root:
    """A certificate authority that signs, has signed, or will sign."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    life: RootLife

    @property
    def der(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the public key."""
        return key_sha256(self.certificate.public_key())


def key_sha256(key: CertificatePublicKeyTypes) -> bytes:
    """SHA-256 of a SubjectPublicKeyInfo: what a join token pins."""
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).digest()


def make_root(trust_domain: TrustDomain, ttl_s: int, leaf_ttl_s: int, now: float) -> Root:
    """Make a key and its own certificate; it is published now and signs nothing yet."""
    key = make_key()
    serial = x509.random_serial_number()
    # A number in the name keeps two roots of a trust domain apart where only names are shown.
    name = _name(f"root {serial & 0xFFFFFFFF:08x} of {trust_domain}"[:64])
    not_before, not_after = int(now) - ROOT_BACKDATE_S, int(now) + ttl_s
    certificate = (
        _begin(name, name, key.public_key(), serial, not_before, not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_root=True), critical=True)
        .add_extension(_uri(f"spiffe://{trust_domain}"), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Root(certificate, key, RootLife(float(not_before), float(not_after), now, None, leaf_ttl_s))


def sign_leaf(root: Root, spiffe_id: SpiffeId, public_key_der: bytes, ttl_s: int, now: float) -> tuple[bytes, int]:
    """Certify a key under an ID; DER and its end, which is never later than the root's.

    Raises:
        InvalidInput: the key is malformed, or of a kind that SVIDs have not.
    """
    key = load_public_key(public_key_der)
    not_after = min(int(now) + ttl_s, int(root.life.not_after))
    name = _name(spiffe_id.path.rpartition("/")[2][:64])
    issuer_key = root.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    serial = x509.random_serial_number()
    not_before = int(now) - backdate_s(not_after - int(now))
    leaf = (
        _begin(name, root.certificate.subject, key, serial, not_before, not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(is_root=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(_uri(str(spiffe_id)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key), critical=False)
        .sign(root.key, hashes.SHA256())
    )
    return leaf.public_bytes(serialization.Encoding.DER), not_after


def backdate_s(ttl_s: int) -> int:
    """How long before its making a certificate begins that lasts so long after it."""
    return max(0, min(BACKDATE_S, ttl_s // BACKDATE_SHARE))


def issued_at(not_before_unix_s: float, not_after_unix_s: float) -> float:
    """When ``sign_leaf`` made a certificate of these dates, to the second: the inverse of its back-dating."""
    life_s = not_after_unix_s - not_before_unix_s
    return not_before_unix_s + min(float(BACKDATE_S), life_s / (BACKDATE_SHARE + 1))


def _begin(
    subject: x509.Name, issuer: x509.Name, key: SvidKey, serial: int, not_before: int, not_after: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(datetime.fromtimestamp(not_before, UTC))
        .not_valid_after(datetime.fromtimestamp(not_after, UTC))
    )


def _name(common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def _uri(text: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(text)])


def _key_usage(*, is_root: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_root,
        key_cert_sign=is_root,
        crl_sign=is_root,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
