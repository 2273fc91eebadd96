"""The watcher against a real gRPC agent on a unix socket, under both event loops: what it takes, keeps and survives."""

import asyncio
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from fakes.authority import CA, CLIENT, HOUR_S, NOW, Issued, new_key, pkcs8
from fakes.watching import LOCAL, LOOPS, N1, PARTNER, Lab, run, until, watching
from x0d import telemetry
from x0d.errors import IdentityRefused
from x0d.identity.model import Proof, Reason, Usage
from x0d.identity.spiffe_id import SpiffeId
from x0d.ports.identity import SvidSource, TrustBundle
from x0d.spiffe import watcher as module
from x0d.spiffe.snapshot import SnapshotSource
from x0d.spiffe.validation import Flaw
from x0d.spiffe.watcher import BACK_OFF_MAX_S, BACK_OFF_MIN_S, back_off
from x0d.spiffe.workload_api import SvidUpdate

pytestmark = pytest.mark.parametrize("loop", LOOPS)


def test_first_update_makes_us_somebody(loop: str) -> None:
    """The first good answer is the snapshot, in status and for subscribers; before it there is a sentence."""

    async def scene() -> None:
        async with watching() as lab:
            source: SvidSource = lab.watcher
            snapshots: SnapshotSource = lab.watcher
            assert None is snapshots.current
            assert ("", 0, False) == (source.status().spiffe_id, source.status().generation, source.status().connected)
            assert "has not answered yet" in source.status().last_error
            await lab.push(lab.good())
            status = source.status()
            assert (str(N1), 1, True, 1, "") == (
                status.spiffe_id,
                status.generation,
                status.connected,
                status.updates,
                status.last_error,
            )
            assert (NOW - 60, NOW + HOUR_S) == (status.not_before_unix_s, status.not_after_unix_s)
            assert (TrustBundle(LOCAL.name, own=True, authorities=1, not_after_unix_s=NOW + 24 * HOUR_S),) == (
                status.bundles
            )
            await until(lambda: [1] == lab.changes)

    run(loop, scene())


def counted(rejected: Mapping[str, int]) -> dict[str, int]:
    """Reasons that have been met."""
    return {reason: count for reason, count in rejected.items() if count}


FOREIGN = CA()
"""An authority of the same trust domain's name that nobody trusts."""


def changed(**fields: Any) -> Callable[[Lab], SvidUpdate]:  # noqa: ANN401  fields of several types
    """Make a good update whose SVID has these fields instead."""

    def make(lab: Lab) -> SvidUpdate:
        update = lab.good()
        return SvidUpdate((replace(update.svids[0], **fields),), update.federated)

    return make


def leaf(make: Callable[[CA], Issued]) -> Callable[[Lab], SvidUpdate]:
    """Make an update around another leaf."""
    return lambda lab: lab.good(make(lab.root))


def federated(**bundles: bytes) -> Callable[[Lab], SvidUpdate]:
    """Make a good update with foreign bundles; ``_`` in a name stands for a dot."""
    named = {f"spiffe://{name.replace('_', '.')}": ders for name, ders in bundles.items()}
    return lambda lab: replace(lab.good(), federated=named)


def odd(der: bytes) -> bytes:
    """Break the UTF-8 of a certificate's names, which only one of the two libraries that read it minds."""
    return der.replace(b"x0d tests", b"x0d\xfftests")


def with_odd_name(issued: Issued) -> Issued:
    return replace(issued, leaf_der=odd(issued.leaf_der))


BAD_UPDATES: list[tuple[str, Callable[[Lab], SvidUpdate | bytes]]] = [
    (Reason.MALFORMED, lambda _: b"\xff\xff no message"),
    (Flaw.NO_SVID, lambda _: b""),
    (Flaw.NO_SVID, lambda _: SvidUpdate(())),
    (Reason.MALFORMED, changed(certificates=b"garbage")),
    (Reason.MALFORMED, changed(certificates=b"\x30\x03abc")),
    (Reason.NO_CERTIFICATE, changed(certificates=b"")),
    (Reason.MALFORMED, lambda lab: changed(certificates=lab.root.issue().leaf_der[:-1])(lab)),
    (Reason.MALFORMED, lambda lab: changed(certificates=lab.root.issue().leaf_der + b"\0")(lab)),
    (Reason.MALFORMED, leaf(lambda root: with_odd_name(root.issue()))),
    (Flaw.BUNDLE, lambda lab: changed(bundle=lab.root.der + odd(FOREIGN.der))(lab)),
    (Reason.CHAIN_TOO_LONG, lambda lab: changed(certificates=lab.root.issue().leaf_der * 5)(lab)),
    (Flaw.NOT_OURS, changed(spiffe_id="spiffe://dev.x0d.test/node/n2")),
    (Flaw.NOT_OURS, changed(spiffe_id="spiffe://dev.x0d.test/node/n1\n")),
    (Flaw.ID_MISMATCH, leaf(lambda root: root.issue("spiffe://dev.x0d.test/node/n2"))),
    (Flaw.ID_MISMATCH, leaf(lambda root: root.issue("spiffe://partner.example/node/n1"))),
    (Flaw.KEY_MISMATCH, changed(key=pkcs8(new_key()))),
    (Reason.MALFORMED, changed(key=b"no key")),
    (Reason.MALFORMED, changed(key=b"")),
    (Reason.UNTRUSTED, leaf(lambda _: FOREIGN.issue())),
    (Reason.UNTRUSTED, changed(bundle=FOREIGN.der)),
    (Reason.UNTRUSTED, changed(bundle=b"")),
    (Flaw.BUNDLE, changed(bundle=b"garbage")),
    (Flaw.BUNDLE, lambda lab: changed(bundle=lab.root.der + lab.root.issue().leaf_der)(lab)),
    (Flaw.BUNDLE, lambda lab: changed(bundle=lab.root.der + CA(ca=None).der)(lab)),
    (Reason.LEAF_IS_CA, leaf(lambda root: root.issue(ca=True))),
    (Reason.URI_SAN_COUNT, leaf(lambda root: root.issue(uris=[str(N1), "spiffe://dev.x0d.test/node/n2"]))),
    (Reason.NO_URI_SAN, leaf(lambda root: root.issue(uris=()))),
    (Reason.BAD_SPIFFE_ID, leaf(lambda root: root.issue("spiffe://dev.x0d.test/node/n1\0"))),
    (Reason.KEY_USAGE, leaf(lambda root: root.issue(key_usage=None))),
    (Reason.EXTENDED_KEY_USAGE, leaf(lambda root: root.issue(eku=(CLIENT,)))),
    (Reason.EXPIRED, leaf(lambda root: root.issue(ttl_s=-1, not_before_s=-HOUR_S))),
    (Reason.NOT_YET_VALID, leaf(lambda root: root.issue(not_before_s=60))),
    (Flaw.OWN_BUNDLE_FEDERATED, federated(dev_x0d_test=FOREIGN.der)),
    (Flaw.BUNDLE, federated(partner_example=b"garbage")),
    (Flaw.BUNDLE, federated(partner_example=CA("partner.example").issue().leaf_der)),
    (Flaw.BUNDLE, federated(UPPER_example=b"")),
    (Flaw.BUNDLE, lambda lab: replace(lab.good(), federated={"partner.example": b"", "spiffe://partner.example": b""})),
]


def test_bad_updates_change_nothing(loop: str) -> None:
    """Each bad update is counted by its reason and told, the last good one stays, and the next good one is taken."""

    async def scene() -> None:
        async with watching() as lab:
            for number, (reason, make) in enumerate(BAD_UPDATES, start=1):
                await lab.push(lab.good())
                held, counts = lab.watcher.current, dict(lab.watcher.status().rejected)
                with capture_logs() as events:
                    await lab.push(make(lab))
                status = lab.watcher.status()
                counts[reason] = counts.get(reason, 0) + 1
                assert (number, counts) == (number, dict(status.rejected))
                assert held is lab.watcher.current
                assert status.last_error.startswith("the last update was refused: ")
                assert status.connected
                assert [(telemetry.SVID_UPDATE_REJECTED, reason)] == [(e["event"], e["reason"]) for e in events]
            await lab.push(lab.good())
            assert len(BAD_UPDATES) + 1 == lab.generation
            assert "" == lab.watcher.status().last_error
            assert 1 == lab.agent.calls

    run(loop, scene())


def test_unchanged_pushes_cause_no_work(loop: str) -> None:
    """The same message again, or the same certificates in another order, changes no generation and calls nobody."""

    async def scene() -> None:
        async with watching() as lab:
            update, other = lab.good(), CA()
            wide = replace(update.svids[0], bundle=lab.root.der + other.der)
            await lab.push(SvidUpdate((wide,)))
            held = lab.watcher.current
            for same in (wide, wide, replace(wide, bundle=other.der + lab.root.der), replace(wide, hint="new")):
                lab.agent.push(SvidUpdate((same,)))
            await lab.push(b"\xff")
            assert held is lab.watcher.current
            lab.clock.unix_s = NOW + 2 * HOUR_S
            lab.agent.push(SvidUpdate((replace(wide, hint="new"),)))
            await until(lambda: lab.watcher.status().last_error == "")
            assert (1, 1, [1]) == (lab.watcher.status().updates, lab.rejected, lab.changes)

    run(loop, scene())


def test_rotation_keeps_cached_verdicts_only_while_bundles_stay(loop: str) -> None:
    """A new leaf keeps the bundles, their generation and what they have verified; new bundles change and forget it."""

    async def scene() -> None:
        async with watching() as lab:
            await lab.push(lab.good())
            first = lab.watcher.current
            await lab.push(lab.good())
            second = lab.watcher.current
            assert first is not None
            assert second is not None
            assert first.bundles is second.bundles
            assert first.svid != second.svid
            assert (2, 1, 2) == (second.generation, lab.watcher.status().generation, lab.watcher.status().updates)
            update = lab.good()
            await lab.push(SvidUpdate((replace(update.svids[0], bundle=lab.root.der + FOREIGN.der),)))
            assert lab.watcher.current is not None
            assert first.bundles != lab.watcher.current.bundles
            assert (3, 2) == (lab.watcher.current.generation, lab.watcher.status().generation)
            await until(lambda: [1, 2, 3] == lab.changes)

    run(loop, scene())


def test_federated_bundles_are_used_for_named_domains_only(loop: str) -> None:
    """A named foreign domain's bundle judges that domain, an empty one trusts nobody, an unnamed one is passed over."""

    async def scene() -> None:
        partner = CA("partner.example")
        async with watching() as lab:
            await lab.push(federated(partner_example=partner.der, else_example=b"garbage")(lab))
            assert ["dev.x0d.test", "partner.example"] == [b.trust_domain for b in lab.watcher.status().bundles]
            proof = proof_of(partner.issue(), SpiffeId(PARTNER, "/node/n1"))
            lab.watcher.judge(proof)
            await lab.push(federated(partner_example=b"")(lab))
            assert [1, 0] == [b.authorities for b in lab.watcher.status().bundles]
            assert Reason.UNTRUSTED == verdict(lab, proof)
            await lab.push(lab.good())
            assert Reason.UNKNOWN_TRUST_DOMAIN == verdict(lab, proof)

    run(loop, scene())


def proof_of(issued: Issued, spiffe_id: SpiffeId = N1) -> Proof:
    return Proof(spiffe_id, Usage.SERVER, issued.leaf_pem, issued.chain_pem, NOW + HOUR_S, "X25519MLKEM768")


def verdict(lab: Lab, proof: Proof) -> str:
    """Return the reason for which a proof is refused now; empty when it holds."""
    try:
        lab.watcher.judge(proof)
    except IdentityRefused as refused:
        return str(refused.reason)
    return ""


def test_judgement_is_of_this_look(loop: str) -> None:
    """A proof holds while its root is there and its hour lasts; clock jumps and removed roots are seen at once."""

    async def scene() -> None:
        async with watching() as lab:
            proof = proof_of(lab.root.issue())
            assert Reason.NO_OWN_SVID == verdict(lab, proof)
            await lab.push(lab.good())
            seen = []
            for offset_s in (0, 2 * HOUR_S, 0, -HOUR_S, 0):
                lab.clock.unix_s = NOW + offset_s
                seen.append(verdict(lab, proof))
            assert ["", Reason.EXPIRED, "", Reason.NOT_YET_VALID, ""] == seen
            assert Reason.WRONG_ID == verdict(lab, replace(proof, spiffe_id=SpiffeId(LOCAL, "/node/n2")))
            successor = CA()
            update = SvidUpdate((replace(lab.good(successor.issue()).svids[0], bundle=successor.der),))
            await lab.push(update)
            assert Reason.UNTRUSTED == verdict(lab, proof)
            lab.watcher._expected = replace(lab.watcher._expected, dev_allowed=False)
            assert Reason.DEV_IDENTITY == verdict(lab, proof)

    run(loop, scene())


def test_update_refused_for_the_clock_is_looked_at_again(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that was wrong for a while costs one look: the update is taken without being sent again."""
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 0.01)

    async def scene() -> None:
        async with watching() as lab:
            await lab.push(lab.good())
            lab.clock.unix_s = NOW - 24 * HOUR_S
            await lab.push(lab.good())
            assert {Reason.NOT_YET_VALID: 1} == counted(lab.watcher.status().rejected)
            held, looks = lab.generation, lab.clock.looks
            await until(lambda: lab.clock.looks > looks + 3)
            lab.clock.unix_s = NOW
            await until(lambda: lab.generation > held)
            assert ({Reason.NOT_YET_VALID: 1}, "") == (
                counted(lab.watcher.status().rejected),
                lab.watcher.status().last_error,
            )

    run(loop, scene())


def test_agent_gone_and_back(loop: str) -> None:
    """While the agent is away the last good one stays; once it is back its news are taken, and both are told."""

    async def scene() -> None:
        async with watching(agent_runs=False) as lab:
            await until(lambda: "cannot be reached" in lab.watcher.status().last_error)
            await lab.agent.start()
            await lab.push(lab.good())
            held, before = lab.watcher.current, lab.watcher.status().connected_changed_at_ns
            with capture_logs() as events:
                await lab.agent.stop()
                await until(lambda: not lab.watcher.status().connected)
                status = lab.watcher.status()
                assert held is lab.watcher.current
                assert before < status.connected_changed_at_ns
                assert "cannot be reached" in status.last_error
                await lab.agent.start()
                await lab.push(lab.good())
            names = [event["event"] for event in events]
            assert telemetry.WORKLOAD_API_LOST == names[0]
            assert [telemetry.WORKLOAD_API_BACK, telemetry.SVID_UPDATED] == names[-2:]
            assert (2, True, "") == (
                lab.generation,
                lab.watcher.status().connected,
                lab.watcher.status().last_error,
            )

    run(loop, scene())


def test_denied_then_granted_and_streams_that_end(loop: str) -> None:
    """PERMISSION_DENIED says what to do and is asked again; a stream that ends regularly is opened again."""

    async def scene() -> None:
        async with watching() as lab:
            await lab.push(lab.good())
            lab.agent.deny = True
            lab.agent.end_streams()
            await until(lambda: "has no identity for this process: register it" in lab.watcher.status().last_error)
            assert (False, 1) == (lab.watcher.status().connected, lab.generation)
            lab.agent.deny = False
            await until(lambda: lab.watcher.status().connected)
            calls = lab.agent.calls
            lab.agent.end_streams()
            await until(lambda: lab.agent.calls > calls and lab.watcher.status().connected)
            await lab.push(lab.good())
            assert 2 == lab.generation

    run(loop, scene())


def test_agent_that_says_nothing_is_asked_anew(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call without an answer ends; one that has been answered waits for news as long as it takes."""
    monkeypatch.setattr(module, "FIRST_ANSWER_S", 0.1)

    async def scene() -> None:
        async with watching() as lab:
            await until(lambda: lab.agent.calls > 1)
            assert "has not answered within 0.1 s" in lab.watcher.status().last_error
            await lab.push(lab.good())
            calls = lab.agent.calls
            await asyncio.sleep(0.3)  # tidy: three times the limit that must not hold any more
            assert (calls, True) == (lab.agent.calls, lab.watcher.status().connected)

    run(loop, scene())


def test_back_off_begins_anew_after_an_answer(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that has answered is opened again after the shortest pause; failures in a row go on with the longer."""
    begun: list[int] = []
    taken: list[int] = []

    def counted(_: random.Random) -> Iterator[float]:
        begun.append(len(taken))
        while True:
            taken.append(1)
            yield 0.005

    monkeypatch.setattr(module, "back_off", counted)

    async def scene() -> None:
        async with watching(agent_runs=False) as lab:
            await until(lambda: len(taken) > 3)
            assert [0] == begun
            await lab.agent.start()
            await lab.push(lab.good())
            await lab.agent.stop()
            failed = len(taken)
            await until(lambda: len(taken) > failed + 3)
            assert (2, 0) == (len(begun), begun[0])

    run(loop, scene())


def test_subscriber_that_raises_ends_nothing(loop: str) -> None:
    """Its error is the loop's to report; the other subscribers are called and the next update is taken."""

    async def scene() -> None:
        told: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context["exception"])))

        def broken() -> None:
            raise RuntimeError("a subscriber's own mistake")

        async with watching() as lab:
            lab.watcher._subscribers.insert(0, broken)
            await lab.push(lab.good())
            await lab.push(lab.good())
            await until(lambda: [1, 2] == lab.changes)
            assert ["a subscriber's own mistake"] * 2 == told

    run(loop, scene())


def test_production_asks_no_socket_of_our_own(loop: str) -> None:
    """With an owner to prove, a socket that this very process serves is told and never asked."""

    async def scene() -> None:
        async with watching(owner_uid=os.geteuid()) as lab:
            await until(lambda: "served by x0d itself" in lab.watcher.status().last_error)
            assert 0 == lab.agent.calls

    run(loop, scene())


def test_pauses_grow_to_a_limit_and_spread(loop: str, seed: int) -> None:
    """Pauses double from 0.1 to 5 s and are cut by up to a half, differently for each node."""
    assert loop in LOOPS
    pauses = back_off(random.Random(seed))
    for number in range(12):
        longest = min(BACK_OFF_MIN_S * 2**number, BACK_OFF_MAX_S)
        assert longest / 2 <= next(pauses) <= longest
    others = {round(next(back_off(random.Random(seed + number))), 6) for number in range(20)}
    assert len(others) > 15
