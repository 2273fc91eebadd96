"""The little of libbpf.so.1 that opens an ELF object and loads programs of it, and reads the kernel's BTF.

libbpf loads all or nothing.  So an object is opened anew for each loading, with only the wanted
programs to be loaded: ``load`` takes one, and a program that this kernel refuses takes no other
down; ``load_all`` takes several at the cost of one, since most of a loading is the reading of the
kernel's BTF (some 36 ms where a program is relocated to it), and who calls it falls back to one by
one.  Maps that exist already are handed in, so that all programs share them.

The ELF bytes and the log buffers belong to Python and live until loading has returned.  What libbpf
has to say comes through a callback, to the thread that called it.
"""

import contextlib
import ctypes
import errno
import os
import re
import struct
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from x0d.errors import InvalidInput, KernelRefused, NotSupported
from x0d.kernel.refusals import Operation, refine

LIBRARY: Final = "libbpf.so.1"
LOG_BYTES: Final = 1 << 20
LOG_TAIL_LINES: Final = 12
_WORDS_BYTES: Final = 512
_WORDS_MAX: Final = 64
_NOTHING: Final[Mapping[str, int]] = MappingProxyType({})

_BTF_ENUM, _BTF_ENUM64 = 6, 19
_BTF_TYPE: Final = struct.Struct("=III")
_ENUM_SIGNED: Final = 1 << 31

_FAULTS: Final = {
    4000: "its ELF structure cannot be read",
    4001: "it is not a whole BPF object",
    4002: "it is for another kernel version",
    4003: "it is of the other byte order",
    4004: "libbpf failed inside",
    4005: "a relocation in it leads nowhere",
    4006: "it could not be loaded",
    4007: "the verifier refused it",
    4008: "a program in it is too large",
    4009: "it is for another kernel version",
    4010: "a program in it is of a kind that libbpf does not know",
}
"""libbpf's own error numbers, which begin above the system's."""


@dataclass(frozen=True, slots=True)
class LoadedProgram:
    """A program in the kernel and the maps it uses; the descriptors are the caller's to close."""

    fd: int
    map_fds: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LoadedPrograms:
    """Programs of one object in the kernel and the maps they share; the descriptors are the caller's to close."""

    fds: Mapping[str, int]
    """By program."""
    map_fds: Mapping[str, int]
    """By map; handed-in maps are here again, as copies."""


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
            "btf__type_by_id",
        ):
            getattr(self._library, name).restype = ctypes.c_void_p
        for name in ("bpf_program__name", "bpf_map__name", "btf__name_by_offset"):
            getattr(self._library, name).restype = ctypes.c_char_p
        self._library.libbpf_set_print(_HEAR)

    def load(
        self,
        elf: bytes,
        program: str,
        map_fds: Mapping[str, int],
        max_entries: Mapping[str, int] = _NOTHING,
        skip_maps: Collection[str] = (),
    ) -> LoadedProgram:
        """Load one program; arguments and errors as in ``load_all``."""
        loaded = self.load_all(elf, (program,), map_fds, max_entries, skip_maps)
        return LoadedProgram(loaded.fds[program], loaded.map_fds)

    def load_all(
        self,
        elf: bytes,
        programs: Sequence[str],
        map_fds: Mapping[str, int],
        max_entries: Mapping[str, int] = _NOTHING,
        skip_maps: Collection[str] = (),
    ) -> LoadedPrograms:
        """Load several programs of an object at once, all or none.

        Args:
            elf: The object's bytes.
            programs: Names of functions in it.
            map_fds: Maps to use; those that are not in it are made.
            max_entries: Sizes of maps that are made, instead of the object's own.  Here as in ``map_fds``,
                names that the object lacks are passed over.
            skip_maps: Not to be made, because no wanted program uses them; ``ObjectInfo.unused_by`` tells.

        Raises:
            InvalidInput: libbpf cannot read the object, or it lacks one of the programs.
            ProgramRejected: by the verifier, whose last lines are in ``log_tail``.
            ProgramTypeRefused: this kernel has no such programs or maps.
            MapTooLarge: it makes no map of that size.
            NotPermitted: it wants a capability, which is named.
            KernelRefused: another refusal.
        """
        library = self._library
        what = f"load program {programs[0]}" if len(programs) == 1 else f"load {len(programs)} programs"
        _heard().clear()
        with self._opened(elf, what) as handle:
            wanted = self._select(handle, programs)
            own_maps = dict(self._maps(handle))
            self._prepare_maps(own_maps, map_fds, max_entries, skip_maps)
            logs = {name: ctypes.create_string_buffer(LOG_BYTES) for name in wanted}
            for name, pointer in wanted.items():
                library.bpf_program__set_log_buf(pointer, logs[name], ctypes.c_size_t(LOG_BYTES))
            result = library.bpf_object__load(handle)
            if result < 0:
                # All buffers of the programs before the refused one are empty: only a refusal is logged.
                said = {name: text for name, log in logs.items() if (text := log.value.decode(errors="replace"))}
                raise _refusal(-result, said, what)
            # The object closes its descriptors when it goes; these are copies.
            made = {name: os.dup(library.bpf_map__fd(m)) for name, m in own_maps.items() if name not in skip_maps}
            return LoadedPrograms({name: os.dup(library.bpf_program__fd(p)) for name, p in wanted.items()}, made)

    def find_kernel_type(self, name: str, kind: int) -> int:
        """Number of a type in the kernel's own BTF.

        Raises:
            KernelRefused: ENOENT when there is no such type, ESRCH when the kernel has no BTF.
        """
        with self._kernel_btf() as handle:
            number: int = self._library.btf__find_by_name_kind(handle, name.encode(), ctypes.c_uint32(kind))
        _check(number, f"find {name} in the kernel's BTF")
        return number

    def enum_values(self, name: str) -> dict[int, str]:
        """Names of an enumeration of the running kernel, by value; reading it takes some 25 ms.

        Raises:
            KernelRefused: ENOENT when there is no such enumeration, ESRCH when the kernel has no BTF.
        """
        library = self._library
        with self._kernel_btf() as handle:
            for kind in (_BTF_ENUM, _BTF_ENUM64):
                number = library.btf__find_by_name_kind(handle, name.encode(), ctypes.c_uint32(kind))
                if number >= 0:
                    break
            _check(number, f"find {name} in the kernel's BTF")
            address = library.btf__type_by_id(handle, ctypes.c_uint32(number))
            _name, info, _size = _BTF_TYPE.unpack(ctypes.string_at(address, _BTF_TYPE.size))
            # Older BTF does not tell whether 32-bit values are signed; negative ones are the likelier.
            entry = struct.Struct("=Ii" if kind == _BTF_ENUM else f"=I{'q' if info & _ENUM_SIGNED else 'Q'}")
            raw = ctypes.string_at(address + _BTF_TYPE.size, (info & 0xFFFF) * entry.size)
            return {
                value: library.btf__name_by_offset(handle, ctypes.c_uint32(name_at)).decode()
                for name_at, value in entry.iter_unpack(raw)
            }

    @contextlib.contextmanager
    def _kernel_btf(self) -> Iterator[ctypes.c_void_p]:
        address = self._library.btf__load_vmlinux_btf()
        if not address:
            detail = "it needs CONFIG_DEBUG_INFO_BTF, and to see /sys/kernel/btf/vmlinux"
            raise KernelRefused("read the kernel's BTF", ctypes.get_errno(), detail)
        handle = ctypes.c_void_p(address)
        try:
            yield handle
        finally:
            self._library.btf__free(handle)

    @contextlib.contextmanager
    def _opened(self, elf: bytes, what: str) -> Iterator[ctypes.c_void_p]:
        address = self._library.bpf_object__open_mem(elf, ctypes.c_size_t(len(elf)), None)
        if not address:
            number = ctypes.get_errno()
            if number == errno.ENOMEM:
                raise KernelRefused(what, number)
            reason = f"{what}: {_FAULTS.get(number, 'the object cannot be read')}{_said()}"
            raise InvalidInput(reason)
        handle = ctypes.c_void_p(address)
        try:
            yield handle
        finally:
            self._library.bpf_object__close(handle)

    def _select(self, handle: ctypes.c_void_p, programs: Sequence[str]) -> dict[str, ctypes.c_void_p]:
        """Mark these programs, and no other, to be loaded."""
        found: dict[str, ctypes.c_void_p] = {}
        entry = self._library.bpf_object__next_program(handle, None)
        while entry:
            pointer = ctypes.c_void_p(entry)
            name = self._library.bpf_program__name(pointer).decode(errors="replace")
            if name in programs:
                found[name] = pointer
            _check(self._library.bpf_program__set_autoload(pointer, ctypes.c_bool(name in programs)), f"select {name}")
            entry = self._library.bpf_object__next_program(handle, pointer)
        missing = [name for name in programs if name not in found]
        if missing:
            reason = f"the object has no program {', '.join(missing)}"
            raise InvalidInput(reason)
        return found

    def _maps(self, handle: ctypes.c_void_p) -> Iterator[tuple[str, ctypes.c_void_p]]:
        entry = self._library.bpf_object__next_map(handle, None)
        while entry:
            pointer = ctypes.c_void_p(entry)
            name = self._library.bpf_map__name(pointer).decode(errors="replace")
            if "." not in name:  # .rodata and its like belong to one load
                yield name, pointer
            entry = self._library.bpf_object__next_map(handle, pointer)

    def _prepare_maps(
        self,
        maps: Mapping[str, ctypes.c_void_p],
        map_fds: Mapping[str, int],
        max_entries: Mapping[str, int],
        skip_maps: Collection[str],
    ) -> None:
        library = self._library
        for name, pointer in maps.items():
            if name in skip_maps:
                _check(library.bpf_map__set_autocreate(pointer, ctypes.c_bool(False)), f"leave map {name} out")
            elif name in map_fds:
                _check(library.bpf_map__reuse_fd(pointer, map_fds[name]), f"share map {name}")
            elif name in max_entries:
                entries = ctypes.c_uint32(max_entries[name])
                _check(library.bpf_map__set_max_entries(pointer, entries), f"size map {name}")


def read_object(path: Path) -> bytes:
    """Read a compiled object.

    Raises:
        NotSupported: it is missing, or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        reason = f"{path} is missing; reinstall x0d, or set ebpf.objects_dir; in a checkout: make -C ebpf"
        raise NotSupported(f"the kernel program {path.name}", reason) from error
    except OSError as error:
        raise NotSupported(f"the kernel program {path.name}", f"{path}: {error.strerror}") from error


def _check(result: int, operation: str) -> None:
    if result < 0:
        raise KernelRefused(operation, -result)


def _refusal(number: int, said: Mapping[str, str], what: str) -> InvalidInput | KernelRefused:
    """The typed error of a failed loading; ``said`` are the verifier's words by program."""
    if said:
        name, log = next(iter(said.items()))
        tail = "\n".join(log.strip().splitlines()[-LOG_TAIL_LINES:])
        return refine(Operation.LOAD, KernelRefused(f"load program {name}", number, log_tail=tail))
    if number in _FAULTS:
        return InvalidInput(f"{what}: {_FAULTS[number]}{_said()}")
    made = next((found for word in _heard() if (found := _MAP_FAILED.search(word))), None)
    if made is not None:
        return refine(Operation.MAP_CREATE, KernelRefused(f"make map {made[1]}", number))
    return refine(Operation.LOAD, KernelRefused(what, number, _said().removeprefix(": ")))


# ---- what libbpf says ----

_MAP_FAILED: Final = re.compile(r"map '([^']+)': failed to create")
_WARNING: Final = 0
_LIBC = ctypes.CDLL(None)
_thread = threading.local()


def _heard() -> list[str]:
    """Warnings of this thread's last loading."""
    if not hasattr(_thread, "words"):
        _thread.words = []
    words: list[str] = _thread.words
    return words


def _said() -> str:
    """The first warning, which is the one nearest to the cause, after a colon; empty without any."""
    words = _heard()
    return f": {words[0]}" if words else ""


def _hear(level: int, template: bytes, arguments: int) -> int:
    """Keep a warning; a va_list is passed by address on x86-64 and arm64."""
    words = _heard()
    if level == _WARNING and len(words) < _WORDS_MAX:
        buffer = ctypes.create_string_buffer(_WORDS_BYTES)
        _LIBC.vsnprintf(buffer, ctypes.c_size_t(_WORDS_BYTES), template, ctypes.c_void_p(arguments))
        words.append(buffer.value.decode(errors="replace").strip().removeprefix("libbpf: "))
    return 0


_HEAR: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_hear)
"""Lives as long as the library may call it."""
