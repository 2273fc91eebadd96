"""Maps by bpf(2): one entry, many at a time, and making one.

A batch costs one system call for thousands of entries.  ``MapBuffer`` holds the memory that a map is
read into, so that a reader that comes back every second allocates nothing; its ``keys`` and ``values``
are flat, entry after entry.  A value of a per-CPU map comes once for each possible CPU, each rounded
up to 8 bytes.
"""

import ctypes
import errno
import operator
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from x0d.errors import KernelRefused
from x0d.kernel.bpf_call import Memory, address_of, buffer, call, try_call

BATCH_ENTRIES = 512
POSSIBLE_CPUS = Path("/sys/devices/system/cpu/possible")
NAME_BYTES_MAX = 15

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _OBJ_GET_INFO = 0, 1, 2, 3, 15
_MAP_LOOKUP_BATCH, _MAP_UPDATE_BATCH, _MAP_DELETE_BATCH = 24, 26, 27

MAP_ANY, MAP_NOEXIST, MAP_EXIST = 0, 1, 2
MAP_LOCK = 4
"""Copy the value under its spin lock."""

HASH, ARRAY, PERCPU_ARRAY, LRU_HASH, LPM_TRIE, ARRAY_OF_MAPS, RINGBUF = 1, 2, 6, 9, 11, 12, 27
"""Numbers of map types."""
NO_PREALLOC = 1
"""Flag of hash tables and tries: memory is taken as entries come."""


@dataclass(frozen=True, slots=True)
class MapKind:
    """All that tells a new map from another."""

    map_type: int
    key_size: int
    value_size: int
    entries_max: int
    flags: int = 0


def create_map(name: str, kind: MapKind, inner_map_fd: int = 0) -> int:
    """Make a map and return its descriptor.  An outer map is given an inner one as the pattern of all."""
    raw_name = name.encode()
    assert len(raw_name) <= NAME_BYTES_MAX, name
    attributes = struct.pack(
        "=IIIIIII16s",
        kind.map_type,
        kind.key_size,
        kind.value_size,
        kind.entries_max,
        kind.flags,
        inner_map_fd,
        0,
        raw_name,
    )
    return call(_MAP_CREATE, attributes, f"make map {name}")[0]


# ---- one entry ----


def lookup(map_fd: int, key: bytes, value_size: int, flags: int = MAP_ANY) -> bytes | None:
    """Read one value; None if the key is not there.  ``value_size`` counts all CPUs of a per-CPU map."""
    key_buffer, value = buffer(key), buffer(value_size)
    attributes = struct.pack("=I4xQQQ", map_fd, ctypes.addressof(key_buffer), ctypes.addressof(value), flags)
    try:
        call(_MAP_LOOKUP, attributes, "read a map entry")
    except KernelRefused as refusal:
        if refusal.errno == errno.ENOENT:
            return None
        raise
    return value.raw


def update(map_fd: int, key: bytes, value: bytes, flags: int = MAP_ANY) -> None:
    """Write one value.  ``flags``: MAP_ANY, MAP_NOEXIST (else EEXIST), MAP_EXIST (else ENOENT), MAP_LOCK."""
    key_buffer, value_buffer = buffer(key), buffer(value)
    addresses = ctypes.addressof(key_buffer), ctypes.addressof(value_buffer)
    call(_MAP_UPDATE, struct.pack("=I4xQQQ", map_fd, *addresses, flags), "write a map entry")


def delete(map_fd: int, key: bytes) -> bool:
    """Remove an entry; False if it was not there."""
    key_buffer = buffer(key)
    try:
        call(_MAP_DELETE, struct.pack("=I4xQQQ", map_fd, ctypes.addressof(key_buffer), 0, 0), "delete a map entry")
    except KernelRefused as refusal:
        if refusal.errno == errno.ENOENT:
            return False
        raise
    return True


# ---- many entries ----


class MapBuffer:
    """Memory for the entries of a map; grows when the map has more."""

    def __init__(self, key_size: int, value_size: int, entries: int = BATCH_ENTRIES) -> None:
        """``value_size`` counts all CPUs of a per-CPU map; ``entries`` is what there is room for at first."""
        self._sizes = key_size, value_size
        self._room = 0
        self._count = 0
        self._grow(entries)

    @property
    def keys(self) -> memoryview:
        """Those of the last ``read``; overwritten by the next."""
        return memoryview(self._keys)[: self._count * self._sizes[0]]

    @property
    def values(self) -> memoryview:
        """Those of the last ``read``, in the order of ``keys``."""
        return memoryview(self._values)[: self._count * self._sizes[1]]

    def read(self, map_fd: int, *, after: bytes = b"", entries_max: int | None = None, flags: int = MAP_ANY) -> int:
        """Read the whole map, or of an array ``entries_max`` elements ``after`` a key; returns how many there were.

        An entry that is added meanwhile may be missing.  ``flags``: MAP_LOCK.
        """
        key_size, value_size = self._sizes
        self._count, following = 0, buffer(after.ljust(max(key_size, 8), b"\0"))
        following_at = ctypes.addressof(following)
        start = following_at if after else 0
        while entries_max is None or self._count < entries_max:
            if self._count == self._room:
                self._grow(2 * self._room)
            size = self._room - self._count
            if entries_max is not None:
                size = min(size, entries_max - self._count)
            keys_at = address_of(self._keys) + self._count * key_size
            values_at = address_of(self._values) + self._count * value_size
            attributes = struct.pack("=QQQQIIQQ", start, following_at, keys_at, values_at, size, map_fd, flags, 0)
            _result, refusal, answer = try_call(_MAP_LOOKUP_BATCH, attributes)
            if refusal == errno.ENOSPC:  # one hash bucket holds more than there is room for
                self._grow(2 * self._room)
                continue
            if refusal not in {0, errno.ENOENT}:
                raise KernelRefused("read a map in batches", refusal)
            self._count += struct.unpack_from("=I", answer, 32)[0]  # set even by the call that ends with ENOENT
            if refusal:
                break
            start = following_at  # the kernel reads the old position before it writes the next
        return self._count

    def _grow(self, room: int) -> None:
        key_size, value_size = self._sizes
        keys, values = bytearray(room * key_size), bytearray(room * value_size)
        if self._count:
            keys[: self._count * key_size] = self.keys
            values[: self._count * value_size] = self.values
        self._keys, self._values, self._room = keys, values, room


def entries(map_fd: int, key_size: int, value_size: int, flags: int = MAP_ANY) -> Iterator[tuple[bytes, bytes]]:
    """Read all entries; one that is added meanwhile may be missing."""
    content = MapBuffer(key_size, value_size)
    count = content.read(map_fd, flags=flags)
    keys, values = content.keys, content.values
    for i in range(count):
        yield bytes(keys[i * key_size : (i + 1) * key_size]), bytes(values[i * value_size : (i + 1) * value_size])


def sum_cpus(values: memoryview, cpus: int) -> Sequence[int]:
    """Add up per-CPU values of one u64 each: one number for each entry."""
    numbers = values.cast("Q")
    totals: list[int] = numbers[::cpus].tolist() if len(numbers) else []
    for cpu in range(1, cpus):
        totals = list(map(operator.add, totals, numbers[cpu::cpus].tolist()))
    return totals


def update_batch(map_fd: int, keys: Memory, values: Memory, count: int) -> None:
    """Write ``count`` entries, one after the other: when this is refused, some may have been written."""
    if count:
        attributes = _batch(map_fd, keys, values, count)
        call(_MAP_UPDATE_BATCH, attributes, f"write {count} map entries")


def delete_batch(map_fd: int, keys: bytes, key_size: int) -> None:
    """Remove entries; those that are not there are passed over."""
    while keys:
        attributes = _batch(map_fd, keys, b"", len(keys) // key_size)
        _result, refusal, answer = try_call(_MAP_DELETE_BATCH, attributes)
        if refusal == 0:
            return
        if refusal != errno.ENOENT:
            raise KernelRefused("delete map entries", refusal)
        done: int = struct.unpack_from("=I", answer, 32)[0]
        keys = keys[(done + 1) * key_size :]


def _batch(map_fd: int, keys: Memory, values: Memory, count: int) -> bytes:
    values_at = address_of(values) if len(values) else 0
    return struct.pack("=QQQQIIQQ", 0, 0, address_of(keys), values_at, count, map_fd, 0, 0)


# ---- about a map ----


def map_shape(map_fd: int) -> tuple[int, int, int]:
    """Key size, value size and greatest number of entries (of a ring buffer: its bytes)."""
    key_size, value_size, entries_max = struct.unpack_from("=III", object_info(map_fd, 80), 8)
    return key_size, value_size, entries_max


def map_id(map_fd: int) -> int:
    """The kernel's number of a map; an outer map shows it as the value of an element."""
    number: int = struct.unpack_from("=I", object_info(map_fd, 80), 4)[0]
    return number


def map_memory_bytes(map_fd: int) -> int:
    """What the kernel says that a map takes; 0 where it says nothing (below 6.4 only an estimate)."""
    text = Path(f"/proc/self/fdinfo/{map_fd}").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return int(fields.get("memlock", "0"))


def object_info(fd: int, size: int) -> bytes:
    """The first ``size`` bytes of what the kernel tells of a map, program or link."""
    info = buffer(size)
    call(_OBJ_GET_INFO, struct.pack("=IIQ", fd, size, ctypes.addressof(info)), "describe a BPF object")
    return info.raw


def possible_cpus() -> int:
    """How many CPUs a per-CPU value has room for."""
    highest = max(int(part.split("-")[-1]) for part in POSSIBLE_CPUS.read_text().strip().split(","))
    return highest + 1
