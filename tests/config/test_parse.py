"""Configuration files: what is valid, what is not, and what an operator is told."""

import dataclasses
import re
import tomllib
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from x0d.config import Config, load
from x0d.config.model import (
    ClusterConfig,
    EbpfConfig,
    HealingConfig,
    IdentityConfig,
    ListenConfig,
    LogConfig,
    MeshConfig,
    NeighbourConfig,
    NodeConfig,
)
from x0d.config.parse import parse
from x0d.errors import ConfigInvalid, ConfigProblem

FILE = Path("/etc/x0d/x0d.toml")
NODE = '[node]\nname = "n1"\naddress = "10.255.0.1/32"\nproduction = false\n'
PRODUCTION = NODE.replace("production = false\n", "")
SPIRE = '[identity]\nmode = "spire"\ntrust_domain = "example.org"\nworkload_socket = "/run/agent.sock"\n'
FOREIGN = '[[identity.federation]]\ntrust_domain = "b.test"\n'
BINDING = '[[identity.bindings]]\nrole = "viewer"\n'
EXAMPLE = Path(__file__).resolve().parents[2] / "packaging" / "x0d.toml"
NEIGHBOUR = '[[mesh.neighbours]]\nnode = "n2"\ninterface = "eth1"\naddress = "fe80::2"\n'


def read(text: str) -> Config:
    return parse(tomllib.loads(text), FILE)


def problems(text: str) -> dict[str, str]:
    """What is wrong with a document, by key."""
    with pytest.raises(ConfigInvalid) as caught:
        read(text)
    assert str(FILE) == caught.value.file
    assert all(line.startswith(f"{FILE}: ") for line in str(caught.value).splitlines())
    return {problem.key: problem.reason for problem in caught.value.problems}


def test_smallest_file() -> None:
    """Name and address suffice; everything else has its default."""
    config = read(NODE)
    assert ("n1", ip_network("10.255.0.1/32")) == (config.node.name, config.node.address)
    assert (ListenConfig(), MeshConfig(), HealingConfig()) == (config.listen, config.mesh, config.healing)
    assert Path("/var/lib/x0d") == config.node.state_dir
    assert () == config.interfaces


def test_whole_file() -> None:
    """Neighbours, prefixes and timers are read as written; the neighbours' interfaces are added."""
    config = read(
        NODE
        + '[mesh]\ninterfaces = ["eth2"]\nannounce = ["192.0.2.0/24"]\nprobe_interval_ms = 10\n'
        + NEIGHBOUR
        + "cost = 7\n"
        + NEIGHBOUR.replace("fe80::2", "fe80::3").replace("n2", "n3")
    )
    assert ("eth2", "eth1") == config.interfaces
    assert (ip_network("192.0.2.0/24"),) == config.mesh.announce
    assert NeighbourConfig("n2", "eth1", ip_address("fe80::2"), 7) == config.mesh.neighbours[0]
    assert 100 == config.mesh.neighbours[1].cost
    assert 10 == config.mesh.probe_interval_ms


def test_identity_of_production() -> None:
    """Without a word production holds; with SPIRE's socket the file is valid, and the ID follows from it."""
    config = read(PRODUCTION + SPIRE)
    assert config.node.production
    assert ("spiffe://example.org/node/n1", "/run/agent.sock") == (str(config.spiffe_id), str(config.workload_socket))


def test_identity_of_a_development_cluster() -> None:
    """A development cluster has its own socket, and bindings beside the built-in ones."""
    text = (
        BINDING
        + 'id = "spiffe://dev.x0d.test/operator/*"\n'
        + BINDING.replace("viewer", "operator")
        + 'group = "ops"\n'
    )
    config = read(NODE + text)
    assert "/run/x0d/workload.sock" == str(config.workload_socket)
    written = [(each.role.value, str(each.pattern or each.user or each.group)) for each in config.bindings]
    assert [
        ("peer", "spiffe://dev.x0d.test/node/*"),
        ("admin", "spiffe://dev.x0d.test/operator/root"),
        ("viewer", "spiffe://dev.x0d.test/operator/*"),
        ("viewer", "spiffe://dev.x0d.test/operator/*"),
        ("operator", "ops"),
    ] == written


def test_no_environment_variable_allows_development(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the file decides what production allows."""
    for name in ("X0D_PRODUCTION", "X0D_NODE_PRODUCTION", "NODE_PRODUCTION", "PRODUCTION"):
        monkeypatch.setenv(name, "false")
    assert ["node.production"] == list(problems(PRODUCTION))


@pytest.mark.parametrize(
    ("text", "key", "told"),
    [
        ("", "node", "missing"),
        ("[node]\n", "node.name", "missing"),
        ('[node]\nname = "n1"\n', "node.address", "missing"),
        ("node = 3\n", "node", "table"),
        (NODE + "[nodes]\n", "nodes", 'unknown key (did you mean "node"?). Allowed: cluster,'),
        (NODE + "[zebra]\n", "zebra", "unknown key. Allowed: cluster,"),
        (NODE + "[mesh]\nprobe_interval = 5\n", "mesh.probe_interval", "probe_interval_ms"),
        (NODE + "[mesh]\nprobe_interval_ms = 5.0\n", "mesh.probe_interval_ms", "whole number from 5 to 10000"),
        (NODE + "[mesh]\nprobe_interval_ms = true\n", "mesh.probe_interval_ms", "is true"),
        (NODE + "[mesh]\nprobe_miss_limit = 21\n", "mesh.probe_miss_limit", "from 2 to 20"),
        (NODE + '[ebpf]\nmanagement = "192.0.2.0/24"\n', "ebpf.management", "array"),
        (NODE + '[ebpf]\nmanagement = ["192.0.2.1/24"]\n', "ebpf.management[0]", "host bits zero"),
        (NODE + '[ebpf]\nmanagement = ["::ffff:10.9.1.0/120"]\n', "ebpf.management[0]", 'IPv4 network: "10.9.1.0/24"'),
        (NODE + '[mesh]\nannounce = ["::ffff:0.0.0.0/96"]\n', "mesh.announce[0]", 'IPv4 network: "0.0.0.0/0"'),
        ('[node]\nname = "n1"\naddress = "::ffff:10.0.0.1/128"\n', "node.address", 'IPv4 network: "10.0.0.1/32"'),
        (NODE + "[ebpf]\ndeny_entries_max = 10\n", "ebpf.deny_entries_max", "from 1024 to 4194304"),
        (NODE + "[ebpf]\nsources_max = 0\n", "ebpf.sources_max", "from 1024 to 4194304"),
        (NODE + "[ebpf]\nevent_sample_every = 0\n", "ebpf.event_sample_every", "from 1 to 1000000"),
        (NODE + "[ebpf]\nevent_buffer_kib = 100\n", "ebpf.event_buffer_kib", "power of two"),
        (NODE + '[ebpf]\ntrace = ["drops", "all"]\n', "ebpf.trace", '"runqueue", each at most once'),
        (NODE + '[ebpf]\ntrace = ["tcp", "tcp"]\n', "ebpf.trace", "at most once"),
        (NODE + '[ebpf]\nobjects_dir = "objects"\n', "ebpf.objects_dir", "absolute path"),
        (NODE + "[mesh]\ninstall_routes = 1\n", "mesh.install_routes", "true or false"),
        (NODE + '[mesh]\ninterfaces = "eth0"\n', "mesh.interfaces", "array"),
        (NODE + '[mesh]\ninterfaces = ["a-name-too-long-0"]\n', "mesh.interfaces[0]", "at most 15 bytes"),
        (NODE + '[mesh]\ninterfaces = ["eth0", "lo"]\n', "mesh.interfaces[1]", "other than lo"),
        (NODE + '[mesh]\ninterfaces = ["eth0", 3]\n', "mesh.interfaces[1]", "is 3"),
        (NODE + NEIGHBOUR.replace("eth1", "lo"), "mesh.neighbours[0].interface", "other than lo"),
        (NODE + '[mesh]\ninterfaces = ["eth0", "eth0"]\n', "mesh.interfaces[1]", "also interfaces[0]"),
        (NODE + '[mesh]\nannounce = ["192.0.2.1/24"]\n', "mesh.announce[0]", "host bits zero"),
        (NODE + '[mesh]\nannounce = ["192.0.2.0/24", "x"]\n', "mesh.announce[1]", "is 'x'"),
        (NODE + '[mesh]\nannounce = "192.0.2.0/24"\n', "mesh.announce", "array"),
        (NODE + '[mesh]\nannounce = ["10.255.0.1/32"]\n', "mesh.announce[0]", "also node.address"),
        (NODE + "[mesh]\nneighbours = 3\n", "mesh.neighbours", "[[mesh.neighbours]]"),
        (NODE + "[[mesh.neighbours]]\n", "mesh.neighbours[0].node", "missing"),
        (NODE + NEIGHBOUR + "cost = 0\n", "mesh.neighbours[0].cost", "from 1 to 65535"),
        (NODE + NEIGHBOUR + "weight = 1\n", "mesh.neighbours[0].weight", "unknown key"),
        (NODE + NEIGHBOUR.replace("fe80::2", "fe80::2%eth1"), "mesh.neighbours[0].address", "without a zone"),
        (NODE + NEIGHBOUR.replace("fe80::2", "2001:db8::2"), "mesh.neighbours[0].address", "link-local"),
        (NODE + NEIGHBOUR.replace("fe80::2", "224.0.0.5"), "mesh.neighbours[0].address", "IPv4"),
        (NODE + NEIGHBOUR.replace("fe80::2", "10.255.0.1"), "mesh.neighbours[0].address", "own address"),
        (NODE + NEIGHBOUR.replace("n2", "n1"), "mesh.neighbours[0].node", "this node itself"),
        (NODE + NEIGHBOUR + NEIGHBOUR.replace("n2", "n3"), "mesh.neighbours[1].address", "duplicate address"),
        (NODE + NEIGHBOUR + NEIGHBOUR.replace("::2", "::3"), "mesh.neighbours[1].node", "duplicate node"),
        ('[node]\nname = "N1"\naddress = "10.255.0.1/32"\n', "node.name", "lower-case"),
        ('[node]\nname = "n1"\naddress = "10.255.0.0/24"\n', "node.address", "/32 or /128"),
        ('[node]\nname = "n1"\naddress = "127.0.0.1/32"\n', "node.address", "stable address"),
        (NODE + 'state_dir = "state"\n', "node.state_dir", "absolute path"),
        (NODE + f'runtime_dir = "/{"x" * 100}"\n', "node.runtime_dir", "too long"),
        (NODE + "[listen]\nmesh_port = 0\n", "listen.mesh_port", "from 1 to 65535"),
        (NODE + "[listen]\nmesh_port = 9474\n", "listen.probe_port", "also mesh_port"),
        (NODE + '[listen]\nmetrics_address = "localhost"\n', "listen.metrics_address", "IPv4 or IPv6"),
        (NODE + '[listen]\nmetrics_address = "0.0.0.0"\n', "listen.metrics_address", "metrics_certificate"),
        (NODE + '[listen]\nmetrics_key = "/k.pem"\n', "listen.metrics_certificate", "both or neither"),
        (NODE + '[listen]\naddress = "host"\n', "listen.address", "IPv4 or IPv6"),
        (NODE + "[listen]\nconnections_max = 1\n", "listen.connections_max", "from 8 to 65536"),
        (NODE + "[listen]\nhandshake_timeout_ms = 0\n", "listen.handshake_timeout_ms", "from 500 to 60000"),
        (NODE + "[ebpf]\nsyn_rate = -1\n", "ebpf.syn_rate", "from 0 to 10000"),
        (NODE + '[identity]\nmode = "spire"\n', "identity.workload_socket", "SPIRE agent's"),
        (NODE + SPIRE + "issuer = true\n", "identity.issuer", "SPIRE issues"),
        (NODE + '[identity]\nworkload_socket = "/w.sock"\n', "identity.workload_socket", '"spire"'),
        (NODE + '[identity]\ntrust_domain = "example.org"\n', "identity.trust_domain", ".test, .example or .invalid"),
        (NODE + '[identity]\ntrust_domain = "Dev.test"\n', "identity.trust_domain", "a-z"),
        (NODE + '[identity]\ntrust_domain = "spiffe://dev.test"\n', "identity.trust_domain", "a-z"),
        (NODE + "[identity]\nsvid_ttl_s = 59\n", "identity.svid_ttl_s", "from 60"),
        (NODE + "[identity]\nroot_ttl_s = 86400\n", "identity.root_ttl_s", "4 times svid_ttl_s"),
        (PRODUCTION, "node.production", "node.production = false"),
        (PRODUCTION + SPIRE.replace("example.org", "x0d.test"), "identity.trust_domain", "development"),
        (PRODUCTION + SPIRE + FOREIGN, "identity.federation[0].trust_domain", "development"),
        (NODE + SPIRE + FOREIGN.replace("b.test", "example.org"), "identity.federation[0].trust_domain", "own"),
        (NODE + SPIRE + FOREIGN + FOREIGN, "identity.federation[1].trust_domain", "twice"),
        (NODE + "[identity]\nissuer = true\n" + FOREIGN, "identity.federation[0].bundle_file", "missing"),
        (NODE + SPIRE + FOREIGN + 'bundle_file = "/b.pem"\n', "identity.federation[0].bundle_file", "issuer only"),
        (NODE + BINDING, "identity.bindings[0].id", "exactly one"),
        (NODE + BINDING + 'user = "a"\ngroup = "b"\n', "identity.bindings[0].id", "exactly one"),
        (NODE + BINDING + 'id = "spiffe://a.test/x*"\n', "identity.bindings[0].id", "at the end"),
        (NODE + BINDING + 'id = "spiffe://a.test"\n', "identity.bindings[0].id", "path is missing"),
        (NODE + BINDING + 'user = "a b"\n', "identity.bindings[0].user", "string"),
        (NODE + BINDING.replace("viewer", "root") + 'user = "a"\n', "identity.bindings[0].role", '"operator"'),
        (NODE + BINDING.replace("viewer", "peer") + 'user = "a"\n', "identity.bindings[0].role", "SPIFFE IDs"),
        (NODE + '[[identity.bindings]]\nuser = "a"\n', "identity.bindings[0].role", "missing"),
        (NODE + '[cluster]\nmembers = ["n1=10.0.0.1:9471"]\n', "cluster.members", "not available"),
        (NODE + '[healing]\nmode = "approve"\n', "healing.mode", "not available"),
        (NODE + '[healing]\nmode = "never"\n', "healing.mode", '"observe"'),
        (NODE + '[log]\nlevel = "loud"\n', "log.level", '"debug"'),
    ],
)
def test_refused(text: str, key: str, told: str) -> None:
    """Each kind of mistake is told with its key and what is allowed."""
    assert told in problems(text)[key]


def test_every_problem_at_once() -> None:
    """One reading tells all that is wrong."""
    told = problems("[node]\n[mesh]\nprobe_interval_ms = 0\n[log]\nlevel = 1\ncolour = 2\n")
    expected = {"node.name", "node.address", "node.production", "mesh.probe_interval_ms", "log.level", "log.colour"}
    assert expected == set(told)


def test_a_mistake_hides_no_other() -> None:
    """Values that are good are compared even where others are refused; what was refused is not compared."""
    told = problems(
        NODE
        + '[mesh]\nannounce = ["x", "192.0.2.0/24", "192.0.2.0/24", "192.0.2.1/32"]\n'
        + NEIGHBOUR.replace("n2", "n1")
        + "cost = 0\n"
        + NEIGHBOUR.replace("fe80::2", "192.0.2.1")
        + NEIGHBOUR.replace("fe80::2", "nonsense").replace("n2", "n3")
        + NEIGHBOUR.replace("n2", "n4")
    )
    expected = {
        "mesh.announce[0]": "is 'x'",
        "mesh.announce[2]": "also mesh.announce[1]",
        "mesh.neighbours[0].node": "this node itself",
        "mesh.neighbours[0].cost": "from 1 to 65535",
        "mesh.neighbours[2].address": "is 'nonsense'",
        "mesh.neighbours[3].address": "duplicate address",
    }
    assert set(expected) == set(told)
    assert [] == [key for key, words in expected.items() if words not in told[key]]


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot be read: No such file"), (b"[node", "is not valid TOML"), (b"a = '\xff'", "is not UTF-8: byte 5")],
    ids=["missing", "not TOML", "not UTF-8"],
)
def test_unreadable(tmp_path: Path, content: bytes | None, told: str) -> None:
    """A file that is missing, no TOML or no text is refused by name."""
    file = tmp_path / "x0d.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigInvalid, match=re.escape(f"{file}: {told}")):
        load(file)


SCALARS = (
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=40)
    | st.sampled_from(["n1", "10.255.0.1/32", "fe80::1", "auto", "eth0", "/run", "192.0.2.0/24"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner), max_leaves=5
)


def section_of(kind: type) -> st.SearchStrategy[object]:
    """A table with some of a section's keys, of any value."""
    names = [field.name for field in dataclasses.fields(kind)]
    return st.dictionaries(st.sampled_from(names) | st.text(max_size=8), VALUES, max_size=6)


DOCUMENTS = st.fixed_dictionaries(
    {"node": st.just({"name": "n1", "address": "10.255.0.1/32"}) | section_of(NodeConfig) | VALUES},
    optional={
        "listen": section_of(ListenConfig) | VALUES,
        "ebpf": section_of(EbpfConfig),
        "mesh": section_of(MeshConfig)
        | st.fixed_dictionaries({"neighbours": st.lists(section_of(NeighbourConfig), max_size=3)}),
        "cluster": section_of(ClusterConfig),
        "identity": section_of(IdentityConfig),
        "healing": section_of(HealingConfig) | VALUES,
        "log": section_of(LogConfig),
        "other": VALUES,
    },
)


@given(DOCUMENTS)
def test_any_document(document: dict[str, Any]) -> None:
    """Any document is a Config or raises ConfigInvalid, with a reason for each problem."""
    told: tuple[ConfigProblem, ...] | None = None
    try:
        assert "n1" == parse(document, FILE).node.name
    except ConfigInvalid as invalid:
        told = invalid.problems
        event("refused")
    assert told is None or (told and all(problem.reason for problem in told))


@given(st.binary(max_size=200))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Any bytes in a file are a Config or raise ConfigInvalid."""
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigInvalid):
        load(file)


def test_example() -> None:
    """The example that is installed is valid, also with each key that it shows commented out put in force."""
    text = EXAMPLE.read_text()
    assert "n1" == load(EXAMPLE).node.name
    in_force = re.sub(r"^# (\[\[?[a-z.]+\]\]?|[a-z_]+ = .*)$", r"\1", text, flags=re.MULTILINE)
    assert in_force != text
    assert isinstance(read(in_force), Config)


def test_example_shows_defaults() -> None:
    """What the example shows behind ``#`` as left out is the default."""
    in_force = re.sub(r"^# (\[\[?[a-z.]+\]\]?|[a-z_]+ = .*)$", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)
    shown = tomllib.loads(in_force)
    given_keys = tomllib.loads(EXAMPLE.read_text())
    default = read(PRODUCTION + SPIRE)
    for section, keys in shown.items():
        for key, value in keys.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                continue
            if key in given_keys.get(section, {}) or key not in {
                field.name for field in dataclasses.fields(getattr(default, section))
            }:
                continue
            expected = getattr(getattr(default, section), key)
            shown_value = tuple(value) if isinstance(value, list) else value
            assert (section, key, str(expected)) == (section, key, str(shown_value))
