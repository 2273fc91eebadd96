"""The embedded issuer's certificate authority: its roots on disk, and what they sign.

All roots with their keys are in one file of the state directory, 0600 below 0700, replaced whole at each step of
``rotation.py``: a kill at any moment leaves the step undone or done.  In memory they are one immutable tuple that is
swapped after the file is on disk, so signing, which happens on the event loop, never sees half a rotation, which
happens in a thread.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from x0d import telemetry
from x0d.errors import InvalidInput, NoIdentity, StorageFailed
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.ports.issuer import SignedSvid
from x0d.spiffe.private_file import make_private_directory, read_private, write_private
from x0d.spiffe.request import public_key_of_request
from x0d.spiffe.root import Root, make_root, sign_leaf
from x0d.spiffe.rotation import RootLife, Step, next_step, signer_of

FILE_NAME: Final = "authority.json"
VERSION: Final = 1
ROOTS_MAX: Final = 8
"""In a file; there are at most three at a time, and one of somebody's making is not read into memory."""

log = structlog.get_logger()


class Authority:
    """Satisfies ``ports.issuer.SvidAuthority``."""

    def __init__(
        self,
        path: Path,
        trust_domain: TrustDomain,
        root_ttl_s: int,
        svid_ttl_s: int,
        unix_s: Callable[[], float],
        roots: tuple[Root, ...],
    ) -> None:
        """Take what ``open`` has read."""
        self._path = path
        self._trust_domain = trust_domain
        self._root_ttl_s = root_ttl_s
        self._svid_ttl_s = svid_ttl_s
        self._unix_s = unix_s
        self._roots = roots
        self.is_new = False
        """There was no root yet: ``open`` has made the first one, which no node of an earlier life knows."""

    @classmethod
    def open(
        cls, directory: Path, trust_domain: TrustDomain, root_ttl_s: int, svid_ttl_s: int, unix_s: Callable[[], float]
    ) -> "Authority":
        """Read the roots, or make the first one.  ``directory`` is made if it is absent, its parent must exist.

        Raises:
            StorageFailed: the file is of another trust domain, damaged, readable by others, or cannot be written.
        """
        make_private_directory(directory)
        path = directory / FILE_NAME
        data = read_private(path)
        roots = () if data is None else _decode(path, data, trust_domain)
        authority = cls(path, trust_domain, root_ttl_s, svid_ttl_s, unix_s, roots)
        if roots:
            authority._remember_leaf_ttl()
        if not authority._can_sign(unix_s()):
            authority.rotate(unix_s())
            authority.is_new = not roots
            event = telemetry.ROOT_MADE if authority.is_new else telemetry.ROOT_ROTATED
            log.warning(event, trust_domain=str(trust_domain), signs=authority.root_sha256.hex(), file=str(path))
        return authority

    @property
    def trust_domain(self) -> TrustDomain:
        """The domain that it vouches for."""
        return self._trust_domain

    @property
    def root_sha256(self) -> bytes:
        """SHA-256 of the public key of the root that signs now."""
        return self._signer().sha256

    @property
    def root_not_after_unix_s(self) -> float:
        """End of the root that signs now."""
        return self._signer().life.not_after

    def bundle(self) -> tuple[bytes, ...]:
        """Every root that is to be trusted now, DER, oldest first."""
        return tuple(root.der for root in self._roots)

    def root_der(self, sha256: bytes) -> bytes | None:
        """Certificate of a root of the bundle, by the hash of its public key; None if it is not there (any more)."""
        return next((root.der for root in self._roots if root.sha256 == sha256), None)

    def issue(
        self, spiffe_id: SpiffeId, public_key_der: bytes, ttl_s: int | None = None, *, root_sha256: bytes = b""
    ) -> SignedSvid:
        """Certify a key under an ID of this trust domain, for ``ttl_s`` or the configured time at most.

        ``root_sha256`` names a root of the bundle that signs in the place of the usual one.

        Raises:
            InvalidInput: the ID is of another trust domain, or the key is malformed.
            NoIdentity: the root has expired or its life has not begun: the clock is wrong, or it was off too long.
        """
        if spiffe_id.trust_domain != self._trust_domain:
            raise InvalidInput(f"{spiffe_id} is not of trust domain {self._trust_domain}")
        now = self._unix_s()
        root = next((root for root in self._roots if root.sha256 == root_sha256), self._signer())
        if not root.life.not_before <= now < root.life.not_after:
            raise NoIdentity(f"the issuer's root is not valid at the time that this host's clock tells, {now:.0f}")
        leaf, not_after = sign_leaf(
            root, spiffe_id, public_key_der, min(ttl_s or self._svid_ttl_s, self._svid_ttl_s), now
        )
        return SignedSvid((leaf,), float(not_after))

    def check_request(self, csr_der: bytes) -> None:
        """Look at a PKCS#10 request without doing anything.  Raises InvalidInput."""
        public_key_of_request(csr_der)

    def issue_for_request(self, spiffe_id: SpiffeId, csr_der: bytes) -> SignedSvid:
        """Certify the key of a PKCS#10 request.

        Raises:
            InvalidInput: the request is malformed, unsigned, or of a kind of key that SVIDs have not.
            NoIdentity: no root can sign now.
        """
        return self.issue(spiffe_id, public_key_of_request(csr_der))

    def is_rotation_due(self, now_unix_s: float) -> bool:
        """Whether ``rotate`` has something to do."""
        return next_step(self._lives, now_unix_s) is not Step.NONE

    def rotate(self, now_unix_s: float) -> bool:
        """Do each step that is due, on disk and then here; whether there was one.

        Raises:
            StorageFailed: the step that could not be written is not done.
        """
        has_changed = False
        while (step := next_step(self._lives, now_unix_s)) is not Step.NONE:
            self._put(self._after(step, now_unix_s))
            has_changed = True
        return has_changed

    def _after(self, step: Step, now_unix_s: float) -> tuple[Root, ...]:
        if step is Step.PUBLISH:
            return (*self._roots, make_root(self._trust_domain, self._root_ttl_s, self._svid_ttl_s, now_unix_s))
        if step is Step.ACTIVATE:
            newest = self._roots[-1]
            return (*self._roots[:-1], replace(newest, life=replace(newest.life, activated_at=now_unix_s)))
        return self._roots[1:]

    def _can_sign(self, now_unix_s: float) -> bool:
        signing = signer_of(self._lives)
        return signing is not None and now_unix_s < self._lives[signing].not_after

    @property
    def _lives(self) -> tuple[RootLife, ...]:
        return tuple(root.life for root in self._roots)

    def _signer(self) -> Root:
        roots = self._roots  # one look: a rotation in its thread may swap it
        index = signer_of([root.life for root in roots])
        assert index is not None, "open() leaves one that is activated, and none that signs is dropped"
        return roots[index]

    def _remember_leaf_ttl(self) -> None:
        """Note a certificate's life that the configuration has made longer, before one of that life is signed."""
        longer = tuple(
            replace(root, life=replace(root.life, leaf_ttl_s_max=max(root.life.leaf_ttl_s_max, self._svid_ttl_s)))
            for root in self._roots
        )
        if longer != self._roots:
            self._put(longer)

    def _put(self, roots: tuple[Root, ...]) -> None:
        write_private(self._path, _encode(self._trust_domain, roots))
        self._roots = roots


def _encode(trust_domain: TrustDomain, roots: tuple[Root, ...]) -> bytes:
    content = {
        "version": VERSION,
        "trust_domain": trust_domain.name,
        "roots": [
            {
                "certificate": root.certificate.public_bytes(serialization.Encoding.PEM).decode(),
                "key": root.key.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                ).decode(),
                "published_unix_s": root.life.published_at,
                "activated_unix_s": root.life.activated_at,
                "leaf_ttl_s_max": root.life.leaf_ttl_s_max,
            }
            for root in roots
        ],
    }
    return json.dumps(content, indent=1).encode()


def _decode(path: Path, data: bytes, trust_domain: TrustDomain) -> tuple[Root, ...]:
    try:
        content = json.loads(data)
        if content["version"] != VERSION:
            raise StorageFailed(f"{path} is of a newer x0d; start that one, or move the file away")
        if content["trust_domain"] != trust_domain.name:
            text = f"{path} is the authority of trust domain {content['trust_domain']}, not of {trust_domain}"
            raise StorageFailed(f"{text}; set identity.trust_domain back, or move the file away to begin anew")
        roots = tuple(_decode_root(item) for item in content["roots"][:ROOTS_MAX])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = f"{path} is damaged ({type(error).__name__}); restore it, or move it away to begin a new authority"
        raise StorageFailed(f"{text}, which every node then has to join") from error
    return roots


def _decode_root(item: dict[str, object]) -> Root:
    certificate = x509.load_pem_x509_certificate(str(item["certificate"]).encode())
    key = serialization.load_pem_private_key(str(item["key"]).encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ValueError("the key is not the certificate's")
    activated = item["activated_unix_s"]
    life = RootLife(
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        published_at=_number(item["published_unix_s"]),
        activated_at=None if activated is None else _number(activated),
        leaf_ttl_s_max=int(_number(item["leaf_ttl_s_max"])),
    )
    return Root(certificate, key, life)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("not a number")
    return float(value)
