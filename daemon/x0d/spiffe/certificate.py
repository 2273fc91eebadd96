"""X.509 bytes: DER lists as the Workload API gives them, PEM as TLS libraries want it, and what a certificate says.

A list of certificates comes as DER, one after the other without a separator, so ``split_der`` reads the length at the
head of each (pyasn1 takes 3.2 ms for two, this 5 us).  PEM is read strictly: blocks of certificates with nothing but
white space between them.  ``facts_of`` reads one certificate for ``identity/leaf.py``, which judges it; what
does not parse is a refusal and never an exception of the library's.
"""

import base64
import binascii
import re
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from OpenSSL import crypto

from x0d.errors import IdentityRefused, InvalidInput
from x0d.identity.leaf import LeafFacts
from x0d.identity.model import Reason

DER_CERTIFICATE_BYTES_MAX: Final = 65_536
"""Of one certificate; one with an ML-DSA-65 key and signature has 5,392."""

_SEQUENCE: Final = 0x30
_PEM_BLOCK: Final = re.compile(rb"\s*-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*")
_PEM_LINE: Final = 64
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for bytes that are no certificate, or one beyond what it reads."""
_CURVES: Final = {"secp256r1": "p256", "secp384r1": "p384"}
_EXTENDED: Final = {
    "1.3.6.1.5.5.7.3.1": "server_auth",
    "1.3.6.1.5.5.7.3.2": "client_auth",
    "2.5.29.37.0": "any",
}
_KEY_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)


def split_der(data: bytes) -> tuple[bytes, ...]:
    """Cut DER certificates that follow one another apart; none for no bytes.

    Only the outermost headers are read.

    Raises:
        InvalidInput: a header is none of a DER sequence, or the bytes end early.
    """
    found: list[bytes] = []
    offset = 0
    while offset < len(data):
        end = offset + _length_of_sequence(data, offset)
        if end > len(data):
            raise InvalidInput(f"certificate {len(found) + 1} ends after the data does")
        found.append(data[offset:end])
        offset = end
    return tuple(found)


def _length_of_sequence(data: bytes, offset: int) -> int:
    """Length with its header, of the sequence that begins at ``offset``."""
    head = data[offset : offset + 5]
    if len(head) < 2 or head[0] != _SEQUENCE:
        raise InvalidInput(f"no DER certificate begins at byte {offset}")
    if head[1] < 0x80:
        return 2 + head[1]
    octets = head[1] & 0x7F
    length = int.from_bytes(head[2 : 2 + octets])
    if octets not in {1, 2, 3} or len(head) < 2 + octets or length < max(0x80, 1 << 8 * (octets - 1)):
        raise InvalidInput(f"the length at byte {offset} is not DER's")
    if length > DER_CERTIFICATE_BYTES_MAX:
        raise InvalidInput(f"the certificate at byte {offset} has {length} bytes: at most {DER_CERTIFICATE_BYTES_MAX}")
    return 2 + octets + length


def to_pem(der: bytes) -> bytes:
    """Write one certificate as a PEM block, with its final newline."""
    text = base64.b64encode(der)
    lines = (text[i : i + _PEM_LINE] for i in range(0, len(text), _PEM_LINE))
    return b"\n".join((b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""))


def from_pem(pem: bytes) -> tuple[bytes, ...]:
    """Read PEM blocks of certificates; none for no bytes.

    Raises:
        InvalidInput: something else stands between them, or a block is not base64.
    """
    found = []
    offset = 0
    while offset < len(pem):
        block = _PEM_BLOCK.match(pem, offset)
        if block is None:
            raise InvalidInput(f"no PEM certificate begins at byte {offset}")
        try:
            found.append(base64.b64decode(b"".join(block[1].split()), validate=True))
        except binascii.Error as failure:
            raise InvalidInput(f"PEM certificate {len(found) + 1} is not base64") from failure
        offset = block.end()
    return tuple(found)


def load(der: bytes) -> x509.Certificate:
    """Parse one certificate, its extensions included.

    Raises:
        IdentityRefused: ``malformed``.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        _ = certificate.extensions, certificate.version
    except _UNREADABLE as failure:
        raise IdentityRefused(Reason.MALFORMED, f"a certificate does not parse: {str(failure)[:100]}") from failure
    return certificate


def to_openssl(certificate: x509.Certificate) -> crypto.X509:
    """Hand a certificate to OpenSSL, which reads names and keys more strictly than `cryptography` does.

    Raises:
        IdentityRefused: ``malformed``.
    """
    try:
        return crypto.X509.from_cryptography(certificate)
    except crypto.Error as failure:
        raise IdentityRefused(Reason.MALFORMED, "a certificate does not parse: OpenSSL refuses it") from failure


def facts_of(der: bytes) -> LeafFacts:
    """Read what a certificate says; nothing is judged here.

    Raises:
        IdentityRefused: ``malformed``.
    """
    certificate = load(der)
    try:
        return _facts_of(certificate)
    except _UNREADABLE as failure:
        raise IdentityRefused(Reason.MALFORMED, f"a certificate does not parse: {str(failure)[:100]}") from failure


def _facts_of(certificate: x509.Certificate) -> LeafFacts:
    uri_sans: tuple[str, ...] = ()
    is_ca = False
    key_usage: frozenset[str] | None = None
    extended: frozenset[str] | None = None
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            uri_sans = tuple(value.get_values_for_type(x509.UniformResourceIdentifier))
        elif isinstance(value, x509.BasicConstraints):
            is_ca = value.ca
        elif isinstance(value, x509.KeyUsage):
            key_usage = frozenset(name for name in _KEY_USAGES if getattr(value, name))
        elif isinstance(value, x509.ExtendedKeyUsage):
            extended = frozenset(_EXTENDED.get(purpose.dotted_string, purpose.dotted_string) for purpose in value)
    return LeafFacts(
        uri_sans=uri_sans,
        is_ca=is_ca,
        key_usage=key_usage,
        extended_key_usage=extended,
        key=key_word(certificate),
        not_before_unix_s=certificate.not_valid_before_utc.timestamp(),
        not_after_unix_s=certificate.not_valid_after_utc.timestamp(),
    )


def key_word(certificate: x509.Certificate) -> str:
    """Name the kind of a certificate's key in the words of ``LeafFacts.key``."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return f"oid {certificate.public_key_algorithm_oid.dotted_string}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _CURVES.get(key.curve.name, key.curve.name)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPublicKey):
        return f"rsa{key.key_size}"
    return type(key).__name__
