"""Every configuration key with its default, unit and meaning, as frozen dataclasses.

Limits are in ``parse.py``, which is the only maker of a ``Config``.
"""

from dataclasses import dataclass
from pathlib import Path

from x0d.mesh.model import Address, Prefix

COST_DEFAULT = 100


@dataclass(frozen=True, slots=True)
class NodeConfig:
    name: str
    """Unique in the mesh: lower-case letters, digits and inner hyphens, at most 63."""
    address: Prefix
    """Stable /32 or /128 that x0d puts on lo and announces."""
    state_dir: Path = Path("/var/lib/x0d")
    runtime_dir: Path = Path("/run/x0d")
    bpffs_dir: Path = Path("/sys/fs/bpf/x0d")
    """Pins of programs, links and maps; below a mounted bpffs."""
    production: bool = True
    """Has no effect until identity is built."""


@dataclass(frozen=True, slots=True)
class IdentityConfig:
    mode: str = "dev"
    trust_domain: str = "dev.x0d.test"


@dataclass(frozen=True, slots=True)
class ListenConfig:
    control_port: int = 9470
    """Reserved; nothing listens in this version."""
    peer_port: int = 9471
    """Reserved; nothing listens in this version."""
    peer_http_port: int = 9472
    """Reserved; nothing listens in this version."""
    mesh_port: int = 9473
    probe_port: int = 9474
    metrics_address: str = "127.0.0.1"
    metrics_port: int = 9475
    join_port: int = 9476
    """Reserved; nothing listens in this version."""


@dataclass(frozen=True, slots=True)
class EbpfConfig:
    allow_skb_mode: bool = False
    """Fall back to generic XDP where a driver has no native mode; slower, and shown in status."""
    probe_rate_pps: int = 2000
    """Probes answered and accepted per interface and second, 10 to 1,000,000."""
    probe_burst: int = 200
    """Probes answered at once beyond that rate, 10 to 100,000."""
    objects_dir: Path | None = None
    """Directory of the compiled kernel programs; None: those of the installation."""
    management: tuple[Prefix, ...] = ()
    """Where operators work from: deny-list and limits are not put on them without --force."""
    deny_entries_max: int = 131_072
    """Deny-list entries, 1,024 to 4,194,304; kernel memory is taken as they come, about 100 bytes each."""
    sources_max: int = 65_536
    """Source addresses tracked at a time for limits and talkers, 1,024 to 4,194,304; about 120 bytes each."""
    talkers: bool = True
    """Count every source, not only those that a limit holds for."""
    event_sample_every: int = 100
    """One packet in so many becomes an event while somebody watches, 1 to 1,000,000."""
    event_buffer_kib: int = 256
    """Ring buffer of the events, a power of two from 64 to 16,384."""
    trace: tuple[str, ...] = ("drops", "tcp", "sockets")
    """Tracepoints that always run: drops, tcp, sockets, runqueue."""


@dataclass(frozen=True, slots=True)
class NeighbourConfig:
    node: str
    interface: str
    address: Address
    """IPv4, or IPv6 link-local, of the neighbour on that interface."""
    cost: int = COST_DEFAULT
    """1 to 65,535; the larger of both ends' counts."""


@dataclass(frozen=True, slots=True)
class MeshConfig:
    interfaces: tuple[str, ...] = ()
    """Interfaces with our XDP program; those of the neighbours are added."""
    neighbours: tuple[NeighbourConfig, ...] = ()
    announce: tuple[Prefix, ...] = ()
    """Prefixes behind this node, beside its own address."""
    probe_interval_ms: int = 50
    """5 to 10,000."""
    probe_miss_limit: int = 3
    """Probes unanswered in a row before a link is down, 2 to 20."""
    hello_interval_ms: int = 500
    """Pace of the control plane's sign of life, 50 to 60,000."""
    hello_miss_limit: int = 4
    """Signs missed before the control plane counts as gone, 2 to 20."""
    stale_max_s: int = 300
    """How long the link state of a node without control plane is kept, 5 to 86,400."""
    up_hold_ms: int = 1000
    """Clean time before a link that was down is used again; doubles with relapses; 0 to 600,000."""
    install_routes: bool = True
    """False: compute and show routes, install none."""
    flush_on_stop: bool = False
    """Remove our routes at a clean stop; by default the kernel goes on forwarding."""
    route_protocol: int = 120
    """rtm_protocol of our routes, 17 to 255; must be nobody else's."""
    nexthop_id_base: int = 0x78300000
    """Our nexthop objects have the 4,096 ids from here on."""


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HealingConfig:
    mode: str = "auto"
    """observe: record what would be done; auto: do it."""
    degraded_cost_add: int = 1000
    """Added to the cost of a link that loses packets, 1 to 60,000."""
    verify_timeout_s: int = 5
    """An action not verified after this long is escalated, 1 to 300."""


@dataclass(frozen=True, slots=True)
class LogConfig:
    level: str = "info"
    format: str = "auto"
    """auto: text on a terminal, JSON elsewhere; json; text."""


@dataclass(frozen=True, slots=True)
class Config:
    file: Path
    node: NodeConfig
    identity: IdentityConfig
    listen: ListenConfig
    ebpf: EbpfConfig
    mesh: MeshConfig
    cluster: ClusterConfig
    healing: HealingConfig
    log: LogConfig

    @property
    def interfaces(self) -> tuple[str, ...]:
        """Every interface that x0d works on, in the order of the file."""
        named = (*self.mesh.interfaces, *(neighbour.interface for neighbour in self.mesh.neighbours))
        return tuple(dict.fromkeys(named))
