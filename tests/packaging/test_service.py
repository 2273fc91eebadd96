"""x0d as it runs in production: installed by scripts/install, started by a real systemd, as its user.

``boot-unshare`` boots this machine's own files in new namespaces (4 s); what the guest writes is thrown
away.  The guest has no network but loopback and a veth pair, so dependencies come from a wheelhouse that
the locks describe.
"""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BOOT = Path(__file__).with_name("boot-unshare")
UNIT = "/usr/lib/systemd/system/x0d.service"
CAPABILITIES = 1 << 39 | 1 << 38 | 1 << 12
"""CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, as capabilities(7) numbers them."""
EXPOSURE_MAX = 2.5
"""What `systemd-analyze security` may say at most; distributions' network daemons stand between 4.4 and 9.5."""
INTERFACE = "x0dv0"
CONFIG = f"""
[node]
name = "n1"
address = "10.255.0.1/32"
bpffs_dir = "/run/x0d-bpf"
production = false
[identity]
issuer = true
[[mesh.neighbours]]
node = "n2"
interface = "{INTERFACE}"
address = "fe80::2"
[healing]
mode = "observe"
"""

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]


class Guest:
    """A booted systemd; commands run inside it as root."""

    def __init__(self, state: str) -> None:
        self.state = state

    def argv(self, *command: str) -> list[str]:
        """Return what runs ``command`` in the guest."""
        return [str(BOOT), "exec", self.state, *command]

    def run(self, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is, and return its output and status."""
        return subprocess.run(
            self.argv(*command), input=stdin, capture_output=True, text=True, check=False, timeout=120
        )

    def output(self, *command: str, stdin: str = "") -> str:
        """Run a command that must succeed and return what it printed."""
        result = self.run(*command, stdin=stdin)
        assert 0 == result.returncode, f"{' '.join(command)}\n{result.stdout}{result.stderr}{self.journal()}"
        return result.stdout.strip()

    def show(self, name: str) -> str:
        """Return one property of the unit."""
        return self.output("systemctl", "show", "x0d", "--value", "--property", name)

    def journal(self) -> str:
        """Return what the unit last wrote, and what systemd wrote about it."""
        return self.run("journalctl", "--unit=x0d", "--output=cat", "--no-pager", "--lines=40").stdout

    def status(self) -> dict[str, object]:
        """Ask the daemon, as root over its socket."""
        status: dict[str, object] = json.loads(self.output("x0ctl", "-o", "json", "status"))
        return status

    def write(self, path: str, text: str) -> None:
        """Write a file in the guest."""
        self.output("tee", path, stdin=text)


def wheelhouse() -> Path:
    """Return a directory in the checkout with what the locks name, downloading it the first time."""
    locks = b"".join(path.read_bytes() for path in sorted((ROOT / "packaging").glob("requirements*.lock")))
    directory = ROOT / ".cache" / f"wheelhouse-{hashlib.sha256(locks).hexdigest()[:12]}"
    if not (directory / "complete").exists():
        subprocess.run([ROOT / "packaging" / "wheelhouse", directory], check=True, timeout=240)
        (directory / "complete").touch()
    return directory


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """Boot a guest with a veth pair and x0d installed; it ends with the module."""
    wheels = wheelhouse()
    environment = os.environ | {"TMPDIR": str(tmp_path_factory.mktemp("guest"))}
    boot = [str(BOOT), "start", "--with", str(ROOT), "/"]
    started = subprocess.run(boot, env=environment, capture_output=True, text=True, check=False, timeout=90)
    assert 0 == started.returncode, started.stderr
    guest = Guest(started.stdout.strip())
    try:
        guest.output("systemctl", "log-target", "journal")
        guest.output("ip", "link", "add", INTERFACE, "type", "veth", "peer", "name", "x0dv1")
        for end in (INTERFACE, "x0dv1"):
            guest.output("ip", "link", "set", end, "up")
        guest.output(str(ROOT / "scripts" / "install"), "--wheelhouse", str(wheels))
        yield guest
    finally:
        subprocess.run([BOOT, "stop", guest.state], check=False, capture_output=True, timeout=60)


@pytest.fixture
def guest(booted: Guest) -> Iterator[Guest]:
    """Start the installed daemon with a good configuration; stop it afterwards."""
    booted.write("/etc/x0d/x0d.toml", CONFIG)
    booted.output("systemctl", "start", "x0d")
    try:
        yield booted
    finally:
        booted.run("systemctl", "stop", "x0d")
        booted.run("systemctl", "reset-failed", "x0d")


def process_status(guest: Guest) -> dict[str, str]:
    """Read /proc/PID/status of the unit's main process."""
    text = guest.output("cat", f"/proc/{guest.show('MainPID')}/status")
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def test_unit_is_sound_and_little_exposed(booted: Guest) -> None:
    """The unit draws no complaint from systemd, and the score of the exposure stays low."""
    assert "" == booted.output("systemd-analyze", "verify", UNIT)
    verdict = booted.output("systemd-analyze", "security", "--no-pager", "x0d.service").splitlines()[-1]
    print(verdict)  # shown by -rP
    score = re.search(r"exposure level for x0d\.service: ([0-9.]+)", verdict)
    assert score is not None
    assert float(score[1]) <= EXPOSURE_MAX


def test_runs_as_its_user_with_three_capabilities(guest: Guest) -> None:
    """The main process is user x0d, can gain nothing, has three capabilities, and its XDP program is attached."""
    status = process_status(guest)
    uid = guest.output("id", "-u", "x0d")
    assert [uid] * 4 == status["Uid"].split()
    assert "0" != uid
    assert [CAPABILITIES] * 4 == [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")]
    assert ("1", "2") == (status["NoNewPrivs"], status["Seccomp"])
    interfaces = guest.status()["interfaces"]
    assert isinstance(interfaces, list)
    assert [(INTERFACE, "attached", "native")] == [(i["name"], i["state"], i["mode"]) for i in interfaces]


def test_metrics_please_promtool(guest: Guest) -> None:
    """A scrape answers with our build, and promtool has no complaint about any of it."""
    scrape = guest.output("curl", "--silent", "--fail", "http://127.0.0.1:9475/metrics")
    assert "x0d_build_info{" in scrape
    checked = guest.run("promtool", "check", "metrics", stdin=scrape + "\n")
    assert (0, "") == (checked.returncode, checked.stdout + checked.stderr)


def test_reload_applies_a_good_configuration(guest: Guest) -> None:
    """After `systemctl reload` the running process works by the new file."""
    pid = guest.show("MainPID")
    guest.write("/etc/x0d/x0d.toml", CONFIG.replace('mode = "observe"', 'mode = "auto"'))
    guest.output("systemctl", "reload", "x0d")
    assert ("auto", pid) == (guest.status()["healing_mode"], guest.show("MainPID"))


def test_reload_of_a_bad_configuration_fails_and_changes_nothing(guest: Guest) -> None:
    """`systemctl reload` fails, the journal names the wrong key, and the daemon goes on as it was."""
    pid = guest.show("MainPID")
    guest.write("/etc/x0d/x0d.toml", CONFIG.replace('mode = "observe"', 'mode = "reckless"'))
    assert 0 != guest.run("systemctl", "reload", "x0d").returncode
    assert "healing.mode" in guest.journal()
    assert ("active", "observe", pid) == (
        guest.show("ActiveState"),
        guest.status()["healing_mode"],
        guest.show("MainPID"),
    )


def test_watchdog_replaces_a_daemon_that_stands_still(guest: Guest) -> None:
    """A stopped main process is killed after WatchdogSec, and its successor adopts the data plane."""
    pid = guest.show("MainPID")
    follow = guest.argv("journalctl", "--unit=x0d", "--follow", "--lines=0", "--output=cat")
    with subprocess.Popen(["timeout", "30", *follow], stdout=subprocess.PIPE, text=True) as journal:
        assert journal.stdout is not None
        guest.output("systemctl", "kill", "--kill-whom=main", "--signal=STOP", "x0d")
        lines = []
        for line in journal.stdout:
            lines.append(line.strip())
            if line.startswith("Started x0d.service"):
                break
        journal.terminate()
    assert any("Watchdog timeout" in line for line in lines), lines
    assert "active" == guest.show("ActiveState")
    assert pid != guest.show("MainPID")
    interfaces = guest.status()["interfaces"]
    assert isinstance(interfaces, list)
    assert [("attached", True)] == [(i["state"], i["adopted"]) for i in interfaces]


def test_clean_stop_leaves_the_data_plane(guest: Guest) -> None:
    """`systemctl stop` succeeds, and the XDP program stays attached."""
    guest.output("systemctl", "stop", "x0d")
    assert ("inactive", "success") == (guest.show("ActiveState"), guest.show("Result"))
    assert "xdp" in guest.output("ip", "link", "show", INTERFACE)


def test_start_with_a_bad_configuration_is_not_tried_again(booted: Guest) -> None:
    """A file that no restart mends ends with status 78, once."""
    booted.write("/etc/x0d/x0d.toml", CONFIG + "[no_such_section]\n")
    try:
        assert 0 != booted.run("systemctl", "start", "x0d").returncode
        assert ("failed", "78", "0") == tuple(
            booted.show(name) for name in ("ActiveState", "ExecMainStatus", "NRestarts")
        )
        assert "no_such_section" in booted.journal()
    finally:
        booted.run("systemctl", "reset-failed", "x0d")


def test_removal_leaves_configuration_and_state_alone(booted: Guest) -> None:
    """`scripts/install --remove` detaches XDP, takes address and programs; --purge takes the rest."""
    install = str(ROOT / "scripts" / "install")
    booted.write("/etc/x0d/x0d.toml", CONFIG)
    booted.output("systemctl", "start", "x0d")
    assert "10.255.0.1/32" in booted.output("ip", "address", "show", "lo")
    booted.output(install, "--remove")
    assert "10.255.0.1/32" not in booted.output("ip", "address", "show", "lo")
    assert "xdp" not in booted.output("ip", "link", "show", INTERFACE)
    assert 0 != booted.run("systemctl", "cat", "x0d").returncode
    gone = ["/usr/lib/x0d", "/usr/bin/x0d", "/usr/bin/x0ctl", UNIT, "/sys/fs/bpf/x0d", "/usr/lib/sysctl.d/60-x0d.conf"]
    assert [] == [path for path in gone if booted.run("test", "-e", path).returncode == 0]
    assert CONFIG.strip() == booted.output("cat", "/etc/x0d/x0d.toml")
    booted.output("test", "-s", "/var/lib/x0d/knowledge.db")
    booted.output(install, "--remove", "--purge")
    assert [] == [path for path in ("/etc/x0d", "/var/lib/x0d") if booted.run("test", "-e", path).returncode == 0]
    booted.output(install, "--wheelhouse", str(wheelhouse()))
    assert "[node]" in booted.output("cat", "/etc/x0d/x0d.toml")
