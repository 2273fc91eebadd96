"""x0d on Debian 12's own kernel, 6.1: no TCX, another verifier, other veth code.  Booted without KVM, so slowly."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from lab import wires

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
BOOT = Path(__file__).with_name("boot-virtme")
RUN_S = 1500
SLOWNESS = 8  # an emulated processor: probes every 400 ms
TOOLS = ("vng", "qemu-system-x86_64", "apt-get", "apt-cache", "dpkg-deb", "script", "depmod")
STDLIB = sysconfig.get_path("stdlib")
PATH = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"


# One process fills the guest's cache, before four daemons start at once.
WARM = ".venv/bin/python -c 'import x0d.node, x0ctl.cli'"


@pytest.fixture(scope="module")
def kernel() -> Path:
    """The unpacked kernel package that Debian's linux-image-amd64 stands for, downloaded once."""
    for tool in TOOLS:
        if not shutil.which(tool, path=PATH):
            pytest.skip(f"another kernel needs the command {tool}; scripts/setup --all installs it")
    if os.geteuid() != 0:
        pytest.skip("another kernel needs root")
    shown = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True, check=True)
    found = re.search(r"Depends: (linux-image-\S+)", shown.stdout)
    assert found, f"apt-cache knows no kernel package: {shown.stdout}{shown.stderr}"
    unpacked = CACHE / found[1]
    if not unpacked.exists():
        part = CACHE / f"{found[1]}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        subprocess.run(["apt-get", "download", "-qq", found[1]], cwd=part, check=True)
        (archive,) = part.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, part / "root"], check=True)
        (part / "root").rename(unpacked)
        shutil.rmtree(part)
    return unpacked


def on_kernel(kernel: Path, command: str) -> "subprocess.CompletedProcess[str]":
    """Run a shell command on the kernel; the BPF objects are built here, where compiling takes no minute."""
    wires.build(CACHE)
    environment = {**os.environ, "PATH": PATH, "RUN_S": str(RUN_S), "RODIRS": f"{ROOT}:{STDLIB}"}
    words = f"cd '{ROOT}' && export PATH=$PATH:/usr/sbin:/sbin PYTHONPATH=tests:daemon && {command}"
    return subprocess.run([BOOT, kernel, words], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.timeout(RUN_S + 60)
def test_faults_of_the_lab(kernel: Path) -> None:
    """The lab carries packets on 6.1; cuts and delays begin and end (faults are clsact filters there)."""
    done = on_kernel(kernel, ".venv/bin/python tests/integration/faults_job.py && ls /run/netns /run/x0d-lab")
    release, *seen = done.stdout.splitlines()
    assert 0 == done.returncode, done.stdout + done.stderr
    assert release.startswith("6.1.")
    expected = ["whole: 2 received", "cut: 0 received", "healed: 2 received", "delayed: 400 ms and more"]
    assert [*expected, "/run/netns:", "", "/run/x0d-lab:"] == seen


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.timeout(RUN_S + 60)
def test_story(kernel: Path) -> None:
    """The demo's story holds on 6.1: a silent cut is healed, a killed daemon loses nothing and is adopted."""
    done = on_kernel(kernel, f"uname -r && {WARM} && .venv/bin/python -m lab.demo --slowness {SLOWNESS}")
    assert 0 == done.returncode, done.stdout + done.stderr
    assert done.stdout.startswith("6.1.")
    assert "The story held" in done.stdout
