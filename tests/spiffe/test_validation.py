"""Updates of the Workload API: which SVID and which bundles are taken, and what refuses all of it."""

from dataclasses import replace

import pytest

from fakes.agent import update_of
from fakes.authority import CA, CLIENT, HOUR_S, NOW, Issued
from x0d.errors import IdentityRefused
from x0d.identity.model import Reason, Usage
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.spiffe.validation import Expectation, Flaw, is_untimely, validate
from x0d.spiffe.workload_api import SvidUpdate

LOCAL, PARTNER, OTHER = TrustDomain("corp.net"), TrustDomain("partner.net"), TrustDomain("other.net")
N1, N2 = SpiffeId(LOCAL, "/node/n1"), SpiffeId(LOCAL, "/node/n2")
ROOT = CA("corp.net")
MIDDLE = CA("corp.net", parent=ROOT)
PARTNER_ROOT, OTHER_ROOT = CA("partner.net"), CA("other.net")
EXPECTED = Expectation(N1, LOCAL)


def refusal_of(update: SvidUpdate, expected: Expectation = EXPECTED, now: float = NOW) -> str:
    with pytest.raises(IdentityRefused) as refused:
        validate(update, expected, now)
    return str(refused.value.reason)


def test_good_update_is_taken_with_all_its_parts() -> None:
    """Leaf, intermediates, key, span and serial are those of the update, and PEM says the same."""
    issued = MIDDLE.issue()
    accepted = validate(update_of(issued, MIDDLE), EXPECTED, NOW)
    svid = accepted.svid
    assert (N1, issued.leaf_der, (MIDDLE.der,)) == (svid.spiffe_id, svid.leaf_der, svid.chain_ders)
    assert (NOW - 60, NOW + HOUR_S) == (svid.not_before_unix_s, svid.not_after_unix_s)
    assert issued.certificates_pem == svid.certificates_pem == svid.leaf_pem + svid.chain_pem
    assert issued.key_pem == svid.key_pem
    assert (ROOT.der,) == accepted.bundles.authorities(LOCAL)
    assert "key_der" not in repr(svid)
    int(svid.serial, 16)


def test_configured_id_is_picked_among_several() -> None:
    """The SVID with the configured ID is ours wherever it stands; without one, the first is."""
    both = SvidUpdate(
        (
            *update_of(ROOT.issue(str(N2)), ROOT, spiffe_id=str(N2)).svids,
            *update_of(ROOT.issue(), ROOT).svids,
        )
    )
    assert N1 == validate(both, EXPECTED, NOW).svid.spiffe_id
    assert N2 == validate(both, Expectation(), NOW).svid.spiffe_id
    assert Flaw.NOT_OURS == refusal_of(both, Expectation(SpiffeId(LOCAL, "/node/n3")))


def test_trust_domain_is_the_configured_one() -> None:
    """An SVID of another trust domain is not ours, whatever its path."""
    update = update_of(PARTNER_ROOT.issue(), PARTNER_ROOT)
    assert Flaw.NOT_OURS == refusal_of(update, Expectation(None, LOCAL))


def test_production_refuses_a_dev_identity() -> None:
    """A reserved trust domain is refused as our own unless development is allowed."""
    root = CA("dev.x0d.test")
    update = update_of(root.issue(), root)
    assert Reason.DEV_IDENTITY == refusal_of(update, Expectation())
    assert "dev.x0d.test" == validate(update, Expectation(dev_allowed=True), NOW).svid.spiffe_id.trust_domain.name


def test_only_named_foreign_domains_are_read() -> None:
    """A foreign bundle is used if its domain is named, passed over unread if not; an empty one trusts nobody."""
    federated = {"spiffe://partner.net": PARTNER_ROOT.der, "spiffe://other.net": b"garbage"}
    update = update_of(ROOT.issue(), ROOT, federated=federated)
    assert frozenset({LOCAL}) == validate(update, EXPECTED, NOW).bundles.trust_domains
    named = replace(EXPECTED, federation=frozenset({PARTNER}))
    bundles = validate(update, named, NOW).bundles
    assert frozenset({LOCAL, PARTNER}) == bundles.trust_domains
    partner = PARTNER_ROOT.issue()
    assert "/node/n1" == bundles.verify(partner.leaf_pem, b"", Usage.CLIENT, NOW).spiffe_id.path
    assert Flaw.BUNDLE == refusal_of(update, replace(EXPECTED, federation=frozenset({OTHER})))
    empty = update_of(ROOT.issue(), ROOT, federated={"partner.net": b""})
    assert () == validate(empty, named, NOW).bundles.authorities(PARTNER)


def test_production_passes_over_dev_bundles() -> None:
    """A reserved trust domain's bundle is no bundle in production, named or not."""
    dev = CA("dev.x0d.test")
    update = update_of(ROOT.issue(), ROOT, federated={"spiffe://dev.x0d.test": dev.der})
    named = replace(EXPECTED, federation=frozenset({TrustDomain("dev.x0d.test")}))
    assert frozenset({LOCAL}) == validate(update, named, NOW).bundles.trust_domains
    allowed = replace(named, dev_allowed=True)
    assert 2 == len(validate(update, allowed, NOW).bundles.trust_domains)


@pytest.mark.parametrize(
    ("offset_s", "expected"), [(2 * HOUR_S, Reason.EXPIRED), (HOUR_S + 1, Reason.EXPIRED), (-61, Reason.NOT_YET_VALID)]
)
def test_refusal_for_time_is_told_from_the_others(offset_s: float, expected: Reason) -> None:
    """An update that is good but for the clock says so; one that is false besides is refused for good."""
    issued = ROOT.issue()
    assert expected == refusal_of(update_of(issued, ROOT), now=NOW + offset_s)
    assert is_untimely(expected)
    foreign = CA("corp.net").issue()
    reason = refusal_of(update_of(foreign, ROOT), now=NOW + offset_s)
    assert Reason.UNTRUSTED == reason
    assert not is_untimely(reason)


@pytest.mark.parametrize(
    ("expected", "issued"),
    [
        (Reason.EXTENDED_KEY_USAGE, ROOT.issue(eku=(CLIENT,))),
        (Reason.LEAF_IS_CA, ROOT.issue(ca=True)),
        (Reason.KEY_USAGE, ROOT.issue(key_usage=None)),
        (Reason.URI_SAN_COUNT, ROOT.issue(uris=[str(N1), str(N2)])),
        (Reason.CHAIN_TOO_LONG, CA("corp.net", parent=CA("corp.net", parent=CA("corp.net", parent=MIDDLE))).issue()),
    ],
)
def test_our_own_leaf_follows_the_rules_that_peers_will_hold_it_to(expected: Reason, issued: Issued) -> None:
    """An SVID that every peer would refuse is refused here, where it is seen."""
    assert expected == refusal_of(update_of(issued, ROOT))
