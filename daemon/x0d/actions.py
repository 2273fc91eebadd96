"""Effects as data.  Cores decide them, ``service/execute.py`` alone performs them.

Every action says in its ``str()`` what it does, in words for the operator.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from x0d.mesh.model import Address, LinkKey, Prefix

# ---- changes of the kernel's routes; a batch is performed in its order, in one netlink message ----


@dataclass(frozen=True, slots=True)
class PutNexthop:
    """Create or replace a nexthop object; every route on it moves at once."""

    nexthop_id: int
    gateway: Address
    ifindex: int

    def __str__(self) -> str:
        return f"nexthop {self.nexthop_id} via {self.gateway} dev #{self.ifindex}"


@dataclass(frozen=True, slots=True)
class DeleteNexthop:
    """Delete a nexthop object; the kernel deletes the routes on it as well."""

    nexthop_id: int

    def __str__(self) -> str:
        return f"delete nexthop {self.nexthop_id}"


@dataclass(frozen=True, slots=True)
class PutRoute:
    """Create or replace a route of ours, on a nexthop object."""

    prefix: Prefix
    nexthop_id: int

    def __str__(self) -> str:
        return f"route {self.prefix} on nexthop {self.nexthop_id}"


@dataclass(frozen=True, slots=True)
class DeleteRoute:
    """Delete a route of ours."""

    prefix: Prefix

    def __str__(self) -> str:
        return f"delete route {self.prefix}"


RouteChange = PutNexthop | DeleteNexthop | PutRoute | DeleteRoute


@dataclass(frozen=True, slots=True)
class ObservedRoutes:
    """What the kernel holds under our protocol and our id range."""

    nexthops: Mapping[int, PutNexthop]
    routes: Mapping[Prefix, int]
    """Prefix to nexthop id; 0 for a route of ours that is on no object of ours."""


# ---- actions ----


@dataclass(frozen=True, slots=True)
class InstallRoutes:
    """Bring the kernel's routes of ours to what the mesh computed."""

    changes: tuple[RouteChange, ...]

    def __str__(self) -> str:
        nexthops = sum(isinstance(change, PutNexthop | DeleteNexthop) for change in self.changes)
        return f"install routes: {nexthops} nexthop and {len(self.changes) - nexthops} route changes"


@dataclass(frozen=True, slots=True)
class SetLinkCost:
    """Advertise a link with another cost than the configured one, so that traffic leaves or returns."""

    link: LinkKey
    cost: int

    def __str__(self) -> str:
        return f"advertise {self.link} with cost {self.cost}"


Action = InstallRoutes | SetLinkCost


@dataclass(frozen=True, slots=True)
class PlannedAction:
    """An action with what must hold before, what it should bring, and how it is taken back."""

    action: Action
    precondition: str
    expected_effect: str
    undo: Action | None
    """None: the effect is replaced by the next computation and has no undo of its own."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an action went."""

    action: Action
    done: bool
    error: str
    """Empty when ``done``."""
    started_at_ns: int
    """CLOCK_MONOTONIC."""
    ended_at_ns: int
