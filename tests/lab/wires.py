"""The wire namespace: where the links of a lab are joined and where its faults are made.

``wire.bpf.c`` is compiled with clang, loaded and pinned through libbpf's own C functions (no code of x0d is used:
the lab must not share the faults of what it tests), and attached by netlink (clsact and XDP), which works on every
kernel since 4.9 and lasts as long as the namespace.  The pins let any later process set a fault or read a counter.
"""

import ctypes
import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from lab.machine import LabError, batch, run
from lab.topology import Link

SHARE_ALL = 1 << 32
FAULT = struct.Struct("=QII")  # struct wire_fault
COUNTER = struct.Struct("=QQQ")  # struct wire_counter
SOURCE = Path(__file__).with_name("wire.bpf.c")
MAPS = ("wire_faults", "wire_counters")
PROGRAMS = ("wire_forward", "wire_accept")


@dataclass(frozen=True, slots=True)
class WireCount:
    """What came in on one direction of a link so far."""

    packets: int
    bytes: int
    dropped: int


def libbpf() -> ctypes.CDLL:
    """The system's libbpf.

    Raises:
        LabError: it is not installed.
    """
    try:
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as err:
        raise LabError(f"libbpf is missing (Debian: libbpf1): {err}") from None
    for name in ("bpf_object__open_file", "bpf_object__find_program_by_name", "bpf_object__find_map_by_name"):
        getattr(library, name).restype = ctypes.c_void_p
    return library


def _checked(result: int | None, what: str) -> int:
    """The result of a libbpf call: NULL, or a negative number, is a refusal."""
    if result is None or result < 0:
        code = ctypes.get_errno() or -(result or 0)
        raise LabError(f"{what}: {os.strerror(code)}")
    return result


def build(cache: Path) -> Path:
    """Compile ``wire.bpf.c`` into a directory, unless that has been done; return the object file.

    Raises:
        LabError: clang is missing or complains.
    """
    target = cache / f"wire-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}.bpf.o"
    if not target.exists():
        cache.mkdir(exist_ok=True)
        partial = cache / f"{target.name}.{os.getpid()}"
        headers = f"-I/usr/include/{os.uname().machine}-linux-gnu"
        options = ["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", headers]
        run(["clang", *options, "-c", str(SOURCE), "-o", str(partial)])
        partial.rename(target)
    return target


def load(compiled: Path, pins: Path) -> None:
    """Load the programs and maps and pin each under its name in ``pins`` (a directory in a bpffs).

    Raises:
        LabError: the kernel refuses.
    """
    library = libbpf()
    library.libbpf_set_print(None)
    opened = ctypes.c_void_p(_checked(library.bpf_object__open_file(str(compiled).encode(), None), f"open {compiled}"))
    try:
        _checked(library.bpf_object__load(opened), "load wire.bpf.o")
        for kind, names in (("program", PROGRAMS), ("map", MAPS)):
            find, pin = getattr(library, f"bpf_object__find_{kind}_by_name"), getattr(library, f"bpf_{kind}__pin")
            for name in names:
                found = ctypes.c_void_p(_checked(find(opened, name.encode()), name))
                _checked(pin(found, str(pins / name).encode()), f"pin {name}")
    finally:
        library.bpf_object__close(opened)


def attach(namespace: str, pins: Path, links: tuple[Link, ...]) -> None:
    """Put the programs on both wire ends of each link."""
    ends = [link.wire_interface(node) for link in links for node in link.ends]
    batch(namespace, [f"link set dev {end} xdpdrv pinned {pins}/wire_accept" for end in ends])
    lines = [f"qdisc add dev {end} clsact" for end in ends]
    lines += [f"filter add dev {end} ingress bpf direct-action object-pinned {pins}/wire_forward" for end in ends]
    batch(namespace, lines, program="tc")


class Wires:
    """The pinned maps of a lab, opened."""

    def __init__(self, pins: Path) -> None:
        """Open the maps.

        Raises:
            LabError: they are not there.
        """
        self._library = libbpf()
        self._faults, self._counters = (
            _checked(self._library.bpf_obj_get(str(pins / name).encode()), f"open {pins / name}") for name in MAPS
        )

    def close(self) -> None:
        """Give the file descriptors back; the maps live on."""
        os.close(self._faults)
        os.close(self._counters)

    def prepare(self, link: Link) -> None:
        """Make the entries of a link that has no fault."""
        for node in link.ends:
            self._put(self._counters, link.wire_ifindex(node), COUNTER.pack(0, 0, 0))
        self.set_loss(link, 0.0)

    def set_loss(self, link: Link, share: float, *, source: str | None = None, length_min: int = 0) -> None:
        """Drop a share (0 to 1) of the frames, both ways or only those that ``source`` sends.

        Args:
            link: the wire.
            share: 1 is a silent cut, 0 heals.
            source: end whose frames are dropped; None means both.
            length_min: shorter frames (Ethernet header included) pass.
        """
        for node in link.ends if source is None else (source,):
            value = FAULT.pack(round(share * SHARE_ALL), length_min, link.wire_ifindex(link.other(node)))
            self._put(self._faults, link.wire_ifindex(node), value)

    def loss(self, link: Link, source: str) -> tuple[float, int]:
        """Share and least length that frames from ``source`` are dropped with."""
        share, length_min, _ = FAULT.unpack(self._get(self._faults, link.wire_ifindex(source), FAULT.size))
        return share / SHARE_ALL, length_min

    def count(self, link: Link, source: str) -> WireCount:
        """What ``source`` has sent into the link."""
        return WireCount(*COUNTER.unpack(self._get(self._counters, link.wire_ifindex(source), COUNTER.size)))

    def _put(self, map_fd: int, key: int, value: bytes) -> None:
        index = ctypes.c_uint32(key)
        _checked(
            self._library.bpf_map_update_elem(map_fd, ctypes.byref(index), value, ctypes.c_uint64(0)), "set a fault"
        )

    def _get(self, map_fd: int, key: int, size: int) -> bytes:
        index, value = ctypes.c_uint32(key), ctypes.create_string_buffer(size)
        _checked(self._library.bpf_map_lookup_elem(map_fd, ctypes.byref(index), value), "read a wire's map")
        return value.raw
