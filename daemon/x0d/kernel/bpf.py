"""The bpf(2) system call: maps, pins, links, program information, test runs.

Each function fills the attribute bytes of one command and returns what the kernel answered.  The
numbers come from <linux/bpf.h>, which never changes them.  A refusal is ``KernelRefused`` with the
errno; the caller decides what it means.  File descriptors are plain integers that the caller closes.
Opening ELF objects and loading their programs is ``libbpf``'s part.
"""

import contextlib
import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from x0d.errors import KernelRefused, NotSupported

SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}

BATCH_ENTRIES = 512
POSSIBLE_CPUS = Path("/sys/devices/system/cpu/possible")

_MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _PROG_LOAD, _OBJ_PIN, _OBJ_GET = 1, 2, 3, 5, 6, 7
_PROG_TEST_RUN, _OBJ_GET_INFO, _MAP_LOOKUP_BATCH, _LINK_CREATE, _LINK_UPDATE = 10, 15, 24, 28, 29
_LINK_DETACH = 34

MAP_ANY, MAP_NOEXIST, MAP_EXIST = 0, 1, 2
MAP_LOCK = 4
"""Copy the value under its spin lock."""

ATTACH_XDP = 37
XDP_FLAGS_SKB, XDP_FLAGS_NATIVE, XDP_FLAGS_HARDWARE = 2, 4, 8
LINK_TYPE_XDP = 6
_LINK_F_REPLACE = 4

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long


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


def _call(command: int, attributes: bytes, operation: str) -> tuple[int, bytes]:
    """Return the call's result and the attribute bytes as the kernel left them."""
    number = SYSCALL_NUMBERS.get(platform.machine())
    if number is None:
        raise NotSupported("bpf(2)", f"its system call number on {platform.machine()} is not known to x0d")
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result: int = _LIBC.syscall(ctypes.c_long(number), ctypes.c_long(command), buffer, ctypes.c_ulong(len(attributes)))
    if result < 0:
        raise KernelRefused(operation, ctypes.get_errno())
    return result, buffer.raw


def _buffer(content: bytes | int) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(content, content if isinstance(content, int) else len(content))


# ---- maps ----


def lookup(map_fd: int, key: bytes, value_size: int, flags: int = MAP_ANY) -> bytes | None:
    """Read one value; None if the key is not there.  ``value_size`` counts all CPUs of a per-CPU map."""
    key_buffer, value = _buffer(key), _buffer(value_size)
    attributes = struct.pack("=I4xQQQ", map_fd, ctypes.addressof(key_buffer), ctypes.addressof(value), flags)
    try:
        _call(_MAP_LOOKUP, attributes, "read a map entry")
    except KernelRefused as refusal:
        if refusal.errno == errno.ENOENT:
            return None
        raise
    return value.raw


def update(map_fd: int, key: bytes, value: bytes, flags: int = MAP_ANY) -> None:
    """Write one value.  ``flags``: MAP_ANY, MAP_NOEXIST (else EEXIST), MAP_EXIST (else ENOENT), MAP_LOCK."""
    key_buffer, value_buffer = _buffer(key), _buffer(value)
    addresses = ctypes.addressof(key_buffer), ctypes.addressof(value_buffer)
    _call(_MAP_UPDATE, struct.pack("=I4xQQQ", map_fd, *addresses, flags), "write a map entry")


def delete(map_fd: int, key: bytes) -> bool:
    """Remove an entry; False if it was not there."""
    key_buffer = _buffer(key)
    try:
        _call(_MAP_DELETE, struct.pack("=I4xQQQ", map_fd, ctypes.addressof(key_buffer), 0, 0), "delete a map entry")
    except KernelRefused as refusal:
        if refusal.errno == errno.ENOENT:
            return False
        raise
    return True


def entries(map_fd: int, key_size: int, value_size: int, flags: int = MAP_ANY) -> Iterator[tuple[bytes, bytes]]:
    """Read all entries in batches; one that is added meanwhile may be missing."""
    size, cursor = BATCH_ENTRIES, b""
    while True:
        keys, values, following = _buffer(size * key_size), _buffer(size * value_size), _buffer(max(key_size, 8))
        start = _buffer(cursor) if cursor else None
        pointers = (
            ctypes.addressof(start) if start else 0,
            ctypes.addressof(following),
            ctypes.addressof(keys),
            ctypes.addressof(values),
        )
        count, final = _read_batch(map_fd, pointers, size, flags)
        if count < 0:  # one hash bucket holds more than the batch
            size *= 2
            continue
        raw_keys, raw_values = keys.raw, values.raw
        for i in range(count):
            yield raw_keys[i * key_size : (i + 1) * key_size], raw_values[i * value_size : (i + 1) * value_size]
        if final:
            return
        cursor = following.raw


def _read_batch(map_fd: int, pointers: tuple[int, int, int, int], size: int, flags: int) -> tuple[int, bool]:
    """Entries read and whether they were the last; -1 entries when the batch is too small."""
    attributes = struct.pack("=QQQQIIQQ", *pointers, size, map_fd, flags, 0)
    # The count is an output even of the call that ends with ENOENT, so not through _call.
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    number = SYSCALL_NUMBERS[platform.machine()]
    result = _LIBC.syscall(
        ctypes.c_long(number), ctypes.c_long(_MAP_LOOKUP_BATCH), buffer, ctypes.c_ulong(len(attributes))
    )
    count: int = struct.unpack_from("=I", buffer.raw, 32)[0]
    if result == 0:
        return count, False
    refusal = ctypes.get_errno()
    if refusal == errno.ENOENT:
        return count, True
    if refusal == errno.ENOSPC:
        return -1, False
    raise KernelRefused("read a map in batches", refusal)


def possible_cpus() -> int:
    """How many CPUs a per-CPU value has room for."""
    highest = max(int(part.split("-")[-1]) for part in POSSIBLE_CPUS.read_text().strip().split(","))
    return highest + 1


# ---- pins ----


def pin(fd: int, path: Path) -> None:
    """Give a map, program or link a name in a bpf filesystem; EEXIST if the name is taken."""
    name = _buffer(os.fsencode(path) + b"\0")
    _call(_OBJ_PIN, struct.pack("=QII", ctypes.addressof(name), fd, 0), f"pin {path.name}")


def open_pin(path: Path) -> int | None:
    """Open what is pinned; None if nothing is."""
    name = _buffer(os.fsencode(path) + b"\0")
    try:
        return _call(_OBJ_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0), f"open pin {path.name}")[0]
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
    return _call(_LINK_CREATE, attributes, "attach XDP")[0]


def update_link(link_fd: int, program_fd: int, old_program_fd: int | None) -> None:
    """Replace a link's program atomically; EPERM if it is not ``old_program_fd``'s (None: any)."""
    replace = (_LINK_F_REPLACE, old_program_fd) if old_program_fd is not None else (0, 0)
    _call(_LINK_UPDATE, struct.pack("=IIII", link_fd, program_fd, *replace), "replace the XDP program")


def detach_link(link_fd: int) -> None:
    """End a link's attachment at once; unpinning does so only some time after the last reference is gone."""
    _call(_LINK_DETACH, struct.pack("=I", link_fd), "detach XDP")


def link_info(link_fd: int) -> LinkInfo:
    """Describe a link."""
    raw = _object_info(link_fd, 64)
    link_type, link_id, program_id, _pad, ifindex = struct.unpack_from("=IIIII", raw)
    return LinkInfo(link_type, link_id, program_id, ifindex)


def program_id(program_fd: int) -> int:
    """The kernel's id of a program."""
    number: int = struct.unpack_from("=I", _object_info(program_fd, 80), 4)[0]
    return number


def map_shape(map_fd: int) -> tuple[int, int, int]:
    """Key size, value size and greatest number of entries."""
    key_size, value_size, entries_max = struct.unpack_from("=III", _object_info(map_fd, 80), 8)
    return key_size, value_size, entries_max


def _object_info(fd: int, size: int) -> bytes:
    info = _buffer(size)
    _call(_OBJ_GET_INFO, struct.pack("=IIQ", fd, size, ctypes.addressof(info)), "describe a BPF object")
    return info.raw


def run_on_packet(program_fd: int, packet: bytes, *, ifindex: int = 0, repeat: int = 1) -> PacketRun:
    """Run an XDP program on a packet (14 bytes and more).

    With ``repeat`` above 1 the packet that the program has changed is its next input.  ``ifindex``
    is where it seems to come from; 0 leaves that to the kernel.
    """
    given, changed = _buffer(packet), _buffer(len(packet) + 256)
    context = _buffer(struct.pack("=IIIIII", 0, len(packet), 0, ifindex, 0, 0)) if ifindex else None
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
    _result, answer = _call(_PROG_TEST_RUN, attributes, "test-run a program")
    verdict, _size_in, size_out = struct.unpack_from("=III", answer, 4)
    duration_ns: int = struct.unpack_from("=I", answer, 36)[0]
    return PacketRun(verdict, changed.raw[:size_out], duration_ns)


def load_instructions(program: ProgramType, instructions: bytes) -> int:
    """Load a few hand-made instructions, to see whether this kernel and caller may; returns the fd."""
    code, licence, log = _buffer(instructions), _buffer(b"GPL\0"), _buffer(4096)
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
    return _call(_PROG_LOAD, attributes, "load a program")[0]
