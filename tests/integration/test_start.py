"""What keeps the daemon from starting, and how it says so: bad files, taken ports, locked, full or spoilt state."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from integration.lone_daemon import ENVIRONMENT, LoneDaemon, Pair, fill, small_disk
from integration.mesh_lab import expect

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(60)]
EX_FAILED, EX_CONFIG = 1, 78

BAD = """
[node]
name = "n1"
address = "10.255.9.1/32"
state_dir = "{state}"
[mesh]
probe_intervall_ms = 50
probe_interval_ms = "50"
probe_miss_limit = 1
[[mesh.neighbours]]
node = "n2"
interface = "e1"
address = "2001:db8::1"
[identity]
mode = "spire"
[healing]
mode = "approve"
[cluster]
members = ["n1=10.255.0.1:9471"]
[nonsense]
"""
COMPLAINTS = {
    "mesh.probe_intervall_ms": 'did you mean "probe_interval_ms"?',
    "mesh.probe_interval_ms": "a whole number from 5 to 10000",
    "mesh.probe_miss_limit": "a whole number from 2 to 20",
    "mesh.neighbours[0].address": "link-local",
    "identity.workload_socket": "SPIRE agent's",
    "identity.trust_domain": "node.production is true",
    "healing.mode": "not available",
    "cluster.members": "not available",
    "nonsense": "unknown key",
}


@pytest.fixture
def n1(pair: Pair) -> LoneDaemon:
    """The daemon to start."""
    return pair.n1


def ends(file: Path) -> list[tuple[int, str]]:
    """Exit code and complaint of a check of the file and of a start with it, side by side."""
    command = [sys.executable, "-m", "x0d", "--config", str(file)]
    lives = [
        subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        for options in (["--check-config"], [])
    ]
    complaints = [life.communicate(timeout=30)[1] for life in lives]
    return [(life.returncode, complaint) for life, complaint in zip(lives, complaints, strict=True)]


def test_invalid_file(tmp_path: Path) -> None:
    """An invalid file exits 78, checked or started, and each error names file, key and what is allowed."""
    file = tmp_path / "x0d.toml"
    file.write_text(BAD.format(state=tmp_path / "state"))
    checked, started = ends(file)
    assert checked == started
    code, complaint = checked
    assert EX_CONFIG == code
    lines = complaint.splitlines()
    assert len(COMPLAINTS) == len(lines), complaint
    for key, allowed in COMPLAINTS.items():
        (line,) = [line for line in lines if line.startswith(f"{file}: {key}: ")]
        assert allowed in line
    assert not (tmp_path / "state").exists(), "a refused start leaves nothing behind"


def test_not_toml(tmp_path: Path) -> None:
    """A file that is no TOML exits 78 and names the line."""
    file = tmp_path / "x0d.toml"
    file.write_text("[node]\nname = \n")
    for code, complaint in ends(file):
        assert EX_CONFIG == code
        assert complaint.startswith(f"{file}: is not valid TOML: ")
        assert "line 2" in complaint


def test_missing_file(n1: LoneDaemon) -> None:
    """A file that is not there exits 78 and names it."""
    n1.config.unlink()
    for options in (["--check-config"], []):
        done = n1.run(*options)
        assert EX_CONFIG == done.returncode
        assert f"{n1.config}: cannot be read: No such file or directory" in done.stderr


def test_check_config_looks_at_the_file_alone(n1: LoneDaemon) -> None:
    """--check-config accepts interfaces that do not exist, and starts, binds and makes nothing."""
    n1.write({"mesh": {"interfaces": ["nowhere0"]}}, [("n2", "nowhere1", "fe80::2")])
    before = sorted(n1.state.rglob("*"))
    done = n1.run("--check-config")
    assert (0, f"{n1.config}: valid\n") == (done.returncode, done.stdout)
    assert not (n1.directory / "run").exists()
    assert before == sorted(n1.state.rglob("*"))


def test_metrics_port_in_use(n1: LoneDaemon) -> None:
    """A metrics port that somebody else holds exits 1 and names port and key."""

    def take() -> socket.socket:
        return socket.create_server(("127.0.0.1", 9475))

    with n1.place.call(take):
        done = n1.run()
    assert EX_FAILED == done.returncode, done.stderr
    assert "127.0.0.1:9475" in done.stderr
    assert "listen.metrics_port" in done.stderr


def test_mesh_port_in_use(pair: Pair) -> None:
    """A mesh port that somebody else holds exits 1 and names it."""
    pair.write()

    def take() -> socket.socket:
        taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        taken.bind(("10.9.1.0", 9473))
        return taken

    with pair.n1.place.call(take):
        done = pair.n1.run()
    assert EX_FAILED == done.returncode, done.stderr
    assert "10.9.1.0:9473" in done.stderr


def test_local_address_not_ours(pair: Pair) -> None:
    """A link whose network we have no address in waits and says so; it begins when the address comes."""
    pair.write()
    pair.n1.place.ip("addr flush dev e1")
    with pair.n2.living(), pair.n1.living() as life:
        link = life.link("n2")
        assert ("waiting", "e1 has no address on the network of 10.9.1.1") == (link.state, link.state_reason)
        pair.n1.place.ip("addr add 10.9.1.0/31 dev e1")
        expect("the link to come up", lambda: life.link("n2").state == "up")


def test_second_instance(pair: Pair) -> None:
    """A second daemon on the same state directory exits 1 and names the first; the first is not disturbed."""
    n1 = pair.n1
    with n1.living() as life:
        n1.write({"listen": {"metrics_port": 19475}})
        done = n1.run()
        assert EX_FAILED == done.returncode
        assert f"pid {life.process.pid}" in done.stderr
        assert life.process.pid == life.status().pid


def test_read_only_state(n1: LoneDaemon) -> None:
    """A read-only state directory exits 1 and says that it is."""
    script = 'mount -t tmpfs -o ro x0dt-ro "$0" && exec "$@"'
    done = n1.run(prefix=["unshare", "-m", "sh", "-ec", script, str(n1.state)])
    assert EX_FAILED == done.returncode, done.stderr
    assert str(n1.state) in done.stderr
    assert "read-only" in done.stderr


def test_full_state(n1: LoneDaemon) -> None:
    """A full state directory exits 1 and says that it is."""
    with small_disk(n1.state, "64k"):
        fill(n1.state)
        done = n1.run()
    assert EX_FAILED == done.returncode, done.stderr
    assert str(n1.state) in done.stderr
    assert "full" in done.stderr


def test_corrupt_knowledge(n1: LoneDaemon) -> None:
    """A corrupt knowledge store is moved aside, as it is, and an alert says where to; the daemon runs."""
    spoilt = b"SQLite format 3\0" + b"\xa5" * 8000
    (n1.state / "knowledge.db").write_bytes(spoilt)
    with n1.living() as life:
        (alert,) = life.status().alerts
        moved = [path for path in n1.state.iterdir() if path.is_file() and path.read_bytes() == spoilt]
        assert 1 == len(moved)
        assert str(moved[0]) in alert
        assert "knowledge.db" != moved[0].name


def test_no_bpf_file_system(n1: LoneDaemon) -> None:
    """A bpffs_dir outside a bpf filesystem exits 78 and says how to mend it."""
    n1.write({"node": {"bpffs_dir": str(n1.directory / "plain")}})
    done = n1.run()
    assert EX_CONFIG == done.returncode, done.stderr
    assert "mount -t bpf" not in done.stderr  # it would hide what else is in that directory
    assert "node.bpffs_dir must be a directory of a bpf filesystem" in done.stderr


def test_no_capability(n1: LoneDaemon) -> None:
    """Without CAP_BPF a start exits 78 and names it."""
    done = n1.run(prefix=["setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin"])
    assert EX_CONFIG == done.returncode, done.stderr
    assert "CAP_BPF" in done.stderr


def test_no_btf(n1: LoneDaemon) -> None:
    """Without the kernel's BTF the XDP program loads all the same, and the doctor says what is missing."""
    script = 'mount -t tmpfs x0dt-btf /sys/kernel/btf && exec "$@"'
    with n1.living(prefix=["unshare", "-m", "sh", "-ec", script, "sh"]) as life:
        assert "attached" == life.interface("e1").state
        assert "native" == life.interface("e1").mode
        doctor = life.x0ctl("-o", "json", "doctor")
    assert '"btf"' in doctor.stdout.lower(), doctor.stdout + doctor.stderr
