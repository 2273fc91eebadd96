"""Leaf rules: each broken rule is a reason of its own, and an intact leaf gives its ID."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0d.errors import IdentityRefused
from x0d.identity.leaf import LeafFacts, check_leaf
from x0d.identity.model import Reason, Usage
from x0d.identity.spiffe_id import SpiffeId

URI = "spiffe://dev.x0d.test/node/n1"
GOOD = LeafFacts(
    uri_sans=(URI,),
    is_ca=False,
    key_usage=frozenset({"digital_signature"}),
    extended_key_usage=frozenset({"client_auth", "server_auth"}),
    key="p256",
    not_before_unix_s=0.0,
    not_after_unix_s=3600.0,
)
KEYS = ("p256", "p384", "ed25519", "rsa2048", "rsa3072", "rsa4096")


@pytest.mark.parametrize("usage", Usage)
@pytest.mark.parametrize("key", KEYS)
def test_good(usage: Usage, key: str) -> None:
    """An intact leaf with an allowed key gives its ID, for both usages."""
    assert SpiffeId.parse(URI) == check_leaf(replace(GOOD, key=key), usage)


@pytest.mark.parametrize("usage", Usage)
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (replace(GOOD, uri_sans=()), Reason.NO_URI_SAN),
        (replace(GOOD, uri_sans=(URI, URI)), Reason.URI_SAN_COUNT),
        (replace(GOOD, uri_sans=(URI, "https://dev.x0d.test/")), Reason.URI_SAN_COUNT),
        (replace(GOOD, uri_sans=(f"{URI}\n",)), Reason.BAD_SPIFFE_ID),
        (replace(GOOD, uri_sans=(f"{URI}\0.evil",)), Reason.BAD_SPIFFE_ID),
        (replace(GOOD, uri_sans=("spiffe://dev.x0d.test",)), Reason.BAD_SPIFFE_ID),
        (replace(GOOD, uri_sans=("spiffe://dev.x0d.test/",)), Reason.BAD_SPIFFE_ID),
        (replace(GOOD, uri_sans=("https://dev.x0d.test/node/n1",)), Reason.BAD_SPIFFE_ID),
        (replace(GOOD, uri_sans=("spiffe://DEV.x0d.test/node/n1",)), Reason.BAD_SPIFFE_ID),
        (replace(GOOD, uri_sans=("spiffe://dev.x0d.test/" + "a" * 2_027,)), Reason.BAD_SPIFFE_ID),
        (replace(GOOD, is_ca=True), Reason.LEAF_IS_CA),
        (replace(GOOD, key_usage=None), Reason.KEY_USAGE),
        (replace(GOOD, key_usage=frozenset()), Reason.KEY_USAGE),
        (replace(GOOD, key_usage=frozenset({"key_agreement"})), Reason.KEY_USAGE),
        (replace(GOOD, key_usage=frozenset({"digital_signature", "key_cert_sign"})), Reason.KEY_USAGE),
        (replace(GOOD, key_usage=frozenset({"digital_signature", "crl_sign"})), Reason.KEY_USAGE),
        (replace(GOOD, extended_key_usage=frozenset()), Reason.EXTENDED_KEY_USAGE),
        (replace(GOOD, extended_key_usage=frozenset({"any"})), Reason.EXTENDED_KEY_USAGE),
        (replace(GOOD, extended_key_usage=frozenset({"1.3.6.1.5.5.7.3.3"})), Reason.EXTENDED_KEY_USAGE),
    ],
)
def test_broken_rules(usage: Usage, bad: LeafFacts, reason: Reason) -> None:
    """Each broken rule is refused with its own reason."""
    with pytest.raises(IdentityRefused) as refusal:
        check_leaf(bad, usage)
    assert reason == refusal.value.reason


@pytest.mark.parametrize(
    "key",
    ["", "p521", "secp256k1", "dsa2048", "rsa", "rsa1024", "rsa2047", "rsa4097", "rsa8192", "rsa²048", "rsa02048",
     "rsa-2048", "rsa" + "9" * 5_000, "P256", "p256 ", "ed448", "ml-dsa-65"],
)  # fmt: skip
def test_keys(key: str) -> None:
    """A key of another kind or size is refused, whatever its name."""
    with pytest.raises(IdentityRefused) as refusal:
        check_leaf(replace(GOOD, key=key), Usage.CLIENT)
    assert Reason.KEY_TYPE == refusal.value.reason


@pytest.mark.parametrize(("purpose", "usage"), [("client_auth", Usage.SERVER), ("server_auth", Usage.CLIENT)])
def test_other_purpose(purpose: str, usage: Usage) -> None:
    """A leaf that is for one part alone is refused in the other."""
    with pytest.raises(IdentityRefused) as refusal:
        check_leaf(replace(GOOD, extended_key_usage=frozenset({purpose})), usage)
    assert Reason.EXTENDED_KEY_USAGE == refusal.value.reason


@pytest.mark.parametrize("usage", Usage)
def test_no_extended_key_usage(usage: Usage) -> None:
    """A leaf without the extension serves in either part."""
    assert SpiffeId.parse(URI) == check_leaf(replace(GOOD, extended_key_usage=None), usage)


@given(
    st.builds(
        LeafFacts,
        uri_sans=st.lists(st.one_of(st.just(URI), st.text(max_size=60)), max_size=3).map(tuple),
        is_ca=st.booleans(),
        key_usage=st.one_of(
            st.none(), st.frozensets(st.sampled_from(["digital_signature", "key_cert_sign", "crl_sign", "x"]))
        ),
        extended_key_usage=st.one_of(
            st.none(), st.frozensets(st.sampled_from(["client_auth", "server_auth", "any", "1.2.3"]))
        ),
        key=st.one_of(st.sampled_from(KEYS), st.text(max_size=12)),
        not_before_unix_s=st.just(0.0),
        not_after_unix_s=st.just(1.0),
    ),
    st.sampled_from(Usage),
)
def test_any_facts(facts: LeafFacts, usage: Usage) -> None:
    """Whatever a leaf says, it gives the ID of its only URI, or is refused with a reason from the list."""
    try:
        spiffe_id = check_leaf(facts, usage)
    except IdentityRefused as refusal:
        reason = refusal.reason
    else:
        reason = ""
    if reason:
        assert reason in set(Reason)
        return
    assert facts.uri_sans == (str(spiffe_id),)
    assert not facts.is_ca
    assert facts.key_usage is not None
    assert not facts.key_usage & {"key_cert_sign", "crl_sign"}
