"""What the kernel refuses at an XDP hook: provoked for real, each refusal is a typed error with a gRPC status."""

import errno
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc import StatusCode

from kernel.namespaces import namespace, veth
from kernel.xdp_hooks import (
    HARDWARE,
    MOVED_INDEX,
    NAME,
    NATIVE,
    NO_PROGRAM_THERE,
    REPLACE,
    SKB,
    Arena,
    arena,
    refusal_of,
    with_attach_type,
    without_capabilities,
)
from x0d.errors import (
    DeviceGone,
    ForeignGeneration,
    ForeignProgram,
    HookChanged,
    KernelRefused,
    ModeRefused,
    MtuTooLarge,
    NotPermitted,
)
from x0d.kernel import bpf
from x0d.kernel.refusals import Operation, refine
from x0d.kernel.xdp_query import read_xdp_hook
from x0d.transport.statuses import status_of

pytestmark = pytest.mark.kernel

JUMBO = 9000
UNKNOWN_FLAG = 1 << 20
PROG_ARRAY = 3
PATIENCE_S = 10.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Arena]:
    """A veth pair and a bpf filesystem of the test's own."""
    with arena(tmp_path) as made:
        yield made


def judge(error: KernelRefused) -> tuple[type[KernelRefused], str, StatusCode]:
    """Return type, errno by name and gRPC status of an error, which must give advice."""
    assert error.detail
    return type(error), errno.errorcode[error.errno], status_of(error)


def create(world: Arena, program_fd: int, flags: int, ifindex: int = MOVED_INDEX) -> KernelRefused:
    """Return the typed refusal of an attachment, as the loader makes it: inside the namespace."""

    def attempt() -> KernelRefused:
        refusal = refusal_of(lambda: bpf.create_xdp_link(program_fd, ifindex, flags))
        holder = read_xdp_hook(ifindex).program_id if refusal.errno in {errno.EBUSY, errno.EEXIST} else 0
        return refine(Operation.LINK_CREATE, refusal, interface=NAME, ifindex=ifindex, program_id=holder)

    return world.home.call(attempt)


def replace(link_fd: int, program_fd: int, old_fd: int | None = None) -> KernelRefused:
    """Return the typed refusal of a replacement."""
    refusal = refusal_of(lambda: bpf.update_link(link_fd, program_fd, old_fd))
    return refine(Operation.LINK_UPDATE, refusal)


def by_netlink(world: Arena, program_fd: int, flags: int, expected_fd: int | None = None) -> KernelRefused:
    """Return the typed refusal of a netlink attachment."""
    refusal = world.netlink(program_fd, flags, expected_fd)
    assert refusal is not None
    return world.home.call(lambda: refine(Operation.NETLINK_XDP, refusal, ifindex=world.ifindex))


# ---- somebody else is there ----


def test_foreign_netlink_program(world: Arena) -> None:
    """Where somebody has attached by netlink we are busy, in the same mode and in another, and name their program."""
    theirs = world.program()
    assert world.netlink(theirs, NATIVE) is None
    for flags, word in ((NATIVE, "EBUSY"), (SKB, "EEXIST")):
        error = create(world, world.program(), flags)
        assert (ForeignProgram, word, StatusCode.FAILED_PRECONDITION) == judge(error)
        assert f"program id {bpf.program_id(theirs)} of somebody else" in str(error)
        assert NAME in str(error)
    assert ("native", bpf.program_id(theirs)) == (world.hook().mode, world.hook().program_id)


def test_second_link(world: Arena) -> None:
    """A link that is there keeps its hook against a second one, in the same mode and in another."""
    first = world.program()
    world.link(first)
    for flags, word in ((NATIVE, "EBUSY"), (SKB, "EEXIST")):
        error = create(world, world.program(), flags)
        assert (ForeignProgram, word, StatusCode.FAILED_PRECONDITION) == judge(error)
    assert bpf.program_id(first) == world.hook().program_id


def test_our_link_stays_whatever_others_try(world: Arena) -> None:
    """Netlink neither replaces nor removes what a link has attached: that is EBUSY for them, and nothing for us."""
    ours = world.program()
    link_fd = world.link(ours)
    before = bpf.link_info(link_fd)
    for flags in (NATIVE, NATIVE | NO_PROGRAM_THERE):
        refusal = world.netlink(world.program(), flags)
        assert refusal is not None
        assert errno.EBUSY == refusal.errno
    with pytest.raises(AssertionError, match="replace active BPF XDP link"):
        world.home.ip(f"link set {NAME} xdp off")
    assert before == bpf.link_info(link_fd)
    assert ("native", bpf.program_id(ours)) == (world.hook().mode, world.hook().program_id)


def test_netlink_finds_another_state(world: Arena) -> None:
    """A netlink attachment on wrong assumptions says that the hook has changed: it is read again."""
    first, second = world.program(), world.program()
    assert world.netlink(first, NATIVE) is None
    changed = StatusCode.ABORTED
    assert (HookChanged, "EBUSY", changed) == judge(by_netlink(world, second, NATIVE | NO_PROGRAM_THERE))
    assert (HookChanged, "EEXIST", changed) == judge(by_netlink(world, second, NATIVE | REPLACE, expected_fd=second))
    assert (HookChanged, "EEXIST", changed) == judge(by_netlink(world, second, SKB))
    assert bpf.program_id(first) == world.hook().program_id
    assert world.netlink(second, NATIVE | REPLACE, expected_fd=first) is None


# ---- replacing a link's program ----


def test_wrong_old_program(world: Arena) -> None:
    """A replacement that expects another old program is refused: the hook has another owner meanwhile."""
    first, second = world.program(), world.program()
    link_fd = world.link(first)
    error = replace(link_fd, second, old_fd=second)
    assert (HookChanged, "EPERM", StatusCode.ABORTED) == judge(error)
    assert bpf.program_id(first) == bpf.link_info(link_fd).program_id
    bpf.update_link(link_fd, second, first)
    assert bpf.program_id(second) == bpf.link_info(link_fd).program_id


def test_program_of_another_type(world: Arena) -> None:
    """A link takes no program of another type: what is there is of a foreign generation, and goes on."""
    first = world.program()
    link_fd = world.link(first)
    error = replace(link_fd, world.keep(bpf.load_instructions(bpf.SCHED_CLS_PROGRAM, bpf.RETURN_ZERO)))
    assert (ForeignGeneration, "EINVAL", StatusCode.FAILED_PRECONDITION) == judge(error)
    assert bpf.program_id(first) == bpf.link_info(link_fd).program_id


def test_program_without_attach_type(world: Arena) -> None:
    """A link made with attach type 37 takes no program that was loaded with 0, on kernels that look."""
    link_fd = world.link(world.program())
    untyped = world.program(with_attach_type(bpf.XDP_FRAGS_PROGRAM, 0))
    try:
        bpf.update_link(link_fd, untyped, None)
    except KernelRefused as refusal:
        error = refine(Operation.LINK_UPDATE, refusal)
    else:
        pytest.skip("this kernel does not look at the attach type")
    assert (ForeignGeneration, "EINVAL", StatusCode.FAILED_PRECONDITION) == judge(error)


def test_program_array_of_others(world: Arena) -> None:
    """A slot takes only programs like the array's owner: with frags or without, for the same hook."""
    slots = world.keep(bpf.create_map("x0dt_slots", bpf.MapKind(PROG_ARRAY, 4, 4, 2)))
    bpf.update(slots, bytes(4), struct.pack("=I", world.program()))
    for kind in (bpf.XDP_PROGRAM, bpf.SCHED_CLS_PROGRAM):
        other = struct.pack("=I", world.program(kind))
        refusal = refusal_of(lambda value=other: bpf.update(slots, bytes(4), value))  # type: ignore[misc]
        error = refine(Operation.MAP_UPDATE, refusal)
        assert (ForeignGeneration, "EINVAL", StatusCode.FAILED_PRECONDITION) == judge(error)


# ---- modes and flags ----


def test_modes_the_device_lacks(world: Arena) -> None:
    """No hardware mode on veth, no native mode on lo and on a bridge: the next mode is tried."""
    world.home.ip("link add x0dtbr index 31 type bridge")
    program = world.program()
    refused = StatusCode.FAILED_PRECONDITION
    assert (ModeRefused, "EINVAL", refused) == judge(create(world, program, HARDWARE))
    for ifindex in (1, 31):
        error = create(world, program, NATIVE, ifindex)
        assert ModeRefused is type(error)
        assert (errno.EOPNOTSUPP, refused) == (error.errno, status_of(error))
        assert "skb" == (world.link(program, SKB, ifindex), world.hook(ifindex).mode)[1]


def test_netlink_meets_the_same_limits(world: Arena) -> None:
    """By netlink, too, a mode that the driver lacks, a large MTU and an interface that has gone are told apart."""
    refused = StatusCode.FAILED_PRECONDITION
    plain = world.program(bpf.XDP_PROGRAM)
    error = by_netlink(world, plain, HARDWARE)
    assert (ModeRefused, "EINVAL", refused) == judge(error)
    for end, name in ((world.home, NAME), (world.away, "x0dt1")):
        end.ip(f"link set {name} mtu {JUMBO}")
    error = by_netlink(world, plain, NATIVE)
    assert (MtuTooLarge, errno.ERANGE, refused) == (type(error), error.errno, status_of(error))
    world.ifindex = 1
    error = by_netlink(world, plain, NATIVE)
    assert (ModeRefused, errno.EOPNOTSUPP, refused) == (type(error), error.errno, status_of(error))
    world.ifindex = 4_000
    assert (DeviceGone, "ENODEV", StatusCode.NOT_FOUND) == judge(by_netlink(world, plain, NATIVE))


def test_flags_that_make_no_sense(world: Arena) -> None:
    """An unknown flag and two modes at once are EINVAL, which says no more than that this way does not work."""
    for flags in (UNKNOWN_FLAG, NATIVE | SKB):
        error = create(world, world.program(), flags)
        assert (ModeRefused, "EINVAL", StatusCode.FAILED_PRECONDITION) == judge(error)
    assert "" == world.hook().mode


def test_an_index_of_nobody(world: Arena) -> None:
    """The same EINVAL for an interface that is not there means that it has gone."""
    error = create(world, world.program(), NATIVE, ifindex=4_000)
    assert (DeviceGone, "EINVAL", StatusCode.NOT_FOUND) == judge(error)


def test_jumbo_frames(world: Arena) -> None:
    """Without frags, native mode takes no large MTU, neither at first nor in place of a program with frags."""
    for end, name in ((world.home, NAME), (world.away, "x0dt1")):
        end.ip(f"link set {name} mtu {JUMBO}")
    too_large = MtuTooLarge, StatusCode.FAILED_PRECONDITION
    plain = world.program(bpf.XDP_PROGRAM)
    error = create(world, plain, NATIVE)
    assert (*too_large, errno.ERANGE) == (type(error), status_of(error), error.errno)
    link_fd = world.link(world.program())
    error = replace(link_fd, plain)
    assert (*too_large, errno.ERANGE) == (type(error), status_of(error), error.errno)
    assert "native" == world.hook().mode


def test_peer_cannot_raise_its_mtu(world: Arena) -> None:
    """Under a native program without frags the peer's MTU stays, and nothing happens to us; with frags it can rise."""
    plain = world.link(world.program(bpf.XDP_PROGRAM))
    before = bpf.link_info(plain)
    with pytest.raises(AssertionError, match="mtu greater than device maximum"):
        world.away.ip(f"link set x0dt1 mtu {JUMBO}")
    assert before == bpf.link_info(plain)
    bpf.detach_link(plain)
    world.link(world.program(bpf.XDP_FRAGS_PROGRAM))
    world.away.ip(f"link set x0dt1 mtu {JUMBO}")


# ---- devices come and go ----


def assert_gone(world: Arena, link_fd: int) -> None:
    """The link has no device, takes no program, and can still be detached."""
    assert 0 == bpf.link_info(link_fd).ifindex
    error = replace(link_fd, world.program())
    assert (DeviceGone, "ENOLINK", StatusCode.NOT_FOUND) == judge(error)
    bpf.detach_link(link_fd)


def test_device_deleted(world: Arena) -> None:
    """The link of a deleted device tells index 0, refuses an update with ENOLINK, and detaches."""
    link_fd = world.link(world.program())
    world.home.ip(f"link del {NAME}")
    assert_gone(world, link_fd)


def test_namespace_deleted(world: Arena) -> None:
    """So does the link of a device whose namespace has gone."""
    with namespace("brief") as brief:
        veth(brief, world.home, ("x0dt5", "x0dt6"), indexes=(55, 56))
        program = world.program()
        link_fd = world.keep(brief.call(lambda: bpf.create_xdp_link(program, 55, NATIVE)))
        assert 55 == bpf.link_info(link_fd).ifindex
    until = time.monotonic() + PATIENCE_S
    while bpf.link_info(link_fd).ifindex and time.monotonic() < until:
        time.sleep(0.01)  # tidy: the kernel takes a namespace apart when it has time
    assert_gone(world, link_fd)


def test_link_survives_down_and_rename(world: Arena) -> None:
    """Down, up and another name change nothing about the attachment."""
    link_fd = world.link(world.program())
    before = bpf.link_info(link_fd)
    world.home.ip(f"link set {NAME} down")
    assert before == bpf.link_info(link_fd)
    world.home.ip(f"link set {NAME} name x0dt.100")
    world.home.ip("link set x0dt.100 up")
    assert before == bpf.link_info(link_fd)
    assert ("native", before.program_id) == (world.hook().mode, world.hook().program_id)
    bpf.update_link(link_fd, world.program(), None)


def test_link_survives_a_move(world: Arena) -> None:
    """Moved to another namespace, the device keeps its program, and the link can still replace it."""
    link_fd = world.link(world.program())
    world.home.ip(f"link set {NAME} netns {world.away.name}")
    moved_index = bpf.link_info(link_fd).ifindex
    assert moved_index > 0
    seen = world.away.call(lambda: read_xdp_hook(moved_index))
    assert bpf.link_info(link_fd).program_id == seen.program_id
    second = world.program()
    bpf.update_link(link_fd, second, None)
    assert bpf.program_id(second) == world.away.call(lambda: read_xdp_hook(moved_index)).program_id
    error = create(world, second, NATIVE)
    assert (DeviceGone, "EINVAL", StatusCode.NOT_FOUND) == judge(error)
    bpf.detach_link(link_fd)
    assert "" == world.away.call(lambda: read_xdp_hook(moved_index)).mode


# ---- rights ----


def test_without_rights(world: Arena) -> None:
    """Without capabilities loading and making maps say which are lacking; what is attached goes on."""
    program = world.program()
    link_fd = world.link(program)

    def load() -> KernelRefused:
        refusal = refusal_of(lambda: bpf.load_instructions(bpf.XDP_PROGRAM, bpf.RETURN_PASS))
        return refine(Operation.LOAD, refusal)

    def make_map() -> KernelRefused:
        refusal = refusal_of(lambda: bpf.create_map("x0dt", bpf.MapKind(bpf.HASH, 4, 4, 1)))
        return refine(Operation.MAP_CREATE, refusal)

    for attempt in (load, make_map):
        error = world.home.call(lambda attempt=attempt: without_capabilities(attempt))  # type: ignore[misc]
        assert (NotPermitted, "EPERM", StatusCode.PERMISSION_DENIED) == judge(error)
        assert "this process lacks CAP_BPF and CAP_NET_ADMIN and CAP_PERFMON" in str(error)
    assert bpf.program_id(program) == bpf.link_info(link_fd).program_id
