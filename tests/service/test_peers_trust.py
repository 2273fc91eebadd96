"""Neighbours that are refused, distrusted or expired: said, and listened to no more."""

import pytest

from fakes.clock import FakeClock, passes, run_virtual, until
from service.nodes import TRUST_DOMAIN, FakeMesh, FakeNode
from service.pairs import play, state_of
from x0d.errors import DatagramRefused
from x0d.identity.seal import Refusal
from x0d.identity.spiffe_id import node_id
from x0d.mapek.events import LinkRecovered, LinkSymptom
from x0d.mesh.model import LinkState


def test_wrong_neighbour_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Who answers under another ID is refused: said with the link, in an alert that names a remedy, once in the log."""
    clock = FakeClock()
    mesh = FakeMesh(clock, (("n1", "n2"),))
    n1, n2 = mesh.nodes["n1"], mesh.nodes["n2"]
    right = n2.svids.spiffe_id
    n2.svids.spiffe_id = node_id(TRUST_DOMAIN, "n3")

    async def main() -> None:
        async with n1.alive(), n2.alive():
            await passes(30)
            refused = "wrong_id: spiffe://x0d.test/node/n3 answers, spiffe://x0d.test/node/n2 was asked for"
            assert ("refused", refused) == state_of(n1)
            assert f"probes answered; n2 is refused: {refused}" == n1.unit("n2").reason
            (text,) = n1.alerts.texts()
            assert text.startswith("peer_identity n2: refused (wrong_id): ")
            assert text.endswith("look at node.name there, and at which node [[mesh.neighbours]] names at this address")
            assert 1 == capsys.readouterr().out.count("reason=wrong_id")
            assert not mesh.in_step()
            n2.svids.spiffe_id = right
            await until(mesh.in_step, 10)
            assert ((), "probes answered") == (n1.alerts.names(), n1.unit("n2").reason)

    run_virtual(clock, main())


def test_distrust_ends_a_key_at_once() -> None:
    """A root that leaves the bundle takes the keys with it that were agreed under it; its return brings new ones."""

    async def scenario(mesh: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        late = n2.seal("n1", b"")
        n1.svids.trust("root2")
        await passes(0.001)
        state, reason = state_of(n1)
        assert ("refused", "untrusted") == (state, reason.partition(":")[0])
        with pytest.raises(DatagramRefused) as refused:
            n1.peers.open(n1.key("n2"), late)
        assert Refusal.NO_KEY == refused.value.reason
        await until(lambda: n1.unit("n2").state is LinkState.CONTROL_GONE)
        assert "n2 is refused: untrusted" in n1.unit("n2").reason
        assert ("peer_identity n2",) == n1.alerts.names()
        await passes(20)
        assert state_of(n2)[1].endswith("a new agreement was refused: spiffe://x0d.test/node/n1 refuses this node")
        assert "peer_identity n1: spiffe://x0d.test/node/n1 refuses this node; its journalctl" in n2.alerts.texts()[0]
        n1.svids.trust("root1", "root2")
        await until(lambda: "authenticated" == state_of(n1)[0], 1.1)
        await until(lambda: n1.unit("n2").state is LinkState.UP, 2)
        assert () == n1.alerts.names()
        await passes(1)
        assert mesh.in_step()

    n1, _ = play(scenario)
    assert ["control_silent"] == [symptom.kind for symptom in n1.told(LinkSymptom)]
    assert 1 == len(n1.told(LinkRecovered))


def test_older_key_of_a_root_that_is_gone_is_dropped_too() -> None:
    """Seals open under the newest few keys: one that was agreed with a forger is not kept because the last is good."""

    async def scenario(mesh: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        n1.svids.trust("root1", "root2")
        old = n2.seal("n1", b"")
        n2.svids.trust("root1", "root2")
        n2.svids.renew("root2")
        await passes(0.5)
        dials = len(n1.channel.dials)
        n1.svids.trust("root2")
        n1.svids.renew("root2")
        await passes(0.001)
        with pytest.raises(DatagramRefused):
            n1.peers.open(n1.key("n2"), old)
        await passes(1.5)
        assert dials < len(n1.channel.dials)
        assert mesh.in_step()
        assert (("authenticated", ""), ("authenticated", "")) == (state_of(n1), state_of(n2))

    n1, n2 = play(scenario)
    assert [] == n1.told(LinkSymptom) + n2.told(LinkSymptom)


def test_jump_of_the_wall_clock_holds_for_one_look() -> None:
    """A clock that is years ahead for a moment makes certificates expire for that moment; no key is lost by it."""

    async def scenario(_: FakeMesh, n1: FakeNode, __: FakeNode) -> None:
        n1.svids.ahead_s = 1e9
        await until(lambda: "authenticated" != state_of(n1)[0], 1.001)
        assert "n2 is not listened to: expired" in n1.unit("n2").reason or "n2 is refused" in n1.unit("n2").reason
        n1.svids.ahead_s = 0.0
        await until(lambda: "authenticated" == state_of(n1)[0], 1.001)
        await passes(6)
        assert (("authenticated", ""), ()) == (state_of(n1), n1.alerts.names())

    n1, n2 = play(scenario)
    assert [] == n1.told(LinkSymptom) + n2.told(LinkSymptom)


def test_nobody_is_dialled_with_an_expired_svid_or_with_none() -> None:
    """Without a valid SVID of its own a node dials nobody; with one again it does so at once."""

    async def scenario(_: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        for bad in (n1.clock.unix_ms() / 1e3 - 1, 0.0):
            n1.svids.not_after_unix_s = bad
            await passes(1.1)
            dials = len(n1.channel.dials)
            n2.svids.trust("root1")
            n1.mesh.receive(n1.key("n2"), bytes(64))
            await passes(10)
            assert dials == len(n1.channel.dials)
            n1.svids.renew()
            await until(lambda: dials < len(n1.channel.dials), 0.01)  # noqa: B023 - awaited here
            await until(lambda: "authenticated" == state_of(n1)[0] == state_of(n2)[0], 10)

    play(scenario)
