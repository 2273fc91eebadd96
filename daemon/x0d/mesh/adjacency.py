"""One of this node's links: the facts known about it, and the adjacency that follows from them.

Facts: what the detector says (never up, up, down), what the quality test says (degraded), and what the
neighbour's HELLOs say: its daemon lives; its database is *in step* with ours (equal digests).

=====================================  ==========================================
first fact that holds                  adjacency
=====================================  ==========================================
never up                               none
down                                   DOWN
daemon gone, ``stale_max_s`` over      DOWN
daemon gone, topology changed since    TRANSIT_LAST
daemon gone                            CONTROL_GONE
not yet in step                        DOWN if it was announced before, else none
degraded                               DEGRADED
otherwise                              UP
=====================================  ==========================================

"Not yet in step" is the drain that keeps a returning link from losing packets: no node routes over it
before its end knows the way onward.  A daemon stays *gone* until its database is in step again.
"""

from dataclasses import dataclass
from enum import Enum

from x0d.mesh.model import Address, Adjacency, AdjacencyState, LinkKey, LinkStateRecord, NextHop


@dataclass(frozen=True, slots=True)
class LinkPort:
    """One configured neighbour entry whose interface exists."""

    key: LinkKey
    neighbour: str
    interface: str
    ifindex: int
    local_address: Address
    neighbour_address: Address
    cost: int
    """1 to 65,535."""

    @property
    def end(self) -> tuple[str, Address, Address]:
        """The link as this node's record names it."""
        return (self.neighbour, self.local_address, self.neighbour_address)

    @property
    def next_hop(self) -> NextHop:
        """The way out over this link."""
        return NextHop(self.interface, self.ifindex, self.neighbour_address, self.neighbour)

    def peer_view(self, node: str, record: LinkStateRecord | None) -> Adjacency | None:
        """The adjacency to ``node`` over this link in the neighbour's record; None: it announces none."""
        wanted = (node, self.neighbour_address, self.local_address)
        for a in record.adjacencies if record else ():
            if (a.neighbour, a.local_address, a.neighbour_address) == wanted:
                return a
        return None


@dataclass(frozen=True, slots=True)
class LinkView:
    """A link as the mesh sees it, for the operator."""

    generation: int
    cost: int
    state: AdjacencyState | None
    """As flooded; None: not announced (never up, or not yet in step)."""
    control_alive: bool
    """HELLOs of the neighbour's daemon come in."""
    in_step: bool
    """Its database equals ours, or did since the link came up."""
    heard_at_s: float | None
    """Latest HELLO; None: none since the link exists."""


class Detected(Enum):
    """What the failure detector says."""

    WAITING = "waiting"
    UP = "up"
    DOWN = "down"


@dataclass(slots=True)
class LinkFacts:
    """What is known about one link."""

    port: LinkPort
    cost: int
    generation: int = 0
    detected: Detected = Detected.WAITING
    degraded: bool = False
    announced: bool = False
    """It has been in our record since the interface exists."""
    # ---- control plane ----
    up_at_s: float = 0.0
    heard_at_s: float | None = None
    heard_incarnation: int = 0
    gone_since_s: float | None = None
    """Last sign of the neighbour's daemon, once it counts as gone."""
    topology_heard: int = 0
    """Version of the topology when the daemon was heard last."""
    topology_moved: bool = False
    stale: bool = False
    in_step: bool = False
    # ---- HELLOs we send ----
    hello_due_s: float = 0.0
    hello_sent_s: float = float("-inf")
    solicit_next: bool = False
    mismatches: int = 0
    """HELLOs in a row whose digest was not ours."""

    @property
    def gone(self) -> bool:
        """The neighbour's kernel answers probes, its daemon is silent."""
        return self.gone_since_s is not None

    @property
    def judged(self) -> bool:
        """Whether enough is known to say something of the link in our first record."""
        return self.detected is Detected.DOWN or self.in_step or self.gone

    def control_alive(self, now_s: float, silence_s: float) -> bool:
        """Whether a HELLO came within ``silence_s``, with the link up."""
        heard = self.heard_at_s is not None and now_s - self.heard_at_s < silence_s
        return heard and self.detected is Detected.UP

    def state(self) -> AdjacencyState | None:
        """The adjacency to announce; None: none."""
        if self.detected is Detected.WAITING:
            return None
        if self.detected is Detected.DOWN or (self.gone and self.stale):
            return AdjacencyState.DOWN
        if self.gone:
            return AdjacencyState.TRANSIT_LAST if self.topology_moved else AdjacencyState.CONTROL_GONE
        if not self.in_step:
            return AdjacencyState.DOWN if self.announced else None
        return AdjacencyState.DEGRADED if self.degraded else AdjacencyState.UP

    def lose_control(self) -> None:
        """Forget all that HELLOs told: the link went down or anew."""
        self.gone_since_s = None
        self.heard_at_s = None
        self.heard_incarnation = 0
        self.topology_moved = self.stale = self.in_step = False
        self.mismatches = 0
