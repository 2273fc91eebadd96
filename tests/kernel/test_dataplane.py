"""The XDP data plane on real interfaces: modes, foreign programs, pins, what it tells of itself."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from kernel.plane_world import LOCAL, NEIGHBOUR, SETTINGS, PlaneWorld, new_plane_world, udp_counted
from kernel.waiting import wait_until
from kernel.xdp_packets import Packet
from kernel.xdp_world import REPOSITORY
from x0d.errors import ForeignProgram, KernelRefused, MapFull, ModeRefused, MtuTooLarge, NotSupported, errno_name
from x0d.kernel import bpf, layout, pins
from x0d.kernel.dataplane import XdpDataPlane
from x0d.kernel.xdp_query import XdpHook
from x0d.ports import Attachment, RefusedMode

pytestmark = pytest.mark.kernel

NO_HARDWARE = RefusedMode("hardware", errno.EINVAL)
PROGRAMS = 1 + len(layout.STAGES)
"""Of one variant."""


def refuse_frags(plane: XdpDataPlane) -> None:
    """Let the plane see a kernel without multi-buffer frames."""
    assert plane._loaded is not None
    plane._loaded._refused[True] = KernelRefused("load", errno.EINVAL)


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


def test_native_with_frags_is_first(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """A veth takes the best mode, its packets are counted, and the pins are named by index."""
    index = world.world.add_veth("eth0.100", "peer0")
    attachment = world.attach(plane, "eth0.100")
    assert Attachment("eth0.100", index, "native", frags=True, adopted=False, refused=(NO_HARDWARE,)) == attachment
    world.send("peer0", 5)
    assert udp_counted(plane, index) == 5
    assert ["link", "program", "stages"] == world.hook_pins(index)
    assert frozenset({index}) == plane.attached_ifindexes()


def test_interfaces_of_high_index_are_counted_too(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """An index beyond the array has its counters in the hash table, with the same sums, and is forgotten as well."""
    world.world.command("ip", "link", "add", "va", "index", "4711", "type", "veth", "peer", "name", "vb")
    for name in ("va", "vb"):
        world.world.command("ip", "link", "set", name, "up")
    world.attach(plane, "va")
    world.send("vb", 5)
    assert 5 == udp_counted(plane, 4711)
    world.world.wait(lambda: plane.detach(4711))
    assert [] == list(plane.sample().packets)


@pytest.mark.parametrize("ends", [("10.9.0.1", "10.9.0.2"), ("fe80::1", "fe80::2")], ids=["ipv4", "ipv6"])
def test_probe_goes_round_on_the_wire(world: PlaneWorld, plane: XdpDataPlane, ends: tuple[str, str]) -> None:
    """A request sent out of one end is answered by the kernel at the other and recorded on its return."""
    one, other = world.world.add_veth("va", "vb"), world.world.index("vb")
    here, there = map(ip_address, ends)
    for name in ("va", "vb"):
        world.attach(plane, name)
    plane.put_link(one, there, here)
    plane.put_link(other, here, there)
    for sequence in range(1, 6):
        payload = layout.encode_request(77, sequence, time.monotonic_ns())
        world.send("va", 1, Packet(here, there, payload).encode())
    wait_until(lambda: (seen := plane.probe_record(one, there)) is not None and seen.replies_received == 5)
    record = plane.probe_record(one, there)
    assert record is not None
    assert (5, 5, 5, 0b11111) == (
        record.replies_received,
        record.sequence_last,
        record.peer_requests_received,
        record.received,
    )
    assert 0 < record.rtt_last_ns < record.rtt_sum_ns
    events = {(c.ifindex, c.event): c.packets for c in plane.sample().probes}
    assert {(other, "answered"): 5, (one, "accepted"): 5} == events


def test_foreign_program_stays(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """Somebody else's program is named by its id and not touched, whichever way it came there."""
    index = world.world.add_veth("va", "vb")
    program_fd = bpf.load_instructions(bpf.XDP_PROGRAM, bpf.RETURN_PASS)
    link_fd = world.world.run(lambda: bpf.create_xdp_link(program_fd, index, bpf.XDP_FLAGS_SKB))
    try:
        with pytest.raises(ForeignProgram) as caught:
            world.attach(plane, "va")
        assert caught.value.program_id == bpf.program_id(program_fd)
        assert XdpHook("skb", bpf.program_id(program_fd)) == world.hook(index)
        assert frozenset() == plane.attached_ifindexes()
    finally:
        os.close(link_fd)
        os.close(program_fd)
    assert world.attach(plane, "va").mode == "native"  # patient with a hook that is being let go


def test_outsider_cannot_remove_ours(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """``ip link set xdp off`` fails on our link."""
    world.world.add_veth("va", "vb")
    world.attach(plane, "va")
    with pytest.raises(subprocess.CalledProcessError):
        world.world.command("ip", "link", "set", "va", "xdp", "off")


def test_skb_mode_needs_permission(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """A loopback has no native mode: refused with each mode's errno, or skb where the configuration allows it."""
    with pytest.raises(ModeRefused) as caught:
        world.attach(plane, "lo")
    assert caught.value.errno == errno.EOPNOTSUPP
    name = errno_name(errno.EOPNOTSUPP)
    assert f"hardware {name}, native+frags {name}, native {name}" in caught.value.detail
    assert "allow_skb_mode" in caught.value.detail
    assert frozenset() == plane.attached_ifindexes()
    allowed = world.open(allow_skb_mode=True)
    refused = tuple(RefusedMode(mode, errno.EOPNOTSUPP) for mode in ("hardware", "native+frags", "native"))
    try:
        assert Attachment("lo", 1, "skb", frags=True, adopted=False, refused=refused) == world.attach(allowed, "lo")
        assert Attachment("lo", 1, "skb", frags=True, adopted=True, refused=()) == world.attach(allowed, "lo")
    finally:
        allowed.close()
    with pytest.raises(KernelRefused):  # no longer allowed: taken off
        world.attach(plane, "lo")
    assert XdpHook("", 0) == world.hook(1)


def test_jumbo_frames_need_frags(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """A device with a large MTU takes the variant with frags, and refuses the plain one with ERANGE."""
    index = world.world.add_veth("va", "vb", mtu=9000)
    assert world.attach(plane, "va").frags
    world.world.wait(lambda: plane.detach(index))
    refuse_frags(plane)
    with pytest.raises(MtuTooLarge) as caught:
        world.attach(plane, "va")
    assert "native+frags EINVAL, native ERANGE" in caught.value.detail


def test_kernel_without_frags_gets_the_plain_program(world: PlaneWorld) -> None:
    """Where the variant with frags does not load, the plain one serves and the refusal is shown."""
    index = world.world.add_veth("va", "vb")
    plane = world.open()
    try:
        refuse_frags(plane)
        attachment = world.attach(plane, "va")
        refused = (NO_HARDWARE, RefusedMode("native+frags", errno.EINVAL))
        assert ("native", False, refused) == (attachment.mode, attachment.frags, attachment.refused)
        world.send("vb", 3)
        assert 3 == udp_counted(plane, index)
    finally:
        plane.close()


def test_too_many_neighbours_are_refused(plane: XdpDataPlane) -> None:
    """The 257th neighbour is E2BIG, and the others stay."""
    for i in range(layout.LINKS_MAX):
        plane.put_link(1, ip_address(int(NEIGHBOUR) + i), LOCAL)
    with pytest.raises(KernelRefused) as caught:
        plane.put_link(1, ip_address("10.99.0.1"), LOCAL)
    assert caught.value.errno == errno.E2BIG
    assert len(plane.links()) == layout.LINKS_MAX


def test_short_of_memory_for_a_moment(plane: XdpDataPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's store of per-CPU memory may be empty for a moment; what goes on longer is told."""
    assert plane._loaded is not None
    counters, update, refusals = plane._loaded.counters, bpf.update, [2]

    def refuse(map_fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
        if refusals[0]:
            refusals[0] -= 1
            raise KernelRefused("write a map entry", errno.ENOMEM)
        update(map_fd, key, value, flags)

    monkeypatch.setattr(bpf, "update", refuse)
    assert counters.make(4711)
    refusals[0] = 100
    with pytest.raises(MapFull):
        counters.make(4712)


def test_too_many_interfaces_are_refused(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """An interface that there is no counter for is not attached, and says what is full."""
    assert plane._loaded is not None
    world.world.command("ip", "link", "add", "va", "index", "999", "type", "veth", "peer", "name", "vb")
    for i in range(layout.INTERFACES_MAX):
        plane._loaded.counters.make(1000 + i)
    with pytest.raises(MapFull):
        world.attach(plane, "va")
    assert frozenset() == plane.attached_ifindexes()
    plane._loaded.counters.forget(1000)
    assert world.attach(plane, "va").frags


def test_everything_is_removed(world: PlaneWorld) -> None:
    """``detach_all`` leaves no attachment, no pin of anybody's in our directory, and no descriptor open."""
    index = world.world.add_veth("va", "vb")
    world.world.wait(world.plane().detach_all)  # what a loop keeps open is open from here on
    before = descriptors()
    with world.opened() as plane:
        world.attach(plane, "va")
        bpf.pin(plane.map_fds["x0d_config"], plane.maps_dir / "deny4-0")  # as the deny-list does
        retired = world.directory / "layout-1"
        retired.mkdir()
        bpf.pin(plane.map_fds["x0d_config"], retired / "x0d_counters")
        (world.directory / "somebody" / "elses").mkdir(parents=True)
        world.world.wait(plane.detach_all)
        assert XdpHook("", 0) == world.hook(index)
        assert [] == list(world.bpffs_dir.iterdir())
        assert before == descriptors()
        assert {} == dict(plane.map_fds)


def test_everything_is_removed_without_a_daemon(world: PlaneWorld) -> None:
    """What a daemon that runs no more has left is removed by its pins alone; a second time there is nothing."""
    index = world.world.add_veth("va", "vb")
    with world.opened() as plane:
        world.attach(plane, "va")
    directory = world.directory
    for existed in (True, False):
        assert pins.Removed(directory, existed) == world.world.run(lambda: pins.remove_without_daemon(world.bpffs_dir))
        assert XdpHook("", 0) == world.hook(index)
        assert [] == list(world.bpffs_dir.iterdir())


def descriptors() -> list[str]:
    """What kinds of BPF objects this process has open."""
    links = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(path.readlink()))
        except FileNotFoundError:  # the listing's own
            continue
    return sorted(link for link in links if "bpf" in link)


def test_what_is_loaded_is_told(plane: XdpDataPlane) -> None:
    """Programs of both variants, every map with its memory, the object with its digest."""
    states = {row.name: (row.kind, row.state) for row in plane.programs()}
    assert ("root", "loaded") == states["x0d_root_frags"]
    assert {("stage", "loaded")} == {states[f"x0d_{stage}_frags"] for stage in layout.STAGES}
    assert {"off"} == {states[f"x0d_{part}"][1] for part in ("root", *layout.STAGES)}
    maps = {row.name: row for row in plane.maps()}
    assert set(layout.MAPS) - {"x0d_stages"} | {"x0d_stages_frags"} == set(maps)
    assert ("percpu_hash", 256) == (maps["x0d_interfaces"].map_type, maps["x0d_interfaces"].entries_max)
    assert maps["x0d_sources"].memory_bytes > 65536 * 56
    (shown,) = plane.objects()
    assert ("GPL", layout.LAYOUT_VERSION, True) == (shown.license, shown.layout_version, shown.has_btf)


def test_programs_are_loaded_as_they_are_needed(world: PlaneWorld, plane: XdpDataPlane) -> None:
    """The plain variant is loaded when an interface needs it, and not before."""
    world.world.add_veth("va", "vb")
    world.attach(plane, "va")
    assert PROGRAMS == sum(row.state == "loaded" for row in plane.programs())
    with pytest.raises(ModeRefused):
        world.attach(plane, "lo")  # every mode is tried
    assert 2 * PROGRAMS == sum(row.state == "loaded" for row in plane.programs())
    assert {"x0d_stages_frags", "x0d_stages_plain"} <= {path.name for path in plane.maps_dir.iterdir()}


def test_reading_is_quick(plane: XdpDataPlane) -> None:
    """A sample of as many interfaces as there can be takes milliseconds; the figure is printed."""
    assert plane._loaded is not None
    numbers = range(1, len(layout.INTERFACE.unpack(bytes(layout.INTERFACE.size))) + 1)
    cells = layout.INTERFACE.pack(*numbers) * bpf.possible_cpus()
    for i in range(layout.INTERFACES_MAX):
        plane._loaded.counters.make(i)
        plane._loaded.counters.make(1000 + i)
        bpf.update(plane.map_fds["x0d_low"], layout.IFINDEX.pack(i), cells)
        bpf.update(plane.map_fds["x0d_interfaces"], layout.IFINDEX.pack(1000 + i), cells)
    took_ms = []
    for _ in range(5):
        started_s = time.perf_counter()
        sample = plane.sample()
        took_ms.append((time.perf_counter() - started_s) * 1000)
    interfaces = layout.LOW_INTERFACES_MAX + layout.INTERFACES_MAX
    print(f"sample of {interfaces} interfaces with every counter: {', '.join(f'{ms:.1f}' for ms in took_ms)} ms")
    assert interfaces * layout.CELLS == len(sample.packets)
    first = sample.packets[0]
    assert ("other", "pass", bpf.possible_cpus()) == (first.protocol_class, first.verdict, first.packets)
    assert interfaces * bpf.possible_cpus() * (2 * layout.CELLS + 10) == sample.events_sent


def test_start_is_quick(world: PlaneWorld) -> None:
    """Opening costs a fraction of a second where all maps have to be made, and less afterwards; both are printed."""
    for what in ("maps made", "maps there"):
        cpu_s, started_s = time.process_time(), time.perf_counter()
        with world.opened() as plane:
            took_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
            assert PROGRAMS == sum(row.state == "loaded" for row in plane.programs())
            started_s = time.perf_counter()
            count = len(plane.maps())
            maps_ms = (time.perf_counter() - started_s) * 1000
        print(
            f"open, {what}: {took_s * 1000:.0f} ms, of CPU {cpu_s * 1000:.0f} ms; {count} maps told in {maps_ms:.1f} ms"
        )
        assert cpu_s < 1


def test_no_bpffs_says_what_is_wanted(world: PlaneWorld, tmp_path: Path) -> None:
    """A directory that is in no bpf filesystem is refused with what it must be."""
    plane = XdpDataPlane(tmp_path / "plain" / "x0d", SETTINGS)
    with pytest.raises(NotSupported, match=r"node\.bpffs_dir must be a directory of a bpf filesystem"):
        world.world.wait(plane.open)
    plane.close()


def test_missing_object_says_how_to_build(world: PlaneWorld, tmp_path: Path) -> None:
    """A checkout without built programs names the command that builds them."""
    plane = world.plane(objects_dir=tmp_path)
    with pytest.raises(NotSupported, match="make -C ebpf"):
        world.world.wait(plane.open)
    plane.close()


def test_without_capability_bpf_is_not_available(world: PlaneWorld) -> None:
    """A process without capabilities gets a sentence and not a traceback of the kernel's errno."""
    script = "import sys; sys.path.insert(0, sys.argv[1])\nfrom x0d.kernel.dataplane import require_bpf\nrequire_bpf()"
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable]
    command += ["-c", script, str(REPOSITORY / "daemon")]
    done = world.world.run(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    assert "NotSupported: bpf(2) is not available" in done.stderr
    assert "CAP_BPF" in done.stderr
