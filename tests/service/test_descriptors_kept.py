"""What becomes of descriptors that strangers and neighbours give: every bad one refused, cheaply, and counted."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from fakes.clock import FakeClock
from fakes.descriptors import FakeDescriptorSigner
from fakes.peers import PeerNetwork
from service.described import LOCAL, DescribedNode, forged, id_of, signed, signed_by
from x0d.errors import Busy, InvalidInput
from x0d.identity.descriptor import (
    AHEAD_MS_MAX,
    BATCH_MAX,
    DESCRIPTOR_BYTES_MAX,
    HELD_MAX,
    SignedDescriptor,
    Verdict,
)
from x0d.identity.model import Usage
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.service.descriptors import CALLS_BURST
from x0d.service.descriptors_kept import ALL_BURST, ALL_PER_S, SOURCE_BURST, SOURCE_PER_S

Make = Callable[[int], Awaitable[SignedDescriptor | bytes]]
CHEAP = {
    Verdict.KNOWN,
    Verdict.MALFORMED,
    Verdict.FOREIGN,
    Verdict.FUTURE,
    Verdict.STALE,
    Verdict.CONFLICT,
    Verdict.BUDGET,
    Verdict.FULL,
}
"""What is found without looking at a signature."""


def node_of_test() -> DescribedNode:
    """One node, alone."""
    return DescribedNode(FakeClock(), PeerNetwork(), "n1")


async def of_foreign_domain(at: int) -> SignedDescriptor:
    """A descriptor of a node elsewhere, under a root that we trust."""
    return await signed_by(FakeDescriptorSigner(SpiffeId(TrustDomain("partner.test"), "/node/n2")), at)


async def of_operator(at: int) -> SignedDescriptor:
    """A descriptor of a person."""
    return await signed_by(FakeDescriptorSigner(SpiffeId(LOCAL, "/operator/root")), at)


async def of_another(at: int) -> SignedDescriptor:
    """The claim of n2, with the certificate and the key of n3, who is trusted."""
    mallory = await signed("n3", at)
    stolen = replace(mallory.claim, spiffe_id=id_of("n2"))
    return replace(mallory, claim=stolen, payload=stolen.encode())


async def with_chain_of_another(at: int) -> SignedDescriptor:
    """What n2 signed, beside the certificate of n3."""
    return replace(await signed("n2", at), chain_ders=(await signed("n3", at)).chain_ders)


async def cut(at: int) -> bytes:
    """The first half."""
    return (await signed("n2", at)).encode()[:3000]


async def rubbish(at: int) -> bytes:
    """No descriptor at all."""
    return b"%d" % at


async def oversized(at: int) -> bytes:
    """A good one that goes on."""
    return (await signed("n2", at)).encode() + bytes(DESCRIPTOR_BYTES_MAX)


async def at_once(at: int, sequence: int = 1) -> SignedDescriptor:
    """The very life of the one that is held, with another address."""
    held = await signed("n2", at, sequence)
    signer = FakeDescriptorSigner(id_of("n2"))
    return await signer.sign(replace(held.claim, address=IPv4Address("192.0.2.66")))


@pytest.mark.parametrize(
    ("expected", "make"),
    [
        (Verdict.KNOWN, lambda at: signed("n2", at)),
        (Verdict.STALE, lambda at: signed("n2", at - 1, boot_id=4)),
        (Verdict.STALE, lambda at: signed("n2", at - 10**10, boot_id=4)),
        (Verdict.CONFLICT, at_once),
        (Verdict.CONFLICT, lambda at: signed("n2", at + 1)),
        (Verdict.FUTURE, lambda at: signed("n2", at + AHEAD_MS_MAX + 1000, 2)),
        (Verdict.FUTURE, lambda at: signed("n4", at * 10, 2)),
        (Verdict.FOREIGN, of_foreign_domain),
        (Verdict.FOREIGN, of_operator),
        (Verdict.MALFORMED, cut),
        (Verdict.MALFORMED, oversized),
        (Verdict.MALFORMED, rubbish),
        (Verdict.UNTRUSTED, lambda at: signed("n4", at, root="root2")),
        (Verdict.WRONG_ID, lambda at: of_another(at + 1)),
        (Verdict.WRONG_ID, lambda at: with_chain_of_another(at + 1)),
    ],
)
def test_bad_descriptors(expected: Verdict, make: Make) -> None:
    """Each is refused for its own reason, counted, kept nowhere, and the cheap ones cost no look at a signature."""
    node = node_of_test()

    async def main() -> None:
        at = node.clock.unix_ms()
        held = await signed("n2", at)
        if expected is not Verdict.WRONG_ID:
            assert Verdict.OK == await node.given(held)
        before = dict(node.store.kept), node.signer.verified
        bad = await make(at)
        assert expected == await node.given(bad)
        assert before[0] == node.store.kept
        assert (expected not in CHEAP) == (node.signer.verified > before[1])
        assert 1 == node.count(expected)

    asyncio.run(main())


def test_forged_signatures() -> None:
    """A forgery is refused by its signature, and takes nothing from the true one that comes after it."""
    node = node_of_test()

    async def main() -> None:
        true = await signed("n2", node.clock.unix_ms())
        assert Verdict.BAD_SIGNATURE == await node.given(forged(true))
        assert Verdict.OK == await node.given(true)
        assert Verdict.KNOWN == await node.given(forged(true))
        assert Verdict.KNOWN == await node.given(true)

    asyncio.run(main())


def test_everything_is_counted_from_the_start() -> None:
    """Every verdict is a series before its first descriptor."""
    assert dict.fromkeys(Verdict, 0) == {verdict: node_of_test().count(verdict) for verdict in Verdict}


def test_flood_of_one_source() -> None:
    """A source that gives forgeries gets its burst and its rate verified and no more, and others are served."""
    node = node_of_test()

    async def main() -> None:
        forgery = forged(await signed("n2", node.clock.unix_ms()))
        for _ in range(1000):
            await node.given(forgery, "n8")
        assert SOURCE_BURST == node.signer.verified == node.count(Verdict.BAD_SIGNATURE)
        assert 1000 - SOURCE_BURST == node.count(Verdict.BUDGET)
        node.clock.advance(3)
        for _ in range(1000):
            await node.given(forgery, "n8")
        assert SOURCE_BURST + 3 * SOURCE_PER_S == node.signer.verified
        assert Verdict.OK == await node.given(await signed("n2", node.clock.unix_ms()), "n7")

    asyncio.run(main())


def test_flood_of_many_sources() -> None:
    """However many give forgeries, together they get the burst and the rate of all."""
    node = node_of_test()

    async def main() -> None:
        forgery = forged(await signed("n2", node.clock.unix_ms()))
        for number in range(2000):
            await node.given(forgery, f"n{100 + number}")
        assert ALL_BURST == node.signer.verified
        node.clock.advance(2)
        for number in range(2000):
            await node.given(forgery, f"n{100 + number}")
        assert ALL_BURST + 2 * ALL_PER_S == node.signer.verified

    asyncio.run(main())


def test_what_is_cheap_costs_no_budget() -> None:
    """Replayed, stale and malformed ones leave the budget for what is new."""
    node = node_of_test()

    async def main() -> None:
        at = node.clock.unix_ms()
        held = await signed("n2", at)
        await node.given(held)
        for _ in range(500):
            await node.given(held)
            await node.given(await signed("n2", at - 5))
            await node.given(b"rubbish")
        assert Verdict.OK == await node.given(await signed("n3", at))

    asyncio.run(main())


def test_given_by_many_at_the_same_time() -> None:
    """Of one descriptor that many give at once, one is verified and kept."""
    node = node_of_test()

    async def main() -> None:
        descriptor = await signed("n2", node.clock.unix_ms())
        verdicts = await asyncio.gather(*(node.given(descriptor, f"n{source}") for source in range(10, 40)))
        assert [Verdict.KNOWN] * 29 + [Verdict.OK] == sorted(verdicts)
        assert 1 == node.signer.verified

    asyncio.run(main())


def test_more_nodes_than_are_kept() -> None:
    """At the limit the oldest descriptor's node gives way to a newer one, never our own; one older than all is full."""
    node = node_of_test()
    node.start(nodes_max=3)

    async def main() -> None:
        at = node.clock.unix_ms()
        await node.kept.keep_own((await signed("n1", at - 100)).claim)
        assert Verdict.OK == await node.given(await signed("n2", at - 50))
        assert Verdict.OK == await node.given(await signed("n3", at - 40))
        assert Verdict.FULL == await node.given(await signed("n4", at - 60))
        assert Verdict.OK == await node.given(await signed("n5", at - 30))
        assert {"n1", "n3", "n5"} == set(node.holds())
        assert {str(id_of(name)) for name in ("n1", "n3", "n5")} == {spiffe_id for spiffe_id, _ in node.store.kept}
        assert Verdict.OK == await node.given(await signed("n3", at - 20, 2))

    asyncio.run(main())


def test_refused_giver_costs_the_kept_ones_nothing() -> None:
    """A forgery of a new node does not push an old one out."""
    node = node_of_test()
    node.start(nodes_max=1)

    async def main() -> None:
        at = node.clock.unix_ms()
        assert Verdict.OK == await node.given(await signed("n2", at - 5))
        assert Verdict.BAD_SIGNATURE == await node.given(forged(await signed("n3", at)))
        assert {"n2"} == set(node.holds())

    asyncio.run(main())


@pytest.mark.parametrize(
    ("held", "given"),
    [
        ([bytes(32)] * (HELD_MAX + 1), []),
        ([bytes(31)], []),
        ([b""] * 10, []),
        ([], [b"x"] * (BATCH_MAX + 1)),
        ([], [bytes(DESCRIPTOR_BYTES_MAX + 1)]),
    ],
)
def test_hostile_messages(held: list[bytes], given: list[bytes]) -> None:
    """A message that breaks the bounds is refused whole: nothing of it is looked at."""
    node = node_of_test()

    async def main() -> None:
        good = (await signed("n2", node.clock.unix_ms())).encode()
        with pytest.raises(InvalidInput):
            await node.service.exchange(node.svids.proof(Usage.CLIENT), held, [*given, good])
        assert {} == node.store.kept

    asyncio.run(main())


def test_hostile_hashes_in_bounds() -> None:
    """Any hashes within the bounds get an answer within the bounds, and those we lack are asked for once each."""
    node, rng = node_of_test(), random.Random(5)

    async def main() -> None:
        good = await signed("n2", node.clock.unix_ms())
        await node.given(good)
        hashes = [rng.randbytes(32) for _ in range(HELD_MAX // 2)]
        lacking, wanted = await node.service.exchange(node.svids.proof(Usage.CLIENT), hashes * 2, [])
        assert [good.encode()] == list(lacking)
        assert hashes == list(wanted)
        assert ([], []) == await node.service.exchange(node.svids.proof(Usage.CLIENT), [good.digest], [])

    asyncio.run(main())


def test_too_many_rounds() -> None:
    """A node that asks without end is told so, and another one is answered."""
    node, other = node_of_test(), DescribedNode(FakeClock(), PeerNetwork(), "n2")

    async def main() -> None:
        asker = node.svids.proof(Usage.CLIENT)
        for _ in range(int(CALLS_BURST)):
            await node.service.exchange(asker, [], [])
        with pytest.raises(Busy):
            await node.service.exchange(asker, [], [])
        await node.service.exchange(other.svids.proof(Usage.CLIENT), [], [])
        node.clock.advance(1)
        await node.service.exchange(asker, [], [])

    asyncio.run(main())


def test_refusals_do_not_flood_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a thousand refusals a few are logged; all are counted."""
    node = node_of_test()

    async def main() -> None:
        for _ in range(1000):
            await node.given(b"rubbish")

    asyncio.run(main())
    assert 1000 == node.count(Verdict.MALFORMED)
    assert 1 <= capsys.readouterr().out.count("descriptor_refused") <= 20
