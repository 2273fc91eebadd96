"""What outlives a daemon is taken over: attachments, counters, maps, also those of another layout or size."""

import errno
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from kernel.plane_world import LOCAL, NEIGHBOUR, PlaneWorld, new_plane_world, udp_counted
from kernel.xdp_world import World
from x0d.errors import ForeignGeneration, HookChanged, KernelRefused
from x0d.kernel import bpf, layout, pins
from x0d.kernel.clock import tick_ns
from x0d.kernel.dataplane import XdpDataPlane
from x0d.kernel.xdp_query import XdpHook, read_xdp_hook
from x0d.mesh.model import ProbeRecord
from x0d.ports import Attachment

pytestmark = pytest.mark.kernel

COUNTERS_1 = bpf.MapKind(5, layout.LAYOUT_1_COUNTER_KEY.size, layout.COUNTER.size, 8192)
PROBES_1 = bpf.MapKind(5, layout.LAYOUT_1_PROBE_EVENT_KEY.size, layout.COUNT.size, 256 * 9)
CONFIG_1 = bpf.MapKind(2, 4, layout.LAYOUT_1_CONFIG.size, 1)


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


def test_restart_adopts(world: PlaneWorld) -> None:
    """The next life takes over attachment and counters, and its configuration holds at once."""
    index = world.world.add_veth("va", "vb")
    first = world.open(session=1)
    world.attach(first, "va")
    first.put_link(index, NEIGHBOUR, LOCAL)
    before = world.hook(index)
    first.close()
    world.send("vb", 7)
    second = world.open(session=2)
    try:
        assert Attachment("va", index, "native", frags=True, adopted=True, refused=()) == world.attach(second, "va")
        world.send("vb", 3)
        assert udp_counted(second, index) == 10
        assert {(index, NEIGHBOUR): LOCAL} == second.links()
        after = world.hook(index)
        assert before.mode == after.mode == "native"
        assert before.program_id != after.program_id
        value = bpf.lookup(second.map_fds["x0d_config"], bytes(4), layout.CONFIG.size)
        assert value is not None
        assert layout.decode_config(value) == layout.DataPlaneConfig(2, 9474, 1000, 100, tick_ns=tick_ns())
    finally:
        second.close()


def test_deleted_device_is_collected(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """Pins, counters and neighbours of an interface that is gone are forgotten; others stay."""
    gone, stays = world.world.add_veth("va", "vb"), world.world.add_veth("vc", "vd")
    for name in ("va", "vc"):
        world.attach(plane, name)
    plane.put_link(gone, NEIGHBOUR, LOCAL)
    plane.put_link(stays, NEIGHBOUR, LOCAL)
    for name in ("vb", "vd"):
        world.send(name, 2)
    world.world.command("ip", "link", "delete", "va")
    world.world.wait(lambda: plane.collect(frozenset({1, stays})))
    assert frozenset({stays}) == plane.attached_ifindexes()
    assert {(stays, NEIGHBOUR): LOCAL} == plane.links()
    assert {stays} == {counter.ifindex for counter in plane.sample().packets}


def test_link_of_a_deleted_device_is_replaced(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """A device made anew under the old index is attached afresh: its pinned link belongs to the dead one."""
    index = world.world.add_veth("va", "vb")
    world.attach(plane, "va")
    world.world.command("ip", "link", "delete", "va")
    world.world.command("ip", "link", "add", "va", "index", str(index), "type", "veth", "peer", "name", "vb")
    assert not world.attach(plane, "va").adopted
    assert world.hook(index).mode == "native"


def test_interrupted_pins_are_put_right(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """A link left under its temporary name, and a program pin that is out of date, are adopted."""
    index = world.world.add_veth("va", "vb")
    world.attach(plane, "va")
    pinned = world.directory / f"{index}-xdp"
    (pinned / "link").rename(pinned / "link_tmp")
    assert world.attach(plane, "va").adopted
    other_fd = bpf.load_instructions(bpf.XDP_PROGRAM, bpf.RETURN_PASS)
    (pinned / "program").rename(pinned / "program_tmp")
    bpf.pin(other_fd, pinned / "program")
    assert world.attach(plane, "va").adopted
    (pinned / "program").unlink()
    assert world.attach(plane, "va").adopted
    assert ["link", "program", "stages"] == world.hook_pins(index)
    os.close(other_fd)


def test_plain_attachment_takes_frags_when_they_load(world: PlaneWorld) -> None:
    """After a kernel update the plain variant gives way to the one with multi-buffer frames, in place."""
    index = world.world.add_veth("va", "vb")
    with world.opened() as first:
        assert first._loaded is not None
        first._loaded._refused[True] = KernelRefused("load", errno.EINVAL)
        assert not world.attach(first, "va").frags
        world.send("vb", 2)
    with world.opened() as second:
        taken = world.attach(second, "va")
        assert (True, True) == (taken.frags, taken.adopted)
        world.send("vb", 2)
        assert 4 == udp_counted(second, index)


def test_swap_cut_short_is_put_right(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """A daemon killed between swap and renaming left the true pins under temporary names; stages go on to be called."""
    index = world.world.add_veth("va", "vb")
    world.attach(plane, "va")
    pinned = world.directory / f"{index}-xdp"
    stale_fd = bpf.load_instructions(bpf.XDP_PROGRAM, bpf.RETURN_PASS)
    for name in ("program", "stages"):
        (pinned / name).rename(pinned / f"{name}_tmp")
        bpf.pin(stale_fd, pinned / name)
    os.close(stale_fd)
    plane.close()
    with world.opened() as second:
        world.send("vb", 3)
        assert 3 == udp_counted(second, index)
        assert world.attach(second, "va").adopted
        world.send("vb", 3)
        assert 6 == udp_counted(second, index)
    assert ["link", "program", "stages"] == world.hook_pins(index)


def test_array_in_force_is_never_without_a_pin(
    world: PlaneWorld, plane: XdpDataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the swap after one that was cut short is refused, the array that is in force has its name again."""
    index = world.world.add_veth("va", "vb")
    world.attach(plane, "va")
    pinned = world.directory / f"{index}-xdp"
    in_force = pinned_map_id(pinned / "stages")
    with world.opened() as second:
        for name in ("program", "stages"):
            (pinned / name).rename(pinned / f"{name}_tmp")

        def refuse(_link_fd: int, _program_fd: int, _old_program_fd: int | None) -> None:
            raise KernelRefused("replace the XDP program", errno.EINVAL)

        monkeypatch.setattr(bpf, "update_link", refuse)
        with pytest.raises(ForeignGeneration):
            world.attach(second, "va")
    assert in_force == pinned_map_id(pinned / "stages")
    assert ["link", "program", "stages"] == world.hook_pins(index)


def pinned_map_id(path: Path) -> int:
    """The kernel's number of a pinned map."""
    fd = bpf.open_pin(path)
    assert fd is not None
    with bpf.closing(fd):
        return bpf.map_id(fd)


def test_pin_of_another_kind_is_told(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """What is pinned as our link and takes no program of ours is left alone, with a sentence."""
    index = world.world.add_veth("va", "vb")
    foreign = world.directory / f"{index}-xdp"
    foreign.mkdir()
    program_fd = bpf.load_instructions(bpf.ProgramType(6), bpf.RETURN_PASS)  # of no attach type: another generation
    link_fd = world.world.run(lambda: bpf.create_xdp_link(program_fd, index, bpf.XDP_FLAGS_NATIVE))
    bpf.pin(link_fd, foreign / "link")
    before = world.hook(index)
    try:
        with pytest.raises(ForeignGeneration) as refused:
            world.attach(plane, "va")
        assert errno.EINVAL == refused.value.errno
        assert "the old one goes on" in refused.value.detail
        assert before == world.hook(index)
    finally:
        os.close(link_fd)
        os.close(program_fd)


def test_race_for_the_hook_is_tried_once_more(
    world: PlaneWorld, plane: XdpDataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When somebody else replaced the program meanwhile the link is read again, once; then it is told."""
    index = world.world.add_veth("va", "vb")
    world.attach(plane, "va")
    update, refusals = bpf.update_link, [1]

    def race(link_fd: int, program_fd: int, old_program_fd: int | None) -> None:
        if refusals[0]:
            refusals[0] -= 1
            raise KernelRefused("replace the XDP program", errno.EPERM)
        update(link_fd, program_fd, old_program_fd)

    monkeypatch.setattr(bpf, "update_link", race)
    assert world.attach(plane, "va").adopted
    refusals[0] = 2
    with pytest.raises(HookChanged):
        world.attach(plane, "va")
    assert ["link", "program", "stages"] == world.hook_pins(index)
    world.send("vb", 2)
    assert 2 == udp_counted(plane, index)


def test_renamed_interface_keeps_its_attachment(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """A rename changes nothing: the pins go by index; a dot in the name is no matter."""
    index = world.world.add_veth("va", "vb")
    world.attach(plane, "va")
    world.world.command("ip", "link", "set", "va", "down")
    world.world.command("ip", "link", "set", "va", "name", "eth0.100")
    world.world.command("ip", "link", "set", "eth0.100", "up")
    taken = world.attach(plane, "eth0.100")
    assert ("eth0.100", index, True) == (taken.interface, taken.ifindex, taken.adopted)
    deadline_s = time.monotonic() + 5
    while not udp_counted(plane, index) and time.monotonic() < deadline_s:
        world.send("vb", 1)  # the kernel lets the peer send again a moment after the interface is up
    assert udp_counted(plane, index) > 0


def test_moved_interface_is_let_go(world: PlaneWorld, plane: XdpDataPlane, tmp_path: Path) -> None:
    """An interface that went to another namespace is detached there, and one that comes back is attached anew."""
    index = world.world.add_veth("va", "vb")
    world.attach(plane, "va")
    there = World(tmp_path)
    try:
        pid = there.run(threading.get_native_id)
        world.world.command("ip", "link", "set", "va", "netns", str(pid))
        world.world.wait(lambda: plane.collect(frozenset({1})))
        assert frozenset() == plane.attached_ifindexes()
        moved = there.index("va")
        assert XdpHook("", 0) == there.run(lambda: read_xdp_hook(moved))
        back = world.world.run(threading.get_native_id)
        there.command("ip", "link", "set", "va", "netns", str(back))
    finally:
        there.close()
    assert index == world.world.index("va")
    assert not world.attach(plane, "va").adopted


def test_same_index_in_two_namespaces(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """Two namespaces of one bpf filesystem have interfaces of equal index; neither touches the other's."""
    other = PlaneWorld(World(world.bpffs_dir.parent))
    try:
        index = world.world.add_veth("va", "vb")
        assert index == other.world.add_veth("va", "vb")
        with other.opened() as second:
            world.attach(plane, "va")
            other.attach(second, "va")
            world.send("vb", 2)
            other.send("vb", 3)
            assert (2, 3) == (udp_counted(plane, index), udp_counted(second, index))
            other.world.wait(second.detach_all)
        world.send("vb", 2)
        assert 4 == udp_counted(plane, index)
        assert [world.directory] == list(world.bpffs_dir.iterdir())
    finally:
        other.world.close()


def test_unfinished_pins_are_collected(world: PlaneWorld) -> None:
    """What a killed daemon had pinned and not yet renamed is gone after the next start."""
    with world.opened() as first:
        bpf.pin(first.map_fds["x0d_links"], first.maps_dir / "x0d_former_tmp")
    with world.opened() as second:
        assert [] == [path for path in second.maps_dir.iterdir() if path.name.endswith("_tmp")]


# ---- maps that do not fit ----


def former_layout(world: PlaneWorld, counted: Mapping[tuple[int, str, str], int], probes: Mapping[int, int]) -> None:
    """Pin maps as a daemon of layout 1 does, with these counters: packets (of 100 bytes), probes answered."""
    maps_dir = world.world.run(lambda: pins.prepare_directory(world.bpffs_dir)) / pins.MAPS_DIR
    cpus = bpf.possible_cpus()
    rows = {
        layout.LAYOUT_1_COUNTER_KEY.pack(at, layout.CLASSES.index(kind), layout.LAYOUT_1_VERDICTS.index(verdict)): (
            layout.COUNTER.pack(packets - 1, (packets - 1) * 100)
            + layout.COUNTER.pack(1, 100)
            + bytes(layout.COUNTER.size * (cpus - 2))
        )[: layout.COUNTER.size * cpus]
        for (at, kind, verdict), packets in counted.items()
    }
    events = {
        layout.LAYOUT_1_PROBE_EVENT_KEY.pack(at, 0): layout.COUNT.pack(packets) + bytes(8 * (cpus - 1))
        for at, packets in probes.items()
    }
    config = {bytes(4): layout.LAYOUT_1_CONFIG.pack(1, 9474, 7, 1000, 100)}
    link = {layout.encode_link_key(3, NEIGHBOUR): layout.encode_link(LOCAL, ProbeRecord(5, 6, 7))}
    local = {layout.encode_link_key(3, LOCAL): layout.LOCAL.pack(1)}
    shape = layout.MAPS["x0d_links"]
    kinds = (
        ("x0d_counters", COUNTERS_1, rows),
        ("x0d_probe_events", PROBES_1, events),
        ("x0d_config", CONFIG_1, config),
        ("x0d_links", bpf.MapKind(1, shape.key_size, shape.value_size, shape.entries_max), link),
        ("x0d_locals", bpf.MapKind(1, shape.key_size, 4, shape.entries_max), local),
    )
    for name, kind, content in kinds:
        map_fd = bpf.create_map(name[:15], kind)
        for key, value in content.items():
            bpf.update(map_fd, key, value)
        bpf.pin(map_fd, maps_dir / name)
        os.close(map_fd)


def test_counters_of_layout_1_go_on(world: PlaneWorld, capfd: pytest.CaptureFixture[str]) -> None:
    """After the change of layout, what was counted before is part of every sum, through restarts and upgrades."""
    index = world.world.add_veth("va", "vb")
    former_layout(world, {(index, "udp", "pass"): 1000, (77, "tcp", "drop"): 5}, {index: 12})
    with world.opened() as plane:
        assert "dataplane_maps_remade" in capfd.readouterr().out
        world.attach(plane, "va")
        world.send("vb", 4)
        assert 1004 == udp_counted(plane, index)
        world.world.wait(plane.upgrade)
        sample = plane.sample()
        assert {(index, "answered"): 12} == {(c.ifindex, c.event): c.packets for c in sample.probes}
        sums = {(c.ifindex, c.protocol_class, c.verdict): (c.packets, c.bytes) for c in sample.packets}
        assert (5, 500) == sums[77, "tcp", "drop"]
        assert 100_000 < sums[index, "udp", "pass"][1]
        assert {(3, NEIGHBOUR): LOCAL} == plane.links(), "no probe goes unanswered until it is put again"
        assert ProbeRecord(5, 6, 7) == plane.probe_record(3, NEIGHBOUR)
    with world.opened() as again:
        world.attach(again, "va")
        assert 1004 == udp_counted(again, index)
        world.world.wait(lambda: again.collect(frozenset({1, index})))
        assert {index} == {c.ifindex for c in again.sample().packets}, "interface 77 is gone, and what it counted"
        world.world.wait(lambda: again.detach(index))
        assert [] == list(again.sample().packets)
        world.world.wait(again.detach_all)
        assert [] == list(world.bpffs_dir.iterdir())


@pytest.mark.parametrize("moved", range(6))
def test_change_of_layout_that_was_cut_short_goes_on(
    world: PlaneWorld, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    """Killed while the maps were moved aside, the next start moves the rest and loses no count."""
    former_layout(world, {(9, "udp", "pass"): 10}, {9: 3})
    rename, left = Path.rename, [moved]

    def die(path: Path, target: Path) -> Path:
        if not left[0]:
            raise InterruptedError
        left[0] -= 1
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)
        plane = world.plane()
        with pytest.raises(InterruptedError):
            world.world.wait(plane.open)
        plane.close()
    with world.opened() as plane:
        assert 10 == udp_counted(plane, 9)
        assert [3] == [count.packets for count in plane.sample().probes]
        assert not (plane.maps_dir / "x0d_probe_events").exists()


def test_second_change_of_layout_keeps_both(world: PlaneWorld) -> None:
    """A downgrade in between leaves two sets of the former layout; both count."""
    former_layout(world, {(9, "udp", "pass"): 10}, {})
    with world.opened():
        pass
    for path in (world.directory / "maps").iterdir():
        path.unlink()
    former_layout(world, {(9, "udp", "pass"): 20}, {})
    with world.opened() as plane:
        assert 30 == udp_counted(plane, 9)


def test_unknown_layout_is_set_aside(world: PlaneWorld) -> None:
    """Maps of a layout that this version does not know stay pinned; the attachment goes on with new ones."""
    index = world.world.add_veth("va", "vb")
    with world.opened() as first:
        world.attach(first, "va")
        world.send("vb", 4)
        config = layout.DataPlaneConfig(1, 9474, 1, 1, layout_version=layout.LAYOUT_VERSION + 1)
        bpf.update(first.map_fds["x0d_config"], bytes(4), layout.encode_config(config))
    with world.opened() as second:
        assert world.attach(second, "va").adopted
        world.send("vb", 3)
        assert 3 == udp_counted(second, index)
        assert (world.directory / f"layout-{layout.LAYOUT_VERSION + 1}" / "x0d_interfaces").exists()


def test_change_of_a_size_remakes_that_map_alone(world: PlaneWorld) -> None:
    """A size of the configuration is in force after a restart; every other map is the same as before."""
    index = world.world.add_veth("va", "vb")
    with world.opened() as first:
        world.attach(first, "va")
        world.send("vb", 4)
        before = {name: bpf.map_id(fd) for name, fd in first.map_fds.items()}
    with world.opened(sources_max=2048, deny_entries_max=4096, event_buffer_bytes=1 << 16) as second:
        world.attach(second, "va")
        changed = {name for name, fd in second.map_fds.items() if before[name] != bpf.map_id(fd)}
        assert {"x0d_sources", "x0d_deny_hits", "x0d_events"} == changed
        sizes = {row.name: row.entries_max for row in second.maps()}
        assert (2048, 4096, 1 << 16) == (sizes["x0d_sources"], sizes["x0d_deny_hits"], sizes["x0d_events"])
        world.send("vb", 3)
        assert 7 == udp_counted(second, index)


def test_map_of_another_shape_is_remade(world: PlaneWorld) -> None:
    """A pin that is not the map that it is named after is not used."""
    with world.opened() as first:
        (first.maps_dir / "x0d_locals").unlink()
        bpf.pin(first.map_fds["x0d_buckets"], first.maps_dir / "x0d_locals")
    with world.opened() as second:
        assert layout.MAPS["x0d_locals"] == layout.MapShape(*bpf.map_shape(second.map_fds["x0d_locals"]))
        second.put_link(1, NEIGHBOUR, LOCAL)
