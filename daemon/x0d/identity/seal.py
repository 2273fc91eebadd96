"""Datagrams of one link between two neighbours, sealed with a MAC and opened only if they are new.

A sealed datagram is the sender's boot id (8 bytes), the key's id (2) and a sequence (6), the payload as it is, and 16
bytes of keyed BLAKE2s over all of that.  Nothing is hidden; what is proved is who sent it, on which link, in which
direction, and that it has not been seen before.  The key of each direction of each link is derived from the key that
the two nodes agreed on, so a datagram that is sent back, or carried to another of their links, has no valid MAC.

A new key overlaps the old ones.  The initiator of an agreement sends under it at once, for the responder has it.  The
responder has it first and cannot know whether its answer arrived: it goes on under the key that works until something
has been opened under the new one.  The newest few keys stay good for opening, so neither order of events, nor a lost
answer, costs a datagram.  A new boot id of the peer ends every key of its earlier life.
"""

from collections import deque
from enum import StrEnum
from hashlib import blake2s
from hmac import compare_digest
from typing import Final

from x0d.errors import DatagramRefused
from x0d.identity.agreement import BOOT_ID_MAX, PeerKey
from x0d.identity.spiffe_id import SpiffeId

MAC_BYTES: Final = 16
HEAD_BYTES: Final = 16
OVERHEAD: Final = HEAD_BYTES + MAC_BYTES
"""Bytes that sealing adds: 1,200 of a message become 1,232, which every IPv6 link carries unfragmented."""
WINDOW: Final = 1_024
"""Sequences behind the newest that may still come, each once."""
KEYS_MAX: Final = 4
"""Good for opening: the one in use at either end, and two whose answers may have been lost."""
SEQUENCE_MAX: Final = 2**48 - 1
"""Nothing is sealed beyond it; a new key is due long before."""
REMEMBERED_MAX: Final = 64
"""Keys that are not taken again: a second life would begin with an empty window, and take replays."""

_PERSON: Final = b"x0d-link"


class Refusal(StrEnum):
    """Why a datagram was not opened: label of metrics."""

    TRUNCATED = "truncated"
    UNKNOWN_BOOT = "unknown_boot"
    UNKNOWN_KEY = "unknown_key"
    FORGED = "forged"
    REPLAYED = "replayed"
    STALE = "stale"
    NO_KEY = "no_key"


def link_text(one: object, other: object) -> str:
    """Name a link by the addresses of its ends, in an order that both ends find."""
    first, second = sorted((str(one), str(other)))
    return f"{first} {second}"


class _Window:
    """Which of the last ``WINDOW`` sequences have come; 0 is never sent."""

    __slots__ = ("_newest", "_seen")

    def __init__(self) -> None:
        self._newest = 0
        self._seen = 1

    def take(self, sequence: int) -> Refusal | None:
        """Note a sequence whose MAC was good, unless it has come before or may have."""
        ahead = sequence - self._newest
        if ahead > 0:
            self._seen = ((self._seen << min(ahead, WINDOW)) | 1) & ((1 << WINDOW) - 1)
            self._newest = sequence
            return None
        if -ahead >= WINDOW:
            return Refusal.STALE
        if self._seen >> -ahead & 1:
            return Refusal.REPLAYED
        self._seen |= 1 << -ahead
        return None


class _LinkKey:
    """One agreed key on one link: both directions, our count and the peer's window."""

    __slots__ = ("confirmed", "id", "receiving", "sending", "sent", "window")

    def __init__(self, key: PeerKey, link: str, own_id: SpiffeId, peer_id: SpiffeId, *, confirmed: bool) -> None:
        self.id = key.id
        self.sending = _direction(key, link, own_id)
        self.receiving = _direction(key, link, peer_id)
        self.window = _Window()
        self.sent = 0
        self.confirmed = confirmed
        """Whether the peer is known to have it."""


class LinkSeal:
    """Seals what goes out on a link and opens what comes in."""

    def __init__(self, link: str, own_id: SpiffeId, own_boot: int) -> None:
        """Begin without a key.

        Args:
            link: the same text at both ends, as from ``link_text``.
            own_id: of this node.
            own_boot: of this life of the daemon, 1 to 2**64 - 1.
        """
        assert 0 < own_boot <= BOOT_ID_MAX, f"boot id {own_boot}"
        self._link = link
        self._own_id = own_id
        self._own_boot = own_boot.to_bytes(8, "big")
        self._peer: tuple[SpiffeId, bytes] | None = None
        self._keys: list[_LinkKey] = []  # oldest first
        self._sending: _LinkKey | None = None
        self._heard: _LinkKey | None = None  # the last that opened something: the peer's
        self._remembered: deque[bytes] = deque(maxlen=REMEMBERED_MAX)

    @property
    def sent(self) -> int:
        """Datagrams sealed under the key in use; 0 without one."""
        return self._sending.sent if self._sending is not None else 0

    def install(self, peer_id: SpiffeId, peer_boot: int, key: PeerKey, *, initiated: bool = True) -> None:
        """Take a key that was agreed on; one that this seal has had before changes nothing.

        A seal that was made anew for the same link counts from 1 again and needs a key that was never used on it.

        Args:
            peer_id: of the neighbour; another one than before ends all earlier keys.
            peer_boot: of the neighbour's life; another one than before ends all earlier keys.
            key: from ``agreement.agree``.
            initiated: we asked and were answered, so the peer has the key.  The one who answers gives False.
        """
        assert peer_id != self._own_id, f"{peer_id} is no neighbour of its own"
        assert 0 < peer_boot <= BOOT_ID_MAX, f"boot id {peer_boot}"
        if key.material in self._remembered:
            return
        self._remembered.append(key.material)
        peer = (peer_id, peer_boot.to_bytes(8, "big"))
        if peer != self._peer:
            self.drop()
            self._peer = peer
        new = _LinkKey(key, self._link, self._own_id, peer_id, confirmed=initiated)
        self._keys.append(new)
        if initiated or self._sending is None or not self._sending.confirmed:
            self._sending = new
        self._forget_one()

    def drop(self) -> None:
        """Forget every key: nothing is sealed or opened until another one is installed."""
        self._keys.clear()
        self._sending = self._heard = self._peer = None

    def seal(self, payload: bytes) -> bytes | None:
        """Seal a datagram; None while there is no key, or the one there is has been used up."""
        key = self._sending
        if key is None or key.sent >= SEQUENCE_MAX:
            return None
        key.sent += 1
        body = self._own_boot + (key.id << 48 | key.sent).to_bytes(8, "big") + payload
        return body + _mac(key.sending, body)

    def open(self, datagram: bytes) -> bytes:
        """Check a datagram and give its payload.

        Raises:
            DatagramRefused: it is not from the neighbour on this link, or not new; ``reason`` is a ``Refusal``.
        """
        if len(datagram) < OVERHEAD:
            raise DatagramRefused(Refusal.TRUNCATED, f"{len(datagram)} bytes cannot hold a sealed datagram")
        if self._peer is None:
            raise DatagramRefused(Refusal.NO_KEY, "no key has been agreed on for this link")
        if datagram[:8] != self._peer[1]:
            raise DatagramRefused(Refusal.UNKNOWN_BOOT, "from another life of the neighbour, or from somebody else")
        number = int.from_bytes(datagram[8:HEAD_BYTES], "big")
        key = self._key_of(number >> 48, datagram)
        refusal = key.window.take(number & SEQUENCE_MAX)
        if refusal is not None:
            raise DatagramRefused(refusal, f"sequence {number & SEQUENCE_MAX} is {refusal}")
        self._note_heard(key)
        return datagram[HEAD_BYTES:-MAC_BYTES]

    def _key_of(self, key_id: int, datagram: bytes) -> _LinkKey:
        """Find the key that a datagram's MAC is good under.  Raises DatagramRefused."""
        named = [key for key in reversed(self._keys) if key.id == key_id]
        if not named:
            raise DatagramRefused(Refusal.UNKNOWN_KEY, f"no key {key_id} is known on this link")
        for key in named:
            if compare_digest(_mac(key.receiving, datagram[:-MAC_BYTES]), datagram[-MAC_BYTES:]):
                return key
        raise DatagramRefused(Refusal.FORGED, "its MAC is not the neighbour's")

    def _note_heard(self, key: _LinkKey) -> None:
        """Go over to a key that the peer has shown to have, if it is newer than the one in use."""
        key.confirmed = True
        self._heard = key
        assert self._sending is not None
        if self._keys.index(key) > self._keys.index(self._sending):
            self._sending = key

    def _forget_one(self) -> None:
        """Keep the newest keys, and always those in use at either end."""
        if len(self._keys) > KEYS_MAX:
            spare = next(key for key in self._keys if key is not self._sending and key is not self._heard)
            self._keys.remove(spare)


def _direction(key: PeerKey, link: str, sender: SpiffeId) -> bytes:
    """Key of what ``sender`` sends on a link."""
    name, who = link.encode(), str(sender).encode()
    text = len(name).to_bytes(4, "big") + name + who
    return blake2s(text, key=key.material, person=_PERSON).digest()


def _mac(key: bytes, body: bytes) -> bytes:
    return blake2s(body, key=key, digest_size=MAC_BYTES).digest()
