"""One TOML file to a ``Config``, with every limit of every key.

Parsing looks at the file alone, never at live interfaces, and collects every problem before it gives
up, so that one ``x0d --check-config`` tells an operator all there is to mend.  Keys that later versions
give a meaning are validated too; a value that asks for what this version lacks is refused as not
available.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from x0d.config.model import (
    COST_DEFAULT,
    ClusterConfig,
    Config,
    EbpfConfig,
    HealingConfig,
    LogConfig,
    MeshConfig,
    NeighbourConfig,
    NodeConfig,
)
from x0d.config.parse_identity import check_identity, parse_identity, parse_listen
from x0d.config.reader import PREFIX_DEFAULT, Section
from x0d.errors import ConfigInvalid, ConfigProblem
from x0d.mesh.model import Address, Prefix

UNIX_PATH_MAX_BYTES = 107  # sun_path without its final NUL
CONTROL_SOCKET_SUFFIX_BYTES = 48  # private/ and the longest name of a caller below runtime_dir
NEIGHBOURS_MAX = 256  # X0D_LINKS_MAX
ANNOUNCE_MAX = 64
MANAGEMENT_MAX = 64
TRACES = ("drops", "tcp", "sockets", "runqueue")
HEALING_MODES = ("observe", "approve", "auto")
LOG_LEVELS = ("debug", "info", "warning", "error")


def load(file: Path) -> Config:
    """Read and validate a configuration file.

    Raises:
        ConfigInvalid: with every problem found, or with the one that kept the file from being read.
    """
    try:
        document = tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        raise _unreadable(file, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _unreadable(file, f"is not UTF-8: byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise _unreadable(file, f"is not valid TOML: {error}") from error
    return parse(document, file)


def _unreadable(file: Path, reason: str) -> ConfigInvalid:
    return ConfigInvalid(str(file), (ConfigProblem("", reason),))


def parse(document: Mapping[str, object], file: Path) -> Config:
    """Validate a parsed TOML document; see ``load``."""
    problems: list[ConfigProblem] = []
    root = Section(document, "", problems)
    config = Config(
        file=file,
        node=_node(root.table("node", required=True)),
        identity=parse_identity(root.table("identity")),
        listen=parse_listen(root.table("listen")),
        ebpf=_ebpf(root.table("ebpf")),
        mesh=_mesh(root.table("mesh")),
        cluster=_cluster(root.table("cluster")),
        healing=_healing(root.table("healing")),
        log=_log(root.table("log")),
    )
    root.finish()
    _check_announced(config, problems)
    _check_neighbours(config, problems)
    check_identity(config, problems)
    if problems:
        raise ConfigInvalid(str(file), tuple(problems))
    return config


def _node(section: Section) -> NodeConfig:
    default = NodeConfig(name="x", address=PREFIX_DEFAULT)
    config = NodeConfig(
        name=section.name("name"),
        address=section.prefix("address", default.address),
        state_dir=section.directory("state_dir", default.state_dir),
        runtime_dir=section.directory("runtime_dir", default.runtime_dir),
        bpffs_dir=section.directory("bpffs_dir", default.bpffs_dir),
        production=section.boolean("production", default=default.production),
    )
    if config.address.num_addresses != 1:
        section.problem("address", f"{config.address} is a network; give one address with /32 or /128")
    elif not _is_usable(config.address):
        section.problem("address", f"{config.address} cannot be a node's stable address")
    room = UNIX_PATH_MAX_BYTES - CONTROL_SOCKET_SUFFIX_BYTES
    if len(str(config.runtime_dir).encode()) > room:
        section.problem("runtime_dir", f"is too long for a unix socket below it; at most {room} bytes")
    section.finish()
    return config


def _is_usable(address: Prefix) -> bool:
    host = address.network_address
    return not (host.is_loopback or host.is_multicast or host.is_unspecified or host.is_link_local)


def _ebpf(section: Section) -> EbpfConfig:
    default = EbpfConfig()
    config = EbpfConfig(
        allow_skb_mode=section.boolean("allow_skb_mode", default=default.allow_skb_mode),
        probe_rate_pps=section.integer("probe_rate_pps", default.probe_rate_pps, 10, 1_000_000),
        probe_burst=section.integer("probe_burst", default.probe_burst, 10, 100_000),
        objects_dir=section.optional_directory("objects_dir"),
        management=section.prefixes("management", MANAGEMENT_MAX),
        deny_entries_max=section.integer("deny_entries_max", default.deny_entries_max, 1024, 4_194_304),
        sources_max=section.integer("sources_max", default.sources_max, 1024, 4_194_304),
        talkers=section.boolean("talkers", default=default.talkers),
        event_sample_every=section.integer("event_sample_every", default.event_sample_every, 1, 1_000_000),
        event_buffer_kib=section.integer("event_buffer_kib", default.event_buffer_kib, 64, 16_384),
        syn_rate=section.integer("syn_rate", default.syn_rate, 0, 10_000),
        syn_burst=section.integer("syn_burst", default.syn_burst, 1, 100_000),
        trace=section.choices("trace", TRACES, default.trace),
    )
    if config.event_buffer_kib.bit_count() != 1:
        section.problem("event_buffer_kib", f"{config.event_buffer_kib}; allowed: a power of two from 64 to 16384")
    section.finish()
    return config


def _mesh(section: Section) -> MeshConfig:
    default = MeshConfig()
    config = MeshConfig(
        interfaces=section.interfaces("interfaces"),
        neighbours=tuple(_neighbour(item) for item in section.tables("neighbours", NEIGHBOURS_MAX)),
        announce=section.prefixes("announce", ANNOUNCE_MAX),
        probe_interval_ms=section.integer("probe_interval_ms", default.probe_interval_ms, 5, 10_000),
        probe_miss_limit=section.integer("probe_miss_limit", default.probe_miss_limit, 2, 20),
        hello_interval_ms=section.integer("hello_interval_ms", default.hello_interval_ms, 50, 60_000),
        hello_miss_limit=section.integer("hello_miss_limit", default.hello_miss_limit, 2, 20),
        stale_max_s=section.integer("stale_max_s", default.stale_max_s, 5, 86_400),
        up_hold_ms=section.integer("up_hold_ms", default.up_hold_ms, 0, 600_000),
        install_routes=section.boolean("install_routes", default=default.install_routes),
        flush_on_stop=section.boolean("flush_on_stop", default=default.flush_on_stop),
        route_protocol=section.integer("route_protocol", default.route_protocol, 17, 255),
        nexthop_id_base=section.integer("nexthop_id_base", default.nexthop_id_base, 1, 2**32 - 1 - 4096),
    )
    section.finish()
    return config


def _neighbour(section: Section) -> NeighbourConfig:
    config = NeighbourConfig(
        node=section.name("node"),
        interface=section.interface("interface"),
        address=section.neighbour_address("address"),
        cost=section.integer("cost", COST_DEFAULT, 1, 65_535),
    )
    section.finish()
    return config


def _cluster(section: Section) -> ClusterConfig:
    config = ClusterConfig(members=section.texts("members", 4096, r"[^=]+=[^=]+:[0-9]+", "NAME=ADDRESS:PORT"))
    if config.members:
        section.problem("members", "a cluster is not available in this version; leave it empty")
    section.finish()
    return config


def _healing(section: Section) -> HealingConfig:
    default = HealingConfig()
    config = HealingConfig(
        mode=section.choice("mode", HEALING_MODES, default.mode),
        degraded_cost_add=section.integer("degraded_cost_add", default.degraded_cost_add, 1, 60_000),
        verify_timeout_s=section.integer("verify_timeout_s", default.verify_timeout_s, 1, 300),
    )
    if config.mode == "approve":
        section.problem("mode", '"approve" is not available in this version; allowed: "observe", "auto"')
    section.finish()
    return config


def _log(section: Section) -> LogConfig:
    default = LogConfig()
    config = LogConfig(
        level=section.choice("level", LOG_LEVELS, default.level),
        format=section.choice("format", ("auto", "json", "text"), default.format),
    )
    section.finish()
    return config


def _check_announced(config: Config, problems: list[ConfigProblem]) -> None:
    """Refuse a prefix that is announced twice, or is the node's own address; refused values are not compared."""
    refused = {problem.key for problem in problems}
    prefixes: dict[Prefix, str] = {}
    if "node.address" not in refused:
        prefixes[config.node.address] = "node.address"
    for index, prefix in enumerate(config.mesh.announce):
        key = f"mesh.announce[{index}]"
        if key in refused:
            continue
        if prefix in prefixes:
            problems.append(ConfigProblem(key, f"{prefix} is also {prefixes[prefix]}"))
        prefixes.setdefault(prefix, key)


def _check_neighbours(config: Config, problems: list[ConfigProblem]) -> None:
    """Refuse this node as its own neighbour, and neighbours given twice; refused values are not compared."""
    refused = {problem.key for problem in problems}
    names: dict[tuple[str, str], str] = {}
    addresses: dict[tuple[str, Address], str] = {}
    for index, neighbour in enumerate(config.mesh.neighbours):
        key = f"mesh.neighbours[{index}]"
        on, node, address = (f"{key}.{field}" for field in ("interface", "node", "address"))
        if refused.isdisjoint({node, "node.name"}) and neighbour.node == config.node.name:
            problems.append(ConfigProblem(node, f'"{neighbour.node}" is this node itself'))
        if refused.isdisjoint({address, "node.address"}) and neighbour.address == config.node.address.network_address:
            problems.append(ConfigProblem(address, f"{neighbour.address} is this node's own address"))
        if refused.isdisjoint({on, node}):
            first = names.setdefault((neighbour.node, neighbour.interface), key)
            if first != key:
                text = f'"{neighbour.node}" on {neighbour.interface} is also {first}: duplicate node'
                problems.append(ConfigProblem(node, text))
        if refused.isdisjoint({on, address}):
            first = addresses.setdefault((neighbour.interface, neighbour.address), key)
            if first != key:
                text = f"{neighbour.address} on {neighbour.interface} is also {first}: duplicate address"
                problems.append(ConfigProblem(address, text))
