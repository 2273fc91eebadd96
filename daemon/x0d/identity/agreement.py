"""The key that two neighbours share: each gives a random half over mTLS, and both compute the same from the two.

The halves travel inside the peers' channel, so whoever was not on that channel knows neither, and a key is as
post-quantum as the handshake that carried its halves.  IDs and boot ids of both ends go into the key, each with its
length: a half that was meant for somebody else, or for an earlier life of a daemon, gives another key.

It is HKDF (RFC 5869) in shape, with keyed BLAKE2s in the place of HMAC, which it replaces by design (RFC 7693).
"""

from dataclasses import dataclass, field
from hashlib import blake2s
from typing import Final

from x0d.errors import InvalidInput
from x0d.identity.spiffe_id import SpiffeId

NONCE_BYTES: Final = 32
BOOT_ID_MAX: Final = 2**64 - 1

_DOMAIN: Final = b"x0d-datagram-key-v1"

Half = tuple[int, bytes]
"""One end's part: its boot id (1 to 2**64 - 1) and 32 random bytes."""


@dataclass(frozen=True, slots=True)
class PeerKey:
    """What two nodes share; ``identity.seal`` derives a key of its own from it for every link and direction."""

    material: bytes = field(repr=False)
    """32 bytes."""
    id: int
    """0 to 65535, the same at both ends; names the key on the wire and is no secret.  Two keys may share it."""


def agree(own_id: SpiffeId, own: Half, peer_id: SpiffeId, peer: Half) -> PeerKey:
    """Compute the key of two halves; both ends get the same.

    Raises:
        InvalidInput: a half has a boot id or a nonce that nobody may give, or both ends gave the same one.
    """
    if own[1] == peer[1]:
        raise InvalidInput(f"the nonce of {peer_id} is our own, sent back")
    one, other = sorted((_part(own_id, own), _part(peer_id, peer)))
    secret = blake2s(one[-NONCE_BYTES:] + other[-NONCE_BYTES:], key=_DOMAIN).digest()
    material = blake2s(one + other + b"\x01", key=secret).digest()
    named = blake2s(one + other + b"\x02", key=secret, digest_size=2).digest()
    return PeerKey(material, int.from_bytes(named, "big"))


def _part(spiffe_id: SpiffeId, half: Half) -> bytes:
    boot, nonce = half
    if not 0 < boot <= BOOT_ID_MAX:
        raise InvalidInput(f"{boot} is no boot id: 1 to 2**64 - 1")
    if len(nonce) != NONCE_BYTES:
        raise InvalidInput(f"a nonce of {len(nonce)} bytes; {NONCE_BYTES} are asked for")
    name = str(spiffe_id).encode()
    return len(name).to_bytes(2, "big") + name + boot.to_bytes(8, "big") + nonce
