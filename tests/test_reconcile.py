"""Plans of route changes, against a small model of the kernel."""

from ipaddress import ip_address, ip_network
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from fakes.routes import FakeRouteTable
from x0d.actions import DeleteNexthop, DeleteRoute, ObservedRoutes, PutNexthop, PutRoute
from x0d.mesh.model import Address, NextHop, Prefix
from x0d.reconcile import after_changes, forget_interface, plan_routes, unroutable

BASE = 1000
GATEWAYS = [ip_address(text) for text in ("fe80::1", "fe80::2", "10.0.0.1", "10.0.0.2")]
HOPS = [NextHop(f"eth{index}", index, gateway, f"n{index}") for index in (11, 12, 13) for gateway in GATEWAYS]
PREFIXES: list[Prefix] = [ip_network(f"10.1.0.{number}/32") for number in range(8)]
PREFIXES += [ip_network(f"fd00::{number}/128") for number in range(4)]

hops = st.sampled_from(HOPS)
wants = st.dictionaries(st.sampled_from(PREFIXES), hops)
sets_of_dead = st.frozensets(hops.map(lambda hop: (hop.ifindex, hop.gateway)), max_size=3)


def pair(hop: NextHop) -> tuple[int, Address]:
    return (hop.ifindex, hop.gateway)


def settled(table: ObservedRoutes) -> dict[Prefix, tuple[int, Address]]:
    """Next hop by prefix."""
    return {prefix: pair_of(table.nexthops[number]) for prefix, number in table.routes.items()}


def pair_of(nexthop: PutNexthop) -> tuple[int, Address]:
    return (nexthop.ifindex, nexthop.gateway)


@st.composite
def tables(draw: st.DrawFn) -> FakeRouteTable:
    """Any state the kernel may hold of ours, also such as no plan leaves behind."""
    table = FakeRouteTable()
    for number in draw(st.sets(st.integers(BASE, BASE + 5))):
        hop = draw(hops)
        table.nexthops[number] = PutNexthop(number, hop.gateway, hop.ifindex)
    if table.nexthops:
        for prefix, number in draw(
            st.dictionaries(st.sampled_from(PREFIXES), st.sampled_from(sorted(table.nexthops)))
        ).items():
            if prefix.version == 4 or table.nexthops[number].gateway.version == 6:
                table.routes[prefix] = number
    return table


@given(tables(), wants, sets_of_dead)
def test_plan_leads_to_what_is_wanted(
    table: FakeRouteTable, wanted: dict[Prefix, NextHop], dead: frozenset[tuple[int, Address]]
) -> None:
    """The kernel takes every change, holds what is wanted, one object per next hop in use, and no more is to do."""
    changes = plan_routes(wanted, table.observed(), BASE, dead)
    expected_state = after_changes(table.observed(), changes)
    table.perform(changes)
    expected = {prefix: pair(hop) for prefix, hop in wanted.items() if prefix not in unroutable(wanted)}
    assert expected == settled(table.observed())
    assert sorted(set(expected.values()), key=str) == sorted(map(pair_of, table.nexthops.values()), key=str)
    assert expected_state == table.observed()
    assert () == plan_routes(wanted, table.observed(), BASE)


@given(tables(), wants, sets_of_dead)
def test_routes_that_stay_have_their_next_hop_at_every_moment(
    table: FakeRouteTable, wanted: dict[Prefix, NextHop], dead: frozenset[tuple[int, Address]]
) -> None:
    """A route whose next hop is alive and stays is never without it, and every wanted route that was there stays."""
    before = settled(table.observed())
    there = before.keys() & wanted.keys() - unroutable(wanted)
    staying = {p for p in there if before[p] == pair(wanted[p]) and before[p] not in dead}
    table.perform(plan_routes(wanted, table.observed(), BASE, dead))
    for moment in table.history:
        now = settled(moment)
        assert there <= now.keys()
        assert {p: before[p] for p in staying} == {p: now[p] for p in staying}


@given(tables(), wants)
def test_moves_have_no_detour(table: FakeRouteTable, wanted: dict[Prefix, NextHop]) -> None:
    """With no dead next hop, a wanted route goes straight from its old next hop to its new one."""
    before = settled(table.observed())
    refused = unroutable(wanted)
    table.perform(plan_routes(wanted, table.observed(), BASE))
    for moment in table.history:
        now = settled(moment)
        for prefix, hop in wanted.items():
            if prefix in before and prefix not in refused:
                assert now[prefix] in {before[prefix], pair(hop)}


@given(wants, wants, st.sampled_from((11, 12, 13)))
def test_carrier_loss_and_return(first: dict[Prefix, NextHop], second: dict[Prefix, NextHop], ifindex: int) -> None:
    """What the kernel flushes at carrier loss without a word is planned anew, around the interface and back."""
    table = FakeRouteTable()
    table.perform(plan_routes(first, table.observed(), BASE))
    expected_left = forget_interface(table.observed(), ifindex)
    table.carrier_down(ifindex)
    assert expected_left == table.observed()
    around = {prefix: hop for prefix, hop in second.items() if hop.ifindex != ifindex}
    table.perform(plan_routes(around, expected_left, BASE))
    assert {p: pair(h) for p, h in around.items() if p not in unroutable(around)} == settled(table.observed())
    table.carrier_up(ifindex)
    table.perform(plan_routes(first, table.observed(), BASE))
    assert {p: pair(h) for p, h in first.items() if p not in unroutable(first)} == settled(table.observed())


@given(tables(), wants, st.randoms(use_true_random=False))
def test_plan_does_not_depend_on_order(table: FakeRouteTable, wanted: dict[Prefix, NextHop], chance: Random) -> None:
    """The same routes in another order give the same plan."""
    shuffled = list(wanted.items())
    chance.shuffle(shuffled)
    turned = ObservedRoutes(dict(reversed(table.nexthops.items())), dict(reversed(table.routes.items())))
    assert plan_routes(wanted, table.observed(), BASE) == plan_routes(dict(shuffled), turned, BASE)


def test_dead_next_hop_moves_with_the_first_message() -> None:
    """500 routes of a dead neighbour move by one replacement, ahead of the housekeeping for two others."""
    dead, alive = HOPS[0], HOPS[4]
    many: list[Prefix] = [ip_network(f"10.2.{number // 256}.{number % 256}/32") for number in range(500)]
    few = PREFIXES[:2]
    observed = ObservedRoutes(
        {
            BASE: PutNexthop(BASE, dead.gateway, dead.ifindex),
            BASE + 1: PutNexthop(BASE + 1, alive.gateway, alive.ifindex),
        },
        {**dict.fromkeys(many, BASE), **dict.fromkeys(few, BASE + 1)},
    )
    expected = (
        PutNexthop(BASE, alive.gateway, alive.ifindex),
        PutRoute(few[0], BASE),
        PutRoute(few[1], BASE),
        DeleteNexthop(BASE + 1),
    )
    actual = plan_routes(dict.fromkeys([*many, *few], alive), observed, BASE, frozenset({pair(dead)}))
    assert expected == actual


def test_return_moves_the_minority_first() -> None:
    """When a link returns, the routes that stay leave the object before it is given back."""
    back, stays = HOPS[0], HOPS[4]
    observed = ObservedRoutes({BASE: PutNexthop(BASE, stays.gateway, stays.ifindex)}, dict.fromkeys(PREFIXES[:5], BASE))
    wanted = {**dict.fromkeys(PREFIXES[:4], back), PREFIXES[4]: stays}
    expected = (
        PutNexthop(BASE + 1, stays.gateway, stays.ifindex),
        PutRoute(PREFIXES[4], BASE + 1),
        PutNexthop(BASE, back.gateway, back.ifindex),
    )
    assert expected == plan_routes(wanted, observed, BASE)


def test_deletions_come_last_routes_first() -> None:
    """Nothing wanted: the routes go, then their object."""
    hop = HOPS[0]
    observed = ObservedRoutes({BASE: PutNexthop(BASE, hop.gateway, hop.ifindex)}, {PREFIXES[0]: BASE, PREFIXES[1]: 0})
    expected = (DeleteRoute(PREFIXES[0]), DeleteRoute(PREFIXES[1]), DeleteNexthop(BASE))
    assert expected == plan_routes({}, observed, BASE)


def test_few_routes_of_a_dead_next_hop_move_first_as_well() -> None:
    """Where the dead object is the smaller one, its routes still move by one message before they change objects."""
    dead, alive = HOPS[0], HOPS[4]
    observed = held({BASE: dead, BASE + 1: alive}, {BASE: PREFIXES[:3], BASE + 1: PREFIXES[3:8]})
    expected = (
        PutNexthop(BASE, alive.gateway, alive.ifindex),
        *(PutRoute(prefix, BASE + 1) for prefix in PREFIXES[:3]),
        DeleteNexthop(BASE),
    )
    assert expected == plan_routes(dict.fromkeys(PREFIXES[:8], alive), observed, BASE, frozenset({pair(dead)}))


def test_takeovers_that_depend_on_each_other_are_ordered() -> None:
    """A route that leaves for an object which itself changes its next hop waits until that has happened."""
    a, b, c = HOPS[0], HOPS[4], HOPS[8]
    observed = held({BASE: a, BASE + 1: b}, {BASE: PREFIXES[:4], BASE + 1: PREFIXES[4:7]})
    wanted = dict.fromkeys(PREFIXES[:3], b) | {PREFIXES[3]: c} | dict.fromkeys(PREFIXES[4:7], c)
    expected = (
        PutNexthop(BASE + 1, c.gateway, c.ifindex),
        PutRoute(PREFIXES[3], BASE + 1),
        PutNexthop(BASE, b.gateway, b.ifindex),
    )
    assert expected == plan_routes(wanted, observed, BASE)


def test_takeovers_that_wait_for_each_other_get_a_new_object() -> None:
    """Two objects that would swap next hops, each with a route that stays: one is given up for a new object."""
    a, b = HOPS[0], HOPS[4]
    observed = held({BASE: a, BASE + 1: b}, {BASE: PREFIXES[:4], BASE + 1: PREFIXES[4:8]})
    wanted = dict.fromkeys(PREFIXES[:3], b) | {PREFIXES[3]: a} | dict.fromkeys(PREFIXES[4:7], a) | {PREFIXES[7]: b}
    expected = (
        PutNexthop(BASE + 2, a.gateway, a.ifindex),
        *(PutRoute(prefix, BASE + 2) for prefix in PREFIXES[3:7]),
        PutNexthop(BASE, b.gateway, b.ifindex),
        PutRoute(PREFIXES[7], BASE),
        DeleteNexthop(BASE + 1),
    )
    assert expected == plan_routes(wanted, observed, BASE)


def held(objects: dict[int, NextHop], routes: dict[int, list[Prefix]]) -> ObservedRoutes:
    """Objects by their next hop, and the routes on each."""
    nexthops = {number: PutNexthop(number, hop.gateway, hop.ifindex) for number, hop in objects.items()}
    return ObservedRoutes(nexthops, {prefix: number for number, those in routes.items() for prefix in those})
