"""Attachments that somebody meddles with while the daemon lives: seen, and put back."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.plane_world import PlaneWorld, new_plane_world, udp_counted
from x0d.errors import ForeignProgram, KernelRefused
from x0d.kernel import bpf
from x0d.kernel.dataplane import XdpDataPlane

pytestmark = pytest.mark.kernel


@pytest.fixture
def world(tmp_path: Path) -> Iterator[PlaneWorld]:
    """A namespace of the test's own."""
    with new_plane_world(tmp_path) as made:
        yield made


@pytest.fixture
def plane(world: PlaneWorld) -> Iterator[XdpDataPlane]:
    """An opened data plane."""
    with world.opened() as opened:
        yield opened


def detach_by_hand(world: PlaneWorld, index: int) -> None:
    """What ``bpftool link detach pinned`` does."""
    link_fd = bpf.open_pin(world.directory / f"{index}-xdp" / "link")
    assert link_fd is not None
    with bpf.closing(link_fd):
        bpf.detach_link(link_fd)


def test_detached_by_somebody(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """A link that somebody detached is told, and the interface takes a new attachment; counters go on."""
    index, other = world.world.add_veth("va", "vb"), world.world.index("vb")
    world.attach(plane, "va")
    world.attach(plane, "vb")
    assert {} == world.world.wait(plane.verify)
    world.send("vb", 3)
    detach_by_hand(world, index)
    assert "" == world.hook(index).mode
    assert {index: "somebody else detached its XDP link"} == world.world.wait(plane.verify)
    assert not world.attach(plane, "va").adopted
    assert ({}, "native") == (world.world.wait(plane.verify), world.hook(index).mode)
    assert ["link", "program", "stages"] == world.hook_pins(index)
    world.send("vb", 4)
    assert 7 == udp_counted(plane, index)
    assert {index, other} == plane.attached_ifindexes()


def test_program_put_in_our_link(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """A link that somebody has given another program is told with its id, and takes ours again in place."""
    index = world.world.add_veth("va", "vb")
    world.attach(plane, "va")
    ours = world.hook(index)
    link_fd = bpf.open_pin(world.directory / f"{index}-xdp" / "link")
    assert link_fd is not None
    with (
        bpf.closing(link_fd),
        bpf.closing(bpf.load_instructions(bpf.XDP_FRAGS_PROGRAM, bpf.RETURN_PASS)) as foreign,
    ):
        bpf.update_link(link_fd, foreign, None)
        number = bpf.program_id(foreign)
    told = {index: f"somebody else put program id {number} in its XDP link"}
    assert told == world.world.wait(plane.verify)
    assert world.attach(plane, "va").adopted
    assert ours == world.hook(index)


def test_foreign_program_in_place_of_ours(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """Where another program took the hook that somebody has freed, it is named and stays; once it goes we return."""
    index = world.world.add_veth("va", "vb")
    world.attach(plane, "va")
    detach_by_hand(world, index)
    foreign = bpf.load_instructions(bpf.XDP_FRAGS_PROGRAM, bpf.RETURN_PASS)
    with (
        bpf.closing(foreign),
        bpf.closing(world.world.run(lambda: bpf.create_xdp_link(foreign, index, bpf.XDP_FLAGS_NATIVE))) as link_fd,
    ):
        assert {index} == world.world.wait(plane.verify).keys()
        with pytest.raises(ForeignProgram, match=f"program id {bpf.program_id(foreign)} "):
            world.attach(plane, "va")
        assert bpf.program_id(foreign) == world.hook(index).program_id
        assert ({}, frozenset()) == (world.world.wait(plane.verify), plane.attached_ifindexes())
        bpf.detach_link(link_fd)
    assert not world.attach(plane, "va").adopted


@pytest.mark.parametrize("everything", [False, True])
def test_removed_pins_are_made_again(world: PlaneWorld, plane: XdpDataPlane, *, everything: bool) -> None:
    """Removed pins take no attachment away: they are made again, and the next life adopts it."""
    index = world.world.add_veth("va", "vb")
    world.attach(plane, "va")
    ours = world.hook(index)
    hook = world.directory / f"{index}-xdp"
    if everything:
        shutil.rmtree(hook)
    else:
        (hook / "link").unlink()
    assert {index} == plane.attached_ifindexes()
    assert ({}, ours) == (world.world.wait(plane.verify), world.hook(index))
    assert ["link", "program", "stages"] == world.hook_pins(index)
    with world.opened() as later:
        assert world.attach(later, "va").adopted


def test_attach_before_the_pins_are_back(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """An interface whose pins are gone is adopted from the link we hold, and can be detached without them."""
    index = world.world.add_veth("va", "vb")
    world.attach(plane, "va")
    hook = world.directory / f"{index}-xdp"
    shutil.rmtree(hook)
    assert world.attach(plane, "va").adopted
    assert ["link", "program", "stages"] == world.hook_pins(index)
    shutil.rmtree(hook)
    world.world.wait(lambda: plane.detach(index))
    assert ("", frozenset()) == (world.hook(index).mode, plane.attached_ifindexes())


def test_upgrade_after_the_pins_went(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """An upgrade makes removed pins again before it looks for what to change over."""
    index = world.world.add_veth("va", "vb")
    world.attach(plane, "va")
    (world.directory / f"{index}-xdp" / "link").unlink()
    world.world.wait(plane.upgrade)
    assert ["link", "program", "stages"] == world.hook_pins(index)


def test_filesystem_taken_away(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """Without its bpf filesystem an attachment goes on, a new one is refused, and no directory is made elsewhere."""
    index, other = world.world.add_veth("va", "vb"), world.world.index("vb")
    world.attach(plane, "va")
    ours = world.hook(index)
    place = world.bpffs_dir.parent
    subprocess.run(["umount", "-l", place], check=True)
    try:
        assert ({}, ours) == (world.world.wait(plane.verify), world.hook(index))
        with pytest.raises(KernelRefused, match="not mounted there any more"):
            world.world.wait(lambda: plane.attach("vb", other))
        assert [] == list(place.iterdir())
        assert {} == world.world.wait(plane.verify)
    finally:
        subprocess.run(["mount", "-t", "bpf", "x0dt-bpf", place], check=True)
    world.world.wait(plane.verify)
    assert ["link", "program", "stages"] == world.hook_pins(index)


def test_pins_that_cannot_be_made_again(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """Where the bpf filesystem takes no pin the attachment goes on, and is told as in force."""
    index = world.world.add_veth("va", "vb")
    world.attach(plane, "va")
    ours = world.hook(index)
    hook = world.directory / f"{index}-xdp"
    shutil.rmtree(hook)
    subprocess.run(["mount", "-o", "remount,ro", world.bpffs_dir.parent], check=True)
    try:
        assert ({}, ours) == (world.world.wait(plane.verify), world.hook(index))
    finally:
        subprocess.run(["mount", "-o", "remount,rw", world.bpffs_dir.parent], check=True)
    world.world.wait(plane.verify)
    assert ["link", "program", "stages"] == world.hook_pins(index)
