"""The XDP data plane on real interfaces: modes, adoption, foreign programs, pins, death."""

import errno
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from kernel.xdp_packets import Packet
from kernel.xdp_world import REPOSITORY, World, new_world
from x0d.errors import ForeignProgram, KernelRefused, NotSupported, errno_name
from x0d.kernel import bpf, layout, libbpf, pins
from x0d.kernel.dataplane import OBJECT_FILE, XdpDataPlane
from x0d.kernel.xdp_query import XdpHook, read_xdp_hook
from x0d.ports import Attachment, RefusedMode

pytestmark = pytest.mark.kernel

NEIGHBOUR, LOCAL = ip_address("10.9.0.2"), ip_address("10.9.0.1")
LOADER = Path(__file__).with_name("xdp_loader.py")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A namespace of the test's own."""
    with new_world(tmp_path) as made:
        yield made


@pytest.fixture
def plane(world: World) -> Iterator[XdpDataPlane]:
    """An opened data plane."""
    opened = world.open_plane()
    yield opened
    opened.close()


def attach(world: World, plane: XdpDataPlane, interface: str) -> Attachment:
    """Attach by name."""
    index = world.index(interface)
    return world.wait(lambda: plane.attach(interface, index))


def hook(world: World, index: int) -> XdpHook:
    """Who holds an interface."""
    return world.run(lambda: read_xdp_hook(index))


def send_frames(world: World, interface: str, count: int) -> None:
    """Send IPv4 UDP frames to port 53 out of an interface."""
    send_raw(world, interface, Packet(NEIGHBOUR, LOCAL, b"x" * 20, destination_port=53).encode(), count)


def send_raw(world: World, interface: str, frame: bytes, count: int) -> None:
    """Send a frame out of an interface, past the network stack."""

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((interface, 0))
            for _ in range(count):
                raw.send(frame)

    world.run(send)


def udp_counted(plane: XdpDataPlane, index: int) -> int:
    """UDP packets passed that came in on an interface."""
    return sum(c.packets for c in plane.packet_counters() if (c.ifindex, c.protocol_class) == (index, "udp"))


def test_native_with_frags_is_first(world: World, plane: XdpDataPlane) -> None:
    """A veth takes the best mode, its packets are counted, and the pins are named by index."""
    index = world.add_veth("eth0.100", "peer0")
    attachment = attach(world, plane, "eth0.100")
    assert Attachment("eth0.100", index, "native", frags=True, adopted=False, refused=()) == attachment
    send_frames(world, "peer0", 5)
    assert udp_counted(plane, index) == 5
    pinned = sorted(path.name for path in (plane._directory / f"{index}-xdp").iterdir())
    assert pinned == ["link", "program"]
    assert frozenset({index}) == plane.attached_ifindexes()


@pytest.mark.parametrize("ends", [("10.9.0.1", "10.9.0.2"), ("fe80::1", "fe80::2")], ids=["ipv4", "ipv6"])
def test_probe_goes_round_on_the_wire(world: World, plane: XdpDataPlane, ends: tuple[str, str]) -> None:
    """A request sent out of one end is answered by the kernel at the other and recorded on its return."""
    one, other = world.add_veth("va", "vb"), world.index("vb")
    here, there = map(ip_address, ends)
    for name in ("va", "vb"):
        attach(world, plane, name)
    plane.put_link(one, there, here)
    plane.put_link(other, here, there)
    for sequence in range(1, 6):
        payload = layout.encode_request(77, sequence, time.monotonic_ns())
        send_raw(world, "va", Packet(here, there, payload).encode(), 1)
    deadline_s = time.monotonic() + 5
    while (record := plane.probe_record(one, there)) and record.replies_received < 5 and time.monotonic() < deadline_s:
        os.sched_yield()
    assert record is not None
    assert (5, 5, 5, 0b11111) == (
        record.replies_received,
        record.sequence_last,
        record.peer_requests_received,
        record.received,
    )
    assert 0 < record.rtt_last_ns < record.rtt_sum_ns
    events = {(c.ifindex, c.event): c.packets for c in plane.probe_counters()}
    assert {(other, "answered"): 5, (one, "accepted"): 5} == events


def test_restart_adopts(world: World) -> None:
    """The next life takes over attachment and counters, and its configuration holds at once."""
    index = world.add_veth("va", "vb")
    first = world.open_plane(session=1)
    attach(world, first, "va")
    first.put_link(index, NEIGHBOUR, LOCAL)
    before = hook(world, index)
    first.close()
    send_frames(world, "vb", 7)
    second = world.open_plane(session=2)
    try:
        assert Attachment("va", index, "native", frags=True, adopted=True, refused=()) == attach(world, second, "va")
        send_frames(world, "vb", 3)
        assert udp_counted(second, index) == 10
        assert {(index, NEIGHBOUR): LOCAL} == second.links()
        after = hook(world, index)
        assert before.mode == after.mode == "native"
        assert before.program_id != after.program_id
        value = bpf.lookup(second._map_fds["x0d_config"], bytes(4), layout.CONFIG.size)
        assert value is not None
        assert layout.decode_config(value) == layout.DataPlaneConfig(2, 9474, 1000, 100)
    finally:
        second.close()


def test_foreign_program_stays(world: World, plane: XdpDataPlane) -> None:
    """Somebody else's program is named by its id and not touched, whichever way it came there."""
    index = world.add_veth("va", "vb")
    program_fd = bpf.load_instructions(bpf.XDP_PROGRAM, bpf.RETURN_PASS)
    link_fd = world.run(lambda: bpf.create_xdp_link(program_fd, index, bpf.XDP_FLAGS_SKB))
    try:
        with pytest.raises(ForeignProgram) as caught:
            attach(world, plane, "va")
        assert caught.value.program_id == bpf.program_id(program_fd)
        assert XdpHook("skb", bpf.program_id(program_fd)) == hook(world, index)
        assert frozenset() == plane.attached_ifindexes()
    finally:
        os.close(link_fd)
        os.close(program_fd)
    assert attach(world, plane, "va").mode == "native"  # patient with a hook that is being let go


def test_outsider_cannot_remove_ours(world: World, plane: XdpDataPlane) -> None:
    """``ip link set xdp off`` fails on our link."""
    world.add_veth("va", "vb")
    attach(world, plane, "va")
    with pytest.raises(subprocess.CalledProcessError):
        world.command("ip", "link", "set", "va", "xdp", "off")


def test_skb_mode_needs_permission(world: World, plane: XdpDataPlane) -> None:
    """A loopback has no native mode: refused with each mode's errno, or skb where the configuration allows it."""
    with pytest.raises(KernelRefused) as caught:
        attach(world, plane, "lo")
    assert caught.value.errno == errno.EOPNOTSUPP
    name = errno_name(errno.EOPNOTSUPP)
    assert f"native+frags {name}, native {name}" in caught.value.detail
    assert "allow_skb_mode" in caught.value.detail
    assert frozenset() == plane.attached_ifindexes()
    allowed = world.open_plane(allow_skb_mode=True)
    refused = (RefusedMode("native+frags", errno.EOPNOTSUPP), RefusedMode("native", errno.EOPNOTSUPP))
    try:
        assert Attachment("lo", 1, "skb", frags=True, adopted=False, refused=refused) == attach(world, allowed, "lo")
        assert Attachment("lo", 1, "skb", frags=True, adopted=True, refused=()) == attach(world, allowed, "lo")
    finally:
        allowed.close()
    with pytest.raises(KernelRefused):  # no longer allowed: taken off
        attach(world, plane, "lo")
    assert XdpHook("", 0) == hook(world, 1)


def test_jumbo_frames_need_frags(world: World, plane: XdpDataPlane) -> None:
    """A device with a large MTU takes the variant with frags, and refuses the plain one with ERANGE."""
    index = world.add_veth("va", "vb", mtu=9000)
    assert attach(world, plane, "va").frags
    world.wait(lambda: plane.detach(index))
    plane._refused_programs[True] = KernelRefused("load", errno.EINVAL)
    with pytest.raises(KernelRefused) as caught:
        attach(world, plane, "va")
    assert "native+frags EINVAL, native ERANGE" in caught.value.detail


def test_kernel_without_frags_gets_the_plain_program(world: World) -> None:
    """Where the variant with frags does not load, the plain one serves and the refusal is shown."""
    world.add_veth("va", "vb")
    plane = world.open_plane()
    try:
        plane._refused_programs[True] = KernelRefused("load", errno.EINVAL)
        attachment = attach(world, plane, "va")
        refused = (RefusedMode("native+frags", errno.EINVAL),)
        assert ("native", False, refused) == (attachment.mode, attachment.frags, attachment.refused)
    finally:
        plane.close()


def test_deleted_device_is_collected(world: World, plane: XdpDataPlane) -> None:
    """Pins, counters and neighbours of an interface that is gone are forgotten; others stay."""
    gone, stays = world.add_veth("va", "vb"), world.add_veth("vc", "vd")
    for name in ("va", "vc"):
        attach(world, plane, name)
    plane.put_link(gone, NEIGHBOUR, LOCAL)
    plane.put_link(stays, NEIGHBOUR, LOCAL)
    for name in ("vb", "vd"):
        send_frames(world, name, 2)
    world.command("ip", "link", "delete", "va")
    world.wait(lambda: plane.collect(frozenset({1, stays})))
    assert frozenset({stays}) == plane.attached_ifindexes()
    assert {(stays, NEIGHBOUR): LOCAL} == plane.links()
    assert {stays} == {counter.ifindex for counter in plane.packet_counters()}


def test_link_of_a_deleted_device_is_replaced(world: World, plane: XdpDataPlane) -> None:
    """A device made anew under the old index is attached afresh: its pinned link belongs to the dead one."""
    index = world.add_veth("va", "vb")
    attach(world, plane, "va")
    world.command("ip", "link", "delete", "va")
    world.command("ip", "link", "add", "va", "index", str(index), "type", "veth", "peer", "name", "vb")
    assert not attach(world, plane, "va").adopted
    assert hook(world, index).mode == "native"


def test_interrupted_pins_are_put_right(world: World, plane: XdpDataPlane) -> None:
    """A link left under its temporary name, and a program pin that is out of date, are adopted."""
    index = world.add_veth("va", "vb")
    attach(world, plane, "va")
    pinned = plane._directory / f"{index}-xdp"
    (pinned / "link").rename(pinned / "link_tmp")
    assert attach(world, plane, "va").adopted
    other_fd = bpf.load_instructions(bpf.XDP_PROGRAM, bpf.RETURN_PASS)
    (pinned / "program").rename(pinned / "program_tmp")
    bpf.pin(other_fd, pinned / "program")
    assert attach(world, plane, "va").adopted
    (pinned / "program").unlink()
    assert attach(world, plane, "va").adopted
    assert sorted(path.name for path in pinned.iterdir()) == ["link", "program"]
    os.close(other_fd)


def test_other_layout_is_remade(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    """Maps of another layout version are made anew, with a warning, and the attachment goes on with them."""
    index = world.add_veth("va", "vb")
    first = world.open_plane()
    attach(world, first, "va")
    send_frames(world, "vb", 4)
    older = layout.encode_config(layout.DataPlaneConfig(1, 9474, 1, 1, layout_version=layout.LAYOUT_VERSION + 1))
    bpf.update(first._map_fds["x0d_config"], bytes(4), older)
    first.close()
    second = world.open_plane()
    assert "dataplane_maps_remade" in capfd.readouterr().out
    try:
        assert attach(world, second, "va").adopted
        assert udp_counted(second, index) == 0
        send_frames(world, "vb", 3)
        assert udp_counted(second, index) == 3
    finally:
        second.close()


def test_map_of_another_shape_is_remade(world: World) -> None:
    """A pinned map whose sizes differ is not reused."""
    first = world.open_plane()
    maps = first._directory / pins.MAPS_DIR
    (maps / "x0d_locals").unlink()
    bpf.pin(first._map_fds["x0d_buckets"], maps / "x0d_locals")
    first.close()
    second = world.open_plane()
    try:
        assert layout.MAPS["x0d_locals"] == layout.MapShape(*bpf.map_shape(second._map_fds["x0d_locals"]))
        second.put_link(1, NEIGHBOUR, LOCAL)
    finally:
        second.close()


def test_too_many_neighbours_are_refused(plane: XdpDataPlane) -> None:
    """The 257th neighbour is E2BIG, and the others stay."""
    for i in range(layout.LINKS_MAX):
        plane.put_link(1, ip_address(int(NEIGHBOUR) + i), LOCAL)
    with pytest.raises(KernelRefused) as caught:
        plane.put_link(1, ip_address("10.99.0.1"), LOCAL)
    assert caught.value.errno == errno.E2BIG
    assert len(plane.links()) == layout.LINKS_MAX


def test_everything_is_removed(world: World, plane: XdpDataPlane) -> None:
    """``detach_all`` leaves no attachment and no pin."""
    index = world.add_veth("va", "vb")
    attach(world, plane, "va")
    world.run(plane.detach_all)
    assert XdpHook("", 0) == hook(world, index)
    assert list(world.bpffs_dir.iterdir()) == []


def test_no_bpffs_says_what_is_wanted(world: World, tmp_path: Path) -> None:
    """A directory that is in no bpf filesystem is refused with what it must be."""
    with pytest.raises(NotSupported, match=r"node\.bpffs_dir must be a directory of a bpf filesystem"):
        world.wait(lambda: make_plane(tmp_path / "plain" / "x0d").open())


def test_missing_object_says_how_to_build(world: World) -> None:
    """A checkout without built programs names the command that builds them."""
    with pytest.raises(NotSupported, match="make -C ebpf"):
        world.wait(lambda: make_plane(world.bpffs_dir, world.bpffs_dir / "none.bpf.o").open())


def test_without_capability_bpf_is_not_available(world: World) -> None:
    """A process without capabilities gets a sentence and not a traceback of the kernel's errno."""
    script = "import sys; sys.path.insert(0, sys.argv[1])\nfrom x0d.kernel.dataplane import require_bpf\nrequire_bpf()"
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable]
    command += ["-c", script, str(REPOSITORY / "daemon")]
    done = world.run(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    assert "NotSupported: bpf(2) is not available" in done.stderr
    assert "CAP_BPF" in done.stderr


def test_three_capabilities_suffice(world: World) -> None:
    """With the service's capabilities and no memory to lock, the program is attached and then adopted."""
    world.add_veth("va", "vb")
    bounds = ["setpriv", "--bounding-set=-all,+bpf,+net_admin,+perfmon", "--inh-caps=-all", "prlimit", "--memlock=0"]
    namespace = world.run(lambda: os.open("/proc/thread-self/ns/net", os.O_RDONLY))
    for adopted in ("False", "True"):
        with loader(world, 1, namespace, *bounds) as process:
            assert process.stdout is not None
            assert process.stdout.readline().split() == ["va", adopted]
            process.kill()
    os.close(namespace)


@pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang")
def test_verifiers_words_are_kept(tmp_path: Path) -> None:
    """A program that the verifier rejects is refused with the last lines of its log."""
    source, built = tmp_path / "rash.c", tmp_path / "rash.o"
    source.write_text(
        "struct xdp_md { unsigned data, data_end; };"
        'char licence[] __attribute__((section("license"))) = "GPL";'
        '__attribute__((section("xdp"))) int rash(struct xdp_md *ctx) { return *(char *)(long)ctx->data; }'
    )
    subprocess.run(["clang", "-O2", "-g", "-target", "bpf", "-c", str(source), "-o", str(built)], check=True)
    with pytest.raises(KernelRefused) as caught:
        libbpf.Libbpf().load(built.read_bytes(), "rash", {})
    assert caught.value.errno == errno.EACCES
    assert "invalid access to packet" in caught.value.log_tail


def test_killed_at_any_moment(world: World, seed: int) -> None:
    """SIGKILL at random moments of a start: never two attachments, never one without its pin, counts kept."""
    index = world.add_veth("va", "vb")
    chance = random.Random(seed)
    counted = 0
    for life in range(8):
        kill_loader(world, life + 1, chance.uniform(0.1, 0.6))
        send_frames(world, "vb", 10)
        plane = world.open_plane(session=100 + life)
        try:
            pinned = (plane._directory / f"{index}-xdp" / "link").exists()
            pinned |= (plane._directory / f"{index}-xdp" / "link_tmp").exists()
            attachment = attach(world, plane, "va")
            assert pinned == attachment.adopted
            counted += 10 if pinned else 0
            assert counted == udp_counted(plane, index)
            send_frames(world, "vb", 1)
            counted += 1
            assert sorted(p.name for p in (plane._directory / f"{index}-xdp").iterdir()) == ["link", "program"]
        finally:
            plane.close()


def test_nothing_is_missed_across_kills_under_load(world: World) -> None:
    """While daemons are killed and their successors adopt, every packet sent is counted."""
    index = world.add_veth("va", "vb")
    plane = world.open_plane()
    try:
        attach(world, plane, "va")
        sent, stop = [0], threading.Event()
        sender = threading.Thread(target=world.run, args=(lambda: flood(sent, stop),))
        # The namespace's one thread floods; loaders enter by its descriptor.
        namespace = world.run(lambda: os.open("/proc/thread-self/ns/net", os.O_RDONLY))
        sender.start()
        for life in range(4):
            with loader(world, 5 + life, namespace) as process:
                assert process.stdout is not None
                assert process.stdout.readline().split() == ["va", "True"]
                process.send_signal(signal.SIGKILL)
        stop.set()
        sender.join()
        os.close(namespace)
        assert sent[0] > 0
        assert sent[0] == udp_counted(plane, index)
    finally:
        plane.close()


def flood(sent: list[int], stop: threading.Event) -> None:
    """Send out of vb, gently, until told to stop."""
    frame = Packet(NEIGHBOUR, LOCAL, b"x" * 20, destination_port=53).encode()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("vb", 0))
        while not stop.wait(0.0005):
            for _ in range(10):
                raw.send(frame)
                sent[0] += 1


def make_plane(bpffs_dir: Path, object_file: Path = OBJECT_FILE) -> XdpDataPlane:
    """Make a data plane that is not yet opened."""
    return XdpDataPlane(
        bpffs_dir,
        allow_skb_mode=False,
        probe_port=9474,
        probe_rate_pps=1000,
        probe_burst=100,
        session=1,
        object_file=object_file,
    )


def loader(world: World, session: int, namespace: int, *bounds: str) -> "subprocess.Popen[str]":
    """Start a loader process on va, in a namespace given by its descriptor."""
    command = ["nsenter", f"--net=/proc/self/fd/{namespace}", *bounds, sys.executable, str(LOADER)]
    return subprocess.Popen(
        [*command, str(world.bpffs_dir), str(session), "va"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "daemon")},
        pass_fds=[namespace],
        stdout=subprocess.PIPE,
        text=True,
    )


def kill_loader(world: World, session: int, after_s: float) -> None:
    """Start a loader and kill it some time later, wherever it is by then."""
    namespace = world.run(lambda: os.open("/proc/thread-self/ns/net", os.O_RDONLY))
    with loader(world, session, namespace) as process:
        time.sleep(after_s)  # tidy: a random instant is what is tested
        process.send_signal(signal.SIGKILL)
    os.close(namespace)
