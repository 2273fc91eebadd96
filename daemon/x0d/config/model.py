"""Every configuration key with its default, unit and meaning, as frozen dataclasses.

Limits are in ``parse.py``, which is the only maker of a ``Config``.
"""

from dataclasses import dataclass
from pathlib import Path

from x0d.identity.roles import Binding, default_bindings
from x0d.identity.spiffe_id import SpiffeId, TrustDomain, node_id
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
    """True: identities come from SPIRE, and those of development are refused."""


@dataclass(frozen=True, slots=True)
class FederationConfig:
    trust_domain: TrustDomain
    bundle_file: Path | None = None
    """PEM of its roots, for a development cluster; None: SPIRE delivers them."""


@dataclass(frozen=True, slots=True)
class IdentityConfig:
    mode: str = "dev"
    """dev: an issuer of this cluster's own, here or on another node; spire: SPIRE's agent."""
    trust_domain: TrustDomain = TrustDomain("dev.x0d.test")  # noqa: RUF009  frozen
    issuer: bool = False
    """dev: this node issues the identities of its cluster."""
    workload_socket: Path | None = None
    """spire: the agent's Workload API socket.  dev: none, ours is <runtime_dir>/workload.sock."""
    workload_uid: int = 0
    """spire: who must own that socket and serve it."""
    svid_ttl_s: int = 86_400
    """issuer: life of the certificates it issues, 60 to 2,592,000; renewed at half of it."""
    root_ttl_s: int = 31_536_000
    """issuer: life of its root, at least four times svid_ttl_s; replaced, with overlap, at half of it."""
    require_pq: bool = False
    """Refuse peers and clients whose key exchange is not post-quantum."""
    pqc_beacons: bool = False
    """Sign this node's descriptor with ML-DSA-65, and spread and keep those of others."""
    bindings: tuple[Binding, ...] = ()
    """Roles beyond the built-in ones."""
    federation: tuple[FederationConfig, ...] = ()
    """Foreign trust domains whose IDs may call, as far as bindings give them roles."""


@dataclass(frozen=True, slots=True)
class ListenConfig:
    address: str = "::"
    """Where the control, peer and join ports listen; :: is every address, IPv4 too."""
    control_port: int = 9470
    peer_port: int = 9471
    peer_http_port: int = 9472
    """Reserved; nothing listens in this version."""
    mesh_port: int = 9473
    probe_port: int = 9474
    metrics_address: str = "127.0.0.1"
    """Not loopback: only with a certificate."""
    metrics_port: int = 9475
    metrics_certificate: Path | None = None
    """PEM chain; with metrics_key the metrics port speaks TLS."""
    metrics_key: Path | None = None
    join_port: int = 9476
    """Open on the issuer while a token is."""
    connections_max: int = 512
    """Of the control port and of the peer port each, 8 to 65,536; more are closed at once."""
    handshake_timeout_ms: int = 2000
    """A connection whose TLS handshake is not done by then is closed, 500 to 60,000."""


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
    syn_rate: int = 10
    """TCP connections that one source may begin to our ports each second, 0 (no limit) to 10,000."""
    syn_burst: int = 20
    """Begun at once beyond that rate, 1 to 100,000."""
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
    def spiffe_id(self) -> SpiffeId:
        """Who this node is."""
        return node_id(self.identity.trust_domain, self.node.name)

    @property
    def workload_socket(self) -> Path:
        """Where identities come from."""
        return self.identity.workload_socket or self.node.runtime_dir / "workload.sock"

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """Every role, built-in ones first."""
        return (*default_bindings(self.identity.trust_domain), *self.identity.bindings)

    @property
    def interfaces(self) -> tuple[str, ...]:
        """Every interface that x0d works on, in the order of the file."""
        named = (*self.mesh.interfaces, *(neighbour.interface for neighbour in self.mesh.neighbours))
        return tuple(dict.fromkeys(named))
