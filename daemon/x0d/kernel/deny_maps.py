"""Inner maps of the deny-list: made, filled, pinned, put into the outer maps, opened again, dropped.

A generation is the four inner maps of one index (0 or 1), pinned as ``deny4-0``, ``deny4_nets-0`` and
so on, because a daemon without CAP_SYS_ADMIN cannot open a map by the id that the outer map shows.
Whatever changes an outer map waits for an RCU grace period (8-16 ms), so the four are done at once.
"""

import contextlib
import os
import struct
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from x0d.errors import KernelRefused
from x0d.kernel import bpf
from x0d.kernel.deny_model import (
    DENY_LISTS,
    DenyListKind,
    capacity,
    covered_until,
    decode_keys,
    decode_values,
    encode_keys,
    encode_values,
    in_order,
)
from x0d.kernel.layout_policy import DENY
from x0d.policy.model import PrefixKey

Given = TypeVar("Given")
_INDEX = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class InnerMap:
    """One list in the kernel."""

    kind: DenyListKind
    fd: int
    entries_max: int


@dataclass(frozen=True, slots=True)
class Written:
    """One list as the kernel takes it."""

    kind: DenyListKind
    count: int
    keys: bytes
    values: "array[int]"


@dataclass(frozen=True, slots=True)
class Content:
    """What was read back of one list, each column in the same order."""

    prefixes: list[PrefixKey]
    slots: list[int]
    expiries: list[int]
    covered: list[int]


@dataclass(frozen=True, slots=True)
class Generation:
    """The inner maps of one index, in the order of ``DENY_LISTS``."""

    index: int
    maps: tuple[InnerMap, ...]


class DenyMaps:
    """The outer maps and the directory of the pins."""

    def __init__(self, outer_fds: Mapping[str, int], directory: Path) -> None:
        self._outer_fds = outer_fds
        self._directory = directory

    def make(
        self,
        index: int,
        parts: Sequence[Sequence[PrefixKey]],
        slots: Mapping[PrefixKey, int],
        entries: Mapping[PrefixKey, int],
    ) -> Generation:
        """Make, fill and pin the maps of an index and put them into the outer maps; nobody looks there yet.

        Raises:
            KernelRefused: nothing of it is left.
        """
        self.clear(index)
        expiries = entries if any(entries.values()) else {}

        made: list[InnerMap] = []

        def make_one(written: Written) -> None:
            made.append(self._make_one(written, index))

        try:
            _together(
                make_one, (_write(kind, part, slots, expiries) for kind, part in zip(DENY_LISTS, parts, strict=True))
            )
        except KernelRefused:
            for inner in made:
                os.close(inner.fd)
            self.clear(index)
            raise
        return Generation(index, tuple(sorted(made, key=lambda inner: inner.kind.bit)))

    def open(self, index: int) -> tuple[InnerMap, ...]:
        """Open those that are pinned and of the right shape."""
        found = []
        for kind in DENY_LISTS:
            fd = bpf.open_pin(self._pin(kind, index))
            if fd is None:
                continue
            key_size, value_size, entries_max = bpf.map_shape(fd)
            if (key_size, value_size) == (kind.key_size, DENY.size):
                found.append(InnerMap(kind, fd, entries_max))
            else:
                os.close(fd)
        return tuple(found)

    def put_into_outer(self, inner: InnerMap, index: int) -> None:
        """Put an inner map into its outer map, unless it is there; returns after a grace period."""
        outer_fd = self._outer_fds[inner.kind.outer]
        if bpf.lookup(outer_fd, _INDEX.pack(index), 4) != _INDEX.pack(bpf.map_id(inner.fd)):
            bpf.update(outer_fd, _INDEX.pack(index), _INDEX.pack(inner.fd))

    def drop(self, generation: Generation) -> None:
        """Take away the maps that were in force until the index was flipped.

        A packet may have read the old index and not yet looked into the outer map, so the maps stay
        there for one grace period more: writing an element waits for one.
        """
        first = generation.maps[0]
        index = _INDEX.pack(generation.index)
        bpf.update(self._outer_fds[first.kind.outer], index, _INDEX.pack(first.fd))
        self.clear(generation.index)
        self.close(generation)

    def close(self, generation: Generation) -> None:
        """Close descriptors; the maps stay."""
        for inner in generation.maps:
            os.close(inner.fd)

    def clear(self, index: int) -> None:
        """Remove pins and elements of an index, whatever is there."""

        def clear_one(kind: DenyListKind) -> None:
            outer_fd, key = self._outer_fds[kind.outer], _INDEX.pack(index)
            if bpf.lookup(outer_fd, key, 4) is not None:
                bpf.delete(outer_fd, key)
            with contextlib.suppress(FileNotFoundError):
                self._pin(kind, index).unlink()

        _together(clear_one, DENY_LISTS)

    def _make_one(self, written: Written, index: int) -> InnerMap:
        made = self._create(written.kind, capacity(written.count))
        try:
            bpf.update_batch(made.fd, written.keys, written.values, written.count)
            bpf.pin(made.fd, self._pin(written.kind, index))
            self.put_into_outer(made, index)
        except KernelRefused:
            os.close(made.fd)
            raise
        return made

    def _create(self, kind: DenyListKind, entries_max: int) -> InnerMap:
        map_type = bpf.HASH if kind.is_exact else bpf.LPM_TRIE
        shape = bpf.MapKind(map_type, kind.key_size, DENY.size, entries_max, bpf.NO_PREALLOC)
        return InnerMap(kind, bpf.create_map(kind.outer, shape), entries_max)

    def _pin(self, kind: DenyListKind, index: int) -> Path:
        return self._directory / f"{kind.pin}-{index}"


def read(inner: InnerMap) -> Content:
    """Read a whole list."""
    buffer = bpf.MapBuffer(inner.kind.key_size, DENY.size, min(inner.entries_max, 1 << 17))
    buffer.read(inner.fd)
    return Content(decode_keys(inner.kind, bytes(buffer.keys)), *decode_values(buffer.values))


def _write(
    kind: DenyListKind, part: Sequence[PrefixKey], slots: Mapping[PrefixKey, int], expiries: Mapping[PrefixKey, int]
) -> Written:
    """``expiries`` is empty where none expires, which spares most lists two thirds of the work."""
    expires: Sequence[int] = ()
    covered: Sequence[int] = ()
    if not kind.is_exact:
        part = in_order(part)
        covered = covered_until(part, expiries) if expiries else ()
    if expiries:
        expires = [expiries[prefix] for prefix in part]
    values = encode_values([slots[prefix] for prefix in part], expires, covered)
    return Written(kind, len(part), encode_keys(kind, part), values)


def _together(work: Callable[[Given], None], items: Iterable[Given]) -> None:
    """Call in threads of their own; raises the first refusal after all have ended.

    Items are made here, one by one: while the kernel works on one, the next is made.
    """
    with ThreadPoolExecutor(max_workers=len(DENY_LISTS)) as threads:
        running = [threads.submit(work, item) for item in items]
    for one in running:
        one.result()
