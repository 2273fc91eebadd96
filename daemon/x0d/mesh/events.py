"""What the mesh tells its caller: the events of a turn, and its timers."""

from dataclasses import dataclass

from x0d.mesh.model import AdjacencyState, LinkKey, LinkStateRecord


@dataclass(frozen=True, slots=True)
class MeshTimers:
    """What the mesh waits for, in seconds."""

    hello_interval_s: float = 0.5
    hello_miss_limit: int = 4
    """HELLOs missing in a row that mean: the neighbour's daemon is gone."""
    stale_max_s: float = 300.0
    """How long the last link state of a node without daemon is routed by."""
    settle_s: float = 2.5
    """After this a starting node floods its first record though some links are not yet judged; more
    than the hello silence, so that a neighbour found without daemon is in it."""
    retransmit_s: float = 0.05
    retransmit_max_s: float = 1.0

    @property
    def silence_s(self) -> float:
        """Without a HELLO for this long the neighbour's daemon counts as gone."""
        return self.hello_interval_s * self.hello_miss_limit

    @property
    def record_max_s(self) -> float:
        """Life of a record; twice ``stale_max_s``, so that adjacencies are flooded down before it ends."""
        return 2 * self.stale_max_s

    @property
    def refresh_s(self) -> float:
        """Age at which a node makes its own record anew."""
        return self.stale_max_s / 2


@dataclass(frozen=True, slots=True)
class ControlGone:
    """A neighbour's daemon is silent while its kernel answers probes."""

    key: LinkKey
    neighbour: str
    generation: int
    since_s: float
    """Its last HELLO (or the link's return, where none came since)."""


@dataclass(frozen=True, slots=True)
class ControlBack:
    """The daemon is heard again and its database is in step."""

    key: LinkKey
    neighbour: str
    generation: int


@dataclass(frozen=True, slots=True)
class PeerReported:
    """Another node's record tells that a link (ours or not) has left the state UP, or is UP again."""

    key: LinkKey
    generation: int
    reporter: str
    state: AdjacencyState


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A node's record came in, where none was known."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeGone:
    """A node's record reached the end of its life and was forgotten."""

    node: str


@dataclass(frozen=True, slots=True)
class NameDisputed:
    """Somebody floods a record under this node's name that is newer than ours.

    Once is an earlier life whose clock was ahead; again and again is a second node of this name.
    """


MeshEvent = ControlGone | ControlBack | PeerReported | NodeSeen | NodeGone | NameDisputed


@dataclass(frozen=True, slots=True)
class Ready:
    """What a turn brought: send the datagrams, ask for ``routes()`` if they may have changed, handle the events."""

    datagrams: tuple[tuple[LinkKey, bytes], ...]
    routes_changed: bool
    """What they are computed from has changed; they are computed when asked for, once for many datagrams."""
    events: tuple[MeshEvent, ...]


def reports(record: LinkStateRecord, old: LinkStateRecord | None) -> tuple[MeshEvent, ...]:
    """Events that another node's new record stands for; ``old`` is the one known before."""
    if old is None:
        # Its adjacencies did not "turn": their states are older than our knowledge of the node.
        return (NodeSeen(record.origin),)
    before = {(a.neighbour, a.local_address, a.neighbour_address): (a.state, a.generation) for a in old.adjacencies}
    return tuple(
        PeerReported(
            LinkKey.between(record.origin, a.local_address, a.neighbour, a.neighbour_address),
            a.generation,
            record.origin,
            a.state,
        )
        for a in record.adjacencies
        if _turned(before.get((a.neighbour, a.local_address, a.neighbour_address)), (a.state, a.generation))
    )


def _turned(before: tuple[AdjacencyState, int] | None, now: tuple[AdjacencyState, int]) -> bool:
    """Whether an adjacency left UP, came back to it, or has another fault; a new one that is UP has not."""
    was_up, is_up = before is None or before[0] is AdjacencyState.UP, now[0] is AdjacencyState.UP
    return before != now and not (was_up and is_up)
