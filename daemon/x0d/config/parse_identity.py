"""[identity] and [listen]: their limits, and what production allows.

``node.production`` is true unless the file says otherwise, and then identities come from SPIRE alone.  Only the file
decides that: no environment variable does.
"""

import re
from ipaddress import ip_address

from x0d.config.model import Config, FederationConfig, IdentityConfig, ListenConfig
from x0d.config.reader import Section
from x0d.errors import ConfigProblem, InvalidInput
from x0d.identity.roles import BINDABLE, Binding, IdPattern, Role

BINDINGS_MAX = 256
FEDERATION_MAX = 16
ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?")
ROOT_TTL_MIN = 4  # times svid_ttl_s: the old root must outlast every certificate it has signed
SPIRE_OR_DEV = (
    'is true (the default), and then identity.mode = "dev" is refused: set identity.mode = "spire" and '
    "identity.workload_socket to the SPIRE agent's socket, or for a development cluster node.production = false"
)


def parse_identity(section: Section) -> IdentityConfig:
    """Read [identity]."""
    default = IdentityConfig()
    config = IdentityConfig(
        mode=section.choice("mode", ("dev", "spire"), default.mode),
        trust_domain=section.trust_domain("trust_domain", default.trust_domain) or default.trust_domain,
        issuer=section.boolean("issuer", default=default.issuer),
        workload_socket=section.optional_file("workload_socket"),
        workload_uid=section.integer("workload_uid", default.workload_uid, 0, 2**32 - 2),
        svid_ttl_s=section.integer("svid_ttl_s", default.svid_ttl_s, 60, 2_592_000),
        root_ttl_s=section.integer("root_ttl_s", default.root_ttl_s, 240, 315_360_000),
        require_pq=section.boolean("require_pq", default=default.require_pq),
        pqc_beacons=section.boolean("pqc_beacons", default=default.pqc_beacons),
        bindings=tuple(filter(None, map(_binding, section.tables("bindings", BINDINGS_MAX)))),
        federation=tuple(filter(None, map(_federation, section.tables("federation", FEDERATION_MAX)))),
    )
    if config.root_ttl_s < ROOT_TTL_MIN * config.svid_ttl_s:
        section.problem("root_ttl_s", f"is {config.root_ttl_s}; allowed: at least {ROOT_TTL_MIN} times svid_ttl_s")
    _check_mode(section, config)
    section.finish()
    return config


def _check_mode(section: Section, config: IdentityConfig) -> None:
    if config.mode == "spire":
        if config.workload_socket is None:
            section.problem("workload_socket", "is missing; give the path of the SPIRE agent's Workload API socket")
        if config.issuer:
            section.problem("issuer", 'is true; with mode = "spire" SPIRE issues')
        return
    if config.workload_socket is not None:
        section.problem("workload_socket", 'is for mode = "spire"; with "dev" it is workload.sock in node.runtime_dir')
    if not config.trust_domain.is_dev:
        text = f'is "{config.trust_domain}"; with mode = "dev" it ends with .test, .example or .invalid'
        section.problem("trust_domain", text)


def _binding(section: Section) -> Binding | None:
    role = section.choice("role", tuple(BINDABLE), "")
    if not section.is_given("role"):
        section.problem("role", f"is missing; one of {', '.join(BINDABLE)}")
    given = [key for key in ("id", "user", "group") if section.is_given(key)]
    pattern, user, group = section.text("id", "", ".+"), section.text("user", "", ACCOUNT.pattern), ""
    group = section.text("group", "", ACCOUNT.pattern)
    section.finish()
    if len(given) != 1:
        section.problem("id", "exactly one of id, user and group says who has the role")
        return None
    if role == Role.PEER and not pattern:
        section.problem("role", '"peer" is for SPIFFE IDs: nobody on the control socket is another node')
    if not role or not (pattern or user or group):
        return None
    try:
        parsed = IdPattern.parse(pattern) if pattern else None
    except InvalidInput as error:
        section.problem("id", str(error))
        return None
    return Binding(Role(role), parsed, user, group)


def _federation(section: Section) -> FederationConfig | None:
    trust_domain = section.trust_domain("trust_domain", None)
    bundle_file = section.optional_file("bundle_file")
    section.finish()
    return None if trust_domain is None else FederationConfig(trust_domain, bundle_file)


def parse_listen(section: Section) -> ListenConfig:
    """Read [listen]."""
    default = ListenConfig()
    ports = {
        key: section.integer(key, getattr(default, key), 1, 65535)
        for key in (
            "control_port",
            "peer_port",
            "peer_http_port",
            "mesh_port",
            "probe_port",
            "metrics_port",
            "join_port",
        )
    }
    config = ListenConfig(
        address=section.address("address", default.address),
        metrics_address=section.address("metrics_address", default.metrics_address),
        metrics_certificate=section.optional_file("metrics_certificate"),
        metrics_key=section.optional_file("metrics_key"),
        connections_max=section.integer("connections_max", default.connections_max, 8, 65_536),
        handshake_timeout_ms=section.integer("handshake_timeout_ms", default.handshake_timeout_ms, 500, 60_000),
        **ports,
    )
    seen: dict[int, str] = {}
    for key, port in ports.items():
        if port in seen:
            section.problem(key, f"{port} is also {seen[port]}; each needs a port of its own")
        seen.setdefault(port, key)
    if (config.metrics_certificate is None) != (config.metrics_key is None):
        section.problem("metrics_certificate", "goes with metrics_key: give both or neither")
    if config.metrics_certificate is None and not ip_address(config.metrics_address).is_loopback:
        text = f'is "{config.metrics_address}"; plain HTTP stays on loopback: set metrics_certificate and metrics_key'
        section.problem("metrics_address", text)
    section.finish()
    return config


def check_identity(config: Config, problems: list[ConfigProblem]) -> None:
    """Refuse what does not go together across sections: production and development."""
    identity = config.identity
    foreign: set[str] = set()
    for index, federation in enumerate(identity.federation):
        key = f"identity.federation[{index}]"
        name = federation.trust_domain.name
        if federation.trust_domain == identity.trust_domain:
            problems.append(ConfigProblem(f"{key}.trust_domain", f'"{name}" is this node\'s own'))
        if name in foreign:
            problems.append(ConfigProblem(f"{key}.trust_domain", f'"{name}" is named twice'))
        foreign.add(name)
        if identity.mode == "dev" and identity.issuer and federation.bundle_file is None:
            problems.append(ConfigProblem(f"{key}.bundle_file", "is missing; give the PEM file with its roots"))
        if federation.bundle_file is not None and not (identity.mode == "dev" and identity.issuer):
            text = "is read by a development cluster's issuer only; elsewhere the bundle comes from the Workload API"
            problems.append(ConfigProblem(f"{key}.bundle_file", text))
        if config.node.production and federation.trust_domain.is_dev:
            text = f'"{name}" is a name for development; refused while node.production is true'
            problems.append(ConfigProblem(f"{key}.trust_domain", text))
    if not config.node.production:
        return
    if identity.mode == "dev":
        problems.append(ConfigProblem("node.production", SPIRE_OR_DEV))
    elif identity.trust_domain.is_dev:
        text = f'"{identity.trust_domain}" is a name for development; refused while node.production is true'
        problems.append(ConfigProblem("identity.trust_domain", text))
