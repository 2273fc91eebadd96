"""Keys of certificates, and the requests (PKCS#10) by which a public key travels; private ones never do."""

from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from x0d.errors import InvalidInput

REQUEST_BYTES_MAX: Final = 16_384
RSA_BITS: Final = range(2048, 4097)

SvidKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


def make_key() -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key, as SPIRE does by default."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_der(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8, as the Workload API carries it."""
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_key_to_der(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Encode the public half as SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def make_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Sign a request, DER, that says nothing but the key: the issuer decides on the ID."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def public_key_of_request(csr_der: bytes) -> bytes:
    """Key of a request, SubjectPublicKeyInfo, after its signature has shown that the sender has the private half.

    Raises:
        InvalidInput: malformed, too large, a wrong signature, or a kind of key that SVIDs have not.
    """
    if len(csr_der) > REQUEST_BYTES_MAX:
        raise InvalidInput(f"a certificate request of {len(csr_der)} bytes; at most {REQUEST_BYTES_MAX}")
    try:
        request = x509.load_der_x509_csr(csr_der)
        key = _allowed(request.public_key())  # before the signature is computed: a huge RSA key is costly
        is_signed = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise InvalidInput("the certificate request is malformed") from error
    if not is_signed:
        raise InvalidInput("the certificate request is not signed by its own key")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def load_public_key(der: bytes) -> SvidKey:
    """Read a SubjectPublicKeyInfo.

    Raises:
        InvalidInput: malformed, or a kind of key that SVIDs have not.
    """
    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput("the public key is malformed") from error
    return _allowed(key)


def _allowed(key: object) -> SvidKey:
    is_curve = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
    is_rsa = isinstance(key, rsa.RSAPublicKey) and key.key_size in RSA_BITS
    if isinstance(key, SvidKey) and (is_curve or is_rsa or isinstance(key, ed25519.Ed25519PublicKey)):
        return key
    raise InvalidInput("the key of a certificate is P-256, P-384, Ed25519 or RSA of 2048 to 4096 bits")
