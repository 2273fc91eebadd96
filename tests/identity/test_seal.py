"""Sealed datagrams: what the neighbour sent on this link opens once, everything else is refused with its reason."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0d.errors import DatagramRefused
from x0d.identity.agreement import PeerKey, agree
from x0d.identity.seal import OVERHEAD, SEQUENCE_MAX, WINDOW, LinkSeal, Refusal, _Window, link_text
from x0d.identity.spiffe_id import TrustDomain, node_id

TD = TrustDomain("dev.x0d.test")
N1, N2 = node_id(TD, "n1"), node_id(TD, "n2")
LINK = link_text("fe80::1", "fe80::2")
BOOT1, BOOT2 = 0x1111, 0x2222_2222_2222_2222


def key_of(number: int, boot1: int = BOOT1, boot2: int = BOOT2) -> PeerKey:
    """Make the key of an agreement between n1 and n2."""
    return agree(N1, (boot1, number.to_bytes(32, "big")), N2, (boot2, bytes([255]) * 32))


def pair(link: str = LINK, key: PeerKey | None = None) -> tuple[LinkSeal, LinkSeal]:
    """Make both ends of a link, with a key."""
    one, two = LinkSeal(link, N1, BOOT1), LinkSeal(link, N2, BOOT2)
    one.install(N2, BOOT2, key or key_of(1))
    two.install(N1, BOOT1, key or key_of(1), initiated=False)
    return one, two


def sealed(seal: LinkSeal, payload: bytes = b"hello") -> bytes:
    """Seal with a key that must be there."""
    datagram = seal.seal(payload)
    assert datagram is not None
    return datagram


def refusal(seal: LinkSeal, datagram: bytes) -> str:
    """Give the reason for which a datagram is refused."""
    with pytest.raises(DatagramRefused) as refused:
        seal.open(datagram)
    return refused.value.reason


@given(st.lists(st.binary(max_size=1_200), max_size=20))
def test_round_trip(payloads: list[bytes]) -> None:
    """What one end seals the other opens, in both directions, at a cost of 32 bytes."""
    one, two = pair()
    for payload in payloads:
        assert payload == two.open(sealed(one, payload))
        assert payload == one.open(sealed(two, payload))
        assert len(payload) + OVERHEAD == len(sealed(one, payload))


@given(st.data())
def test_forged(data: st.DataObject) -> None:
    """A change of any bit is refused, and the datagram itself opens afterwards."""
    one, two = pair()
    good = sealed(one, data.draw(st.binary(max_size=60)))
    at = data.draw(st.integers(0, 8 * len(good) - 1))
    bad = bytearray(good)
    bad[at // 8] ^= 1 << at % 8
    expected = Refusal.UNKNOWN_BOOT if at < 64 else Refusal.UNKNOWN_KEY if at < 80 else Refusal.FORGED
    assert expected == refusal(two, bytes(bad))
    assert good[16:-16] == two.open(good)


@given(data=st.binary(max_size=100), known=st.booleans())
def test_any_bytes(data: bytes, *, known: bool) -> None:
    """Bytes of a stranger are refused, whatever they are, also with a boot id and a key id that were overheard."""
    one, two = pair()
    assert refusal(two, sealed(one)[:10] + data if known else data) in set(Refusal)


@given(st.integers(0, OVERHEAD - 1))
def test_truncated(size: int) -> None:
    """A datagram that cannot hold a seal is refused as such, and any cut is refused."""
    one, two = pair()
    assert Refusal.TRUNCATED == refusal(two, sealed(one)[:size])
    assert Refusal.FORGED == refusal(two, sealed(one)[:-1])
    assert Refusal.FORGED == refusal(two, sealed(one) + b"\0")


def test_replayed() -> None:
    """A datagram opens once."""
    one, two = pair()
    first, second = sealed(one), sealed(one)
    two.open(first)
    two.open(second)
    assert [Refusal.REPLAYED, Refusal.REPLAYED] == [refusal(two, first), refusal(two, second)]


@given(st.randoms(use_true_random=False))
def test_reordered(rng: random.Random) -> None:
    """Datagrams in any order within the window open once each."""
    one, two = pair()
    datagrams = [sealed(one, bytes([n % 256])) for n in range(64)]
    shuffled = rng.sample(datagrams, len(datagrams))
    assert [d[16:-16] for d in shuffled] == [two.open(d) for d in shuffled]
    assert {Refusal.REPLAYED} == {refusal(two, d) for d in shuffled}


@given(st.lists(st.integers(1, 3 * WINDOW), max_size=60))
def test_window_against_a_set(order: list[int]) -> None:
    """The window says the same as a set of all that came and the newest of them."""
    one, two = pair()
    datagrams = [sealed(one) for _ in range(3 * WINDOW)]
    came: set[int] = set()
    for sequence in order:
        newest = max(came, default=0)
        expected = Refusal.STALE if newest - sequence >= WINDOW else Refusal.REPLAYED if sequence in came else ""
        try:
            two.open(datagrams[sequence - 1])
            told = ""
        except DatagramRefused as refused:
            told = refused.reason
        assert expected == told
        if not told:
            came.add(sequence)


def test_stale() -> None:
    """One that is 1,024 behind the newest is refused, one that is 1,023 behind opens."""
    one, two = pair()
    datagrams = [sealed(one) for _ in range(WINDOW + 1)]
    two.open(datagrams[-1])
    assert Refusal.STALE == refusal(two, datagrams[0])
    assert b"hello" == two.open(datagrams[1])


def test_window_is_bounded() -> None:
    """A jump of the sequence costs neither memory nor time, and 0, which nobody sends, is never taken."""
    window = _Window()
    assert [Refusal.REPLAYED, None, None] == [window.take(0), window.take(5), window.take(SEQUENCE_MAX)]
    for sequence in range(SEQUENCE_MAX - 3 * WINDOW, SEQUENCE_MAX):
        window.take(sequence)
    assert window._seen.bit_length() <= WINDOW
    assert [Refusal.STALE, Refusal.REPLAYED] == [window.take(5), window.take(SEQUENCE_MAX)]


def test_sequence_is_used_up() -> None:
    """Nothing is sealed under a number that was used."""
    one, two = pair()
    assert one._sending is not None
    one._sending.sent = SEQUENCE_MAX - 1
    assert b"hello" == two.open(sealed(one))
    assert [None, None] == [one.seal(b"hello"), one.seal(b"hello")]


def test_wrong_link() -> None:
    """What was sealed on one link does not open on another link of the same two nodes."""
    one, _ = pair(link_text("10.0.0.1", "10.0.0.2"))
    _, two = pair(link_text("10.0.1.1", "10.0.1.2"))
    assert Refusal.FORGED == refusal(two, sealed(one))


def test_wrong_direction() -> None:
    """A datagram that is sent back is refused, with the other end's boot id put in as well."""
    one, two = pair()
    datagram = sealed(one)
    assert Refusal.UNKNOWN_BOOT == refusal(one, datagram)
    assert Refusal.FORGED == refusal(one, sealed(two)[:8] + datagram[8:])


def test_sent_back_with_one_boot_id() -> None:
    """Even if both ends had the same boot id, what is sent back would not open."""
    one, two = LinkSeal(LINK, N1, BOOT1), LinkSeal(LINK, N2, BOOT1)
    one.install(N2, BOOT1, key_of(1))
    two.install(N1, BOOT1, key_of(1))
    datagram = sealed(one)
    assert Refusal.FORGED == refusal(one, datagram)
    assert b"hello" == two.open(datagram)


def test_other_boot() -> None:
    """After a new agreement with the neighbour's next life, nothing of its earlier life opens."""
    one, two = pair()
    old = sealed(one)
    two.install(N1, 0x3333, key_of(2, boot1=0x3333), initiated=False)
    assert Refusal.UNKNOWN_BOOT == refusal(two, old)
    reborn = LinkSeal(LINK, N1, 0x3333)
    reborn.install(N2, BOOT2, key_of(2, boot1=0x3333))
    assert b"hello" == two.open(sealed(reborn))
    assert b"hello" == reborn.open(sealed(two))


def test_no_key() -> None:
    """Without a key nothing is sealed and nothing opens, and so it is after a drop."""
    one, two = pair()
    datagram = sealed(one)
    for seal in (LinkSeal(LINK, N2, BOOT2), two):
        seal.drop()
        assert (None, 0) == (seal.seal(b"hello"), seal.sent)
        assert Refusal.NO_KEY == refusal(seal, datagram)


def test_dropped_key_stays_out() -> None:
    """A key that was dropped is not taken again: its datagrams could come a second time."""
    one, two = pair()
    datagram = sealed(one)
    two.open(datagram)
    two.drop()
    two.install(N1, BOOT1, key_of(1))
    assert (None, Refusal.NO_KEY) == (two.seal(b"x"), refusal(two, datagram))


def test_same_key_twice() -> None:
    """A key that is installed twice keeps its count and its window."""
    one, two = pair()
    first = sealed(one)
    two.open(first)
    one.install(N2, BOOT2, key_of(1))
    two.install(N1, BOOT1, key_of(1))
    assert Refusal.REPLAYED == refusal(two, first)
    assert b"hello" == two.open(sealed(one))
    assert 2 == one.sent


def test_two_keys_of_one_id() -> None:
    """Keys that share their id are told apart by their MACs."""
    old, new = key_of(1), PeerKey(key_of(2).material, key_of(1).id)
    one, two = pair(key=old)
    under_old = sealed(one)
    one.install(N2, BOOT2, new)
    two.install(N1, BOOT1, new, initiated=False)
    assert [b"hello", b"hello"] == [two.open(sealed(one)), two.open(under_old)]


def test_responder_waits() -> None:
    """The responder goes on under the old key until the initiator has used the new one."""
    one, two = pair()
    assert b"hello" == two.open(sealed(one))
    two.install(N1, BOOT1, key_of(2), initiated=False)
    assert b"hello" == one.open(sealed(two))
    one.install(N2, BOOT2, key_of(2))
    two.open(sealed(one))
    answer = sealed(two)
    assert key_of(2).id == int.from_bytes(answer[8:10], "big")
    assert b"hello" == one.open(answer)


def under(seal: LinkSeal) -> int:
    """Give the id of the key that a seal sends under."""
    return int.from_bytes(sealed(seal)[8:10], "big")


def test_initiator_stays() -> None:
    """The initiator goes on under the new key, though the responder still sends under the old one."""
    one, two = pair()
    assert b"hello" == two.open(sealed(one))
    two.install(N1, BOOT1, key_of(2), initiated=False)
    one.install(N2, BOOT2, key_of(2))
    assert b"hello" == one.open(sealed(two))
    assert key_of(2).id == under(one)


def test_responder_with_nothing_that_works() -> None:
    """A responder whose older key has never been seen at work goes over to the newer at once."""
    _, two = pair()
    two.install(N1, BOOT1, key_of(2), initiated=False)
    assert key_of(2).id == under(two)


def test_keys_in_use_are_kept() -> None:
    """Agreements whose answers were lost push out neither the key that we send under nor the one that we hear."""
    one, two = pair()
    assert b"hello" == two.open(sealed(one))
    assert b"hello" == one.open(sealed(two))
    two.install(N1, BOOT1, key_of(2), initiated=False)
    one.install(N2, BOOT2, key_of(2))
    for number in range(3, 20):
        one.install(N2, BOOT2, key_of(number), initiated=False)
        assert (key_of(1).id, key_of(2).id) == (under(two), under(one))
        assert b"hello" == one.open(sealed(two))
    assert b"hello" == two.open(sealed(one))


def test_lost_answers() -> None:
    """A hundred answers that never came, and the two go on under the key that both have."""
    one, two = pair()
    two.open(sealed(one))
    for number in range(2, 102):
        two.install(N1, BOOT1, key_of(number), initiated=False)
        assert b"hello" == two.open(sealed(one))
        assert b"hello" == one.open(sealed(two))


@dataclass
class Ends:
    """Two ends of a link whose agreements cross, get lost, and reach the initiator late."""

    seals: tuple[LinkSeal, LinkSeal]
    waiting: list[list[PeerKey]]
    number: int = 1

    def dial(self, who: int, *, lost: bool) -> None:
        """Let one end ask: the other has the key now, the asker when the answer arrives.  An end asks one at a time."""
        self.number += 1
        key = key_of(self.number)
        self._install(1 - who, key, initiated=False)
        self.waiting[who] = [] if lost else [key]

    def answer(self, who: int) -> None:
        """Let an answer arrive that is under way."""
        if self.waiting[who]:
            self._install(who, self.waiting[who].pop(), initiated=True)

    def send(self, who: int) -> None:
        """Every datagram opens at once."""
        payload = self.number.to_bytes(4, "big")
        assert payload == self.seals[1 - who].open(sealed(self.seals[who], payload))

    def _install(self, who: int, key: PeerKey, *, initiated: bool) -> None:
        peer = (N2, BOOT2) if who == 0 else (N1, BOOT1)
        self.seals[who].install(*peer, key, initiated=initiated)


steps: tuple[Callable[[Ends, int], None], ...] = (
    lambda ends, who: ends.dial(who, lost=False),
    lambda ends, who: ends.dial(who, lost=True),
    Ends.answer,
    Ends.send,
)


@given(st.lists(st.tuples(st.sampled_from(steps), st.integers(0, 1)), max_size=80))
def test_rekey(story: list[tuple[Callable[[Ends, int], None], int]]) -> None:
    """Agreements from both ends, crossing, late or lost, in any order, cost no datagram."""
    ends = Ends(pair(), [[], []])
    ends.send(0)
    for step, who in story:
        step(ends, who)
        ends.send(who)
        ends.send(1 - who)


def test_link_text() -> None:
    """Both ends name a link alike."""
    assert link_text("10.0.0.2", "10.0.0.1") == link_text("10.0.0.1", "10.0.0.2")
