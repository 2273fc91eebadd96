"""The bpf(2) calls that a benchmark needs and a daemon must not: objects by id, and timed test runs.

Kept apart from ``x0d.kernel.bpf``: opening a program or map by its id takes CAP_SYS_ADMIN, which x0d does without.
A refusal is an OSError with the kernel's errno.
"""

import ctypes
import os
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.machine import LabError

LIBRARY = "libbpf.so.1"
XDP_PASS, XDP_DROP = 2, 1
XDP_FRAGS_FLAG = 1 << 5
ATTACH_TYPES = (37, 0)
"""Of XDP: what libbpf sets, and what other loaders leave."""

_MAP_LOOKUP, _MAP_UPDATE, _PROG_LOAD, _TEST_RUN, _PROGRAM_BY_ID, _MAP_BY_ID, _INFO = 1, 2, 5, 10, 13, 14, 15
_NUMBERS = {"x86_64": 321, "aarch64": 280}
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_MAPS_OF_PROGRAM_MAX = 64


@dataclass(frozen=True, slots=True)
class MapInfo:
    """A map as the kernel shows it."""

    name: str
    """Cut at 15 characters."""
    key_size: int
    value_size: int
    entries_max: int


def call(command: int, attributes: bytes) -> tuple[int, bytes]:
    """One bpf(2): its result, and the attributes as the kernel left them.

    Raises:
        OSError: the kernel's refusal.
    """
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    number = ctypes.c_long(_NUMBERS[platform.machine()])
    result: int = _LIBC.syscall(number, ctypes.c_long(command), buffer, ctypes.c_ulong(len(attributes)))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf({command}): {os.strerror(ctypes.get_errno())}")
    return result, buffer.raw


def program_by_id(number: int) -> int:
    """A descriptor of the program."""
    return call(_PROGRAM_BY_ID, struct.pack("=II", number, 0))[0]


def maps_of_program(program_fd: int) -> Mapping[str, int]:
    """Descriptors of the maps that a program uses, by name."""
    numbers = (ctypes.c_uint32 * _MAPS_OF_PROGRAM_MAX)()
    # nr_map_ids at 52, map_ids at 56 of struct bpf_prog_info
    info = bytearray(224)
    struct.pack_into("=IQ", info, 52, _MAPS_OF_PROGRAM_MAX, ctypes.addressof(numbers))
    answer = _info(program_fd, bytes(info))
    (count,) = struct.unpack_from("=I", answer, 52)
    descriptors = [call(_MAP_BY_ID, struct.pack("=III", number, 0, 0))[0] for number in numbers[:count]]
    return {map_info(fd).name: fd for fd in descriptors}


def map_info(map_fd: int) -> MapInfo:
    """Describe a map."""
    answer = _info(map_fd, bytes(88))
    sizes = struct.unpack_from("=III", answer, 8)
    return MapInfo(answer[24:40].split(b"\0")[0].decode(), *sizes)


def _info(fd: int, given: bytes) -> bytes:
    info = ctypes.create_string_buffer(given, len(given))
    call(_INFO, struct.pack("=IIQ", fd, len(given), ctypes.addressof(info)))
    return info.raw


def update(map_fd: int, key: bytes, value: bytes) -> None:
    """Write one entry."""
    keys, values = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    call(_MAP_UPDATE, struct.pack("=I4xQQQ", map_fd, ctypes.addressof(keys), ctypes.addressof(values), 0))


def lookup(map_fd: int, key: bytes, value_size: int) -> bytes:
    """Read one entry; KeyError is OSError ENOENT here."""
    keys, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value_size)
    call(_MAP_LOOKUP, struct.pack("=I4xQQQ", map_fd, ctypes.addressof(keys), ctypes.addressof(value), 0))
    return value.raw


def load_empty_program() -> int:
    """An XDP program that does nothing but pass: what a test run costs at least."""
    code = struct.pack("=BBhiBBhi", 0xB7, 0, 0, XDP_PASS, 0x95, 0, 0, 0)
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")
    head = struct.pack(
        "=IIQQIIQII16sII",
        6,
        2,
        ctypes.addressof(instructions),
        ctypes.addressof(licence),
        0,
        0,
        0,
        0,
        0,
        b"bench_empty",
        0,
        ATTACH_TYPES[0],
    )
    return call(_PROG_LOAD, head)[0]


class TestRun:
    """One program on one frame, again and again; what the program writes into the frame stays written."""

    __test__ = False  # no test for pytest to collect

    def __init__(self, program_fd: int, frame: bytes, ifindex: int) -> None:
        """Prepare; ``ifindex`` is where the frame seems to come from."""
        self.program_fd = program_fd
        self._frame = ctypes.create_string_buffer(frame, len(frame))
        self._context = ctypes.create_string_buffer(struct.pack("=IIIIII", 0, len(frame), 0, ifindex, 0, 0), 24)

    def run(self, repeat: int) -> tuple[int, int]:
        """Verdict of the last run, and nanoseconds a run."""
        attributes = struct.pack(
            "=IIIIQQIIIIQQ",
            self.program_fd,
            0,
            len(self._frame),
            0,
            ctypes.addressof(self._frame),
            0,
            repeat,
            0,
            len(self._context),
            0,
            ctypes.addressof(self._context),
            0,
        )
        answer = call(_TEST_RUN, attributes)[1]
        return struct.unpack_from("=I", answer, 4)[0], struct.unpack_from("=I", answer, 36)[0]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A program of an object file and its maps."""

    program_fd: int
    map_fds: Mapping[str, int]


def load_object(file: Path, program: str, flags: int, attach_type: int) -> Loaded:
    """Load one XDP program of a compiled object with these flags.

    Raises:
        LabError: libbpf cannot open or load it.
    """
    library = ctypes.CDLL(LIBRARY, use_errno=True)
    for name in ("bpf_object__open_file", "bpf_object__find_program_by_name", "bpf_object__next_map"):
        getattr(library, name).restype = ctypes.c_void_p
    library.bpf_map__name.restype = ctypes.c_char_p
    library.libbpf_set_print(None)
    handle = ctypes.c_void_p(library.bpf_object__open_file(os.fsencode(file), None))
    if not handle:
        raise LabError(f"{file.name} is no BPF object")
    try:
        chosen = ctypes.c_void_p(library.bpf_object__find_program_by_name(handle, program.encode()))
        library.bpf_program__set_expected_attach_type(chosen, attach_type)
        library.bpf_program__set_flags(chosen, ctypes.c_uint32(flags))
        result = library.bpf_object__load(handle)
        if result < 0:
            raise LabError(f"{file.name} does not load: {os.strerror(-result)}")
        fds = {}
        entry = library.bpf_object__next_map(handle, None)
        while entry:
            pointer = ctypes.c_void_p(entry)
            fds[library.bpf_map__name(pointer).decode()] = os.dup(library.bpf_map__fd(pointer))
            entry = library.bpf_object__next_map(handle, pointer)
        return Loaded(os.dup(library.bpf_program__fd(chosen)), fds)
    finally:
        library.bpf_object__close(handle)
