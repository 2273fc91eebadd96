"""The little of libbpf.so.1 that opens an ELF object and loads one program of it.

An object is opened anew for each program, with only that program to be loaded: libbpf loads all or
nothing, and a program that this kernel refuses must not take the others down.  Maps that exist
already are handed in, so that all programs share them.  The ELF bytes and the log buffer belong to
Python and live until loading has returned.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from x0d.errors import KernelRefused, NotSupported

LIBRARY = "libbpf.so.1"
LOG_BYTES = 1 << 20
LOG_TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class LoadedProgram:
    """A program in the kernel and the maps it uses; the descriptors are the caller's to close."""

    fd: int
    map_fds: Mapping[str, int]


class Libbpf:
    """The library, opened."""

    def __init__(self) -> None:
        """Open it.

        Raises:
            NotSupported: it is not installed.
        """
        try:
            self._library = ctypes.CDLL(LIBRARY, use_errno=True)
        except OSError as error:
            raise NotSupported(LIBRARY, f"{error}; install the package libbpf1") from error
        for name in (
            "bpf_object__open_mem",
            "bpf_object__next_program",
            "bpf_object__next_map",
            "btf__load_vmlinux_btf",
        ):
            getattr(self._library, name).restype = ctypes.c_void_p
        self._library.bpf_program__name.restype = ctypes.c_char_p
        self._library.bpf_map__name.restype = ctypes.c_char_p
        self._library.libbpf_set_print(None)

    def load(self, elf: bytes, program: str, map_fds: Mapping[str, int]) -> LoadedProgram:
        """Load one program with the maps in ``map_fds``; maps that are not in it are made.

        Raises:
            KernelRefused: with the verifier's last lines in ``log_tail`` when it has spoken.
        """
        library = self._library
        log = ctypes.create_string_buffer(LOG_BYTES)
        with self._opened(elf, program) as handle:
            wanted = self._select(handle, program)
            library.bpf_program__set_log_buf(wanted, log, ctypes.c_size_t(LOG_BYTES))
            own_maps = dict(self._maps(handle))
            for name, fd in map_fds.items():
                if name in own_maps:
                    _check(library.bpf_map__reuse_fd(own_maps[name], fd), f"share map {name}")
            result = library.bpf_object__load(handle)
            _check(result, f"load program {program}", log.value.decode(errors="replace"))
            # The object closes its descriptors when it goes; these are copies.
            fds = {name: os.dup(library.bpf_map__fd(entry)) for name, entry in own_maps.items()}
            return LoadedProgram(os.dup(library.bpf_program__fd(wanted)), fds)

    def find_kernel_type(self, name: str, kind: int) -> int:
        """Number of a type in the kernel's own BTF.

        Raises:
            KernelRefused: ENOENT when there is no such type or no BTF.
        """
        address = self._library.btf__load_vmlinux_btf()
        if not address:
            raise KernelRefused("read the kernel's BTF", ctypes.get_errno())
        handle = ctypes.c_void_p(address)
        try:
            number: int = self._library.btf__find_by_name_kind(handle, name.encode(), ctypes.c_uint32(kind))
        finally:
            self._library.btf__free(handle)
        _check(number, f"find {name} in the kernel's BTF")
        return number

    @contextlib.contextmanager
    def _opened(self, elf: bytes, program: str) -> Iterator[ctypes.c_void_p]:
        address = self._library.bpf_object__open_mem(elf, ctypes.c_size_t(len(elf)), None)
        if not address:
            raise KernelRefused(f"open the object of {program}", ctypes.get_errno())
        handle = ctypes.c_void_p(address)
        try:
            yield handle
        finally:
            self._library.bpf_object__close(handle)

    def _select(self, handle: ctypes.c_void_p, program: str) -> ctypes.c_void_p:
        """Mark one program, and no other, to be loaded."""
        found = None
        entry = self._library.bpf_object__next_program(handle, None)
        while entry:
            pointer = ctypes.c_void_p(entry)
            is_wanted = self._library.bpf_program__name(pointer).decode() == program
            _check(self._library.bpf_program__set_autoload(pointer, ctypes.c_bool(is_wanted)), f"select {program}")
            found = pointer if is_wanted else found
            entry = self._library.bpf_object__next_program(handle, pointer)
        assert found is not None, f"no program {program} in the object"
        return found

    def _maps(self, handle: ctypes.c_void_p) -> Iterator[tuple[str, ctypes.c_void_p]]:
        entry = self._library.bpf_object__next_map(handle, None)
        while entry:
            pointer = ctypes.c_void_p(entry)
            name = self._library.bpf_map__name(pointer).decode()
            if "." not in name:  # .rodata and its like belong to one load
                yield name, pointer
            entry = self._library.bpf_object__next_map(handle, pointer)


def _check(result: int, operation: str, log: str = "") -> None:
    if result < 0:
        tail = "\n".join(log.strip().splitlines()[-LOG_TAIL_LINES:])
        raise KernelRefused(operation, -result, log_tail=tail)


def read_object(path: Path) -> bytes:
    """Read a compiled object.

    Raises:
        NotSupported: it has not been built.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotSupported(f"the kernel program {path.name}", f"{path} is missing; run: make -C ebpf") from error
