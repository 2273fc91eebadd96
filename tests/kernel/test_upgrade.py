"""Objects put in force while their predecessors run: one slot, everything, or nothing."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from kernel.plane_objects import build, put
from kernel.plane_world import LOCAL, NEIGHBOUR, PlaneWorld, new_plane_world, udp_counted
from kernel.xdp_packets import Packet
from x0d.errors import InvalidInput, KernelRefused, NotSupported, ProgramRejected
from x0d.kernel import bpf, layout
from x0d.kernel.dataplane import OBJECT_FILE, XdpDataPlane

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Directories of objects by what is changed in them."""
    directory = tmp_path_factory.mktemp("objects")
    return {
        "shipped": OBJECT_FILE.parent,
        "root": build(directory / "root", marked=["root"]),
        "limit": build(directory / "limit", marked=["limit"]),
        "limit broken": build(directory / "limit-broken", broken=["limit"]),
        "root broken": build(directory / "root-broken", broken=["root"]),
        "layout": build(directory / "layout", layout_version=3),
    }


class Upgrading:
    """A data plane whose objects the test changes; va and vc are attached."""

    def __init__(self, world: PlaneWorld, objects: Mapping[str, Path], directory: Path) -> None:
        self.world = world
        self._objects = objects
        self._directory = directory
        self.put("shipped")
        self.va, self.vc = world.world.add_veth("va", "vb"), world.world.add_veth("vc", "vd")
        self.sent = 0

    def put(self, name: str) -> None:
        """Install an object."""
        put(self._objects[name], self._directory)

    def open(self) -> XdpDataPlane:
        """Open with what is installed and attach."""
        self.plane = self.world.open(objects_dir=self._directory)
        for interface in ("va", "vc"):
            self.world.attach(self.plane, interface)
        return self.plane

    def upgrade(self) -> tuple[str, ...]:
        """What is replaced by what is installed."""
        return self.world.world.wait(self.plane.upgrade).replaced

    def objects_changed(self) -> tuple[str, ...]:
        """Paths of objects that another upgrade finds to be others."""
        return self.world.world.wait(self.plane.upgrade).objects

    def ids(self) -> dict[str, int]:
        """Ids of the programs by name."""
        return {row.name: row.program_id for row in self.plane.programs() if row.state == "loaded"}

    def hooks(self) -> tuple[int, int]:
        """Ids of what is attached."""
        return self.world.hook(self.va).program_id, self.world.hook(self.vc).program_id

    def pass_packets(self) -> None:
        """Packets pass on both interfaces, and each is counted once."""
        for interface in ("vb", "vd"):
            self.world.send(interface, 5)
        self.sent += 5
        assert (self.sent, self.sent) == (udp_counted(self.plane, self.va), udp_counted(self.plane, self.vc))

    def pass_probe(self) -> None:
        """A neighbour's probe is answered."""
        self.plane.put_link(self.va, NEIGHBOUR, LOCAL)
        answered = self.answered()
        self.world.send("vb", 1, Packet(NEIGHBOUR, LOCAL, layout.encode_request(5, 1, 1)).encode())
        assert answered + 1 == self.answered()

    def answered(self) -> int:
        """Probes that were answered."""
        return sum(count.packets for count in self.plane.sample().probes if count.event == "answered")

    def hook_pin(self, index: int, name: str) -> Path:
        """Where something is pinned for an interface."""
        return self.world.directory / f"{index}-xdp" / name


def pinned_map_id(path: Path) -> int:
    """The kernel's number of a pinned map."""
    fd = bpf.open_pin(path)
    assert fd is not None
    with bpf.closing(fd):
        return bpf.map_id(fd)


@pytest.fixture
def upgrading(tmp_path: Path, objects: Mapping[str, Path]) -> Iterator[Upgrading]:
    """The shipped object is installed."""
    with new_plane_world(tmp_path) as world:
        made = Upgrading(world, objects, tmp_path / "installed")
        try:
            yield made
        finally:
            made.plane.close()


def test_stage_of_other_code_takes_the_slot(upgrading: Upgrading) -> None:
    """When only a stage has changed, root and attachments stay; the same object again changes nothing."""
    upgrading.open()
    before, hooks = upgrading.ids(), upgrading.hooks()
    upgrading.put("limit")
    assert ("x0d_limit_frags",) == upgrading.upgrade()
    after = upgrading.ids()
    assert {"x0d_limit_frags"} == {name for name in before if before[name] != after[name]}
    assert hooks == upgrading.hooks()
    upgrading.pass_packets()
    upgrading.pass_probe()  # which comes to its stage through the new one
    assert () == upgrading.upgrade()
    assert after == upgrading.ids()
    upgrading.pass_packets()


def test_root_of_other_code_replaces_everything(upgrading: Upgrading) -> None:
    """When the root has changed, every attachment takes the new one with its own stages, and back again."""
    upgrading.open()
    for name in ("root", "shipped"):
        before = upgrading.ids()
        upgrading.put(name)
        assert ("x0d_root_frags",) == upgrading.upgrade()
        assert not set(before.values()) & set(upgrading.ids().values())
        assert (upgrading.ids()["x0d_root_frags"],) * 2 == upgrading.hooks()
        assert ["link", "program", "stages"] == upgrading.world.hook_pins(upgrading.va)
        arrays = {upgrading.plane.maps_dir / "x0d_stages_frags", upgrading.hook_pin(upgrading.vc, "stages")}
        assert 1 == len({pinned_map_id(path) for path in arrays})
        upgrading.pass_packets()
        upgrading.pass_probe()
    assert [] == list(upgrading.world.bpffs_dir.rglob("*_tmp"))


def test_both_variants_are_replaced(upgrading: Upgrading) -> None:
    """A plain variant that is in use is upgraded with the other."""
    plane = upgrading.open()
    assert plane._loaded is not None
    plane._loaded.pipeline(frags=False)
    upgrading.put("limit")
    assert {"x0d_limit_frags", "x0d_limit"} == set(upgrading.upgrade())
    upgrading.put("root")
    assert {"x0d_root_frags", "x0d_root", "x0d_limit_frags", "x0d_limit"} == set(upgrading.upgrade())
    upgrading.pass_packets()


@pytest.mark.parametrize(("name", "program"), [("limit broken", "x0d_limit_frags"), ("root broken", "x0d_root_frags")])
def test_refused_program_leaves_the_old_ones(upgrading: Upgrading, name: str, program: str) -> None:
    """An object with a program that the verifier refuses changes nothing, and the verifier's words are told."""
    plane = upgrading.open()
    before, hooks, objects = upgrading.ids(), upgrading.hooks(), plane.objects()
    upgrading.put(name)
    with pytest.raises(ProgramRejected) as refused:
        upgrading.upgrade()
    assert program in refused.value.operation
    assert "invalid access to packet" in refused.value.log_tail
    assert refused.value.detail.endswith("; what was loaded before is still in force")
    assert (before, hooks, objects) == (upgrading.ids(), upgrading.hooks(), plane.objects())
    upgrading.pass_packets()


def test_refused_attachment_puts_the_others_back(upgrading: Upgrading) -> None:
    """When one interface does not take the new root, those that took it go back."""
    upgrading.open()
    before, hooks = upgrading.ids(), upgrading.hooks()
    obstacle = upgrading.world.directory / f"{upgrading.vc}-xdp" / "program_tmp"
    obstacle.mkdir()
    upgrading.put("root")
    with pytest.raises(KernelRefused):
        upgrading.upgrade()
    assert (before, hooks) == (upgrading.ids(), upgrading.hooks())
    upgrading.pass_packets()
    obstacle.rmdir()
    assert ("x0d_root_frags",) == upgrading.upgrade()
    upgrading.pass_packets()


def test_unusable_object_is_told_before_anything_is_loaded(upgrading: Upgrading, tmp_path: Path) -> None:
    """An object of another layout, a damaged or a missing one is refused by its path, and nothing changes."""
    upgrading.open()
    before, hooks = upgrading.ids(), upgrading.hooks()
    upgrading.put("layout")
    file, clause = tmp_path / "installed" / "xdp.bpf.o", "what was loaded before is still in force$"
    with pytest.raises(InvalidInput, match=f"^{file}: .*layout 3.*; {clause}"):
        upgrading.upgrade()
    file.write_bytes(OBJECT_FILE.read_bytes()[:5000])
    with pytest.raises(InvalidInput, match=f"^{file}: .*; {clause}"):
        upgrading.upgrade()
    file.unlink()
    with pytest.raises(NotSupported, match=f"{file} is missing; reinstall x0d, or set ebpf.objects_dir; .*; {clause}"):
        upgrading.upgrade()
    assert (before, hooks) == (upgrading.ids(), upgrading.hooks())
    upgrading.pass_packets()


def test_refused_stage_leaves_its_slot_empty(upgrading: Upgrading) -> None:
    """A stage that does not load is told with the verifier's words; the others work; an upgrade adds it."""
    upgrading.put("limit broken")
    plane = upgrading.open()
    status = next(row for row in plane.programs() if row.name == "x0d_limit_frags")
    assert ("refused", 0) == (status.state, status.program_id)
    assert status.reason.startswith("the verifier refuses it"), "name and errno are shown beside"
    assert "invalid access to packet" in status.log_tail
    upgrading.pass_packets()
    upgrading.pass_probe()
    upgrading.put("shipped")
    assert ("x0d_limit_frags",) == upgrading.upgrade()
    assert () == upgrading.objects_changed()
    assert {"loaded"} == {row.state for row in plane.programs() if row.name.endswith("_frags")}
    upgrading.pass_packets()


def test_refused_root_fails_the_start(upgrading: Upgrading) -> None:
    """Without a root there is no data plane: the start fails, and leaves no program and no pin behind."""
    upgrading.put("root broken")
    with pytest.raises(ProgramRejected):
        upgrading.open()
    assert [] == list((upgrading.world.directory / "maps").iterdir())
    upgrading.put("shipped")
    upgrading.open()
    upgrading.pass_packets()


def test_next_start_with_another_object_adopts(upgrading: Upgrading) -> None:
    """A daemon that starts with other code takes the attachments over with the counters."""
    upgrading.open()
    upgrading.pass_packets()
    upgrading.plane.close()
    upgrading.put("root")
    before = upgrading.hooks()
    upgrading.open()
    assert not set(before) & set(upgrading.hooks())
    upgrading.pass_packets()
    assert layout.LAYOUT_VERSION == upgrading.plane.objects()[0].layout_version
