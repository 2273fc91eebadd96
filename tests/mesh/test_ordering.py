"""Good news waits for its turn, faults never do."""

from ipaddress import ip_address, ip_network

from x0d.mesh.model import MeshRoute, NextHop
from x0d.mesh.ordering import STEP_S, WAIT_MAX_S, waits

TARGET = ip_network("10.255.0.9/32")
NEAR = NextHop("eth1", 1, ip_address("10.1.0.1"), "n2")
FAR = NextHop("eth2", 2, ip_address("10.2.0.1"), "n3")


def route(next_hop: NextHop, metric: int, hops: int) -> MeshRoute:
    """Make a route to the one target."""
    return MeshRoute(TARGET, "n9", next_hop, metric, hops)


def test_the_end_of_a_returned_link_moves_at_once() -> None:
    """A route that leads straight over the link waits for nobody."""
    assert {} == waits({TARGET: route(FAR, 300, 3)}, {TARGET: route(NEAR, 100, 1)}, frozenset())


def test_a_node_further_away_waits_longer() -> None:
    """Each link on the new way is one turn, up to a bound."""
    old = {TARGET: route(FAR, 9000, 3)}
    assert {TARGET: STEP_S} == waits(old, {TARGET: route(NEAR, 200, 2)}, frozenset())
    assert {TARGET: 3 * STEP_S} == waits(old, {TARGET: route(NEAR, 400, 4)}, frozenset())
    assert {TARGET: WAIT_MAX_S} == waits(old, {TARGET: route(NEAR, 400, 400)}, frozenset())


def test_bad_news_does_not_wait() -> None:
    """A way that became longer is taken at once."""
    assert {} == waits({TARGET: route(NEAR, 200, 2)}, {TARGET: route(FAR, 300, 3)}, frozenset())


def test_a_way_of_equal_length_waits_too() -> None:
    """A returned link that wins a tie draws traffic as one that is shorter does."""
    assert {TARGET: STEP_S} == waits({TARGET: route(NEAR, 200, 2)}, {TARGET: route(FAR, 200, 2)}, frozenset())


def test_a_dead_next_hop_is_left_at_once() -> None:
    """A shorter way does not wait where the old one carries nothing."""
    dead = frozenset({(FAR.ifindex, FAR.gateway)})
    assert {} == waits({TARGET: route(FAR, 300, 3)}, {TARGET: route(NEAR, 200, 2)}, dead)


def test_what_is_new_or_stays_does_not_wait() -> None:
    """A first route is installed at once, and one that only changes its length has nothing to wait for."""
    assert {} == waits({}, {TARGET: route(NEAR, 200, 2)}, frozenset())
    assert {} == waits({TARGET: route(NEAR, 300, 2)}, {TARGET: route(NEAR, 200, 2)}, frozenset())
