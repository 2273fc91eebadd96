"""The words of the mesh: link, adjacency, link-state record, next hop, route.

Plain frozen data, shared by the cores below ``mesh/``, by the executor and by the API.  Addresses
are ``ipaddress`` objects, instants are CLOCK_MONOTONIC seconds (``_s``) or nanoseconds (``_ns``).
"""

import hashlib
from dataclasses import dataclass
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, order=True)
class LinkKey:
    """A link, named alike at both ends: its nodes and their addresses on it, lower name first."""

    node_a: str
    address_a: str
    node_b: str
    address_b: str

    @classmethod
    def between(cls, node: str, address: Address, neighbour: str, neighbour_address: Address) -> "LinkKey":
        """Make the key from either end's point of view."""
        (node_a, address_a), (node_b, address_b) = sorted([(node, str(address)), (neighbour, str(neighbour_address))])
        return cls(node_a, address_a, node_b, address_b)

    def __str__(self) -> str:
        """``n1-n2.5c1e``: the nodes, and a hash of the addresses that tells parallel links apart."""
        tag = hashlib.sha256(f"{self.address_a} {self.address_b}".encode()).hexdigest()[:4]
        return f"{self.node_a}-{self.node_b}.{tag}"


class AdjacencyState(IntEnum):
    """What one end floods of a link."""

    UP = 1
    DEGRADED = 2
    """Loses packets; usable, and its cost is raised where the healing mode allows it."""
    CONTROL_GONE = 3
    """The neighbour's kernel answers probes, its daemon is silent: routes stay as they are."""
    TRANSIT_LAST = 4
    """As CONTROL_GONE, and the topology has changed since: transit only where nothing else leads."""
    DOWN = 5


@dataclass(frozen=True, slots=True)
class Adjacency:
    """One end's view of a link, as flooded."""

    neighbour: str
    local_address: Address
    neighbour_address: Address
    cost: int
    """1 to 65,535; the larger of both ends' counts."""
    state: AdjacencyState
    generation: int
    """Number of the latest incident on this link; raised by the end that sees one first."""


@dataclass(frozen=True, slots=True)
class LinkStateRecord:
    """Everything that one node floods about itself."""

    origin: str
    incarnation: int
    """Start of the origin's daemon, wall-clock nanoseconds; a larger one is newer."""
    sequence: int
    no_transit: bool
    """The origin is stopping or draining: routes end there but do not pass through."""
    prefixes: tuple[Prefix, ...]
    adjacencies: tuple[Adjacency, ...]

    @property
    def version(self) -> tuple[int, int]:
        """What decides which of two records of an origin is newer."""
        return (self.incarnation, self.sequence)


class LinkState(Enum):
    """State of one of this node's links, as shown to the operator."""

    WAITING = "waiting"
    """The interface does not exist yet, or no probe has been answered since the start."""
    BLOCKED = "blocked"
    """The kernel refused the data plane on the interface."""
    UP = "up"
    DEGRADED = "degraded"
    CONTROL_GONE = "control_gone"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """The kernel's record of one neighbour (``struct x0d_link`` without its lock)."""

    peer_session: int = 0
    requests_received: int = 0
    request_last_at_ns: int = 0
    session: int = 0
    sequence_last: int = 0
    received: int = 0
    """Bit i: probe ``sequence_last - i`` was answered; 64 bits."""
    replies_received: int = 0
    peer_requests_received: int = 0
    """How many of our probes the neighbour had counted when it answered ``sequence_last``."""
    reply_last_at_ns: int = 0
    rtt_last_ns: int = 0
    rtt_sum_ns: int = 0
    reflected_last_at_ns: int = 0

    def answered(self, sequence: int) -> bool:
        """Whether the probe was answered; False for one that left the 64-probe window."""
        back = self.sequence_last - sequence
        return 0 <= back < 64 and bool(self.received >> back & 1)


@dataclass(frozen=True, slots=True)
class NextHop:
    """Where a packet leaves this node."""

    interface: str
    ifindex: int
    gateway: Address
    neighbour: str


@dataclass(frozen=True, slots=True)
class MeshRoute:
    """A prefix and the way to it, computed from the link states."""

    prefix: Prefix
    node: str
    """The node that announces the prefix (the nearest, where several do)."""
    next_hop: NextHop
    metric: int
    """Sum of the costs on the way."""
    hops: int
    """Links on the way."""
