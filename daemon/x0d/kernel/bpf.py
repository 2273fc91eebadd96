"""The bpf(2) system call: maps, pins, links, program information, test runs.

Each function fills the attribute bytes of one command and returns what the kernel answered.  The
numbers come from <linux/bpf.h>, which never changes them.  A refusal is ``KernelRefused`` with the
errno; the caller decides what it means.  File descriptors are plain integers that the caller closes.
Maps are ``bpf_maps``, whose names are here too.  Opening ELF objects and loading their programs is
``libbpf``'s part.
"""

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from x0d.errors import KernelRefused
from x0d.kernel.bpf_call import SYSCALL_NUMBERS, buffer, call
from x0d.kernel.bpf_maps import (
    ARRAY,
    ARRAY_OF_MAPS,
    BATCH_ENTRIES,
    HASH,
    LPM_TRIE,
    LRU_HASH,
    MAP_ANY,
    MAP_EXIST,
    MAP_LOCK,
    MAP_NOEXIST,
    NO_PREALLOC,
    PERCPU_ARRAY,
    POSSIBLE_CPUS,
    RINGBUF,
    MapBuffer,
    MapKind,
    create_map,
    delete,
    delete_batch,
    entries,
    lookup,
    map_id,
    map_memory_bytes,
    map_shape,
    object_info,
    possible_cpus,
    sum_cpus,
    update,
    update_batch,
)

__all__ = [
    "ARRAY",
    "ARRAY_OF_MAPS",
    "ATTACH_XDP",
    "BATCH_ENTRIES",
    "HASH",
    "LINK_TYPE_XDP",
    "LPM_TRIE",
    "LRU_HASH",
    "MAP_ANY",
    "MAP_EXIST",
    "MAP_LOCK",
    "MAP_NOEXIST",
    "NO_PREALLOC",
    "PERCPU_ARRAY",
    "POSSIBLE_CPUS",
    "RAW_TRACEPOINT_PROGRAM",
    "RETURN_PASS",
    "RETURN_ZERO",
    "RINGBUF",
    "SCHED_CLS_PROGRAM",
    "SYSCALL_NUMBERS",
    "TP_BTF_PROGRAM",
    "XDP_FLAGS_HARDWARE",
    "XDP_FLAGS_NATIVE",
    "XDP_FLAGS_SKB",
    "XDP_FRAGS_PROGRAM",
    "XDP_PROGRAM",
    "LinkInfo",
    "MapBuffer",
    "MapKind",
    "PacketRun",
    "ProgramType",
    "closing",
    "create_map",
    "create_xdp_link",
    "delete",
    "delete_batch",
    "detach_link",
    "entries",
    "link_info",
    "load_instructions",
    "lookup",
    "map_id",
    "map_memory_bytes",
    "map_shape",
    "open_pin",
    "pin",
    "possible_cpus",
    "program_id",
    "program_tag",
    "run_on_packet",
    "sum_cpus",
    "update",
    "update_batch",
    "update_link",
]

_PROG_LOAD, _OBJ_PIN, _OBJ_GET = 5, 6, 7
_PROG_TEST_RUN, _LINK_CREATE, _LINK_UPDATE, _LINK_DETACH = 10, 28, 29, 34

ATTACH_XDP = 37
XDP_FLAGS_SKB, XDP_FLAGS_NATIVE, XDP_FLAGS_HARDWARE = 2, 4, 8
LINK_TYPE_XDP = 6
_LINK_F_REPLACE = 4


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """An attachment as the kernel shows it."""

    link_type: int
    link_id: int
    program_id: int
    ifindex: int
    """0 once the device is gone (types other than XDP: whatever their first word is)."""


@dataclass(frozen=True, slots=True)
class PacketRun:
    """What a program did with a packet."""

    verdict: int
    packet: bytes
    duration_ns: int
    """Mean of the repetitions."""


@dataclass(frozen=True, slots=True)
class ProgramType:
    """What BPF_PROG_LOAD has to know of a program beside its instructions."""

    number: int
    attach_type: int = 0
    flags: int = 0
    attach_btf_id: int = 0


_XDP_HAS_FRAGS = 1 << 5

XDP_PROGRAM = ProgramType(6, ATTACH_XDP)
XDP_FRAGS_PROGRAM = ProgramType(6, ATTACH_XDP, _XDP_HAS_FRAGS)
SCHED_CLS_PROGRAM = ProgramType(3)
RAW_TRACEPOINT_PROGRAM = ProgramType(17)
TP_BTF_PROGRAM = ProgramType(26, 23)
"""Needs ``attach_btf_id`` beside."""

_MOVE_R0, _EXIT = 0xB7, 0x95
RETURN_ZERO = struct.pack("=BBhiBBhi", _MOVE_R0, 0, 0, 0, _EXIT, 0, 0, 0)
RETURN_PASS = struct.pack("=BBhiBBhi", _MOVE_R0, 0, 0, 2, _EXIT, 0, 0, 0)
"""Of an XDP program: XDP_PASS."""


# ---- pins ----


def pin(fd: int, path: Path) -> None:
    """Give a map, program or link a name in a bpf filesystem; EEXIST if the name is taken."""
    name = buffer(os.fsencode(path) + b"\0")
    call(_OBJ_PIN, struct.pack("=QII", ctypes.addressof(name), fd, 0), f"pin {path.name}")


def open_pin(path: Path) -> int | None:
    """Open what is pinned; None if nothing is."""
    name = buffer(os.fsencode(path) + b"\0")
    try:
        return call(_OBJ_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0), f"open pin {path.name}")[0]
    except KernelRefused as refusal:
        if refusal.errno == errno.ENOENT:
            return None
        raise


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """Close a descriptor at the end of a block."""
    try:
        yield fd
    finally:
        os.close(fd)


# ---- links and programs ----


def create_xdp_link(program_fd: int, ifindex: int, flags: int) -> int:
    """Attach; the attachment ends with the descriptor unless it is pinned."""
    attributes = struct.pack("=IIIIIIQ16x", program_fd, ifindex, ATTACH_XDP, flags, 0, 0, 0)
    return call(_LINK_CREATE, attributes, "attach XDP")[0]


def update_link(link_fd: int, program_fd: int, old_program_fd: int | None) -> None:
    """Replace a link's program atomically; EPERM if it is not ``old_program_fd``'s (None: any)."""
    replace = (_LINK_F_REPLACE, old_program_fd) if old_program_fd is not None else (0, 0)
    call(_LINK_UPDATE, struct.pack("=IIII", link_fd, program_fd, *replace), "replace the XDP program")


def detach_link(link_fd: int) -> None:
    """End a link's attachment at once; unpinning does so only some time after the last reference is gone."""
    call(_LINK_DETACH, struct.pack("=I", link_fd), "detach XDP")


def link_info(link_fd: int) -> LinkInfo:
    """Describe a link."""
    raw = object_info(link_fd, 64)
    link_type, link_id, program_id, _pad, ifindex = struct.unpack_from("=IIIII", raw)
    return LinkInfo(link_type, link_id, program_id, ifindex)


def program_id(program_fd: int) -> int:
    """The kernel's id of a program."""
    number: int = struct.unpack_from("=I", object_info(program_fd, 80), 4)[0]
    return number


def program_tag(program_fd: int) -> str:
    """The kernel's hash of a program's instructions, 16 hexadecimal digits."""
    return object_info(program_fd, 80)[8:16].hex()


def run_on_packet(program_fd: int, packet: bytes, *, ifindex: int = 0, repeat: int = 1) -> PacketRun:
    """Run an XDP program on a packet (14 bytes and more).

    With ``repeat`` above 1 the packet that the program has changed is its next input.  ``ifindex``
    is where it seems to come from; 0 leaves that to the kernel.
    """
    given, changed = buffer(packet), buffer(len(packet) + 256)
    context = buffer(struct.pack("=IIIIII", 0, len(packet), 0, ifindex, 0, 0)) if ifindex else None
    attributes = struct.pack(
        "=IIIIQQIIIIQQ",
        program_fd,
        0,
        len(packet),
        len(changed),
        ctypes.addressof(given),
        ctypes.addressof(changed),
        repeat,
        0,
        len(context) if context else 0,
        0,
        ctypes.addressof(context) if context else 0,
        0,
    )
    _result, answer = call(_PROG_TEST_RUN, attributes, "test-run a program")
    verdict, _size_in, size_out = struct.unpack_from("=III", answer, 4)
    duration_ns: int = struct.unpack_from("=I", answer, 36)[0]
    return PacketRun(verdict, changed.raw[:size_out], duration_ns)


def load_instructions(program: ProgramType, instructions: bytes) -> int:
    """Load a few hand-made instructions, to see whether this kernel and caller may; returns the fd."""
    code, licence, log = buffer(instructions), buffer(b"GPL\0"), buffer(4096)
    attributes = struct.pack(
        "=IIQQIIQI I16sIIIIQIIQIII",
        program.number,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        1,
        len(log),
        ctypes.addressof(log),
        0,
        program.flags,
        b"x0d_doctor",
        0,
        program.attach_type,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        program.attach_btf_id,
        0,
    )
    return call(_PROG_LOAD, attributes, "load a program")[0]
