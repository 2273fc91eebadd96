"""What a connection has shown, judged field by field: each that is missing, doubled or wrong refuses the call."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from fakes.authority import CA
from fakes.tls_lab import BINDINGS, DOMAIN, OPERATOR, FakeSource, svid_of
from x0d.errors import IdentityRefused
from x0d.identity.model import Principal
from x0d.identity.roles import Role
from x0d.telemetry import Telemetry
from x0d.transport.tls_callers import TlsCallers

AUTHORITY = CA(DOMAIN, start_unix_s=time.time())
LEAF = AUTHORITY.issue(OPERATOR)
GOOD: Mapping[str, Sequence[bytes]] = {
    "transport_security_type": [b"ssl"],
    "ssl_tls_version": [b"TLSv1.3"],
    "ssl_session_reused": [b"false"],
    "ssl_negotiated_key_exchange_group": [b"X25519MLKEM768"],
    "x509_pem_cert": [LEAF.leaf_pem],
    "peer_spiffe_id": [f"spiffe://{DOMAIN}/operator/root".encode()],
    "x509_common_name": [b"root"],
}
"""What gRPC tells of a good connection; the last two, which lie here, are never looked at."""


class FakeContext:
    """The two answers of a call's context that count."""

    def __init__(self, shown: Mapping[str, Sequence[bytes]]) -> None:
        self._shown = shown

    def peer(self) -> str:
        return "ipv4:192.0.2.1:5"

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        return self._shown


def authenticate(shown: Mapping[str, Sequence[bytes]], *, has_bundle: bool = True) -> Principal:
    """Judge what was shown, post-quantum being required."""
    source = FakeSource()
    if has_bundle:
        source.put(svid_of(LEAF, OPERATOR), AUTHORITY)
    callers = TlsCallers(
        source=source,
        judge=source.judge,
        bindings=BINDINGS,
        require_pq=True,
        dev_allowed=True,
        connections_max=8,
        counted=Telemetry(),
        unix_s=source.unix_s,
    )
    context: Any = FakeContext(shown)
    return callers.authenticate(context)


def test_good() -> None:
    """The caller is who its leaf says, whatever else gRPC makes of it."""
    principal = authenticate(GOOD)
    assert (OPERATOR, {Role.OPERATOR, Role.VIEWER}) == (principal.name, set(principal.roles))
    assert "ipv4:192.0.2.1:5" == principal.address
    assert principal.proof is not None
    assert principal.proof.is_post_quantum


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("transport_security_type", [], "not_tls"),
        ("transport_security_type", [b"insecure"], "not_tls"),
        ("transport_security_type", [b"ssl", b"ssl"], "not_tls"),
        ("ssl_tls_version", [], "tls_version"),
        ("ssl_tls_version", [b"TLSv1.2"], "tls_version"),
        ("ssl_session_reused", [], "resumed"),
        ("ssl_session_reused", [b"true"], "resumed"),
        ("ssl_negotiated_key_exchange_group", [], "not_post_quantum"),
        ("ssl_negotiated_key_exchange_group", [b"X25519"], "not_post_quantum"),
        ("x509_pem_cert", [], "no_certificate"),
        ("x509_pem_cert", [LEAF.leaf_pem, LEAF.leaf_pem], "no_certificate"),
        ("x509_pem_cert", [LEAF.leaf_pem * 2], "no_certificate"),
        ("x509_pem_cert", [b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"], "malformed"),
        ("x509_pem_cert_chain", [LEAF.leaf_pem * 5], "chain_too_long"),
        ("x509_pem_cert_chain", [b"x" * 16_384], "chain_too_long"),
        ("x509_pem_cert_chain", [b"no certificate"], "malformed"),
    ],
)
def test_each_field(name: str, values: Sequence[bytes], reason: str) -> None:
    """A field that is not as it must be refuses, and says which."""
    with pytest.raises(IdentityRefused) as refused:
        authenticate({**GOOD, name: values})
    assert reason == refused.value.reason


def test_leaf_repeated_in_the_chain() -> None:
    """A gRPC that puts the leaf first into the chain changes nothing."""
    assert OPERATOR == authenticate({**GOOD, "x509_pem_cert_chain": [LEAF.leaf_pem]}).name


def test_without_bundles() -> None:
    """Without a bundle nobody is trusted."""
    with pytest.raises(IdentityRefused) as refused:
        authenticate(GOOD, has_bundle=False)
    assert "no_own_svid" == refused.value.reason


@pytest.mark.parametrize(
    ("leaf", "said"),
    [([LEAF.leaf_pem], f"which claims to be {OPERATOR}"), ([b"x"], "which names nobody that could be read")],
)
def test_classical_caller_can_be_found(leaf: Sequence[bytes], said: str) -> None:
    """Whose key exchange is classical is told with its address and what its leaf claims, as a claim."""
    with pytest.raises(IdentityRefused) as refused:
        authenticate({**GOOD, "ssl_negotiated_key_exchange_group": [b"X25519"], "x509_pem_cert": leaf})
    assert f"the key exchange is X25519 of the caller at 192.0.2.1:5, {said}" == str(refused.value)
