"""A restart with programs that the kernel refuses leaves those of the earlier life in force, and says so."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from kernel.plane_objects import build, put
from kernel.plane_world import LOCAL, NEIGHBOUR, PlaneWorld, new_plane_world, udp_counted
from kernel.xdp_packets import Packet
from kernel.xdp_world import REPOSITORY
from x0d.errors import ProgramRejected
from x0d.kernel import bpf, layout
from x0d.kernel.dataplane import OBJECT_FILE, XdpDataPlane
from x0d.kernel.policy import KernelPolicy
from x0d.policy.model import PrefixKey, parse_prefix
from x0d.ports import ProgramStatus
from x0d.service.alerts import Alerts
from x0d.service.refused_programs import PROGRAMS_ALERT, judge_programs

pytestmark = pytest.mark.kernel

STRAY = Packet(NEIGHBOUR, LOCAL, b"x" * 20, destination_port=53)
ENTRIES_MAX = layout.MAPS["x0d_deny_hits"].entries_max


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Directories of objects by what is changed in them; what is broken, the verifier refuses."""
    directory = tmp_path_factory.mktemp("objects")
    return {
        "shipped": OBJECT_FILE.parent,
        "deny": build(directory / "deny", broken=["deny"]),
        "probe": build(directory / "probe", broken=["probe"]),
        "root": build(directory / "root", broken=["root"]),
        "limit": build(directory / "limit", broken=["limit"]),
    }


class Lives:
    """Lives of a data plane, one after the other, each with the object that is installed then."""

    def __init__(self, world: PlaneWorld, objects: Mapping[str, Path], directory: Path) -> None:
        self.world = world
        self._objects = objects
        self._directory = directory
        self.index = world.world.add_veth("va", "vb")
        self.plane: XdpDataPlane | None = None

    def begin(self, installed: str, **changes: object) -> XdpDataPlane:
        """End the life before, install an object, open with it and attach to va."""
        self.end()
        self.install(installed)
        self.plane = self.world.open(objects_dir=self._directory, **changes)
        self.world.attach(self.plane, "va")
        return self.plane

    def end(self) -> None:
        """Let go of everything; what is pinned goes on."""
        if self.plane is not None:
            self.plane.close()

    def install(self, name: str) -> None:
        """Put another object where the next opening or upgrade finds it."""
        put(self._objects[name], self._directory)

    def deny(self, *sources: str) -> None:
        """Replace the deny-list."""
        plane = self.plane
        assert plane is not None
        entries: dict[PrefixKey, int] = {parse_prefix(source): 0 for source in sources}

        async def replace() -> None:
            lists = KernelPolicy(lambda: plane.map_fds, lambda: plane.maps_dir, ENTRIES_MAX)
            await lists.open()
            try:
                await lists.replace_deny(entries)
            finally:
                await lists.close()

        self.world.world.wait(replace)

    def hits(self, entries_max: int) -> Mapping[PrefixKey, int]:
        """What each entry has dropped."""
        plane = self.plane
        assert plane is not None

        async def read() -> Mapping[PrefixKey, int]:
            lists = KernelPolicy(lambda: plane.map_fds, lambda: plane.maps_dir, entries_max)
            await lists.open()
            try:
                return await lists.deny_hits()
            finally:
                await lists.close()

        return self.world.world.wait(read)

    def dropped(self, by: str = "vb", at: int = 0) -> int:
        """Send three frames of the neighbour's; how many of them the deny-list drops."""
        before = self._denied(at or self.index)
        self.world.send(by, 3, STRAY.encode())
        return self._denied(at or self.index) - before

    def _denied(self, index: int) -> int:
        assert self.plane is not None
        rows = self.plane.sample().packets
        return sum(row.packets for row in rows if (row.ifindex, row.verdict) == (index, "deny"))

    def answered(self) -> int:
        """Ask as a neighbour does; how many probes have been answered so far."""
        assert self.plane is not None
        self.plane.put_link(self.index, NEIGHBOUR, LOCAL)
        self.world.send("vb", 1, Packet(NEIGHBOUR, LOCAL, layout.encode_request(5, 1, 1)).encode())
        return sum(row.packets for row in self.plane.sample().probes if row.event == "answered")


@pytest.fixture
def lives(tmp_path: Path, objects: Mapping[str, Path]) -> Iterator[Lives]:
    """A world in which nothing has been attached yet."""
    with new_plane_world(tmp_path) as world:
        made = Lives(world, objects, tmp_path / "installed")
        try:
            yield made
        finally:
            made.end()


def in_force(plane: XdpDataPlane) -> dict[str, ProgramStatus]:
    """Programs of the variant with multi-buffer frames, by name."""
    return {row.name: row for row in plane.programs() if row.name.endswith("_frags")}


def told(plane: XdpDataPlane) -> str:
    """The alert that an operator sees; empty if there is none."""
    alerts = Alerts()
    judge_programs(alerts, plane.programs())
    return next(iter(alerts.texts()), "")


def test_refused_stage_keeps_the_programs_of_before(lives: Lives) -> None:
    """A denied packet is dropped through restarts with a broken deny stage, counters go on, and an upgrade ends it."""
    first = lives.begin("shipped")
    lives.deny(str(NEIGHBOUR))
    assert 3 == lives.dropped()
    ids = {name: row.program_id for name, row in in_force(first).items()}
    for _ in range(2):
        kept = lives.begin("deny")
        assert 3 == lives.dropped()
        rows = in_force(kept)
        assert ids == {name: row.program_id for name, row in rows.items()}
        assert {("loaded", True)} == {(row.state, row.is_former) for row in rows.values()}
        assert rows["x0d_root_frags"].reason.startswith("of an earlier life, because x0d_deny_frags is refused: EACCES")
        assert "invalid access to packet" in rows["x0d_deny_frags"].log_tail
        assert "" == rows["x0d_limit_frags"].log_tail
        assert f"{PROGRAMS_ALERT}: the programs of before go on" in told(kept)
        assert "" == kept.shortfall("deny")
        assert ["link", "program", "stages"] == lives.world.hook_pins(lives.index)
    assert 9 == udp_counted(kept, lives.index)
    lives.deny()
    assert 0 == lives.dropped(), "the list is still the one that the programs ask"
    lives.deny(str(NEIGHBOUR))
    with pytest.raises(ProgramRejected, match="still in force"):
        lives.world.world.wait(kept.upgrade)
    assert 3 == lives.dropped()
    lives.install("shipped")
    replaced = lives.world.world.wait(kept.upgrade).replaced
    assert set(ids) - {"x0d_root_frags"} == set(replaced), "the code of the root is the same"
    assert 3 == lives.dropped()
    assert not any(row.is_former or row.reason for row in in_force(kept).values())
    assert "" == told(kept)
    assert 18 == udp_counted(kept, lives.index)


def test_restart_with_a_good_object_ends_it(lives: Lives) -> None:
    """The next life whose programs all load puts its own in force."""
    lives.begin("shipped")
    lives.deny(str(NEIGHBOUR))
    lives.begin("deny")
    plane = lives.begin("shipped")
    assert not any(row.is_former for row in in_force(plane).values())
    assert (3, "") == (lives.dropped(), told(plane))


@pytest.mark.parametrize("broken", ["probe", "root"])
def test_other_refused_programs_keep_those_of_before(lives: Lives, broken: str) -> None:
    """With the probe stage refused links stay answered; a refused root ends no start where one is attached."""
    lives.begin("shipped")
    lives.deny(str(NEIGHBOUR))
    lives.deny()
    assert 1 == lives.answered()
    plane = lives.begin(broken)
    assert 2 == lives.answered()
    assert f"x0d_{broken}_frags is refused" in told(plane)


def test_new_interfaces_take_the_programs_of_before(lives: Lives) -> None:
    """What is attached while programs of an earlier life serve is denied on as well."""
    lives.begin("shipped")
    lives.deny(str(NEIGHBOUR))
    plane = lives.begin("deny")
    index = lives.world.world.add_veth("vc", "vd")
    assert not lives.world.attach(plane, "vc").adopted
    assert 3 == lives.dropped("vd", index)


def test_sizes_may_change_meanwhile(lives: Lives) -> None:
    """Maps that are made anew for a size take nothing from what the programs of before enforce."""
    lives.begin("shipped")
    lives.deny(str(NEIGHBOUR))
    plane = lives.begin("deny", sources_max=2048, event_buffer_bytes=1 << 16)
    assert (3, "") == (lives.dropped(), plane.shortfall("deny"))


@pytest.mark.parametrize("entries_max", [ENTRIES_MAX // 2, ENTRIES_MAX * 2])
def test_hits_outlive_a_change_of_their_number(lives: Lives, entries_max: int) -> None:
    """What an entry has dropped is known after the deny-list's room was changed, and goes on from there."""
    lives.begin("shipped")
    lives.deny(str(NEIGHBOUR))
    assert 3 == lives.dropped()
    lives.begin("shipped", deny_entries_max=entries_max)
    assert 3 == lives.dropped()
    assert {parse_prefix(str(NEIGHBOUR)): 6} == lives.hits(entries_max)


def test_swap_cut_short_is_found(lives: Lives) -> None:
    """A daemon killed between swap and renaming has left its pins under other names; they are found there."""
    lives.begin("shipped")
    lives.deny(str(NEIGHBOUR))
    pinned = lives.world.directory / f"{lives.index}-xdp"
    with bpf.closing(bpf.load_instructions(bpf.XDP_PROGRAM, bpf.RETURN_PASS)) as stale_fd:
        for name in ("program", "stages"):
            (pinned / name).rename(pinned / f"{name}_tmp")
            bpf.pin(stale_fd, pinned / name)
    plane = lives.begin("deny")
    assert all(row.is_former for row in in_force(plane).values())
    assert 3 == lives.dropped()
    assert ["link", "program", "stages"] == lives.world.hook_pins(lives.index)


def test_what_is_in_force_is_read_with_few_rights(lives: Lives) -> None:
    """The service's three capabilities suffice to see what an earlier life has in force."""
    lives.begin("shipped")
    hook = lives.world.directory / f"{lives.index}-xdp"
    for path in (*reversed(hook.relative_to(lives.world.bpffs_dir).parents), hook.relative_to(lives.world.bpffs_dir)):
        os.chown(lives.world.bpffs_dir / path, 65534, 65534)
    for path in hook.iterdir():
        os.chown(path, 65534, 65534)
    directory_fd = os.open(lives.world.bpffs_dir, os.O_RDONLY)  # the test's own directory is closed to others
    script = (
        f"import os, sys; sys.path.insert(0, {str(REPOSITORY / 'daemon')!r}); from pathlib import Path; "
        f"os.fchdir({directory_fd}); from x0d.kernel.former import stages_in_force; "
        f"print(*sorted(stages_in_force(Path({str(hook.relative_to(lives.world.bpffs_dir))!r}))))"
    )
    rights = "-all,+bpf,+net_admin,+perfmon"
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps={rights}"]
    command += [f"--ambient-caps={rights}", f"--bounding-set={rights}", sys.executable, "-c", script]
    try:
        done = lives.world.world.run(
            lambda: subprocess.run(command, pass_fds=[directory_fd], capture_output=True, text=True, check=False)
        )
    finally:
        os.close(directory_fd)
    assert ("deny limit probe syn\n", "") == (done.stdout, done.stderr)


def test_refused_stage_without_programs_of_before(lives: Lives) -> None:
    """Where nothing enforced it before, the alert and the port say what is not enforced; an upgrade ends it."""
    plane = lives.begin("deny")
    assert 0 == lives.dropped()
    refused = in_force(plane)["x0d_deny_frags"]
    assert ("refused", False, True) == (refused.state, refused.is_former, refused.reason.startswith("the verifier"))
    assert "x0d_deny_frags is refused: EACCES: the verifier" in told(plane)
    assert "the deny-list is not enforced" in told(plane)
    assert plane.shortfall("deny").startswith("the deny stage is refused by the kernel: EACCES: the verifier")
    assert "" == plane.shortfall("limit")
    lives.install("shipped")
    lives.world.world.wait(plane.upgrade)
    assert ("", "") == (plane.shortfall("deny"), told(plane))


def test_stage_that_neither_life_has(lives: Lives) -> None:
    """A stage that the kept programs lack too is told by itself."""
    lives.begin("limit")
    lives.deny(str(NEIGHBOUR))
    plane = lives.begin("deny")
    assert 3 == lives.dropped()
    assert "not among the programs of an earlier life" in plane.shortfall("limit")
    assert "off" == in_force(plane)["x0d_limit_frags"].state


def test_changes_are_told(lives: Lives) -> None:
    """Whoever wants to know is called when programs come, change or go."""
    lives.install("shipped")
    seen: list[int] = []
    plane = XdpDataPlane(lives.world.bpffs_dir, lives.world.plane()._settings, lambda: seen.append(1))
    lives.plane = plane
    wait = lives.world.world.wait
    for step in (plane.open, lambda: plane.attach("va", lives.index), plane.upgrade, plane.detach_all):
        before = len(seen)
        wait(step)
        assert before + 1 == len(seen)
