"""The loader with no more than the service has: another uid, three capabilities, no locked memory; without BTF too."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel.plane_jobs import start
from kernel.plane_objects import build, put
from kernel.plane_world import PlaneWorld, new_plane_world
from kernel.xdp_world import REPOSITORY
from x0d.kernel.dataplane import OBJECT_FILE
from x0d.kernel.xdp_query import XdpHook

pytestmark = pytest.mark.kernel

NOBODY = 65534
CAPABILITIES = "+bpf,+net_admin,+perfmon"
AS_THE_SERVICE = (
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    f"--inh-caps=-all,{CAPABILITIES}",
    f"--ambient-caps=-all,{CAPABILITIES}",
    f"--bounding-set=-all,{CAPABILITIES}",
    "--no-new-privs",
    "prlimit",
    "--memlock=0:0",
)
WITHOUT_BTF = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /sys/kernel/btf && exec "$@"', "sh")


@pytest.fixture
def world() -> Iterator[PlaneWorld]:
    """A world that any user may look into; pytest's own directories are root's."""
    directory = Path(tempfile.mkdtemp(prefix="x0dt-"))
    directory.chmod(0o755)
    try:
        with new_plane_world(directory) as made:
            yield made
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def objects(world: PlaneWorld) -> Path:
    """A directory of the installed object and, below, of the next one, with another root."""
    directory = world.bpffs_dir.parent.parent / "installed"
    put(OBJECT_FILE.parent, directory)
    build(directory / "next", marked=["root"])
    return directory


def run_once(world: PlaneWorld, objects: Path, bounds: tuple[str, ...]) -> dict[str, Any]:
    """What a loader process says that came of everything a data plane does."""
    arguments = ["once", str(world.bpffs_dir), "va", str(objects), str(objects / "next" / "objects")]
    process = start(world, "loader_job.py", arguments, bounds)
    printed, _errors = process.communicate(timeout=60)
    assert 0 == process.returncode
    answer: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return answer


def check(world: PlaneWorld, index: int, answer: dict[str, Any]) -> None:
    """All of it worked, and nothing is left."""
    assert ("native", True, True) == (answer["mode"], answer["frags"], answer["adopted"])
    assert ["x0d_root_frags"] == answer["replaced"]
    assert {"loaded"} == {state for name, state in answer["states"].items() if name.endswith("_frags")}
    assert answer["memory"]["x0d_sources"] > 0
    assert [] == answer["left"]
    assert XdpHook("", 0) == world.hook(index)


def test_three_capabilities_suffice(world: PlaneWorld, objects: Path) -> None:
    """As another user with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON alone: load, attach, adopt, read, upgrade, remove."""
    index = world.world.add_veth("va", "vb")
    for path in (world.bpffs_dir.parent, objects):
        os.chown(path, NOBODY, NOBODY)
    check(world, index, run_once(world, objects, AS_THE_SERVICE))


def test_without_btf_xdp_loads_as_ever(world: PlaneWorld, objects: Path) -> None:
    """A kernel that hides its BTF takes the XDP programs all the same: they are relocated to none of its types."""
    index = world.world.add_veth("va", "vb")
    hidden = (*WITHOUT_BTF, "sh", "-c", 'test ! -e /sys/kernel/btf/vmlinux && exec "$@"', "sh")
    check(world, index, run_once(world, objects, hidden))


@pytest.mark.parametrize(
    ("missing", "named"), [("bpf", "CAP_BPF"), ("net_admin", "CAP_NET_ADMIN"), ("perfmon", "CAP_PERFMON")]
)
def test_missing_capability_is_named(world: PlaneWorld, objects: Path, missing: str, named: str) -> None:
    """Without one of the three the start or the attachment fails with a sentence that names it."""
    index = world.world.add_veth("va", "vb")
    for path in (world.bpffs_dir.parent, objects):
        os.chown(path, NOBODY, NOBODY)
    fewer = tuple(word.replace(f"+{missing}", f"-{missing}") for word in AS_THE_SERVICE)
    arguments = ["once", str(world.bpffs_dir), "va", str(objects), str(objects / "next" / "objects")]
    command = [*fewer, sys.executable, str(Path(__file__).with_name("loader_job.py")), *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'daemon'}:{REPOSITORY / 'tests'}"}
    done = world.world.run(
        lambda: subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    )
    assert 0 != done.returncode
    assert named in done.stderr.splitlines()[-1]
    assert XdpHook("", 0) == world.hook(index)
