"""What the kernel refuses beside attaching: pins, maps that are full, programs of kinds it lacks."""

import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from grpc import StatusCode

from kernel import tiny_programs as tiny
from kernel.xdp_hooks import NATIVE, Arena, arena, refusal_of, without_capabilities
from x0d.errors import (
    KernelRefused,
    MapFull,
    MapTooLarge,
    NotPermitted,
    PinExists,
    PinInvalid,
    PinMissing,
    ProgramRejected,
    ProgramTypeRefused,
)
from x0d.kernel import bpf
from x0d.kernel.libbpf import Libbpf
from x0d.kernel.refusals import ENOTSUPP, TABLE, Operation, refine
from x0d.transport.statuses import status_of

pytestmark = pytest.mark.kernel

_BTF_KIND_FUNC = 12
_FENTRY = 24
_STRUCT_OPS, _FREPLACE = 27, 28


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Arena]:
    """A veth pair and a bpf filesystem of the test's own."""
    with arena(tmp_path) as made:
        yield made


# ---- names in the bpf filesystem ----


@pytest.fixture
def map_fd(world: Arena) -> int:
    """A map to be pinned."""
    return world.keep(bpf.create_map("x0dt", bpf.MapKind(bpf.HASH, 4, 4, 2)))


def pin(map_fd: int, path: Path) -> KernelRefused:
    """Return the typed refusal of a pin."""
    return refine(Operation.PIN, refusal_of(lambda: bpf.pin(map_fd, path)))


def judge(error: KernelRefused) -> tuple[type[KernelRefused], str, StatusCode]:
    """Return type, errno by name and gRPC status of an error, which must give advice."""
    assert error.detail
    return type(error), errno.errorcode[error.errno], status_of(error)


def test_pin_exists(world: Arena, map_fd: int) -> None:
    """A name that is taken stays what it was."""
    path = world.bpffs / "taken"
    bpf.pin(map_fd, path)
    other = world.keep(bpf.create_map("x0dt", bpf.MapKind(bpf.HASH, 4, 4, 2)))
    assert (PinExists, "EEXIST", StatusCode.ALREADY_EXISTS) == judge(pin(other, path))
    found = bpf.open_pin(path)
    assert found is not None
    assert bpf.map_id(map_fd) == bpf.map_id(world.keep(found))


@pytest.mark.parametrize(("name", "word"), [("eth0.100", "EPERM"), (".hidden", "EPERM"), ("n" * 256, "ENAMETOOLONG")])
def test_names_that_bpffs_refuses(world: Arena, map_fd: int, name: str, word: str) -> None:
    """A dot, as in the names of VLANs, and more than 255 bytes are no names of pins; nothing is left."""
    assert (PinInvalid, word, StatusCode.INVALID_ARGUMENT) == judge(pin(map_fd, world.bpffs / name))
    assert [] == list(world.bpffs.iterdir())


def test_longest_name(world: Arena, map_fd: int) -> None:
    """255 bytes are a name."""
    bpf.pin(map_fd, world.bpffs / ("n" * 255))
    assert ["n" * 255] == [path.name for path in world.bpffs.iterdir()]


def test_pin_outside_bpffs(map_fd: int, tmp_path: Path) -> None:
    """A directory of another filesystem takes no pins."""
    assert (PinInvalid, "EPERM", StatusCode.INVALID_ARGUMENT) == judge(pin(map_fd, tmp_path / "pin"))


def test_pin_missing(world: Arena, map_fd: int) -> None:
    """A pin in a directory that does not exist cannot be made; one that is not there opens as None."""
    missing = pin(map_fd, world.bpffs / "none" / "pin")
    assert (PinMissing, "ENOENT", StatusCode.NOT_FOUND) == judge(missing)
    assert bpf.open_pin(world.bpffs / "none") is None
    told = refine(Operation.OPEN_PIN, KernelRefused("open pin none", errno.ENOENT))
    assert (PinMissing, "ENOENT", StatusCode.NOT_FOUND) == judge(told)


def test_what_is_no_pin(tmp_path: Path) -> None:
    """A file of another kind does not open as a pin."""
    (tmp_path / "file").write_text("no pin")
    error = refine(Operation.OPEN_PIN, refusal_of(lambda: bpf.open_pin(tmp_path / "file")))
    assert (NotPermitted, "EACCES", StatusCode.PERMISSION_DENIED) == judge(error)


def test_closed_directory(world: Arena, map_fd: int) -> None:
    """Who may not write in the directory is told so."""
    closed = world.bpffs / "closed"
    closed.mkdir(mode=0o500)
    os.chown(closed, 65534, 65534)
    error = world.home.call(lambda: without_capabilities(lambda: pin(map_fd, closed / "pin")))
    assert (NotPermitted, "EACCES", StatusCode.PERMISSION_DENIED) == judge(error)


# ---- maps ----


def test_full_hash(world: Arena, map_fd: int) -> None:
    """A hash takes no entry above its size and keeps those it has."""
    for number in range(2):
        bpf.update(map_fd, struct.pack("=I", number), bytes(4))
    error = refine(Operation.MAP_UPDATE, refusal_of(lambda: bpf.update(map_fd, b"more", bytes(4))))
    assert (MapFull, "E2BIG", StatusCode.RESOURCE_EXHAUSTED) == judge(error)
    assert 2 == len(list(bpf.entries(map_fd, 4, 4)))
    assert world.keep(map_fd)


def test_full_trie(world: Arena) -> None:
    """A trie says the same with another number."""
    trie = world.keep(bpf.create_map("x0dt_trie", bpf.MapKind(bpf.LPM_TRIE, 8, 4, 1, bpf.NO_PREALLOC)))
    bpf.update(trie, struct.pack("=I4s", 8, b"\x0a\0\0\0"), bytes(4))
    another = struct.pack("=I4s", 8, b"\x0b\0\0\0")
    error = refine(Operation.MAP_UPDATE, refusal_of(lambda: bpf.update(trie, another, bytes(4))))
    assert (MapFull, "ENOSPC", StatusCode.RESOURCE_EXHAUSTED) == judge(error)


def test_map_without_room() -> None:
    """A map of more entries than the kernel counts is too large; one of an unknown kind is not supported."""
    huge = bpf.MapKind(bpf.HASH, 4, 4, 0xFFFFFFFF)
    error = refine(Operation.MAP_CREATE, refusal_of(lambda: bpf.create_map("x0dt_huge", huge)))
    assert (MapTooLarge, StatusCode.RESOURCE_EXHAUSTED) == (type(error), status_of(error))
    strange = bpf.MapKind(9_999, 4, 4, 1)
    error = refine(Operation.MAP_CREATE, refusal_of(lambda: bpf.create_map("x0dt_odd", strange)))
    assert (ProgramTypeRefused, "EINVAL", StatusCode.UNIMPLEMENTED) == judge(error)


# ---- programs ----


def test_rejected_program_leaves_the_old_one(world: Arena, tmp_path: Path) -> None:
    """What the verifier rejects takes nothing down: the old program runs on, and the next one loads."""
    running = world.program()
    link_fd = world.link(running, NATIVE)
    elf = tiny.compile_c(tiny.LICENCE + tiny.REJECTED + tiny.PASSING, tmp_path)
    with pytest.raises(ProgramRejected, match="invalid mem access") as caught:
        Libbpf().load(elf, "careless", {})
    assert (ProgramRejected, "EACCES", StatusCode.FAILED_PRECONDITION) == judge(caught.value)
    assert bpf.program_id(running) == bpf.link_info(link_fd).program_id
    loaded = Libbpf().load(elf, "passing", {})
    for fd in (loaded.fd, *loaded.map_fds.values()):
        world.keep(fd)
    bpf.update_link(link_fd, loaded.fd, running)
    assert bpf.program_id(loaded.fd) == bpf.link_info(link_fd).program_id


def refused_type(kind: bpf.ProgramType) -> KernelRefused:
    """Return the typed refusal of a program of this type; skips where the kernel takes it."""
    try:
        os.close(bpf.load_instructions(kind, bpf.RETURN_ZERO))
    except KernelRefused as refusal:
        return refine(Operation.LOAD, refusal)
    pytest.skip(f"this kernel takes programs of type {kind}")


@pytest.mark.parametrize(("number", "code"), [(9_999, errno.EINVAL), (_FREPLACE, errno.EPERM), (_STRUCT_OPS, ENOTSUPP)])
def test_program_types_refused(number: int, code: int) -> None:
    """A type that no kernel has, and those that this one does not take so, are refused in three ways."""
    error = refused_type(bpf.ProgramType(number))
    assert (ProgramTypeRefused, code, StatusCode.UNIMPLEMENTED) == (type(error), error.errno, status_of(error))
    assert error.detail


def test_program_type_without_trampolines() -> None:
    """Where the kernel has no trampolines, fentry programs are refused with EPERM even to root."""
    type_id = Libbpf().find_kernel_type("tcp_close", _BTF_KIND_FUNC)
    kind = replace(bpf.TP_BTF_PROGRAM, attach_type=_FENTRY, attach_btf_id=type_id)
    error = refused_type(kind)
    assert (ProgramTypeRefused, "EPERM", StatusCode.UNIMPLEMENTED) == judge(error)


# ---- the table itself ----


def test_every_row_has_advice() -> None:
    """Each row makes an error of its type with a sentence, except that of a foreign program, which names it."""
    for (operation, number), meaning in TABLE.items():
        error = refine(operation, KernelRefused("try", number), interface="eth0", program_id=7)
        assert meaning.error is type(error)
        assert error.detail
        assert number == error.errno


def test_others_stay_what_they_are() -> None:
    """A refusal that the table does not know, and one that is typed already, come back as they are."""
    strange = KernelRefused("try", errno.EIO)
    typed = PinMissing("try", errno.EPERM)
    assert strange is refine(Operation.LOAD, strange)
    assert typed is refine(Operation.LOAD, typed)
