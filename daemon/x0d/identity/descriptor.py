"""Descriptors: what a node says about itself, signed so that anybody can check it later without asking the node.

A descriptor claims a node's SPIFFE ID, its stable address, its ML-DSA-65 public key and which life of its daemon spoke
when.  Who relays it is not believed: two signatures go with it.  That of the SVID's key binds the ML-DSA key to the ID
today; that of the ML-DSA key is what still counts once a quantum computer can forge the first one, for whoever kept the
descriptor until then.  It is a claim and nothing more: no route, no role and no connection follows from one.

All numbers are big-endian.  A descriptor, at most 24,576 bytes::

    1     version, 1
    2+n   the payload
    2+n   signature of the ML-DSA-65 key over the payload, FIPS 204 with the context "x0d-beacon-v1": 3,309 bytes
    1     number of certificates, 1 to 4, leaf first; then of each
    2+n     DER
    2+n   signature of the leaf's key over "x0d-descriptor-svid-v1", a zero byte, the payload, the ML-DSA-65 signature

    payload: "x0dd", 1
    8     boot id, random, of one life of the daemon; not 0
    8     sequence within that life, from 1
    8     signed at, Unix milliseconds
    1+n   stable address, 4 or 16 bytes
    2+n   SPIFFE ID, ASCII
    1952  ML-DSA-65 public key, to the end

To check one: decode both; verify the chain up to a root of the ID's trust domain *at the instant of signing*; find the
payload's ID as the leaf's only URI; verify the leaf's signature (ECDSA on P-256 and P-384 with SHA-256, Ed25519, or
RSA-PSS with SHA-256, MGF1 of the same and 32 bytes of salt) and the ML-DSA-65 signature.

A descriptor goes by the SHA-256 of its *payload*: whoever passes one on could change an ECDSA signature into its twin,
or add a certificate to the chain, and would have made another one of the same claim.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from x0d.errors import IdentityRefused, InvalidInput
from x0d.identity.leaf import CHAIN_BYTES_MAX, CHAIN_CERTIFICATES_MAX
from x0d.identity.spiffe_id import ID_BYTES_MAX, SpiffeId

CONTEXT: Final = b"x0d-beacon-v1"
"""Of the ML-DSA-65 signature."""
SVID_PREFIX: Final = b"x0d-descriptor-svid-v1\0"
"""Before what the SVID's key signs: TLS 1.3 puts 64 spaces there, so neither signature serves as the other."""
DESCRIPTOR_BYTES_MAX: Final = 24_576
PUBLIC_KEY_BYTES: Final = 1_952
MLDSA_SIGNATURE_BYTES: Final = 3_309
SVID_SIGNATURE_BYTES_MAX: Final = 512
"""Of RSA with 4,096 bits, the longest."""
DIGEST_BYTES: Final = 32
HELD_MAX: Final = 4_096
"""Hashes in one message, and nodes whose descriptors are kept."""
BATCH_MAX: Final = 64
"""Descriptors in one message."""
BATCH_BYTES_MAX: Final = 768 * 1_024
"""Of the descriptors of one message that we send: with 4,096 hashes beside them it stays below 1 MiB."""
KEPT_PER_NODE: Final = 8
"""The newest ones."""
AHEAD_MS_MAX: Final = 300_000
"""How far the signer's clock may be ahead of ours."""

_VERSION: Final = 1
_MAGIC: Final = b"x0dd\x01"
_TIME_MS_MAX: Final = 253_402_300_799_000
"""The last second of the year 9999, the last one that a certificate can name."""
_FAMILIES: Final[Mapping[int, type[IPv4Address | IPv6Address]]] = {4: IPv4Address, 16: IPv6Address}
_PAYLOAD_BYTES_MAX: Final = len(_MAGIC) + 24 + 17 + 2 + ID_BYTES_MAX + PUBLIC_KEY_BYTES


class Verdict(StrEnum):
    """What became of a descriptor that was given to us: label of a metric."""

    OK = "ok"
    KNOWN = "known"
    """It is kept already, or was."""
    MALFORMED = "malformed"
    FOREIGN = "foreign"
    """Of another trust domain, or of an ID that is no node's."""
    FUTURE = "future"
    STALE = "stale"
    """An older one than is kept of its node."""
    CONFLICT = "conflict"
    """It contradicts the one that is kept of its node: the same life and sequence, or instant, and other content."""
    FULL = "full"
    """Of one node more than are kept, and older than those."""
    BUDGET = "budget"
    """Too many to verify, from its source or altogether."""
    NO_BUNDLE = "no_bundle"
    """This node has no trust bundle to verify with, now."""
    UNTRUSTED = "untrusted"
    """Its chain did not verify at the instant of signing."""
    WRONG_ID = "wrong_id"
    """The certificate is another ID's than the claim."""
    BAD_SIGNATURE = "bad_signature"
    NOT_STORED = "not_stored"
    """It is good, and the disk refused it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a node says about itself."""

    spiffe_id: SpiffeId
    address: IPv4Address | IPv6Address
    """Stable address of the node; nothing proves that it is the node's."""
    public_key: bytes
    """ML-DSA-65, 1,952 bytes."""
    boot_id: int
    """64 bits, random, of one life of the daemon; never 0."""
    sequence: int
    """From 1 in each life."""
    signed_at_unix_ms: int

    @property
    def key_id(self) -> str:
        """SHA-256 of the ML-DSA-65 public key, hex."""
        return sha256(self.public_key).hexdigest()

    def encode(self) -> bytes:
        """Write the payload."""
        assert len(self.public_key) == PUBLIC_KEY_BYTES
        assert self.boot_id > 0
        assert self.sequence > 0
        assert 0 <= self.signed_at_unix_ms <= _TIME_MS_MAX
        numbers = (self.boot_id, self.sequence, self.signed_at_unix_ms)
        address, name = self.address.packed, str(self.spiffe_id).encode()
        return b"".join(
            (_MAGIC, *(number.to_bytes(8) for number in numbers), _short(address), _long(name), self.public_key)
        )

    @classmethod
    def decode(cls, payload: bytes) -> "Claim":
        """Read a payload.

        Raises:
            InvalidInput: it is none.
        """
        reader = _Reader(payload)
        if reader.take(len(_MAGIC)) != _MAGIC:
            raise InvalidInput("a descriptor's payload begins with another word, or is of another version")
        boot_id, sequence, signed_at = (int.from_bytes(reader.take(8)) for _ in range(3))
        if not boot_id or not sequence or signed_at > _TIME_MS_MAX:
            raise InvalidInput("a descriptor's boot id, sequence or instant is out of range")
        packed = reader.take(reader.number(1))
        name = reader.take(reader.number(2))
        public_key = reader.rest()
        family = _FAMILIES.get(len(packed))
        if family is None or len(public_key) != PUBLIC_KEY_BYTES:
            raise InvalidInput(f"a descriptor's address has {len(packed)} bytes, its key {len(public_key)}")
        return cls(_id_of(name), family(packed), public_key, boot_id, sequence, signed_at)


@dataclass(frozen=True)
class SignedDescriptor:
    """A claim with all that a third party needs to check it; nothing is verified yet."""

    claim: Claim
    payload: bytes
    mldsa_signature: bytes
    chain_ders: tuple[bytes, ...]
    """Of the SVID: leaf first."""
    svid_signature: bytes

    @cached_property
    def digest(self) -> bytes:
        """By which it goes: SHA-256 of the payload."""
        return sha256(self.payload).digest()

    @property
    def signed_by_svid(self) -> bytes:
        """What ``svid_signature`` covers."""
        return svid_text(self.payload, self.mldsa_signature)

    def encode(self) -> bytes:
        """Write it whole."""
        head = (bytes((_VERSION,)), _long(self.payload), _long(self.mldsa_signature), bytes((len(self.chain_ders),)))
        return b"".join((*head, *map(_long, self.chain_ders), _long(self.svid_signature)))

    @classmethod
    def decode(cls, raw: bytes) -> "SignedDescriptor":
        """Read one; what decodes is encoded to the same bytes again.

        Raises:
            InvalidInput: it is none, or something in it is longer than it may be.
        """
        if len(raw) > DESCRIPTOR_BYTES_MAX:
            raise InvalidInput(f"a descriptor of {len(raw)} bytes: at most {DESCRIPTOR_BYTES_MAX}")
        reader = _Reader(raw)
        if reader.number(1) != _VERSION:
            raise InvalidInput("a descriptor of another version")
        payload = reader.take(reader.number(2))
        mldsa_signature = reader.take(reader.number(2))
        count = reader.number(1)
        if not 1 <= count <= CHAIN_CERTIFICATES_MAX:
            raise InvalidInput(f"a descriptor with {count} certificates: 1 to {CHAIN_CERTIFICATES_MAX}")
        chain = tuple(reader.take(reader.number(2)) for _ in range(count))
        svid_signature = reader.take(reader.number(2))
        if reader.rest():
            raise InvalidInput("a descriptor with bytes after its end")
        if len(mldsa_signature) != MLDSA_SIGNATURE_BYTES or not 1 <= len(svid_signature) <= SVID_SIGNATURE_BYTES_MAX:
            raise InvalidInput("a descriptor whose signatures have other lengths than signatures")
        if len(payload) > _PAYLOAD_BYTES_MAX or not all(chain) or sum(map(len, chain)) > CHAIN_BYTES_MAX:
            raise InvalidInput("a descriptor whose payload or chain has a length that none can have")
        return cls(Claim.decode(payload), payload, mldsa_signature, chain, svid_signature)


def svid_text(payload: bytes, mldsa_signature: bytes) -> bytes:
    """Put together what the SVID's key signs."""
    return SVID_PREFIX + payload + mldsa_signature


def check_time(claim: Claim, now_unix_ms: int) -> None:
    """Hold the instant of signing against our clock.  Raises IdentityRefused, ``future``."""
    ahead_ms = claim.signed_at_unix_ms - now_unix_ms
    if ahead_ms > AHEAD_MS_MAX:
        raise IdentityRefused(Verdict.FUTURE, f"{claim.spiffe_id} signed {ahead_ms / 1e3:.0f} s ahead of our clock")


def check_order(claim: Claim, held: Claim | None) -> None:
    """Hold a claim, which is not the held one, against the newest that is held of the same node.

    The instant of signing decides: it rises from life to life, while a boot id has no order.  A signer lets it rise
    within a life too, whatever its clock does, so later instant and earlier sequence is two tales about one life.

    Raises:
        IdentityRefused: ``stale`` or ``conflict``.
    """
    if held is None:
        return
    same_life = claim.boot_id == held.boot_id
    if claim.signed_at_unix_ms == held.signed_at_unix_ms or (same_life and claim.sequence == held.sequence):
        raise IdentityRefused(Verdict.CONFLICT, f"{claim.spiffe_id} has signed something else at that point")
    if claim.signed_at_unix_ms < held.signed_at_unix_ms:
        raise IdentityRefused(Verdict.STALE, f"a newer descriptor of {claim.spiffe_id} is kept")
    if same_life and claim.sequence < held.sequence:
        raise IdentityRefused(Verdict.CONFLICT, f"{claim.spiffe_id} has signed a later sequence before")


def check_message(hashes: Sequence[bytes], descriptors: Sequence[bytes]) -> None:
    """Hold one side's message against its bounds.

    Raises:
        InvalidInput: too many of either, a hash that is none, or a descriptor too long.
    """
    if len(hashes) > HELD_MAX or len(descriptors) > BATCH_MAX:
        text = f"{len(hashes)} hashes and {len(descriptors)} descriptors in one message"
        raise InvalidInput(f"{text}: at most {HELD_MAX} and {BATCH_MAX}")
    if any(len(digest) != DIGEST_BYTES for digest in hashes):
        raise InvalidInput(f"a hash has {DIGEST_BYTES} bytes")
    if any(len(raw) > DESCRIPTOR_BYTES_MAX for raw in descriptors):
        raise InvalidInput(f"a descriptor has at most {DESCRIPTOR_BYTES_MAX} bytes")


def batch_of(descriptors: Iterable[bytes], bytes_max: int = BATCH_BYTES_MAX, count_max: int = BATCH_MAX) -> list[bytes]:
    """Take the first ones that fit into one message."""
    batch: list[bytes] = []
    room = bytes_max
    for raw in descriptors:
        room -= len(raw)
        if room < 0 or len(batch) == count_max:
            break
        batch.append(raw)
    return batch


class _Reader:
    """Bytes, taken from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise InvalidInput(f"a descriptor ends {size - len(taken)} bytes early")
        self._at += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)


def _short(data: bytes) -> bytes:
    return len(data).to_bytes(1) + data


def _long(data: bytes) -> bytes:
    return len(data).to_bytes(2) + data


def _id_of(name: bytes) -> SpiffeId:
    try:
        return SpiffeId.parse(name.decode("ascii"))
    except UnicodeDecodeError as error:
        raise InvalidInput("a descriptor's SPIFFE ID is no ASCII text") from error
