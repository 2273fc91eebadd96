"""A certificate authority of tests: good SVIDs, and every defect as one argument.

``CA`` signs with the chain of its parents; ``issue`` makes a leaf with its key and its intermediates.  Everything is
valid from a minute before the instant ``NOW`` unless an argument says otherwise, so tests pass ``NOW`` where code takes
the time, and ``start_unix_s=time.time()`` where a real TLS handshake looks at the machine's clock.

Not modelled: CRLs, name constraints, serial numbers that repeat, other hashes than SHA-256.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from x0d.spiffe.certificate import to_pem

NOW: Final = 1_800_000_000.0
"""The instant of tests that pass the time; in January 2027."""
BACKDATED_S: Final = 60.0
HOUR_S: Final = 3_600.0
Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
KEY_USAGES: Final = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def new_key(kind: str = "p256") -> Key:
    """Make a key: p256, p384, p521, ed25519, or rsa with its bits (``rsa1024``)."""
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65_537, int(kind.removeprefix("rsa")))
    curves: dict[str, ec.EllipticCurve] = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
    return ec.generate_private_key(curves[kind])


def pkcs8(key: Key) -> bytes:
    """Write a private key as the Workload API does."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@dataclass(frozen=True)
class Issued:
    """A leaf with what its holder needs to show it."""

    leaf_der: bytes
    chain_ders: tuple[bytes, ...]
    """Intermediates from the issuer upwards, without the root."""
    key: Key = field(repr=False)

    @property
    def leaf_pem(self) -> bytes:
        return to_pem(self.leaf_der)

    @property
    def chain_pem(self) -> bytes:
        return b"".join(map(to_pem, self.chain_ders))

    @property
    def certificates_pem(self) -> bytes:
        """Leaf, then intermediates."""
        return self.leaf_pem + self.chain_pem

    @property
    def certificates_der(self) -> bytes:
        """As in the Workload API: leaf first, without separators."""
        return self.leaf_der + b"".join(self.chain_ders)

    @property
    def key_der(self) -> bytes:
        return pkcs8(self.key)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class CA:
    """A root, or with ``parent`` an intermediate."""

    def __init__(
        self,
        trust_domain: str = "dev.x0d.test",
        *,
        parent: "CA | None" = None,
        start_unix_s: float = NOW,
        ttl_s: float = 24 * HOUR_S,
        ca: bool | None = True,
        key_usage: Sequence[str] | None = ("key_cert_sign", "crl_sign"),
        key: str = "p256",
        path_length: int | None = None,
    ) -> None:
        """Make a key and sign its certificate; ``ca=None`` leaves BasicConstraints out."""
        self.trust_domain = trust_domain
        self.parent = parent
        self.start_unix_s = start_unix_s
        self.key = new_key(key)
        self._certificate = _sign(
            _Request(
                subject=f"{'intermediate' if parent else 'root'} {x509.random_serial_number():x}",
                sans=(x509.UniformResourceIdentifier(f"spiffe://{trust_domain}"),),
                key=self.key,
                span=(start_unix_s - BACKDATED_S, start_unix_s + ttl_s),
                ca=ca,
                path_length=path_length,
                key_usage=key_usage,
                extended=None,
                extra=(),
            ),
            parent,
        )
        self.der = self._certificate.public_bytes(Encoding.DER)

    @property
    def subject(self) -> x509.Name:
        return self._certificate.subject

    @property
    def pem(self) -> bytes:
        return to_pem(self.der)

    @property
    def root(self) -> "CA":
        """The end of the line; of a root, itself."""
        return self.parent.root if self.parent else self

    @property
    def chain_ders(self) -> tuple[bytes, ...]:
        """Intermediates from here upwards; of a root none."""
        return (self.der, *self.parent.chain_ders) if self.parent else ()

    def issue(  # noqa: PLR0913  every defect is one argument
        self,
        spiffe_id: str = "",
        *,
        ttl_s: float = HOUR_S,
        not_before_s: float = -BACKDATED_S,
        uris: Sequence[str] | None = None,
        dns: Sequence[str] = (),
        common_name: str = "",
        ca: bool | None = False,
        key_usage: Sequence[str] | None = ("digital_signature",),
        eku: Sequence[x509.ObjectIdentifier] | None = (CLIENT, SERVER),
        key: str | Key = "p256",
        extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> Issued:
        """Make a leaf for ``/node/n1``, or for another ID.

        Args:
            spiffe_id: its one URI; empty: ``spiffe://<trust domain>/node/n1``.
            ttl_s: its end, from the CA's ``start_unix_s``; may lie in the past.
            not_before_s: its begin, from the same instant.
            uris: its URIs instead of ``spiffe_id``: none, two, whatever else.
            dns: DNS names beside them.
            common_name: of the subject; SPIRE writes none.
            ca: BasicConstraints; None leaves them out.
            key_usage: words of KEY_USAGES; None leaves the extension out.
            eku: purposes; None leaves the extension out.
            key: a kind of key for ``new_key``, or a key that exists.
            extra: other extensions, each with whether it is critical.
        """
        names = uris if uris is not None else [spiffe_id or f"spiffe://{self.trust_domain}/node/n1"]
        private = new_key(key) if isinstance(key, str) else key
        certificate = _sign(
            _Request(
                subject=common_name,
                sans=(*map(x509.UniformResourceIdentifier, names), *map(x509.DNSName, dns)),
                key=private,
                span=(self.start_unix_s + not_before_s, self.start_unix_s + ttl_s),
                ca=ca,
                path_length=None,
                key_usage=key_usage,
                extended=eku,
                extra=extra,
            ),
            self,
        )
        return Issued(certificate.public_bytes(Encoding.DER), self.chain_ders, private)


@dataclass(frozen=True)
class _Request:
    subject: str
    sans: Sequence[x509.GeneralName]
    key: Key
    span: tuple[float, float]
    ca: bool | None
    path_length: int | None
    key_usage: Sequence[str] | None
    extended: Sequence[x509.ObjectIdentifier] | None
    extra: Sequence[tuple[x509.ExtensionType, bool]]


def _sign(request: _Request, issuer: CA | None) -> x509.Certificate:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x0d tests")]
    if request.subject:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, request.subject))
    subject = x509.Name(attributes)
    signer = issuer.key if issuer else request.key
    begin, end = (datetime.fromtimestamp(instant, UTC) for instant in request.span)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(request.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(request.key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    for extension, critical in _extensions(request):
        builder = builder.add_extension(extension, critical=critical)
    if isinstance(signer, ed25519.Ed25519PrivateKey):
        return builder.sign(signer, None)
    return builder.sign(signer, hashes.SHA256())


def _extensions(request: _Request) -> list[tuple[x509.ExtensionType, bool]]:
    found: list[tuple[x509.ExtensionType, bool]] = list(request.extra)
    if request.sans:
        found.append((x509.SubjectAlternativeName(request.sans), False))
    if request.ca is not None:
        found.append((x509.BasicConstraints(ca=request.ca, path_length=request.path_length), True))
    if request.key_usage is not None:
        found.append((x509.KeyUsage(**{name: name in request.key_usage for name in KEY_USAGES}), True))
    if request.extended is not None:
        found.append((x509.ExtendedKeyUsage(request.extended), False))
    return found
