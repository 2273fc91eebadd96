"""Descriptors: any bytes decode or raise InvalidInput, what decodes is written alike, and one order for all nodes."""

import itertools
from dataclasses import replace
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0d.errors import IdentityRefused, InvalidInput
from x0d.identity.descriptor import (
    AHEAD_MS_MAX,
    BATCH_BYTES_MAX,
    BATCH_MAX,
    DESCRIPTOR_BYTES_MAX,
    HELD_MAX,
    MLDSA_SIGNATURE_BYTES,
    PUBLIC_KEY_BYTES,
    SVID_SIGNATURE_BYTES_MAX,
    Claim,
    SignedDescriptor,
    Verdict,
    batch_of,
    check_message,
    check_order,
    check_time,
)
from x0d.identity.leaf import CHAIN_BYTES_MAX
from x0d.identity.spiffe_id import ID_BYTES_MAX, SpiffeId
from x0d.v1 import peer_pb2

N1 = SpiffeId.parse("spiffe://dev.x0d.test/node/n1")
CLAIM = Claim(N1, IPv4Address("10.255.0.1"), bytes(range(244)) * 8, 77, 1, 1_800_000_000_000)
PAYLOAD = CLAIM.encode()
SIGNED = SignedDescriptor(CLAIM, PAYLOAD, b"m" * MLDSA_SIGNATURE_BYTES, (b"leaf", b"middle"), b"s" * 64)
RAW = SIGNED.encode()

ids = st.from_regex(r"spiffe://[a-z0-9._-]{1,40}(/[a-z][A-Za-z0-9_-]{0,20}){1,4}", fullmatch=True).map(SpiffeId.parse)
claims = st.builds(
    Claim,
    spiffe_id=ids,
    address=st.ip_addresses().map(lambda address: type(address)(address.packed)),  # without a zone
    public_key=st.binary(min_size=32, max_size=32).map(lambda seed: seed * (PUBLIC_KEY_BYTES // 32)),
    boot_id=st.integers(1, 2**64 - 1),
    sequence=st.integers(1, 2**64 - 1),
    signed_at_unix_ms=st.integers(0, 253_402_300_799_000),
)
signed = st.builds(
    lambda claim, chain, signature: SignedDescriptor(
        claim, claim.encode(), b"m" * MLDSA_SIGNATURE_BYTES, tuple(chain), signature
    ),
    claims,
    st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=4),
    st.binary(min_size=1, max_size=SVID_SIGNATURE_BYTES_MAX),
)


@given(signed)
def test_round_trip(descriptor: SignedDescriptor) -> None:
    """What is written is read alike."""
    assert descriptor == SignedDescriptor.decode(descriptor.encode())


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda tail: RAW[:3] + tail)))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    """Arbitrary bytes raise InvalidInput and nothing else; the few that decode are written alike."""
    try:
        descriptor = SignedDescriptor.decode(data)
    except InvalidInput:
        return
    assert data == descriptor.encode()


@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_flipped_bytes_decode_or_are_refused(at: int, flip: int) -> None:
    """A descriptor with one byte changed is refused, or is another one that is written alike."""
    data = bytearray(RAW)
    data[at] ^= flip
    try:
        descriptor = SignedDescriptor.decode(bytes(data))
    except InvalidInput:
        return
    assert bytes(data) == descriptor.encode()
    assert SIGNED != descriptor


def test_every_truncation_is_refused() -> None:
    """A descriptor that is cut anywhere, or goes on, does not decode."""
    cuts = {*range(200), *range(0, len(RAW), 97), *range(len(RAW) - 200, len(RAW))}
    for data in (*(RAW[:cut] for cut in sorted(cuts)), RAW + b"\0"):
        with pytest.raises(InvalidInput):
            SignedDescriptor.decode(data)


def with_payload(payload: bytes) -> bytes:
    """A descriptor around another payload."""
    return replace(SIGNED, payload=payload).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\2" + RAW[1:],
        bytes(DESCRIPTOR_BYTES_MAX + 1),
        replace(SIGNED, chain_ders=()).encode(),
        replace(SIGNED, chain_ders=(b"c",) * 5).encode(),
        replace(SIGNED, chain_ders=(b"leaf", b"")).encode(),
        replace(SIGNED, chain_ders=(bytes(CHAIN_BYTES_MAX + 1),)).encode(),
        replace(SIGNED, mldsa_signature=b"m" * (MLDSA_SIGNATURE_BYTES - 1)).encode(),
        replace(SIGNED, svid_signature=b"").encode(),
        replace(SIGNED, svid_signature=bytes(SVID_SIGNATURE_BYTES_MAX + 1)).encode(),
        with_payload(b""),
        with_payload(b"x0dd\2" + PAYLOAD[5:]),
        with_payload(PAYLOAD[:-1]),
        with_payload(PAYLOAD + b"\0"),
        with_payload(PAYLOAD[:5] + bytes(8) + PAYLOAD[13:]),
        with_payload(PAYLOAD[:13] + bytes(8) + PAYLOAD[21:]),
        with_payload(PAYLOAD[:21] + b"\xff" * 8 + PAYLOAD[29:]),
        with_payload(PAYLOAD[:29] + b"\5\0" + PAYLOAD[30:]),
        with_payload(PAYLOAD[:29] + b"\0" + PAYLOAD[34:]),
        with_payload(PAYLOAD.replace(b"/node/n1", b"/node/\xe91")),
        with_payload(PAYLOAD.replace(b"/node/n1", b"/node/..")),
        with_payload(PAYLOAD.replace(b"/node/n1", b"/node/n\n")),
        with_payload(PAYLOAD.replace(b"/node/n1", b"/node/n\0")),
        with_payload(PAYLOAD.replace(b"spiffe://", b"SPIFFE://")),
    ],
)
def test_nonsense_is_refused(raw: bytes) -> None:
    """What breaks a bound or a rule of the format raises InvalidInput."""
    with pytest.raises(InvalidInput):
        SignedDescriptor.decode(raw)


def test_longest_descriptor_fits() -> None:
    """The longest ID, chain and signatures that are allowed make a descriptor that is allowed."""
    name = SpiffeId.parse("spiffe://" + "d" * 255 + "/" + "n" * (ID_BYTES_MAX - 265))
    claim = replace(CLAIM, spiffe_id=name, address=IPv6Address("2001:db8::1"))
    chain = (bytes(CHAIN_BYTES_MAX - 3), b"1", b"2", b"3")
    longest = SignedDescriptor(claim, claim.encode(), SIGNED.mldsa_signature, chain, bytes(SVID_SIGNATURE_BYTES_MAX))
    assert longest == SignedDescriptor.decode(longest.encode())


def test_digest_is_of_the_claim_alone() -> None:
    """Another signature or chain around the same claim makes no other descriptor; another claim does."""
    twin = replace(SIGNED, chain_ders=(b"leaf",), svid_signature=b"twin", mldsa_signature=b"n" * MLDSA_SIGNATURE_BYTES)
    assert sha256(PAYLOAD).digest() == SIGNED.digest == twin.digest
    assert SIGNED.digest != replace(SIGNED, payload=replace(CLAIM, sequence=2).encode()).digest


def order_of(claim: Claim, held: Claim | None) -> str:
    """The verdict on a claim's place."""
    try:
        check_order(claim, held)
    except IdentityRefused as refusal:
        return refusal.reason
    return Verdict.OK


AT = CLAIM.signed_at_unix_ms


@pytest.mark.parametrize(
    ("expected", "boot_id", "sequence", "signed_at_unix_ms"),
    [
        (Verdict.OK, 77, 4, AT + 1),
        (Verdict.OK, 78, 1, AT + 1),
        (Verdict.STALE, 78, 9, AT - 1),
        (Verdict.STALE, 77, 2, AT - 1),
        (Verdict.STALE, 77, 4, AT - 1),
        (Verdict.CONFLICT, 77, 3, AT),
        (Verdict.CONFLICT, 77, 3, AT + 1),
        (Verdict.CONFLICT, 77, 3, AT - 1),
        (Verdict.CONFLICT, 77, 4, AT),
        (Verdict.CONFLICT, 78, 1, AT),
        (Verdict.CONFLICT, 77, 2, AT + 1),
    ],
)
def test_what_supersedes_what(expected: Verdict, boot_id: int, sequence: int, signed_at_unix_ms: int) -> None:
    """Only a later instant supersedes, and within one life only a later sequence too; two tales are told."""
    held = replace(CLAIM, sequence=3)
    claim = replace(CLAIM, boot_id=boot_id, sequence=sequence, signed_at_unix_ms=signed_at_unix_ms)
    assert expected == order_of(claim, held)
    assert Verdict.OK == order_of(claim, None)


def test_nothing_goes_round_in_circles() -> None:
    """Whatever lives, sequences and instants meet, no chain of descriptors leads back to where it began."""
    every = [
        replace(CLAIM, boot_id=boot, sequence=sequence, signed_at_unix_ms=at)
        for boot, sequence, at in itertools.product((1, 2), (1, 2, 3), (1, 2, 3))
    ]
    for held, claim in itertools.product(every, every):
        if order_of(claim, held) == Verdict.OK:
            assert claim.signed_at_unix_ms > held.signed_at_unix_ms


def test_future_is_refused() -> None:
    """A signer's clock may be five minutes ahead, and no more; however long ago is no matter here."""
    check_time(CLAIM, AT - AHEAD_MS_MAX)
    check_time(CLAIM, AT + 10**12)
    with pytest.raises(IdentityRefused) as refused:
        check_time(CLAIM, AT - AHEAD_MS_MAX - 1)
    assert Verdict.FUTURE == refused.value.reason


HASH = bytes(32)


@pytest.mark.parametrize(
    ("hashes", "descriptors"),
    [
        ([HASH] * (HELD_MAX + 1), []),
        ([HASH, b""], []),
        ([HASH, bytes(31)], []),
        ([bytes(33)], []),
        ([bytes(1 << 19)], []),
        ([], [b""] * (BATCH_MAX + 1)),
        ([], [bytes(DESCRIPTOR_BYTES_MAX + 1)]),
    ],
)
def test_hostile_messages_are_refused(hashes: list[bytes], descriptors: list[bytes]) -> None:
    """Too many hashes or descriptors, hashes of another length and descriptors too long are refused as a whole."""
    with pytest.raises(InvalidInput):
        check_message(hashes, descriptors)


def test_our_own_messages_are_in_bounds() -> None:
    """The fullest message that this node sends is within its own bounds and below the 1 MiB that a server takes."""
    batch = batch_of(itertools.repeat(bytes(DESCRIPTOR_BYTES_MAX)))
    hashes = [HASH] * HELD_MAX
    check_message(hashes, batch)
    assert 0 < len(batch) == BATCH_BYTES_MAX // DESCRIPTOR_BYTES_MAX
    assert peer_pb2.ExchangeDescriptorsRequest(held=hashes, descriptors=batch).ByteSize() < 1 << 20
    small = batch_of(itertools.repeat(RAW))
    assert BATCH_MAX == len(small)
    check_message(hashes, small)
    assert [] == batch_of([])
