"""A route table that behaves like the kernel's, in memory.

Not modelled: whether a gateway can be reached, preferred sources, routes of ours on no object, objects of somebody
else in our range of ids.  ``tests/contract/test_route_table.py`` holds it and the kernel to one contract.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field

from x0d.actions import DeleteNexthop, DeleteRoute, ObservedRoutes, PutNexthop, PutRoute, RouteChange
from x0d.errors import KernelRefused
from x0d.mesh.model import Prefix


@dataclass
class FakeRouteTable:
    """``ports.RouteTable``; keeps the state after each single change in ``history``."""

    nexthops: dict[int, PutNexthop] = field(default_factory=dict)
    routes: dict[Prefix, int] = field(default_factory=dict)
    down: set[int] = field(default_factory=set)
    """Interfaces without carrier, by index."""
    foreign: set[Prefix] = field(default_factory=set)
    """Routes of somebody else at our metric."""
    addresses: set[Prefix] = field(default_factory=set)
    changes: list[RouteChange] = field(default_factory=list)
    """All that was asked for, in order."""
    history: list[ObservedRoutes] = field(default_factory=list)

    async def read(self) -> ObservedRoutes:
        return self.observed()

    async def apply(self, changes: Sequence[RouteChange]) -> None:
        self.perform(changes)

    async def put_address(self, prefix: Prefix) -> None:
        self.addresses.add(prefix)

    def observed(self) -> ObservedRoutes:
        return ObservedRoutes(dict(self.nexthops), dict(self.routes))

    def perform(self, changes: Sequence[RouteChange]) -> None:
        """Perform in order; raise the first refusal after all were tried."""
        refused = []
        for change in changes:
            self.changes.append(change)
            refusal = self._perform(change)
            if refusal:
                refused.append(KernelRefused(str(change), refusal))
            self.history.append(self.observed())
        if refused:
            raise refused[0]

    def carrier_down(self, ifindex: int) -> None:
        """Flush the interface's objects and every route on them, and tell nobody."""
        self.down.add(ifindex)
        for number in [number for number, nexthop in self.nexthops.items() if nexthop.ifindex == ifindex]:
            self._delete_nexthop(number)

    def carrier_up(self, ifindex: int) -> None:
        """Nothing comes back by itself."""
        self.down.discard(ifindex)

    def _perform(self, change: RouteChange) -> int:
        match change:
            case PutNexthop(number, gateway, ifindex):
                if ifindex in self.down:
                    return errno.ENETDOWN
                if gateway.version == 4 and any(on == number and p.version == 6 for p, on in self.routes.items()):
                    return errno.EINVAL
                self.nexthops[number] = change
            case DeleteNexthop(number):
                self._delete_nexthop(number)
            case PutRoute(prefix, number):
                if number not in self.nexthops:
                    return errno.EINVAL
                if prefix.version == 6 and self.nexthops[number].gateway.version == 4:
                    return errno.EINVAL
                if prefix in self.foreign:
                    return errno.EEXIST
                self.routes[prefix] = number
            case DeleteRoute(prefix):
                self.routes.pop(prefix, None)
        return 0

    def _delete_nexthop(self, number: int) -> None:
        self.nexthops.pop(number, None)
        self.routes = {prefix: on for prefix, on in self.routes.items() if on != number}
