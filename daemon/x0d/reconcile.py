"""Wanted routes x observed routes -> the changes that lead from one to the other.

One nexthop object stands for one next hop, and every route by that next hop is on it.  Replacing an object moves all
its routes with one message, so a plan first asks what most routes of each object want next:

1. An object whose next hop is dead goes over, in place, to what most of its routes want: traffic flows again after
   one message, whatever housekeeping follows.
2. Each next hop gets the object that already carries most of its routes, or a new one.
3. Objects that take over another next hop are replaced after the routes that do not want it have left them.
4. The remaining routes are moved one by one, those that lead nowhere now first.
5. Routes nobody wants go, then the empty objects.

At no moment is a wanted route on a deleted object, and one whose next hop stays has it all the while, even if it
changes objects (step 1 excepted, where the next hop is dead anyway).  The plan depends on nothing but its arguments,
and is empty when there is nothing to do: what an earlier daemon has left is adopted as it is.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from x0d.actions import DeleteNexthop, DeleteRoute, ObservedRoutes, PutNexthop, PutRoute, RouteChange
from x0d.mesh.model import Address, NextHop, Prefix

Hop = tuple[int, Address]
"""Interface index and gateway: what the kernel knows of a next hop."""


def plan_routes(
    wanted: Mapping[Prefix, NextHop],
    observed: ObservedRoutes,
    id_base: int,
    dead: frozenset[tuple[int, Address]] = frozenset(),
) -> tuple[RouteChange, ...]:
    """Compute the changes, in the order in which they are to be performed.

    Args:
        wanted: next hop by prefix; those in ``unroutable`` are left out.
        observed: what the kernel holds of ours.
        id_base: the smallest id for a new nexthop object.
        dead: interface index and gateway of next hops that carry nothing any more.
    """
    refused = unroutable(wanted)
    hops = {prefix: (hop.ifindex, hop.gateway) for prefix, hop in wanted.items() if prefix not in refused}
    return _Plan(hops, observed, id_base).make(dead)


def unroutable(wanted: Mapping[Prefix, NextHop]) -> frozenset[Prefix]:
    """IPv6 prefixes whose next hop is an IPv4 address: no kernel takes such a route."""
    return frozenset(prefix for prefix, hop in wanted.items() if not _fits(prefix, (hop.ifindex, hop.gateway)))


def forget_interface(observed: ObservedRoutes, ifindex: int) -> ObservedRoutes:
    """What is left after carrier loss or link down: the kernel flushes objects and their routes without a word."""
    nexthops = {number: nexthop for number, nexthop in observed.nexthops.items() if nexthop.ifindex != ifindex}
    lost = observed.nexthops.keys() - nexthops.keys()
    return ObservedRoutes(nexthops, {prefix: on for prefix, on in observed.routes.items() if on not in lost})


def after_changes(observed: ObservedRoutes, changes: Sequence[RouteChange]) -> ObservedRoutes:
    """What the kernel holds once all the changes have been performed."""
    nexthops = dict(observed.nexthops)
    routes = dict(observed.routes)
    for change in changes:
        match change:
            case PutNexthop(nexthop_id):
                nexthops[nexthop_id] = change
            case DeleteNexthop(nexthop_id):
                nexthops.pop(nexthop_id, None)
                routes = {prefix: on for prefix, on in routes.items() if on != nexthop_id}
            case PutRoute(prefix, nexthop_id):
                routes[prefix] = nexthop_id
            case DeleteRoute(prefix):
                routes.pop(prefix, None)
    return ObservedRoutes(nexthops, routes)


class _Plan:
    """A plan in the making: the changes so far, and the kernel's state after them."""

    def __init__(self, wanted: Mapping[Prefix, Hop], observed: ObservedRoutes, id_base: int) -> None:
        self._wanted = wanted
        self._id_base = id_base
        self._hop_of = {number: (nexthop.ifindex, nexthop.gateway) for number, nexthop in observed.nexthops.items()}
        self._routes = {prefix: on if on in self._hop_of else 0 for prefix, on in observed.routes.items()}
        self._target: dict[Hop, int] = {}
        """The object that each wanted next hop is to have."""
        self._changes: list[RouteChange] = []

    def make(self, dead: frozenset[Hop]) -> tuple[RouteChange, ...]:
        """Go through the five steps of the module's text."""
        self._revive(dead)
        self._choose_targets()
        takeovers = self._break_cycles()
        for hop in sorted(self._target, key=_hop_order):
            if self._target[hop] not in self._hop_of:
                self._put_nexthop(self._target[hop], hop)
        stable = {number for hop, number in self._target.items() if self._hop_of[number] == hop}
        self._put_routes(prefix for prefix in self._astray() if self._goal(prefix) in stable)
        for number, hop in takeovers:
            self._take_over(number, hop)
        self._put_routes(self._astray())
        for prefix in sorted(self._routes.keys() - self._wanted.keys(), key=_prefix_order):
            self._delete_route(prefix)
        for number in sorted(self._hop_of.keys() - set(self._target.values())):
            self._changes.append(DeleteNexthop(number))
        return tuple(self._changes)

    # ---- 1: dead next hops ----

    def _revive(self, dead: frozenset[Hop]) -> None:
        """Replace objects of dead next hops; a single route is as soon moved by itself."""
        votes = self._votes()
        for number in sorted(self._hop_of):
            if self._hop_of[number] not in dead:
                continue
            choices = [(-count, _hop_order(hop), hop) for hop, count in votes[number].items() if hop not in dead]
            choices = [choice for choice in sorted(choices) if self._carries(number, choice[2])]
            if choices and choices[0][0] < -1:
                self._put_nexthop(number, choices[0][2])

    # ---- 2: which object for which next hop ----

    def _choose_targets(self) -> None:
        """Pair next hops with the objects that carry most of their routes; what is left gets a new object."""
        votes = self._votes()
        hops = set(self._wanted.values())
        pairs = []
        for number, current in self._hop_of.items():
            for hop in sorted(votes[number].keys() | ({current} & hops), key=_hop_order):
                # An object that has the next hop already saves the message that would give it one.
                score = votes[number][hop] + (hop == current)
                pairs.append((-score, hop != current, number, _hop_order(hop), hop))
        taken: set[int] = set()
        for _, _, number, _, hop in sorted(pairs):
            if number not in taken and hop not in self._target:
                self._target[hop] = number
                taken.add(number)
        for hop in sorted(hops - self._target.keys(), key=_hop_order):
            self._target[hop] = self._new_id()

    # ---- 3: objects that take over another next hop ----

    def _break_cycles(self) -> list[tuple[int, Hop]]:
        """Order the takeovers so that routes leave an object for one that has its final next hop already.

        Where each waits for another, the one with the fewest routes is given up: its next hop gets a new object.
        """
        votes = self._votes()
        pending = {number: hop for hop, number in self._target.items() if self._hop_of.get(number, hop) != hop}
        ordered = []
        while pending:
            by_votes = sorted(pending, key=lambda number: (-votes[number][pending[number]], number))
            for number in by_votes:
                leaving = {self._target[hop] for hop in votes[number] if hop != pending[number]}
                if not leaving & (pending.keys() - {number}):
                    ordered.append((number, pending.pop(number)))
                    break
            else:
                self._target[pending.pop(by_votes[-1])] = self._new_id()
        return ordered

    def _take_over(self, number: int, hop: Hop) -> None:
        on_it = [prefix for prefix in sorted(self._routes, key=_prefix_order) if self._routes[prefix] == number]
        self._put_routes(prefix for prefix in on_it if self._wanted.get(prefix, hop) != hop)
        for prefix in on_it:
            if prefix not in self._wanted and not _fits(prefix, hop):
                self._delete_route(prefix)
        self._put_nexthop(number, hop)

    # ---- the state, and what is asked of it ----

    def _votes(self) -> dict[int, Counter[Hop]]:
        """By object: how many of its routes want each next hop."""
        votes: dict[int, Counter[Hop]] = {number: Counter() for number in self._hop_of}
        for prefix, number in self._routes.items():
            if number and prefix in self._wanted:
                votes[number][self._wanted[prefix]] += 1
        return votes

    def _goal(self, prefix: Prefix) -> int:
        return self._target[self._wanted[prefix]]

    def _astray(self) -> list[Prefix]:
        """Wanted prefixes that are not on their object; first those that have no route at all."""
        astray = [prefix for prefix in self._wanted if self._routes.get(prefix) != self._goal(prefix)]
        return sorted(astray, key=lambda prefix: (bool(self._routes.get(prefix)), _prefix_order(prefix)))

    def _carries(self, number: int, hop: Hop) -> bool:
        """Whether all routes on the object may go by the next hop."""
        return all(_fits(prefix, hop) for prefix, on in self._routes.items() if on == number)

    def _new_id(self) -> int:
        taken = self._hop_of.keys() | set(self._target.values())
        return next(number for number in range(self._id_base, self._id_base + len(taken) + 1) if number not in taken)

    def _put_nexthop(self, number: int, hop: Hop) -> None:
        self._changes.append(PutNexthop(number, hop[1], hop[0]))
        self._hop_of[number] = hop

    def _put_routes(self, prefixes: Iterable[Prefix]) -> None:
        for prefix in prefixes:
            self._routes[prefix] = self._goal(prefix)
            self._changes.append(PutRoute(prefix, self._goal(prefix)))

    def _delete_route(self, prefix: Prefix) -> None:
        del self._routes[prefix]
        self._changes.append(DeleteRoute(prefix))


def _fits(prefix: Prefix, hop: Hop) -> bool:
    """An IPv4 prefix goes by any next hop, an IPv6 prefix only by an IPv6 one."""
    return prefix.version == 4 or hop[1].version == 6


def _prefix_order(prefix: Prefix) -> tuple[int, int, int]:
    return prefix.version, int(prefix.network_address), prefix.prefixlen


def _hop_order(hop: Hop) -> tuple[int, int, int]:
    return hop[0], hop[1].version, int(hop[1])
