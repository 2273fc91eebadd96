"""One mesh node, fed by hand: versions, generations, limits, silence, hostile bytes."""

import random
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.strategies import messages
from x0d.errors import InvalidInput
from x0d.mesh.codec import Message, StatePart, Version, encode, encode_body, encode_state
from x0d.mesh.database import Database
from x0d.mesh.flooding import RECORDS_PER_TURN_MAX, Flooding
from x0d.mesh.model import Adjacency, AdjacencyState, LinkKey, LinkStateRecord
from x0d.mesh.node import ControlGone, LinkPort, MeshNode, MeshTimers, NodeSeen, PeerReported
from x0d.mesh.origin import INCARNATION_AHEAD_MAX_NS

TIMERS = MeshTimers()


def prefix(name: str) -> IPv4Network:
    return IPv4Network(f"10.0.0.{int(name[1:])}/32")


class Pair:
    """Nodes n1 and n2 on one link, datagrams lost by chance, no detectors."""

    def __init__(self, seed: int = 1, loss: float = 0.0, incarnations: tuple[int, int] = (1000, 2000)) -> None:
        self.rng = random.Random(seed)
        self.loss = loss
        self.now_s = 0.0
        self.key = LinkKey.between("n1", IPv4Address(1), "n2", IPv4Address(2))
        self.nodes = {name: self.make(name, number) for name, number in zip(("n1", "n2"), incarnations, strict=True)}
        self.events: dict[str, list[object]] = {"n1": [], "n2": []}
        for node in self.nodes.values():
            node.link_up(0.0, self.key)

    def make(self, name: str, incarnation: int) -> MeshNode:
        node = MeshNode(name, (prefix(name),), incarnation, TIMERS, random.Random(self.rng.random()))
        ends = [("n1", IPv4Address(1)), ("n2", IPv4Address(2))]
        (_, local), (peer, remote) = ends if name == "n1" else ends[::-1]
        node.put_link(self.now_s, LinkPort(self.key, peer, "eth1", 5, local, remote, 100))
        return node

    def exchange(self, *silent: str) -> None:
        """Deliver until nothing is in flight; nodes in `silent` hear and say nothing."""
        for _ in range(100):
            moved = False
            for name, node in self.nodes.items():
                if name in silent:
                    continue
                ready = node.ready()
                self.events[name] += ready.events
                peer = "n2" if name == "n1" else "n1"
                for key, datagram in ready.datagrams:
                    if peer not in silent and self.rng.random() >= self.loss:
                        self.nodes[peer].receive(self.now_s, key, datagram)
                        moved = True
            if not moved:
                return
        raise AssertionError("the nodes never stop talking")

    def run(self, for_s: float, *silent: str) -> None:
        until_s = self.now_s + for_s
        while self.now_s < until_s:
            for name, node in self.nodes.items():
                if name not in silent:
                    node.tick(self.now_s)
            self.exchange(*silent)
            self.now_s += 0.01

    def adjacency(self, reporter: str, holder: str) -> Adjacency:
        return self.nodes[holder].records()[reporter].record.adjacencies[0]


def settled_pair(**options: object) -> Pair:
    pair = Pair(**options)  # type: ignore[arg-type]  # options of Pair by name
    pair.run(3.0)
    assert all(node.settled for node in pair.nodes.values())
    return pair


@pytest.mark.parametrize("loss", [0.0, 0.3, 0.6])
def test_databases_come_into_step(loss: float) -> None:
    """Two nodes learn each other's record and route to each other, though datagrams are lost."""
    pair = Pair(seed=3, loss=loss)
    pair.run(20.0)
    for name, peer in (("n1", "n2"), ("n2", "n1")):
        assert [(prefix(peer), 100)] == [(r.prefix, r.metric) for r in pair.nodes[name].routes()]
        assert NodeSeen(peer) in pair.events[name]


def test_first_record_waits_until_links_are_judged() -> None:
    """A node with an unjudged link floods nothing of itself before `settle_s`."""
    pair = Pair()
    pair.run(TIMERS.settle_s - 0.1, "n2")
    assert {} == dict(pair.nodes["n1"].records())
    pair.run(0.2, "n2")
    assert pair.nodes["n1"].settled


def test_generation_is_raised_once_for_both_ends() -> None:
    """The second end to see a fault takes the first one's number over; a new fault has the next one."""
    pair = settled_pair()
    n1, n2 = pair.nodes["n1"], pair.nodes["n2"]
    assert 1 == n1.link_degraded(pair.now_s, pair.key)
    pair.exchange()
    assert PeerReported(pair.key, 1, "n1", AdjacencyState.DEGRADED) in pair.events["n2"]
    assert 1 == n2.link_degraded(pair.now_s, pair.key)
    n1.link_clean(pair.now_s, pair.key)
    n2.link_clean(pair.now_s, pair.key)
    pair.exchange()
    assert AdjacencyState.UP == pair.adjacency("n1", "n2").state
    assert (2, 2) == (n1.link_down(pair.now_s, pair.key), n2.link_down(pair.now_s, pair.key))
    assert () == n1.routes()
    assert (prefix("n2"),) == n1.unreachable()
    assert {"n2"} == n1.isolated()


def test_generation_outlives_the_interface_and_the_daemon() -> None:
    """A recreated interface and a restarted daemon go on counting."""
    pair = settled_pair()
    n1 = pair.nodes["n1"]
    n1.link_degraded(pair.now_s, pair.key)
    n1.link_clean(pair.now_s, pair.key)
    pair.exchange()
    n1.remove_link(pair.now_s, pair.key)
    pair.nodes["n1"] = pair.make("n1", 3000)
    pair.nodes["n1"].link_up(pair.now_s, pair.key)
    pair.run(3.0)
    assert 2 == pair.nodes["n1"].link_degraded(pair.now_s, pair.key)


def test_own_record_of_a_life_with_the_clock_ahead() -> None:
    """A restarted node whose clock went back raises its incarnation above its earlier record's."""
    pair = settled_pair(incarnations=(10**15, 2000))
    pair.nodes["n1"] = pair.make("n1", 5)
    pair.nodes["n1"].link_up(pair.now_s, pair.key)
    pair.run(3.0)
    assert 10**15 + 1 == pair.nodes["n2"].records()["n1"].record.incarnation


def test_forged_newer_record_is_outbid() -> None:
    """A newer record of ours from elsewhere is answered above it, at most once a second."""
    pair = settled_pair()
    n1 = pair.nodes["n1"]
    for number in range(1, 6):
        body = encode_body(LinkStateRecord("n1", number * 10**6, 9, False, (), ()))
        (forged,) = encode_state("n2", Version("n1", number * 10**6, 9), 0, body)
        n1.receive(pair.now_s, pair.key, forged)
    assert 10**6 + 1 == n1.records()["n1"].record.incarnation
    pair.run(1.5)
    assert 5 * 10**6 + 1 == pair.nodes["n2"].records()["n1"].record.incarnation
    last = Version("n1", 2**62, 2**62)
    (forged,) = encode_state("n2", last, 0, encode_body(LinkStateRecord("n1", 2**62, 2**62, False, (), ())))
    with pytest.raises(InvalidInput):
        n1.receive(pair.now_s, pair.key, forged)


def test_silent_daemon_and_a_sleeper() -> None:
    """A neighbour silent for 2 s is without daemon; to one who slept himself it is not."""
    pair = settled_pair()
    pair.run(1.9, "n2")
    assert 0 == sum(isinstance(e, ControlGone) for e in pair.events["n1"])
    pair.run(0.3, "n2")
    (gone,) = [e for e in pair.events["n1"] if isinstance(e, ControlGone)]
    assert ("n2", 1) == (gone.neighbour, gone.generation)
    assert [prefix("n2")] == [r.prefix for r in pair.nodes["n1"].routes()]
    assert not pair.nodes["n1"].link_view(pair.now_s, pair.key).control_alive

    pair = settled_pair()
    pair.now_s += 60.0
    pair.nodes["n1"].tick(pair.now_s)
    assert () == pair.nodes["n1"].ready().events


def test_no_transit_and_prefixes_are_flooded() -> None:
    """What the operator changes reaches the neighbour at once."""
    pair = settled_pair()
    pair.nodes["n1"].set_no_transit(pair.now_s, value=True)
    pair.nodes["n1"].set_prefixes(pair.now_s, (prefix("n1"), prefix("n9")))
    pair.nodes["n1"].set_cost(pair.now_s, pair.key, 700)
    pair.exchange()
    assert pair.nodes["n2"].records()["n1"].record.no_transit
    assert [(prefix("n1"), 700), (prefix("n9"), 700)] == [(r.prefix, r.metric) for r in pair.nodes["n2"].routes()]


@given(st.lists(st.one_of(messages, st.binary(max_size=100)), max_size=20))
def test_any_datagrams(datagrams: list[Message | bytes]) -> None:
    """Whatever well-formed or random datagrams come in: InvalidInput or nothing, and the node goes on."""
    pair = Pair()
    for item in datagrams:
        data = (
            item
            if isinstance(item, bytes)
            else encode(item).replace(bytes([len(item.sender)]) + item.sender.encode(), b"\x02n2", 1)
        )
        try:
            pair.nodes["n1"].receive(0.0, pair.key, data)
        except InvalidInput:
            continue
    pair.nodes["n1"].tick(5.0)
    pair.nodes["n1"].ready()


def test_another_sender_is_refused() -> None:
    """A datagram that names another node than the link's neighbour is refused."""
    pair = Pair()
    with pytest.raises(InvalidInput, match="n3"):
        pair.nodes["n1"].receive(0.0, pair.key, encode(StatePart("n3", Version("n3", 1, 1), 0, 0, 1, b"x")))


def test_unknown_nodes_are_bounded() -> None:
    """The database refuses the 4,097th node, and forgets records at the end of their life."""
    database = Database(600.0)
    for number in range(4097):
        record = LinkStateRecord(f"n{number}", 1, 1, False, (), ())
        assert (number < 4096) == database.put(0.0, record, encode_body(record), 0.0)
    assert (4096, 1) == (len(database.known), database.refused)
    assert () == database.age(550.0)
    assert (0, 0, 4096) == (database.digest, database.current_count, len(database.known))
    assert 4096 == len(database.age(600.0))


@given(st.permutations(range(8)))
def test_digest_is_independent_of_order(order: list[int]) -> None:
    """Databases with the same versions have the same digest, however they came to them."""
    records = [LinkStateRecord(f"n{n % 4}", 1, 1 + n // 4, False, (), ()) for n in range(8)]
    one, other = Database(600.0), Database(600.0)
    for sequence, database in ((range(8), one), (order, other)):
        for number in sequence:
            known = database.get(records[number].origin)
            if known is None or known.record.version < records[number].version:
                database.put(0.0, records[number], b"", 0.0)
    assert one.digest == other.digest


def test_flooding_repeats_with_back_off_until_acknowledged() -> None:
    """What is owed goes out at once, then after 50, 100, 200 ms; an acknowledgement of it ends that."""
    key = LinkKey("n1", "a", "n2", "b")
    flooding = Flooding(50 / 1024, 1.0)  # exact in binary
    flooding.open(key)
    flooding.owe(0.0, key, "n9", (1, 2))
    sent = [ms for ms in range(0, 400, 25) if flooding.due(ms / 1024)]
    assert [0, 50, 150, 350] == sent
    assert not flooding.has(key, "n9", (1, 1))
    assert flooding.has(key, "n9", (1, 2))
    assert flooding.next_due_s is None


def test_flooding_takes_turns() -> None:
    """Many records leave 64 at a time, each once."""
    key = LinkKey("n1", "a", "n2", "b")
    flooding = Flooding(0.05, 1.0)
    flooding.open(key)
    for number in range(200):
        flooding.owe(0.0, key, f"n{number}", (1, 1))
    turns = [flooding.due(ms / 1000) for ms in range(40)]
    assert [RECORDS_PER_TURN_MAX] * 3 + [8] == [len(turn) for turn in turns if turn]
    assert 200 == len({origin for turn in turns for _, origin in turn})


def test_incarnation_far_ahead_is_refused() -> None:
    """A forged record cannot take the last version there is: decades ahead is refused, and the bound moves."""
    pair = Pair()
    n2 = pair.nodes["n2"]
    for origin in ("n1", "n2", "n9"):
        ahead = 2000 + INCARNATION_AHEAD_MAX_NS + 2 * 10**9
        body = encode_body(LinkStateRecord(origin, ahead, 7, False, (prefix(origin),), ()))
        (forged,) = encode_state("n1", Version(origin, ahead, 7), 0, body)
        with pytest.raises(InvalidInput, match="80 years ahead"):
            n2.receive(1.0, pair.key, forged)
        n2.receive(3.0, pair.key, forged)
