"""Whether an update of the Workload API is taken: as a whole, or not at all.

An update is good if its SVID is ours, its key fits, its chain leads to the bundle that came with it, in both parts
that we play, and every bundle that we use parses.  One flaw refuses all of it: half an update would pair a new
certificate with old authorities.  Bundles of trust domains that are not named in ``[identity].federation`` are not ours
to read and are passed over, whatever they hold.

Time is told apart from truth: OpenSSL looks for the way to an authority first and asks the clock last, so what is
refused for time (``is_untimely``) is worth another look when the clock has been set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from x0d.errors import IdentityRefused, InvalidInput
from x0d.identity.leaf import CHAIN_CERTIFICATES_MAX, check_leaf
from x0d.identity.model import Reason, Usage
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.spiffe.bundles import Bundles
from x0d.spiffe.certificate import facts_of, load, split_der
from x0d.spiffe.snapshot import Svid
from x0d.spiffe.workload_api import SvidUpdate, WorkloadSvid


class Flaw(StrEnum):
    """Why an update was refused where no ``identity.model.Reason`` says it."""

    NO_SVID = "no_svid"
    NOT_OURS = "not_ours"
    """No SVID has the configured ID, or its trust domain is another than the configured one."""
    ID_MISMATCH = "id_mismatch"
    """The field says another ID than the certificate."""
    KEY_MISMATCH = "key_mismatch"
    BUNDLE = "bundle"
    """One of the bundles does not parse, or holds what is no authority."""
    OWN_BUNDLE_FEDERATED = "own_bundle_federated"
    """Our own trust domain's authorities came as a foreign domain's."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the configuration says about our identity."""

    own_id: SpiffeId | None = None
    """None: the first SVID is ours."""
    trust_domain: TrustDomain | None = None
    """None: that of the SVID."""
    federation: frozenset[TrustDomain] = frozenset()
    """Foreign trust domains whose bundles are used."""
    dev_allowed: bool = False
    """Whether ``*.test`` and its like may be trust domains."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A good update."""

    svid: Svid
    bundles: Bundles


def validate(update: SvidUpdate, expected: Expectation, now_unix_s: float) -> Accepted:
    """Take an update as a whole.

    Raises:
        IdentityRefused: ``reason`` is a word of Flaw or of Reason.
    """
    ours = _pick(update, expected)
    spiffe_id, svid = _read_svid(ours)
    if expected.own_id not in {None, spiffe_id} or expected.trust_domain not in {None, spiffe_id.trust_domain}:
        raise IdentityRefused(Flaw.NOT_OURS, f"the SVID is for {spiffe_id}, which is not ours")
    if spiffe_id.trust_domain.is_dev and not expected.dev_allowed:
        raise IdentityRefused(
            Reason.DEV_IDENTITY, f"trust domain {spiffe_id.trust_domain} is for development: node.production is true"
        )
    _check_key(ours.key, svid.leaf_der)
    bundles = _read_bundles(ours, spiffe_id.trust_domain, update.federated, expected)
    for usage in Usage:
        bundles.verify(svid.leaf_pem, svid.chain_pem, usage, now_unix_s)
    return Accepted(svid, bundles)


def is_untimely(reason: str) -> bool:
    """Whether an update was refused for the clock's sake alone."""
    return reason in {Reason.EXPIRED, Reason.NOT_YET_VALID}


def _pick(update: SvidUpdate, expected: Expectation) -> WorkloadSvid:
    if not update.svids:
        raise IdentityRefused(Flaw.NO_SVID, "the update holds no SVID")
    if expected.own_id is None:
        return update.svids[0]
    for svid in update.svids:
        if svid.spiffe_id == str(expected.own_id):
            return svid
    raise IdentityRefused(
        Flaw.NOT_OURS, f"no SVID is for {expected.own_id}, the first is for {update.svids[0].spiffe_id[:300]!r}"
    )


def _read_svid(delivered: WorkloadSvid) -> tuple[SpiffeId, Svid]:
    try:
        ders = split_der(delivered.certificates)
    except InvalidInput as failure:
        raise IdentityRefused(Reason.MALFORMED, f"the SVID's chain: {failure}") from failure
    if not ders:
        raise IdentityRefused(Reason.NO_CERTIFICATE, "the SVID has no certificate")
    if len(ders) > CHAIN_CERTIFICATES_MAX:
        raise IdentityRefused(Reason.CHAIN_TOO_LONG, f"the SVID's chain has {len(ders)} certificates")
    facts = facts_of(ders[0])
    spiffe_id = check_leaf(facts, Usage.CLIENT)
    if delivered.spiffe_id != str(spiffe_id):
        raise IdentityRefused(
            Flaw.ID_MISMATCH, f"the update says {delivered.spiffe_id[:300]!r}, the certificate {spiffe_id}"
        )
    svid = Svid(
        spiffe_id=spiffe_id,
        leaf_der=ders[0],
        chain_ders=ders[1:],
        key_der=delivered.key,
        not_before_unix_s=facts.not_before_unix_s,
        not_after_unix_s=facts.not_after_unix_s,
        serial=f"{load(ders[0]).serial_number:x}",
    )
    return spiffe_id, svid


def _check_key(key_der: bytes, leaf_der: bytes) -> None:
    try:
        public = load_der_private_key(key_der, password=None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as failure:
        raise IdentityRefused(Reason.MALFORMED, "the SVID's key is no PKCS#8 key that we read") from failure
    if _spki(public) != _spki(load(leaf_der).public_key()):
        raise IdentityRefused(Flaw.KEY_MISMATCH, "the key that came with the SVID is another certificate's")


def _spki(key: PublicKeyTypes) -> bytes:
    """Write a public key in its one form."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _read_bundles(
    ours: WorkloadSvid, own: TrustDomain, federated: Mapping[str, bytes], expected: Expectation
) -> Bundles:
    delivered: dict[TrustDomain, bytes] = {}
    try:
        for name, ders in federated.items():
            domain = TrustDomain.parse(name)
            if domain == own:
                raise IdentityRefused(Flaw.OWN_BUNDLE_FEDERATED, f"authorities of {own} came as federated ones")
            if domain in delivered:
                raise IdentityRefused(Flaw.BUNDLE, f"trust domain {domain} has two bundles")
            delivered[domain] = ders
        used = {d: ders for d, ders in delivered.items() if d in expected.federation and _may_use(d, expected)}
        return Bundles.of({domain: split_der(ders) for domain, ders in {own: ours.bundle, **used}.items()})
    except InvalidInput as failure:
        raise IdentityRefused(Flaw.BUNDLE, str(failure)) from failure


def _may_use(domain: TrustDomain, expected: Expectation) -> bool:
    return expected.dev_allowed or not domain.is_dev
