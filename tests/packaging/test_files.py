"""The files that packaging ships, read without installing them."""

import configparser
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from x0d import doctor
from x0d.config import load

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted(path.name for path in (ROOT / "packaging").glob("*.lock"))


def test_example_configuration_is_valid() -> None:
    """What scripts/install puts into /etc/x0d starts as it is, with the pins where the unit binds them."""
    config = load(ROOT / "packaging" / "x0d.toml")
    assert Path("/run/x0d-bpf") == config.node.bpffs_dir


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_has_hashes_and_names_no_source(lock: str) -> None:
    """Every locked package has an exact version and a hash, and no line says where to get it."""
    text = (ROOT / "packaging" / lock).read_text()
    packages = re.split(r"\n(?=[a-z])", text.strip())
    assert [] == [package for package in packages if "--hash=sha256:" not in package or "==" not in package]
    assert [] == [line for line in text.splitlines() if "://" in line or line.startswith("-")]


def test_locks_hold_what_pyproject_asks_for() -> None:
    """A dependency changed in pyproject.toml and not locked again is noticed here, not on somebody's machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {
        "requirements.lock": project["project"]["dependencies"],
        "requirements-build.lock": project["dependency-groups"]["build"],
        "requirements-dev.lock": project["project"]["dependencies"] + project["dependency-groups"]["dev"],
    }
    for lock, pins in wanted.items():
        text = (ROOT / "packaging" / lock).read_text()
        assert [] == [pin for pin in pins if not re.search(rf"^{re.escape(pin)}( |$)", text, re.MULTILINE)], lock


def test_build_backend_is_the_locked_one() -> None:
    """Builds run without isolation, so [build-system] and the locked build tools have to agree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["build-system"]["requires"]) <= set(project["dependency-groups"]["build"])


def test_unit_takes_bpf_away_before_giving_it_back() -> None:
    """bpf(2) is among @privileged: named before that set is removed, every map would be refused."""
    lines = (ROOT / "systemd" / "x0d.service").read_text().splitlines()
    filters = [line.removeprefix("SystemCallFilter=") for line in lines if line.startswith("SystemCallFilter=")]
    assert ["@system-service", "~@privileged @resources", "bpf perf_event_open"] == filters


def test_unit_binds_what_tmpfiles_makes() -> None:
    """The directory for pins exists for user x0d, and the unit shows it where the example looks for it."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have capitals
    unit.read(ROOT / "systemd" / "x0d.service")
    source, _, target = unit["Service"]["BindPaths"].removeprefix("-").partition(":")
    made = [
        line.split() for line in (ROOT / "systemd" / "x0d.tmpfiles.conf").read_text().splitlines() if line[0] != "#"
    ]
    assert [["d", source, "0700", "x0d", "x0d", "-"]] == made
    example = tomllib.loads((ROOT / "packaging" / "x0d.toml").read_text())
    assert example["node"]["bpffs_dir"] == target


def test_sysctls_are_those_that_the_doctor_wants() -> None:
    """After an installation the doctor has no complaint about a sysctl that the installed file could have set."""
    lines = (ROOT / "systemd" / "x0d.sysctl.conf").read_text().splitlines()
    given = dict(re.split(r"\s*=\s*", line) for line in lines if line and not line.startswith("#"))
    wanted = {name: value for name, (value, _outcome, _loss) in doctor.SYSCTLS.items()}
    assert wanted == {name: given.get(name) for name in wanted}
    for name, value in given.items():
        if name.startswith("net.ipv4.conf.all."):
            assert value == given.get(name.replace(".all.", ".default.")), f"{name}: interfaces made later differ"


@pytest.mark.parametrize("script", ["setup", "check", "test", "install", "generate"])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_usage_is_told_at_once(tmp_path: Path, script: str, option: str) -> None:
    """--help prints the usage and does nothing else: no program but sed is there to do it with."""
    (tmp_path / "sed").symlink_to("/bin/sed")
    command = ["/bin/bash", str(ROOT / "scripts" / script), option]
    done = subprocess.run(
        command, env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert f"  scripts/{script} " in done.stdout
    assert "#!" not in done.stdout
    assert "set -" not in done.stdout


def test_check_says_its_steps() -> None:
    """The usage of scripts/check names every step there is, in its order; an unknown one is refused with the list."""
    script = ROOT / "scripts" / "check"
    steps = re.findall(r"^check_(\w+)\(\)", script.read_text(), re.MULTILINE)
    told = subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout
    named = re.findall(r"^  (\w+)  ", told, re.MULTILINE)
    assert sorted(steps) == sorted(named)
    refused = subprocess.run([script, "nonsense"], capture_output=True, text=True, check=False)
    assert (2, True) == (refused.returncode, " ".join(named) in refused.stderr)
