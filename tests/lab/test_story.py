"""``scripts/demo``: the story holds here, and an interrupted one leaves nothing."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from lab import machine, network
from lab.conftest import missing
from lab.nodes import ROOT

pytestmark = pytest.mark.kernel
DEMO = str(ROOT / "scripts" / "demo")


@pytest.fixture
def demo_name() -> str:
    """A lab name that no other test run uses; skips where no lab can be."""
    if lack := missing():
        pytest.skip(f"a lab needs {lack}")
    return f"d{os.getpid()}"


def left_behind(name: str) -> list[str]:
    """Namespaces, mounts and files of a lab."""
    found = [each for each in machine.namespaces() if each.startswith(f"x0d-{name}-")]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if f"/{name}/" in line]
    return found + [str(path) for path in [network.directory_of(name)] if path.exists()]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_story_holds(demo_name: str) -> None:
    """The demo exits 0 when its story held, prints no escape codes without a terminal, and cleans up."""
    done = subprocess.run([DEMO, "--name", demo_name], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "The story held" in done.stdout
    assert "\x1b" not in done.stdout
    assert [] == left_behind(demo_name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(demo_name: str, number: int) -> None:
    """A signal to the demo, sent twice while its daemons start, ends it with a failure and removes the lab."""
    with subprocess.Popen([DEMO, "--name", demo_name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as demo:
        log = network.directory_of(demo_name) / "n4.log"
        assert machine.wait_until(lambda: log.exists() or demo.poll() is not None, 30)
        demo.send_signal(number)
        demo.send_signal(number)
        said, _ = demo.communicate(timeout=30)
    assert 130 == demo.returncode, said.decode()
    assert b"stopped; the lab is removed" in said
    assert [] == left_behind(demo_name)


def test_killed(demo_name: str) -> None:
    """When the story's process is killed, the script removes the lab."""
    with subprocess.Popen([DEMO, "--name", demo_name], stdout=subprocess.DEVNULL) as demo:
        log = network.directory_of(demo_name) / "n1.log"
        assert machine.wait_until(lambda: log.exists() or demo.poll() is not None, 30)
        (child,) = (int(pid) for pid in Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split())
        os.kill(child, signal.SIGKILL)
        demo.wait(30)
    assert 128 + signal.SIGKILL == demo.returncode
    assert [] == left_behind(demo_name)


def test_a_kept_lab_is_respected(demo_name: str) -> None:
    """A second demo beside a kept one is refused, says how to remove it, and leaves it alone."""
    directory = network.directory_of(demo_name)
    directory.mkdir(parents=True)
    try:
        done = subprocess.run([DEMO, "--name", demo_name], capture_output=True, text=True, check=False)
        assert 4 == done.returncode
        assert f"scripts/lab down --name {demo_name}" in done.stdout
        assert directory.exists()
    finally:
        network.remove(demo_name)
    assert [] == left_behind(demo_name)
