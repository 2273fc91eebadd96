"""The identity of a node that has joined a development cluster: what its issuer has sent, and the key beside it.

Key, chain, bundles and where to renew are one file, 0600 below 0700, replaced whole: a kill leaves the old identity or
the new one, never a key without its certificate.  An answer of the issuer is checked as a whole before it is written:
its leaf is for this ID and this key, and its chain verifies in the bundle that came along, for both parts that a node
plays.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from x0d.errors import IdentityRefused, InvalidInput, StorageFailed
from x0d.identity.model import Reason, Usage
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.ports.issuer import Admission, Grant
from x0d.spiffe.bundles import Bundles
from x0d.spiffe.certificate import from_pem, load, to_pem
from x0d.spiffe.local_svids import Subscribers, svid_of
from x0d.spiffe.private_file import make_private_directory, read_private, write_private
from x0d.spiffe.request import key_to_der, make_key, make_request
from x0d.spiffe.root import issued_at
from x0d.spiffe.snapshot import Svid

DIRECTORY: Final = "identity"
"""Below the state directory."""
FILE_NAME: Final = "joined.json"
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Joined:
    """One identity with all that belongs to it, checked."""

    svid: Svid
    bundle_ders: tuple[bytes, ...]
    federated: Mapping[TrustDomain, tuple[bytes, ...]]
    renewal_endpoint: str
    issuer_id: SpiffeId


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A new key and the request for its certificate."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    csr_der: bytes

    @classmethod
    def make(cls) -> "KeyRequest":
        """Make both."""
        key = make_key()
        return cls(key, make_request(key))


def take(spiffe_id: SpiffeId, key: ec.EllipticCurvePrivateKey, admission: Admission, now_unix_s: float) -> Joined:
    """Check an issuer's answer and put the identity together.

    Raises:
        IdentityRefused: it is for another ID or key, or does not verify in its own bundle now.
    """
    grant = admission.grant
    if not grant.chain_ders:
        raise IdentityRefused(Reason.NO_CERTIFICATE, "the issuer's answer holds no certificate")
    if admission.issuer_id.trust_domain != spiffe_id.trust_domain:
        raise IdentityRefused(Reason.WRONG_ID, f"the issuer calls itself {admission.issuer_id}")
    svid = svid_of(spiffe_id, grant.chain_ders, key_to_der(key))
    if load(svid.leaf_der).public_key() != key.public_key():
        raise IdentityRefused(Reason.MALFORMED, "the issuer's certificate is for another key than was sent")
    try:
        bundles = Bundles.of({**grant.federated, spiffe_id.trust_domain: grant.bundle_ders})
    except InvalidInput as error:
        raise IdentityRefused(Reason.MALFORMED, str(error)) from error
    for usage in Usage:
        verified = bundles.verify(svid.leaf_pem, svid.chain_pem, usage, now_unix_s)
        if verified.spiffe_id != spiffe_id:
            raise IdentityRefused(Reason.WRONG_ID, f"the issuer's certificate is for {verified.spiffe_id}")
    return Joined(svid, grant.bundle_ders, dict(grant.federated), admission.renewal_endpoint, admission.issuer_id)


def save(directory: Path, joined: Joined) -> None:
    """Write it, in a directory that is made if it is absent.  Raises StorageFailed; what was there stands then."""
    make_private_directory(directory)
    svid = joined.svid
    content = {
        "version": VERSION,
        "spiffe_id": str(svid.spiffe_id),
        "key": svid.key_pem.decode(),
        "chain": svid.certificates_pem.decode(),
        "bundle": _pem(joined.bundle_ders),
        "federated": {domain.name: _pem(ders) for domain, ders in sorted(joined.federated.items())},
        "renewal_endpoint": joined.renewal_endpoint,
        "issuer_id": str(joined.issuer_id),
    }
    write_private(directory / FILE_NAME, json.dumps(content, indent=1).encode())


def read(directory: Path) -> Joined | None:
    """Read it; None if this node has not joined.  An expired one is read too: it is renewed or told of elsewhere.

    Raises:
        StorageFailed: the file cannot be read, is damaged, or others may read it.
    """
    path = directory / FILE_NAME
    data = read_private(path)
    if data is None:
        return None
    try:
        return _decode(path, json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError, InvalidInput, IdentityRefused) as error:
        text = f"{path} is damaged ({type(error).__name__}); remove it and join again"
        raise StorageFailed(f"{text}: x0ctl identity token on the issuer, then x0d --join here") from error


def _decode(path: Path, content: dict[str, object]) -> Joined:
    if content["version"] != VERSION:
        raise StorageFailed(f"{path} is of a newer x0d; start that one, or join again")
    spiffe_id = SpiffeId.parse(str(content["spiffe_id"]))
    key = serialization.load_pem_private_key(str(content["key"]).encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not a key of ours")
    federated = content["federated"]
    if not isinstance(federated, dict):
        raise TypeError("no table of federated bundles")
    chain = from_pem(str(content["chain"]).encode())
    if load(chain[0]).public_key() != key.public_key():
        raise ValueError("the key is not the certificate's")
    return Joined(
        svid=svid_of(spiffe_id, chain, key_to_der(key)),
        bundle_ders=from_pem(str(content["bundle"]).encode()),
        federated={TrustDomain.parse(name): from_pem(str(pem).encode()) for name, pem in federated.items()},
        renewal_endpoint=str(content["renewal_endpoint"]),
        issuer_id=SpiffeId.parse(str(content["issuer_id"])),
    )


def _pem(ders: Sequence[bytes]) -> str:
    return b"".join(map(to_pem, ders)).decode()


class JoinedIdentity:
    """The running daemon's joined identity: ``ports.issuer.HeldIdentity``, and source of its Workload API server."""

    def __init__(self, directory: Path, joined: Joined, unix_s: Callable[[], float]) -> None:
        self._directory = directory
        self._joined = joined
        self._unix_s = unix_s
        self._requested: KeyRequest | None = None
        self._subscribers = Subscribers()

    @property
    def spiffe_id(self) -> SpiffeId:
        """Ours."""
        return self._joined.svid.spiffe_id

    @property
    def issuer_id(self) -> SpiffeId:
        """Who renews it."""
        return self._joined.issuer_id

    @property
    def renewal_endpoint(self) -> str:
        """Where that is."""
        return self._joined.renewal_endpoint

    @property
    def not_before_unix_s(self) -> float:
        """Begin of the certificate's life."""
        return self._joined.svid.not_before_unix_s

    @property
    def not_after_unix_s(self) -> float:
        """End of the certificate's life."""
        return self._joined.svid.not_after_unix_s

    @property
    def issued_unix_s(self) -> float:
        """When it was made, by its dates: that of a clock here would not outlive a restart."""
        return issued_at(self.not_before_unix_s, self.not_after_unix_s)

    def request(self) -> bytes:
        """Make a new key, keep it aside, and return a PKCS#10 request (DER) for it."""
        self._requested = KeyRequest.make()
        return self._requested.csr_der

    def accept(self, grant: Grant) -> None:
        """Take the answer to the last request: check, write, use.

        Raises:
            IdentityRefused: nothing has changed.
            StorageFailed: nothing has changed.
        """
        assert self._requested is not None, "an answer without a request"
        admission = Admission(grant, self._joined.renewal_endpoint, self._joined.issuer_id)
        joined = take(self.spiffe_id, self._requested.key, admission, self._unix_s())
        save(self._directory, joined)
        self._joined, self._requested = joined, None

    def announce(self) -> None:
        """Tell those who listen that ``accept`` has changed something."""
        self._subscribers.tell()

    def svid(self, spiffe_id: SpiffeId) -> Svid:
        """The one certificate that there is, whatever its age: its holder judges that."""
        assert spiffe_id == self.spiffe_id, "a joined node gives out its own identity only"
        return self._joined.svid

    def bundles(self) -> Mapping[TrustDomain, Sequence[bytes]]:
        """The issuer's roots, and those of the trust domains that it federates with."""
        return {**self._joined.federated, self.spiffe_id.trust_domain: self._joined.bundle_ders}

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Call back after each change."""
        self._subscribers.add(on_change)

    def unsubscribe(self, on_change: Callable[[], None]) -> None:
        """End that."""
        self._subscribers.remove(on_change)
