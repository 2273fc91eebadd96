"""Descriptors between nodes: signed daily, known to all within seconds, kept, and the pace of those who misbehave."""

from collections.abc import Sequence
from dataclasses import replace

from fakes.clock import FakeClock, passes, run_virtual, until
from fakes.descriptors import FakeDescriptorStore
from fakes.peers import Listener, PeerNetwork
from service.described import DescribedNode, address_of, id_of, line, signed
from x0d.identity.descriptor import AHEAD_MS_MAX, KEPT_PER_NODE, SignedDescriptor, Verdict
from x0d.identity.model import Proof
from x0d.service.api_peer import DescriptorExchange, PeerServicer
from x0d.service.descriptors import TRADE_EVERY_S

DAY_S = 86_400.0


def test_signed_at_the_start_and_daily() -> None:
    """A node signs at its start, and again within a day, each time later and one further, and keeps both."""

    async def main() -> None:
        async with n1.alive():
            await until(lambda: bool(n1.service.rows()))
            first = n1.holds()["n1"]
            assert (id_of("n1"), address_of("n1"), 1) == (first.spiffe_id, first.address, first.sequence)
            assert n1.signer.public_key == first.public_key
            assert clock.unix_ms() - first.signed_at_unix_ms < 1000
            await passes(DAY_S + 1)
            second = n1.holds()["n1"]
            assert (first.boot_id, 2) == (second.boot_id, second.sequence)
            assert first.signed_at_unix_ms < second.signed_at_unix_ms
            assert 2 == len(n1.store.kept) == len(n1.service.rows())
            await passes(20 * DAY_S)
            assert KEPT_PER_NODE == len(n1.store.kept) == len(n1.service.rows())

    clock = FakeClock()
    n1 = DescribedNode(clock, PeerNetwork(), "n1")
    run_virtual(clock, main())


def test_known_to_all_within_seconds() -> None:
    """Along a line of nodes each descriptor arrives everywhere, and everybody knows from whom he has it."""

    async def main() -> None:
        async with n1.alive("n2"), n2.alive(), n3.alive("n2"):
            await until(lambda: all(3 == len(node.holds()) for node in nodes), within_s=5)
            assert ("n1", "n2", "n2") == (n2.source_of("n1"), n3.source_of("n1"), n1.source_of("n3"))
            assert n1.holds() == n2.holds() == n3.holds()
            assert "n1" == n1.source_of("n1")
            first = n1.service.rows()[0]
            assert str(id_of("n1")) == first.spiffe_id
            assert SignedDescriptor.decode(first.raw).claim.key_id == first.key_id
            assert "10.255.0.1" == first.address

    clock = FakeClock()
    nodes = n1, n2, n3 = line(clock, 3)
    run_virtual(clock, main())


def test_settled_nodes_are_quiet() -> None:
    """Once all is known a node asks each neighbour about every ten minutes, one call each."""

    async def main() -> None:
        async with n1.alive("n2"), n2.alive():
            await passes(60)
            before = len(n1.channel.dials)
            await passes(10 * TRADE_EVERY_S)
            assert 7 <= len(n1.channel.dials) - before <= 14
            assert 0 == sum(n1.count(verdict) + n2.count(verdict) for verdict in set(Verdict) - {Verdict.OK})

    clock = FakeClock()
    n1, n2 = line(clock, 2)
    run_virtual(clock, main())


def test_new_life_supersedes() -> None:
    """A restarted node's descriptor takes the place of its former life's, which stays for third parties."""

    async def main() -> None:
        async with n2.alive():
            async with n1.alive("n2"):
                await until(lambda: "n1" in n2.holds())
                former = n2.holds()["n1"]
            n1.start()
            async with n1.alive("n2"):
                await until(lambda: n2.holds()["n1"] != former)
                assert (1, 2) == (n2.holds()["n1"].sequence, len([r for r in n2.service.rows() if "n1" in r.spiffe_id]))
                assert former.boot_id != n2.holds()["n1"].boot_id

    clock = FakeClock()
    n1, n2 = line(clock, 2)
    run_virtual(clock, main())


def test_clock_set_back_within_bounds() -> None:
    """A node whose clock was set back by minutes signs one later than before all the same, so others take it."""

    async def main() -> None:
        async with n2.alive():
            ahead = await signed("n1", clock.unix_ms() + AHEAD_MS_MAX - 1000)
            assert Verdict.OK == await n1.given(ahead) == await n2.given(ahead)
            async with n1.alive("n2"):
                await until(lambda: n2.holds()["n1"] != ahead.claim)
                assert ahead.claim.signed_at_unix_ms + 1 == n2.holds()["n1"].signed_at_unix_ms

    clock = FakeClock()
    n1, n2 = line(clock, 2)
    run_virtual(clock, main())


def test_clock_set_back_by_years() -> None:
    """What was signed under a clock that was years ahead is forgotten: nobody else has it, and it would stay newest."""

    async def main() -> None:
        await n1.kept.keep_own((await signed("n1", clock.unix_ms() + 10**11)).claim)
        n1.start()
        async with n2.alive(), n1.alive("n2"):
            await until(lambda: "n1" in n2.holds())
            assert 1 == len(n1.store.kept) - 1  # that of n2
            assert n1.holds() == n2.holds()

    clock = FakeClock()
    n1, n2 = line(clock, 2)
    run_virtual(clock, main())


def test_lost_state() -> None:
    """A node that lost its state signs again within about a minute of meeting a newer descriptor of its own."""

    async def main() -> None:
        ahead = await signed("n1", clock.unix_ms() + AHEAD_MS_MAX - 1000)
        async with n2.alive():
            assert Verdict.OK == await n2.given(ahead)
            async with n1.alive("n2"):
                await until(lambda: n1.holds().get("n1") == ahead.claim)
                await passes(65)
                assert ahead.claim.signed_at_unix_ms < n2.holds()["n1"].signed_at_unix_ms

    clock = FakeClock()
    n1, n2 = line(clock, 2)
    run_virtual(clock, main())


def test_waits_for_an_svid() -> None:
    """Without an SVID nothing is signed and nothing fails; with one the node signs within seconds."""

    async def main() -> None:
        spiffe_id, n1.signer.spiffe_id = n1.signer.spiffe_id, None
        async with n2.alive(), n1.alive("n2"):
            await until(lambda: "n2" in n1.holds())
            await passes(60)
            assert "n1" not in n1.holds()
            n1.signer.spiffe_id = spiffe_id
            await until(lambda: "n1" in n2.holds())

    clock = FakeClock()
    n1, n2 = line(clock, 2)
    run_virtual(clock, main())


def test_full_disk() -> None:
    """What the disk refuses is not kept, an alert says so, and it comes again when the disk takes it."""

    async def main() -> None:
        async with n2.alive(), n1.alive():
            await until(lambda: "n1" in n1.holds())
            n1.store.broken = "disk full"
            n1.greet("n2")
            await until(lambda: bool(n1.count(Verdict.NOT_STORED)))
            assert ("descriptors_not_stored",) == n1.alerts.names()
            assert {"n1"} == set(n1.holds())
            n1.store.broken = ""
            await until(lambda: "n2" in n1.holds(), within_s=2 * TRADE_EVERY_S)
            assert () == n1.alerts.names()

    clock = FakeClock()
    n1, n2 = line(clock, 2)
    run_virtual(clock, main())


def test_many_nodes_in_bounded_time() -> None:
    """A new node gets 300 descriptors from one neighbour as fast as that source's budget allows, in a minute or so."""

    async def main() -> None:
        for number in range(3, 303):
            n2.kept._sources = type(n2.kept._sources)(1e6, 1e6)  # as from many sources, over days
            n2.kept._all = type(n2.kept._all)(1e6, 1e6)
            assert Verdict.OK == await n2.given(await signed(f"n{number}", clock.unix_ms() - number))
        async with n2.alive(), n1.alive("n2"):
            await passes(90)
            assert 302 == len(n1.kept.held())

    clock = FakeClock()
    n1, n2 = line(clock, 2)
    run_virtual(clock, main())


class Crooked:
    """``DescriptorExchange`` of a neighbour that answers whatever a test says."""

    def __init__(self, lacking: Sequence[bytes], wanted: Sequence[bytes]) -> None:
        self.lacking, self.wanted = lacking, wanted
        self.given: list[bytes] = []

    async def exchange(
        self, proof: Proof, held: Sequence[bytes], given: Sequence[bytes]
    ) -> tuple[Sequence[bytes], Sequence[bytes]]:
        del proof
        self.given += given
        return self.lacking, [*self.wanted, *held]


def trades_with(n1: DescribedNode, crooked: DescriptorExchange | None, for_s: float) -> int:
    """Let n1 trade with a neighbour of that kind; how often it dialled."""

    async def main() -> int:
        servicer = PeerServicer(None, crooked)  # type: ignore[arg-type]  # no key is agreed on here
        n2 = DescribedNode(n1.clock, n1.network, "n2")
        n1.network.listening[address_of("n2")] = Listener(n2.svids, servicer)
        async with n1.alive("n2"):
            await passes(for_s)
        return len(n1.channel.dials)

    return run_virtual(n1.clock, main())


def test_neighbour_that_gives_nonsense() -> None:
    """Broken bounds are dropped whole, whatever else is in the message, and tried ever more seldom."""
    n1 = line(FakeClock(), 2)[0]
    assert trades_with(n1, Crooked([b"x"] * 65, []), 3600) <= 16
    n1 = line(FakeClock(), 2)[0]
    assert trades_with(n1, Crooked([], [b"short"]), 3600) <= 16
    assert 0 == n1.count(Verdict.MALFORMED)


def test_neighbour_that_never_has_enough() -> None:
    """One that wants for ever what it was given, and hashes that nobody has, gets it once a trade, ever more seldom."""
    n1, crooked = line(FakeClock(), 2)[0], Crooked([b"rubbish"], [bytes(32)] * 4000)
    assert trades_with(n1, crooked, 3600) <= 2 * 16
    assert len(crooked.given) <= 16
    assert n1.count(Verdict.MALFORMED) <= 2 * 16


def test_neighbour_without_descriptors() -> None:
    """A neighbour that does not trade is asked seldom, and nothing else comes of it."""
    n1 = line(FakeClock(), 2)[0]
    assert trades_with(n1, None, 3600) <= 16
    assert {"n1"} == set(n1.holds())
    assert () == n1.alerts.names()


def test_dead_neighbour() -> None:
    """A neighbour that does not answer is dialled ever more seldom, and at once when a key was agreed."""

    async def main() -> None:
        async with n1.alive("n2"):
            await passes(3600)
            tries = len(n1.channel.dials)
            assert tries <= 16
            async with n2.alive():
                n1.greet("n2")
                await until(lambda: "n2" in n1.holds(), within_s=2)

    clock = FakeClock()
    n1, n2 = line(clock, 2)
    run_virtual(clock, main())


def test_what_an_earlier_life_kept_is_there() -> None:
    """After a restart all that was kept is listed, and given to others, though its node is gone."""

    async def main() -> None:
        async with n1.alive():
            for after_ms in range(3):
                gone = await signed("n7", clock.unix_ms() - 10 + after_ms, 1 + after_ms)
                assert Verdict.OK == await n1.given(gone)
        n1.start()
        async with n1.alive("n2"), n2.alive():
            assert 3 == len([row for row in n1.service.rows() if row.spiffe_id == str(id_of("n7"))])
            await until(lambda: n2.holds().get("n7") == gone.claim)
            assert "n9" == n1.source_of("n7")

    clock = FakeClock()
    n1, n2 = line(clock, 2)
    run_virtual(clock, main())


def test_store_of_another_trust_domain() -> None:
    """What the file holds of another trust domain is neither shown nor given."""

    async def main() -> None:
        async with n1.alive():
            await until(lambda: "n1" in n1.holds())
        other = FakeDescriptorStore()
        foreign = {
            key: replace(kept, raw=kept.raw.replace(b"x0d.test", b"y0d.test")) for key, kept in n1.store.kept.items()
        }
        other.kept, n1.store = foreign, other
        n1.start()
        await n1.service.start()
        assert [] == list(n1.service.rows())
        assert [] == n1.kept.held()

    clock = FakeClock()
    n1 = line(clock, 1)[0]
    run_virtual(clock, main())
