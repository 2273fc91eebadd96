"""The rules that a leaf certificate follows before its chain is looked at (X.509-SVID sections 2 to 5).

The facts come from ``spiffe/certificate.py``; nothing here reads bytes of a certificate.  Whether the leaf is in force
and who signed it is judged with the chain, against the bundle of the leaf's own trust domain.

``anyExtendedKeyUsage`` alone does not serve: the section on it asks for clientAuth and serverAuth by name.
"""

from dataclasses import dataclass
from typing import Final

from x0d.errors import IdentityRefused, InvalidInput
from x0d.identity.model import Reason, Usage
from x0d.identity.spiffe_id import SpiffeId

CHAIN_CERTIFICATES_MAX: Final = 4
"""Of one chain, its leaf included: what more costs a verifier buys nobody anything."""
CHAIN_BYTES_MAX: Final = 16_384
"""Of one chain, in the form in which it came."""
RSA_BITS: Final = range(2_048, 4_096 + 1)

_CURVES: Final = frozenset({"p256", "p384", "ed25519"})
_SIGNS_OTHERS: Final = frozenset({"key_cert_sign", "crl_sign"})
_PURPOSES: Final = {Usage.CLIENT: "client_auth", Usage.SERVER: "server_auth"}


@dataclass(frozen=True, slots=True)
class LeafFacts:
    """What a leaf certificate says."""

    uri_sans: tuple[str, ...]
    """Every URI among its subject alternative names, in order, byte for byte."""
    is_ca: bool
    """Of BasicConstraints; False where they are absent."""
    key_usage: frozenset[str] | None
    """Words such as ``digital_signature``, ``key_cert_sign``, ``crl_sign``; None: no such extension."""
    extended_key_usage: frozenset[str] | None
    """``client_auth``, ``server_auth``, ``any``; other purposes by their dotted number.  None: no such extension."""
    key: str
    """``p256``, ``p384``, ``ed25519``, ``rsa2048`` to ``rsa4096``; another text is a key that is refused."""
    not_before_unix_s: float
    not_after_unix_s: float


def check_leaf(facts: LeafFacts, usage: Usage) -> SpiffeId:
    """Read the ID that a leaf is for, if it may be shown for ``usage``.

    Raises:
        IdentityRefused: it breaks a rule; ``reason`` says which.
    """
    if not _is_key_allowed(facts.key):
        raise IdentityRefused(
            Reason.KEY_TYPE, f"its key is {facts.key[:40]!r}: P-256, P-384, Ed25519, RSA 2048 to 4096"
        )
    if not facts.uri_sans:
        raise IdentityRefused(Reason.NO_URI_SAN, "it names no URI, so no SPIFFE ID")
    if len(facts.uri_sans) > 1:
        raise IdentityRefused(Reason.URI_SAN_COUNT, f"it names {len(facts.uri_sans)} URIs: exactly one is allowed")
    try:
        spiffe_id = SpiffeId.parse(facts.uri_sans[0])
    except InvalidInput as refusal:
        raise IdentityRefused(Reason.BAD_SPIFFE_ID, str(refusal)) from refusal
    if facts.is_ca:
        raise IdentityRefused(Reason.LEAF_IS_CA, f"the certificate of {spiffe_id} is a CA's")
    _check_usages(facts, usage, spiffe_id)
    return spiffe_id


def _check_usages(facts: LeafFacts, usage: Usage, spiffe_id: SpiffeId) -> None:
    if facts.key_usage is None:
        raise IdentityRefused(Reason.KEY_USAGE, f"the certificate of {spiffe_id} has no KeyUsage")
    if "digital_signature" not in facts.key_usage:
        raise IdentityRefused(Reason.KEY_USAGE, f"the key of {spiffe_id} is not for digitalSignature")
    if facts.key_usage & _SIGNS_OTHERS:
        raise IdentityRefused(Reason.KEY_USAGE, f"the key of {spiffe_id} is for signing certificates or CRLs")
    purpose = _PURPOSES[usage]
    if facts.extended_key_usage is not None and purpose not in facts.extended_key_usage:
        raise IdentityRefused(Reason.EXTENDED_KEY_USAGE, f"the certificate of {spiffe_id} is not for {purpose}")


def _is_key_allowed(key: str) -> bool:
    bits = key.removeprefix("rsa")
    if bits != key and bits.isascii() and bits.isdigit() and len(bits) == len(str(RSA_BITS[-1])):
        return int(bits) in RSA_BITS
    return key in _CURVES
