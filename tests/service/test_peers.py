"""Keys between the neighbours' daemons: agreed on, renewed, dropped; and what a mesh under them does."""

from collections import Counter
from dataclasses import fields
from ipaddress import ip_address

import pytest

from fakes.clock import FakeClock, passes, run_virtual, until
from fakes.peers import GROUP
from service.nodes import TRUST_DOMAIN, FakeMesh, FakeNode, interface, message_of
from service.pairs import play, state_of, unsealed
from x0d.errors import Busy, DatagramRefused, IdentityRefused, InvalidInput, NotThere
from x0d.identity.model import Proof, Usage
from x0d.identity.seal import OVERHEAD, Refusal
from x0d.identity.spiffe_id import node_id
from x0d.mapek.events import LinkSymptom
from x0d.mesh.codec import DATAGRAM_BYTES_MAX, Hello, decode
from x0d.mesh.model import LinkState
from x0d.ports import KeyOffer
from x0d.service.api_convert import to_message
from x0d.service.link import NeighbourEntry
from x0d.service.peers_neighbour import ANSWERS_BURST, KEY_LIFE_S
from x0d.v1 import identity_pb2

HALF = KeyOffer(5, bytes(32))


def asked(node: FakeNode, proof: Proof) -> bool:
    """Ask for a key; False: too many were asked for."""
    try:
        node.peers.answer(proof, HALF)
    except Busy:
        return False
    return True


# ---- agreed ----


def test_datagrams_leave_sealed_and_none_before_there_is_a_key() -> None:
    """All that is on the wire has a MAC and fits; it is none of the mesh's messages as it is."""

    async def scenario(_: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        await until(lambda: bool(n1.on_wire("n2")))
        await passes(3)
        assert {Hello} <= {type(decode(message_of(datagram))) for datagram in n1.on_wire("n2")}
        for datagram in n1.on_wire("n2"):
            assert len(datagram) <= 1232
            with pytest.raises(InvalidInput):
                decode(datagram)
        assert len(n1.on_wire("n2")) == n1.mesh.own_sent["to-n2"] - n1.unit("n2").sequence
        assert 0 == unsealed(n1) + unsealed(n2)

    assert DATAGRAM_BYTES_MAX + OVERHEAD == 1232
    play(scenario, wait_in_step=False)


def test_both_dial_at_once_and_agree() -> None:
    """Two daemons that start together dial each other in the same moment; both keys are good and nothing is lost."""

    async def scenario(_: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        assert (1, 1) == (len(n1.channel.dials), len(n2.channel.dials))
        await passes(60)
        assert (1, 1) == (len(n1.channel.dials), len(n2.channel.dials))
        assert (("authenticated", ""), ("authenticated", "")) == (state_of(n1), state_of(n2))
        assert 0 == unsealed(n1) + unsealed(n2)

    n1, n2 = play(scenario)
    assert [] == n1.told(LinkSymptom) + n2.told(LinkSymptom)


def test_lost_answers_converge() -> None:
    """The answerer has a key that the caller lacks: what it sends is refused, and the next dial mends that."""
    clock = FakeClock()
    mesh = FakeMesh(clock, (("n1", "n2"),))
    n1, n2 = mesh.nodes["n1"], mesh.nodes["n2"]
    n1.channel.answers_lost = n2.channel.answers_lost = 3

    async def main() -> None:
        async with n1.alive(), n2.alive():
            await until(mesh.in_step, 2.5)
            before = unsealed(n1) + unsealed(n2)
            await passes(10)
            assert before == unsealed(n1) + unsealed(n2)
            assert (4, 4) >= (len(n1.channel.dials), len(n2.channel.dials))

    run_virtual(clock, main())


def test_lost_answer_of_a_new_key_costs_nothing() -> None:
    """While an answer is lost the daemons go on under the key that works."""

    async def scenario(_: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        n1.channel.answers_lost = 2
        n1.svids.renew()
        await passes(3)
        assert 4 == len(n1.channel.dials)
        assert 0 == unsealed(n1) + unsealed(n2)

    n1, n2 = play(scenario)
    assert [] == n1.told(LinkSymptom) + n2.told(LinkSymptom)


@pytest.mark.parametrize("deaf", [False, True])
def test_restarted_daemon_is_back_in_step_at_once(deaf: bool) -> None:
    """A new life has a new boot id: keys are agreed on and the databases in step without waiting for a back-off.

    ``deaf``: it cannot dial and is dialled instead, because it was silent or because what it says is not understood.
    """
    clock = FakeClock()
    mesh = FakeMesh(clock, (("n1", "n2"),))
    n1, n2 = mesh.nodes["n1"], mesh.nodes["n2"]
    took: list[float] = []

    async def main() -> None:
        async with n1.alive():
            async with n2.alive():
                await until(mesh.in_step)
                await passes(5)
            await passes(0.05)
            n2.start()
            if deaf:
                n2.channel._passes = lambda _: False
            async with n2.alive():
                began_ns = clock.now_ns
                await until(lambda: "authenticated" == state_of(n2)[0])
                took.append((clock.now_ns - began_ns) / 1e9)
                await until(lambda: n2.unit("n1").state is LinkState.UP)
                up_ns = clock.now_ns
                await until(lambda: n2.mesh.link_view(n2.key("n1")).in_step)
                took.append((clock.now_ns - up_ns) / 1e9)
                await until(lambda: n1.mesh.link_view(n1.key("n2")).in_step)
                await passes(3)
                assert LinkState.UP is n1.unit("n2").state

    run_virtual(clock, main())
    print(f"authenticated after {took[0]:.4f} s, in step {took[1]:.4f} s after the probes")
    assert took[0] <= (3.5 if deaf else 0.01)
    assert took[1] <= (3.5 if deaf else 0.02)
    if not deaf:
        assert [] == n1.told(LinkSymptom), "its neighbour has not even noticed"


def test_neighbour_that_comes_late_is_in_step_at_once() -> None:
    """Dials to a daemon that is not there back off; when it comes, its own dial or its datagrams end the wait."""
    clock = FakeClock()
    mesh = FakeMesh(clock, (("n1", "n2"),))
    n1, n2 = mesh.nodes["n1"], mesh.nodes["n2"]

    async def main() -> None:
        async with n1.alive():
            await passes(60)
            assert 12 <= len(n1.channel.dials) <= 22
            text = "no probe answered yet; n2 has not been authenticated: 10.0.0.2: connection refused"
            assert text.split("; ")[1] == n1.unit("n2").reason.split("; ")[1]
            assert ("waiting", "10.0.0.2: connection refused") == state_of(n1)
            assert () == n1.alerts.names()
            async with n2.alive():
                await until(lambda: "authenticated" == state_of(n1)[0], 0.01)
                await until(mesh.in_step, 2)
                assert "; " not in n1.unit("n2").reason

    run_virtual(clock, main())


def test_key_that_comes_late_brings_the_databases_into_step_at_once() -> None:
    """Two ends that are made to trust each other dial within a second, and wait for no HELLO and no repetition then."""
    clock = FakeClock()
    mesh = FakeMesh(clock, (("n1", "n2"),))
    n1, n2 = mesh.nodes["n1"], mesh.nodes["n2"]
    n1.svids.trusted, n2.svids.trusted = set(), set()

    async def main() -> None:
        async with n1.alive(), n2.alive():
            for turn in range(3):
                await passes(20 + turn)
                n1.svids.trust("root1")
                n2.svids.trust("root1")
                await until(lambda: "authenticated" == state_of(n1)[0] == state_of(n2)[0], 1.01)
                agreed_ns = clock.now_ns
                await until(lambda: n1.mesh.link_view(n1.key("n2")).in_step, 1)
                await until(lambda: n2.mesh.link_view(n2.key("n1")).in_step, 1)
                print(f"in step {(clock.now_ns - agreed_ns) / 1e6:.1f} ms after the key, turn {turn}")
                assert clock.now_ns - agreed_ns <= 20_000_000
                n1.svids.trust()
                n2.svids.trust()

    run_virtual(clock, main())


def test_link_that_is_made_anew_gets_a_key_of_its_own() -> None:
    """Sequences of a new socket begin again: the old key is not used on it, the neighbour notices nothing."""

    async def scenario(_: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        n1.remove(100)
        await passes(0.05)
        assert [""] == [row.link for row in n1.peers.rows()]
        n1.put(interface("to-n2", 200, "10.0.0.1/24"))
        await until(lambda: n1.unit("n2").state is n2.unit("n1").state is LinkState.UP)
        await until(lambda: n1.mesh.link_view(n1.key("n2")).in_step, 1.2)
        assert 0 == n1.mesh.refused["replayed"] + n2.mesh.refused["replayed"] + n2.mesh.refused["stale"]

    play(scenario)


def test_links_to_one_neighbour_share_its_key() -> None:
    """One agreement serves all links to a node, and what was sealed for one of them is forged on the others."""
    clock = FakeClock()
    mesh = FakeMesh(clock, (("n1", "n2"), ("n1", "n2")))
    n1, n2 = mesh.nodes["n1"], mesh.nodes["n2"]

    async def main() -> None:
        async with n1.alive(), n2.alive():
            await until(mesh.in_step)
            await passes(5)
            assert (2, 2) == (len(n1.peers.rows()), len(n2.peers.rows()))
            assert (1, 1) == (len(n1.channel.dials), len(n2.channel.dials))
            assert {"authenticated"} == {row.state for row in (*n1.peers.rows(), *n2.peers.rows())}
            one, other = n1.mesh._links
            assert one == n2.key("n1")
            sealed = n2.seal("n1", b"for one link")
            with pytest.raises(DatagramRefused) as refused:
                n1.peers.open(other, sealed)
            assert Refusal.FORGED == refused.value.reason
            assert b"for one link" == n1.peers.open(one, sealed)

    # FakeMesh names interfaces by the neighbour: the second ones get names of their own
    for node, peer, host in ((n1, n2, 1), (n2, n1, 2)):
        name = f"second-{peer.name}"
        node.put(interface(name, 201, f"10.1.0.{host}/24"))
        node.entries[1] = NeighbourEntry(peer.name, name, ip_address(f"10.1.0.{3 - host}"), 100)
        node.sockets.peers[name] = type(node.sockets.peers[f"to-{peer.name}"])(
            peer.sockets, f"second-{node.name}", mesh.wires[node.name, peer.name]
        )
        node.remove(101)
    for node in (n1, n2):
        node.start()
    run_virtual(clock, main())


# ---- attacked ----


def test_flood_of_strangers_costs_one_dial_a_second() -> None:
    """A thousand datagrams a second without a valid MAC are counted; they lead to a dial a second, and to none at best.

    To none while the neighbour is heard; then nothing else comes of them either.
    """

    async def scenario(mesh: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        good = n2.seal("n1", b"")
        kinds = {
            Refusal.TRUNCATED: b"x" * 31,
            Refusal.UNKNOWN_BOOT: b"y" * 64,
            Refusal.UNKNOWN_KEY: good[:8] + bytes([good[8] ^ 1]) + good[9:],
            Refusal.FORGED: good[:-1] + bytes([good[-1] ^ 1]),
        }

        async def flood(for_s: int) -> int:
            dials = len(n1.channel.dials)
            for number in range(for_s * 1000):
                n1.mesh.receive(n1.key("n2"), list(kinds.values())[number % 4])
                if number % 10 == 9:
                    await passes(0.01)
            return len(n1.channel.dials) - dials

        before = dict(n1.mesh.refused)
        assert 0 == await flood(10)
        assert dict.fromkeys(kinds, 2500) == {kind: n1.mesh.refused[kind] - before[kind] for kind in kinds}
        assert LinkState.UP is n1.unit("n2").state
        assert n1.mesh.link_view(n1.key("n2")).in_step
        assert [] == n1.told(LinkSymptom) + n2.told(LinkSymptom)
        mesh.cut("n1", "n2")
        n1.channel._passes = lambda _: True
        await passes(2)
        assert 9 <= await flood(10) <= 11

    play(scenario)


def test_replays_and_reflections_are_refused() -> None:
    """A datagram counts once, and nobody's own comes back to him as the neighbour's."""

    async def scenario(_: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        hello, mine = n2.on_wire("n1")[-1], n1.on_wire("n2")[-1]
        n1.mesh.receive(n1.key("n2"), hello)
        assert 1 == n1.mesh.refused["replayed"]
        n1.mesh.receive(n1.key("n2"), mine)
        assert 1 == n1.mesh.refused["unknown_boot"]
        n1.mesh.receive(n1.key("n2"), hello[:8] + mine[8:])
        assert 3 == unsealed(n1)

    play(scenario)


def test_only_a_neighbour_is_answered_and_only_so_often() -> None:
    """Other nodes get no key, halves that nobody may give none either, and one neighbour not more than a few."""

    async def scenario(_: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        proof = n2.svids.proof(Usage.CLIENT)
        with pytest.raises(NotThere, match="the caller is no neighbour"):
            n1.peers.answer(None, HALF)
        for name in ("n3", "n1", "n22"):
            stranger = type(proof)(node_id(TRUST_DOMAIN, name), Usage.CLIENT, b"", b"root1", 2e9, GROUP)
            with pytest.raises(NotThere, match=f"{name} is no neighbour"):
                n1.peers.answer(stranger, HALF)
        for half in (KeyOffer(0, bytes(32)), KeyOffer(1, b""), KeyOffer(1, bytes(31)), KeyOffer(1, bytes(33))):
            with pytest.raises(InvalidInput):
                n1.peers.answer(proof, half)
        with pytest.raises(IdentityRefused):
            n1.peers.answer(type(proof)(proof.spiffe_id, Usage.CLIENT, b"", b"another", 2e9, GROUP), HALF)
        answered = [asked(n1, proof) for _ in range(int(ANSWERS_BURST) + 5)]
        assert int(ANSWERS_BURST) - 5 <= sum(answered) <= int(ANSWERS_BURST)
        await passes(5)
        before = unsealed(n1) + unsealed(n2)
        await passes(20)
        assert before == unsealed(n1) + unsealed(n2), "what an insider does to its own link ends with it"

    play(scenario)


# ---- renewed ----


def test_key_is_renewed_with_the_svid_and_with_age() -> None:
    """A new SVID of either end, and an hour, bring a new key each, and no datagram is lost over it."""

    async def scenario(_: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        for number, node in enumerate((n1, n2, n1, n2, n1, n2)):
            dials = len(node.channel.dials)
            node.svids.renew()
            await until(lambda: dials < len(node.channel.dials), 0.01)  # noqa: B023 - awaited here
            await passes(0.7 + number)
            assert n1.peers.rows()[0].key_age_s < 7
        dials = len(n1.channel.dials) + len(n2.channel.dials)
        for node, in_s in ((n1, 5), (n2, 6)):  # an hour of probes and HELLOs takes long, even in virtual time
            for neighbour in node.peers._neighbours.values():
                now_s = node.clock.now_ns / 1e9
                assert 0.7 * KEY_LIFE_S < neighbour._renew_at_s - now_s <= KEY_LIFE_S
                neighbour._renew_at_s = now_s + in_s
        await passes(10)
        assert 1 == len(n1.channel.dials) + len(n2.channel.dials) - dials, "one of them, and not both"
        assert 0 == unsealed(n1) + unsealed(n2)

    n1, n2 = play(scenario)
    assert [] == n1.told(LinkSymptom) + n2.told(LinkSymptom)


def test_bundles_that_change_are_no_reason_for_a_new_key() -> None:
    """An update without a new SVID is judged and otherwise ignored."""

    async def scenario(_: FakeMesh, n1: FakeNode, __: FakeNode) -> None:
        dials = len(n1.channel.dials)
        for _number in range(5):
            n1.svids.trust("root1", "root2")
            await passes(0.3)
        assert dials == len(n1.channel.dials)

    play(scenario)


# ---- shown ----


def test_rows_are_what_identity_show_shows() -> None:
    """A row a link, with the proto's field names; the counts go by key exchange group."""

    async def scenario(_: FakeMesh, n1: FakeNode, __: FakeNode) -> None:
        (row,) = n1.peers.rows()
        wanted = {field.name for field in identity_pb2.PeerIdentity.DESCRIPTOR.fields}
        assert wanted == {field.name for field in fields(row)}
        message = to_message(row, identity_pb2.PeerIdentity)
        assert ("n2", "spiffe://x0d.test/node/n2", str(n1.key("n2")), "authenticated", GROUP, "TLSv1.3", True) == (
            message.node,
            message.spiffe_id,
            message.link,
            message.state,
            message.group,
            message.tls_version,
            message.post_quantum,
        )
        assert 0.5 < message.key_age_s < 3
        assert Counter({GROUP: 1}) == n1.peers.authenticated()
        (place,) = n1.peers.targets()
        assert ("n2", "to-n2", ip_address("10.0.0.2"), 9471) == (
            place.node,
            place.interface,
            place.target.address,
            place.target.port,
        )

    play(scenario)
