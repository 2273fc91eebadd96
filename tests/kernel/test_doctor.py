"""The doctor's report: its parts on given files, and the whole on this machine."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import json_format

from kernel.xdp_world import REPOSITORY, World, new_world
from x0d import doctor
from x0d.errors import NotSupported
from x0d.kernel import pins
from x0d.service.views import DoctorCheck, DoctorReport
from x0d.v1 import node_pb2

ROOT = "CapInh:\t0000000000000000\nCapEff:\t000001ffffffffff\n"
SERVICE = "CapEff:\t000000c000001000\n"
NOBODY = "CapEff:\t0000000000000000\n"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A namespace of the test's own."""
    with new_world(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (SERVICE, ("CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF")),
        (NOBODY, ()),
        ("", ()),
        ("CapEff:\t0000020000000000", ("CAP_41",)),
    ],
)
def test_capabilities_have_names(status: str, expected: tuple[str, ...]) -> None:
    """Bits of CapEff are shown by name, one that is not known yet by number."""
    assert expected == doctor.read_capabilities(status)


def test_root_has_all() -> None:
    """Forty-one bits are all capabilities there are."""
    assert len(doctor.read_capabilities(ROOT)) == 41


@pytest.mark.parametrize(
    ("release", "expected"),
    [("6.1.0-39-amd64", (6, 1)), ("5.10.234", (5, 10)), ("6.18-rc1", (6, 18)), ("strange", (0, 0))],
)
def test_releases_are_read(release: str, expected: tuple[int, int]) -> None:
    """The first two numbers decide."""
    assert expected == doctor.parse_release(release)


def test_old_kernel_fails() -> None:
    """Below 5.10 the kernel check fails and says what to do."""
    assert doctor._check_kernel("5.4.0").outcome == doctor.FAILED
    assert doctor._check_kernel("5.10.0").outcome == doctor.OK


def write_sysctls(root: Path, values: dict[str, str]) -> None:
    """Make a tree like /proc/sys."""
    for name, value in values.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n")


def test_sysctls_are_judged(tmp_path: Path) -> None:
    """Each wrong sysctl is named with its remedy; strict filtering counts by interface and ``all``."""
    right = {name.replace(".", "/"): wanted for name, (wanted, _outcome, _loss) in doctor.SYSCTLS.items()}
    filters = {f"net/ipv4/conf/{name}/rp_filter": "0" for name in ("all", "default", "eth0.100")}
    write_sysctls(tmp_path, {**right, **filters})
    assert [doctor.OK] * (len(right) + 1) == [check.outcome for check in doctor.check_sysctls(tmp_path)]
    write_sysctls(tmp_path, {"net/ipv4/ip_forward": "0", "net/ipv4/conf/eth0.100/rp_filter": "1"})
    wrong = {c.name: c for c in doctor.check_sysctls(tmp_path) if c.outcome != doctor.OK}
    assert {"net.ipv4.ip_forward", "net.ipv4.conf.*.rp_filter"} == set(wrong)
    assert wrong["net.ipv4.ip_forward"].remedy == "run: sysctl -w net.ipv4.ip_forward=1"
    assert "eth0.100" in wrong["net.ipv4.conf.*.rp_filter"].detail
    write_sysctls(tmp_path, {"net/ipv4/conf/all/rp_filter": "2", "net/ipv4/ip_forward": "1"})
    assert {doctor.OK} == {check.outcome for check in doctor.check_sysctls(tmp_path)}
    (tmp_path / "net/ipv4/nexthop_compat_mode").unlink()
    assert [doctor.WARNING] == [c.outcome for c in doctor.check_sysctls(tmp_path) if c.outcome != doctor.OK]


@pytest.mark.parametrize(
    ("bpffs_dir", "advice"),
    [
        ("/sys/fs/bpf", "run: mount -t bpf bpf /sys/fs/bpf"),
        ("/sys/fs/bpf/x0d", "run: mount -t bpf bpf /sys/fs/bpf"),
        ("/sys/fs/bpf/site/x0d", "run: mount -t bpf bpf /sys/fs/bpf"),
        ("/run/x0d-bpf", "/run/x0d-bpf exists only inside x0d.service"),
        ("/sys/fs/bpfx/x0d", "a bind mount of one"),
        ("/", "a bind mount of one"),
    ],
)
def test_no_advice_hides_files(bpffs_dir: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only mount that is ever advised is the usual one: over another directory it would hide what is there."""
    monkeypatch.setattr(pins, "is_bpffs", lambda _path: False)
    told = pins.how_to_have_bpffs(Path(bpffs_dir))
    assert advice in told
    assert ["/sys/fs/bpf"] * told.count("mount -t bpf bpf ") == re.findall(r"mount -t bpf bpf (\S+)", told)


def test_nothing_is_mounted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the usual bpf filesystem is mounted, a directory that is missing in it is to be made."""
    monkeypatch.setattr(pins, "is_bpffs", lambda path: path == Path("/sys/fs/bpf"))
    assert "run: mkdir -p /sys/fs/bpf/site/x0d" in pins.how_to_have_bpffs(Path("/sys/fs/bpf/site/x0d"))


def test_a_directory_outside_bpffs(tmp_path: Path) -> None:
    """Doctor and start name the same remedy for a directory in no bpf filesystem."""
    bpffs_dir = tmp_path / "x0d-bpf"
    told = pins.how_to_have_bpffs(bpffs_dir)
    check = doctor._check_bpffs(bpffs_dir)
    assert (doctor.FAILED, told) == (check.outcome, check.remedy)
    with pytest.raises(NotSupported, match=re.escape(told)):
        pins.prepare_directory(bpffs_dir)


def test_json_is_the_proto() -> None:
    """The dictionary parses as RunDoctorResponse and comes back the same."""
    checks = (DoctorCheck("btf", "ok", "there"), DoctorCheck("bpffs", "failed", "not there", "mount it"))
    report = DoctorReport("6.1.0", 7, ("CAP_BPF",), checks)
    shown = doctor.to_json_dict(report)
    message = json_format.ParseDict(json.loads(json.dumps(shown)), node_pb2.RunDoctorResponse())
    assert shown == json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def test_text_shows_remedies() -> None:
    """Every check has a line, and a shortfall its remedy."""
    checks = (DoctorCheck("btf", "ok", "there"), DoctorCheck("bpffs", "failed", "not there", "mount it"))
    text = doctor.render_text(DoctorReport("6.1.0", 7, (), checks, "none"))
    assert text.splitlines() == [
        "kernel 6.1.0, uid 7, capabilities: none",
        "ok       btf    there",
        "failed   bpffs  not there",
        "                -> mount it",
        "1 ok, 0 warning, 1 failed",
    ]


@pytest.mark.kernel
def test_this_machine(world: World) -> None:
    """Root on a machine with a bpf filesystem has all that the data plane needs, and the doctor makes nothing there."""
    report = world.run(lambda: doctor.run(world.bpffs_dir))
    outcomes = {check.name: check.outcome for check in report.checks}
    needed = ["kernel", "libbpf", "kernel_program", "capabilities", "program_xdp", "xdp_mode_native", "bpffs"]
    assert [doctor.OK] * len(needed) == [outcomes[name] for name in needed]
    assert outcomes["net.ipv4.ip_forward"] == doctor.FAILED  # a new namespace forwards nothing
    assert not world.bpffs_dir.exists()
    assert all(check.remedy for check in report.checks if check.outcome != doctor.OK)
    assert not any(check.remedy for check in report.checks if check.outcome == doctor.OK)


@pytest.mark.kernel
def test_without_rights_it_still_answers(world: World) -> None:
    """A user without capabilities gets a whole report, with what is missing as failed."""
    # Modules are imported before the rights go: the checkout may be root's own.
    script = (
        "import sys, os, json; sys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\nfrom x0d import doctor\n"
        "os.setgroups([]); os.setuid(65534)\n"
        "print(json.dumps(doctor.to_json_dict(doctor.run(Path(sys.argv[2])))))"
    )
    command = [sys.executable, "-c", script, str(REPOSITORY / "daemon"), str(world.bpffs_dir)]
    done = world.run(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    assert done.stderr == ""
    shown = json.loads(done.stdout)
    outcomes = {check["name"]: check["outcome"] for check in shown["checks"]}
    assert (shown["uid"], shown["capabilities"], shown["capabilities_summary"]) == (65534, [], "none")
    failed = {name for name, outcome in outcomes.items() if outcome == doctor.FAILED}
    assert failed >= {"capabilities", "program_xdp", "bpffs"}
