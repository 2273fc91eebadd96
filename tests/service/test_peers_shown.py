"""What is shown of neighbours whose daemons prove nothing, or do not know this node: at once, and with why."""

from dataclasses import replace

from fakes.clock import FakeClock, passes, run_virtual, until
from service.nodes import TRUST_DOMAIN, FakeMesh, FakeNode
from service.pairs import play, state_of
from x0d.identity.spiffe_id import node_id
from x0d.mapek.events import LinkSymptom
from x0d.mesh.model import LinkState
from x0d.service.overview import MeshOverview

UNKNOWN = "spiffe://x0d.test/node/n2 does not know this node under that name: look at [[mesh.neighbours]] there"


def shown(node: FakeNode) -> tuple[str, str, int]:
    """State and reason of the node's only link, and how many links it counts as up."""
    view = MeshOverview(node.links, node.mesh, node.clock)
    (link,) = view.links()
    return link.state, link.state_reason, view.links_up()


def rename(node: FakeNode, neighbour: str) -> None:
    """Reload with another name for the only neighbour."""
    node.links.configure([replace(entry, node=neighbour) for entry in node.entries])


def test_link_without_a_key_is_not_up() -> None:
    """Probes alone make no link: without a key it is unauthenticated, and says why; with one it is up."""
    clock = FakeClock()
    mesh = FakeMesh(clock, (("n1", "n2"),))
    n1, n2 = mesh.nodes["n1"], mesh.nodes["n2"]
    right = n2.svids.spiffe_id
    n2.svids.spiffe_id = node_id(TRUST_DOMAIN, "n3")

    async def main() -> None:
        async with n1.alive(), n2.alive():
            await until(lambda: n1.unit("n2").state is LinkState.UP)
            state, reason, links_up = shown(n1)
            assert ("unauthenticated", 0) == (state, links_up)
            assert reason.startswith("probes are answered, nothing is routed over it: n2 is refused: wrong_id: ")
            assert "" == n1.next_node("n2")
            n2.svids.spiffe_id = right
            await until(lambda: ("up", "probes answered", 1) == shown(n1), 10)

    run_virtual(clock, main())


def test_link_of_a_node_that_has_no_svid_says_so() -> None:
    """Without an SVID of its own a node shares no key, and its links say that it is this end that lacks something."""
    clock = FakeClock()
    mesh = FakeMesh(clock, (("n1", "n2"),))
    n1, n2 = mesh.nodes["n1"], mesh.nodes["n2"]
    n1.svids.not_after_unix_s = 0.0

    async def main() -> None:
        async with n1.alive(), n2.alive():
            await until(lambda: n1.unit("n2").state is LinkState.UP)
            state, reason, links_up = shown(n1)
            assert ("unauthenticated", 0) == (state, links_up)
            assert reason.endswith("this node has no valid SVID that it could show: x0ctl identity show")
            n1.svids.renew()
            await until(lambda: "up" == shown(n1)[0], 10)

    run_virtual(clock, main())


def test_expired_neighbour_is_refused_and_its_link_unauthenticated() -> None:
    """A certificate that ends takes the link's state with it within a second, and the row says refused."""

    async def scenario(_: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        n2.svids.not_after_unix_s = n2.clock.unix_ms() / 1e3 + 5
        for node in (n1, n2):
            for neighbour in node.peers._neighbours.values():
                neighbour.want()
        await passes(3)
        assert "up" == shown(n1)[0]
        await until(lambda: "unauthenticated" == shown(n1)[0], 3.1)
        assert ("refused", "expired") == (state_of(n1)[0], state_of(n1)[1].partition(":")[0])

    play(scenario)


def test_neighbour_that_does_not_know_this_node() -> None:
    """A neighbour that names this node otherwise falls silent: within 2.1 s incident and alert say where."""

    async def scenario(_: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        rename(n2, "n9")
        await until(lambda: n1.alerts.names() == ("peer_identity n2",), 2.1)
        (text,) = n1.alerts.texts()
        assert f"peer_identity n2: {UNKNOWN}" == text
        assert ("control_gone", f"n2 answers probes and floods nothing; {UNKNOWN}", 1) == shown(n1)
        assert ["control_silent"] == [symptom.kind for symptom in n1.told(LinkSymptom)]
        await passes(10)
        state, reason = state_of(n1)
        assert "authenticated" == state
        assert " in use; a new agreement was refused: " in reason
        rename(n2, "n1")
        await until(lambda: LinkState.UP is n1.unit("n2").state, 7)
        assert () == n1.alerts.names()

    play(scenario)


def test_neighbour_that_comes_back_under_another_name_is_told_of_soon() -> None:
    """A daemon that restarts with another name dials us: that is a hint to dial it, however long it was away."""

    async def scenario(_: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        address = n1.unit("n2").entry.address
        listener = n1.network.listening.pop(address)
        n1.mesh.receive = lambda *_: None  # type: ignore[method-assign]  # n2's daemon is away
        await passes(30)
        assert () == n1.alerts.names()
        n2.svids.spiffe_id = node_id(TRUST_DOMAIN, "n9")
        n1.network.listening[address] = listener
        for neighbour in n2.peers._neighbours.values():
            neighbour.want()
        n2.peers._wake.set()
        await until(lambda: n1.alerts.names() == ("peer_identity n2",), 1.1)
        assert "refused (wrong_id)" in n1.alerts.texts()[0]

    play(scenario)


def test_refused_dial_beside_a_key_that_works() -> None:
    """A dial that finds somebody else ends no key that works: the row says both, and when the key is of."""

    async def scenario(_: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        listener = n1.network.listening[n1.unit("n2").entry.address]
        fraud = type(n2.svids)(n2.clock, node_id(TRUST_DOMAIN, "n3"))
        n1.network.listening[n1.unit("n2").entry.address] = replace(listener, svids=fraud)
        n1.svids.renew()
        await until(lambda: bool(n1.alerts.names()), 1)
        state, reason = state_of(n1)
        assert "authenticated" == state
        assert reason.startswith("key of ")
        assert "Z in use; a new agreement was refused: wrong_id: spiffe://x0d.test/node/n3 answers" in reason
        assert n1.alerts.texts()[0].endswith("; the key agreed on before is in use")
        assert "up" == shown(n1)[0]

    play(scenario)


def test_neighbour_without_a_link_has_a_row() -> None:
    """A configured neighbour whose interface is gone is waiting, for its link, and is told so when it dials."""

    async def scenario(_: FakeMesh, n1: FakeNode, n2: FakeNode) -> None:
        n1.remove(100)
        await until(lambda: n1.unit("n2").binding is None)
        (row,) = n1.peers.rows()
        assert ("n2", "waiting", "spiffe://x0d.test/node/n2") == (row.node, row.state, row.spiffe_id)
        assert row.reason.startswith("no link: interface to-n2")
        for neighbour in n2.peers._neighbours.values():
            neighbour.want()
        await until(lambda: "has no link to spiffe://x0d.test/node/n2 for now" in state_of(n2)[1], 10)
        assert () == n2.alerts.names(), "the interface may come"

    play(scenario)
