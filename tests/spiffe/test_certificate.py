"""Bytes of certificates: lists in DER and PEM cut apart, and what one certificate says."""

from contextlib import suppress

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from fakes.authority import CA, CLIENT, HOUR_S, NOW
from x0d.errors import IdentityRefused, InvalidInput
from x0d.identity.leaf import LeafFacts
from x0d.identity.model import Reason
from x0d.spiffe.certificate import DER_CERTIFICATE_BYTES_MAX, facts_of, from_pem, split_der, to_pem

ROOT = CA()


def der_of(content: bytes) -> bytes:
    """Write a DER sequence."""
    length = len(content)
    if length < 0x80:
        return bytes([0x30, length]) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([0x30, 0x80 | len(octets)]) + octets + content


@given(st.lists(st.binary(max_size=300).map(der_of), max_size=6))
def test_der_lists_come_apart_as_they_were_joined(ders: list[bytes]) -> None:
    """Sequences of any length, one after the other, are found again."""
    assert tuple(ders) == split_der(b"".join(ders))


@given(st.binary(max_size=400))
def test_any_bytes_split_or_are_invalid(data: bytes) -> None:
    """Whatever splits joins to the same bytes; everything else is InvalidInput."""
    with suppress(InvalidInput):
        assert data == b"".join(split_der(data))


@pytest.mark.parametrize(
    "data",
    [
        b"\x30",
        b"\x31\x00",
        b"\x30\x80",
        b"\x30\x01",
        b"\x30\x81\x7f" + bytes(0x7F),
        b"\x30\x82\x00\x80" + bytes(0x80),
        b"\x30\x84\x00\x00\x00\x01\x00",
        b"\x30\xff" + bytes(200),
        b"\x30\x82\x01",
        der_of(bytes(DER_CERTIFICATE_BYTES_MAX + 1)),
        ROOT.der[:-1],
        ROOT.der + b"\0",
    ],
)
def test_lengths_that_are_not_ders_are_invalid(data: bytes) -> None:
    """Indefinite, padded, missing, cut and huge lengths, other tags and trailing bytes are refused."""
    with pytest.raises(InvalidInput):
        split_der(data)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=4))
def test_pem_reads_what_was_written(ders: list[bytes]) -> None:
    """Blocks read as they were written."""
    assert tuple(ders) == from_pem(b"".join(map(to_pem, ders)))


@given(st.binary(max_size=200))
def test_any_text_is_pem_or_invalid(data: bytes) -> None:
    """Bytes around a block that are no white space make the whole text invalid, as do bytes without one."""
    block = to_pem(ROOT.der)
    for text in (data, block + data, data + block):
        try:
            found = from_pem(text)
        except InvalidInput:
            continue
        assert all(der == ROOT.der for der in found)
        assert not text.replace(block, b"").strip()


def test_base64_ends_at_its_padding() -> None:
    """Bytes after the padding of a block are not passed over."""
    with pytest.raises(InvalidInput, match="not base64"):
        from_pem(b"-----BEGIN CERTIFICATE-----\nQQ==QQ==\n-----END CERTIFICATE-----\n")


def test_two_extensions_of_a_kind_are_malformed() -> None:
    """A certificate that says something twice is refused: readers differ about which of them counts."""
    one, two = (x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.3.6.1.4.1.55555.{n}"), b"\5\0") for n in (1, 2))
    der = ROOT.issue(extra=[(one, False), (two, False)]).leaf_der
    tail = b"\x83\xb2\x03"  # 55555 in the number's own base of 128
    assert 1 == der.count(tail + b"\2")
    with pytest.raises(IdentityRefused) as refused:
        facts_of(der.replace(tail + b"\2", tail + b"\1"))
    assert Reason.MALFORMED == refused.value.reason


def test_facts_are_what_the_certificate_says() -> None:
    """URIs, CA, usages, key and span are read; extensions that are missing are None."""
    issued = ROOT.issue(uris=["spiffe://a/b", "https://c/"], eku=(CLIENT,), key="rsa2048", dns=["n1.example"])
    expected = LeafFacts(
        uri_sans=("spiffe://a/b", "https://c/"),
        is_ca=False,
        key_usage=frozenset({"digital_signature"}),
        extended_key_usage=frozenset({"client_auth"}),
        key="rsa2048",
        not_before_unix_s=NOW - 60,
        not_after_unix_s=NOW + HOUR_S,
    )
    assert expected == facts_of(issued.leaf_der)
    bare = facts_of(ROOT.issue(uris=(), ca=None, key_usage=None, eku=None, key="ed25519").leaf_der)
    assert ((), False, None, None, "ed25519") == (
        bare.uri_sans,
        bare.is_ca,
        bare.key_usage,
        bare.extended_key_usage,
        bare.key,
    )
    root = facts_of(ROOT.der)
    assert (True, frozenset({"key_cert_sign", "crl_sign"})) == (root.is_ca, root.key_usage)


@given(position=st.integers(0, 2**16), value=st.integers(0, 255))
def test_a_certificate_with_another_byte_reads_or_is_malformed(position: int, value: int) -> None:
    """One byte changed anywhere is a refusal for its form or another certificate, never an exception of a library's."""
    der = bytearray(_LEAF)
    der[position % len(der)] = value
    try:
        facts_of(bytes(der))
    except IdentityRefused as refused:
        assert Reason.MALFORMED == refused.reason  # noqa: PT017  reading it is as good


_LEAF = ROOT.issue().leaf_der
