"""The deny-list in the kernel: replaced as a whole, changed entry by entry, found again after a crash.

There are two generations of inner maps, and ``x0d_policy`` says which is in force.  A whole list is
built in the other one, where nobody looks, and put in force by one store: a packet sees the old list
or the new one.  Single entries are written to the generation in force; whatever lets XDP skip a
lookup (the filter's bits, the bits of the kinds) is set before the entry is there and cleared after
it has gone.  What was killed half way is tidied by ``adopt``: the generation in force is whole at
any moment, the other one is garbage.

All methods block and are called from one thread.
"""

import struct
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import structlog

from x0d import telemetry
from x0d.errors import KernelRefused, TooMany
from x0d.kernel import bpf, deny_maps, deny_model
from x0d.kernel.deny_filter import DenyFilter
from x0d.kernel.deny_maps import DenyMaps, Generation
from x0d.kernel.deny_model import DENY_LISTS
from x0d.kernel.deny_slots import Allotted, DenySlots
from x0d.kernel.layout_policy import filter_element
from x0d.kernel.policy_word import PolicyWord
from x0d.policy.model import PrefixKey

IN_PLACE_MAX = 4096
"""More changes than this, and more than a quarter of the list: it is built anew."""
FILTER_STALE_MIN = 1024
"""So many entries, and a quarter of the list, are deleted before the filter is computed again."""

ZEROED_AT_ONCE = 65536
_INDEX = struct.Struct("=I")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A list that is built but not in force."""

    asked: Mapping[PrefixKey, int]
    """The caller's own object."""
    entries: dict[PrefixKey, int]
    slots: Allotted
    parts: tuple[list[PrefixKey], ...]
    made: Generation
    filter: DenyFilter


class DenyList:
    """Prefix to expiry (CLOCK_MONOTONIC nanoseconds, 0 for never), as XDP has it."""

    def __init__(self, map_fds: Mapping[str, int], maps_dir: Path, word: PolicyWord, entries_max: int) -> None:
        """``map_fds`` stay the caller's; ``maps_dir`` is where inner maps are pinned."""
        self._word = word
        self._entries_max = entries_max
        self._filter_fd = map_fds["x0d_deny_filter"]
        self._hits_fd = map_fds["x0d_deny_hits"]
        self._slots_max = bpf.map_shape(self._hits_fd)[2]
        self._cpus = bpf.possible_cpus()
        self._maps = DenyMaps(map_fds, maps_dir)
        self._generation = Generation(0, ())
        self._retired: Generation | None = None
        self._prepared: _Prepared | None = None
        self._retired_slots: Collection[int] = ()
        self._entries: dict[PrefixKey, int] = {}
        self._slot_of: dict[PrefixKey, int] = {}
        self._slots = DenySlots(self._slots_max)
        self._expiring: set[PrefixKey] = set()  # true prefixes that expire
        self._filter, self._filter_stale = DenyFilter(), 0
        self._counts = [0] * len(DENY_LISTS)
        self._hits_buffer = bpf.MapBuffer(4, 8 * self._cpus)

    # ---- reading ----

    @property
    def entries(self) -> Mapping[PrefixKey, int]:
        """What is in force; changes with the next call."""
        return self._entries

    def hits(self) -> dict[PrefixKey, int]:
        """Packets dropped by each entry."""
        slots = self._slot_of.values()
        first, end = min(slots, default=0), max(slots, default=-1) + 1
        after = _INDEX.pack(first - 1) if first else b""
        self._hits_buffer.read(self._hits_fd, after=after, entries_max=end - first)
        totals = bpf.sum_cpus(self._hits_buffer.values, self._cpus)
        hits = {prefix: totals[slot - first] for prefix, slot in self._slot_of.items()}
        if len(hits) < len(self._entries):  # a list that was longer than the hits map is now
            hits.update(dict.fromkeys(self._entries.keys() - hits.keys(), 0))
        return hits

    # ---- the whole list ----

    def replace(self, entries: Mapping[PrefixKey, int]) -> None:
        """Put a whole list in force; ``sweep`` is to be called some time later.

        Raises:
            TooMany, KernelRefused: nothing has changed.
        """
        if self._prepared is None or self._prepared.asked is not entries:
            self.prepare(entries)
        self._put_in_force()

    def prepare(self, entries: Mapping[PrefixKey, int]) -> None:
        """Build a list where nobody looks; ``replace`` by the same object then has little left to do.

        Any other change abandons it.  Raises as ``replace``.
        """
        self.abandon()
        self._require_room(len(entries))
        if entries != self._entries:
            self._prepared = self._build(entries)

    def abandon(self) -> None:
        """Drop what was prepared; nothing happens if nothing was."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            self._slots.give_back(prepared.slots.taken)
            self._maps.clear(prepared.made.index)
            self._maps.close(prepared.made)

    def _rebuild(self, entries: Mapping[PrefixKey, int]) -> None:
        self.abandon()
        self._prepared = self._build(entries)
        self._put_in_force()

    def _build(self, entries: Mapping[PrefixKey, int]) -> _Prepared:
        self.sweep()
        slots = self._slots.allot(self._slot_of, entries)
        parts = deny_model.split(entries)
        try:
            made = self._maps.make(1 - self._generation.index, parts, slots.of, entries)
        except KernelRefused:
            self._slots.give_back(slots.taken)
            raise
        return _Prepared(entries, dict(entries), slots, parts, made, DenyFilter(entries))

    def _put_in_force(self) -> None:
        prepared = self._prepared
        if prepared is None:  # it is in force already
            return
        try:
            self._write_filter(prepared.filter, prepared.made.index)
            self._zero(prepared.slots.shared)
            self._word.flip_deny(prepared.made.index, self._kinds(prepared.parts))
        except KernelRefused:
            self.abandon()
            raise
        self._prepared, self._retired_slots = None, prepared.slots.gone
        self._retired, self._generation = (self._generation if self._generation.maps else None), prepared.made
        self._entries, self._slot_of = prepared.entries, prepared.slots.of
        self._note_parts(prepared.parts, prepared.filter)

    def sweep(self) -> None:
        """Free what the list before this one had, once no packet can be in it."""
        if self._retired is not None:
            retired, self._retired = self._retired, None
            self._maps.drop(retired)
        if self._retired_slots:
            slots, self._retired_slots = self._retired_slots, ()
            self._free_slots(slots)

    # ---- single entries ----

    def put(self, entries: Mapping[PrefixKey, int]) -> None:
        """Add entries, or change their expiry.  Raises as ``replace``."""
        changed = {prefix: expires for prefix, expires in entries.items() if self._entries.get(prefix) != expires}
        fresh = [prefix for prefix in changed if prefix not in self._entries]
        if not changed:
            return
        self.abandon()
        if fresh:
            self._require_room(len(self._entries) + len(fresh))
        parts = deny_model.split(fresh)
        if self._is_bulk(len(changed)) or not self._has_room(parts):
            self._rebuild({**self._entries, **changed})
            return
        self._slot_of.update(zip(fresh, self._slots.take(len(fresh)), strict=True))
        before = {prefix: self._entries[prefix] for prefix in changed if prefix in self._entries}
        self._entries.update(changed)
        try:
            self._widen(parts)
            self._write(changed)
        except KernelRefused:
            self._undo(fresh, before)
            raise
        self._expiring.difference_update(changed)
        nets = [prefix for prefix in changed if not deny_model.is_exact(prefix)]
        self._expiring.update(prefix for prefix in nets if changed[prefix])
        self._write(deny_model.nested(changed, self._expiring))

    def delete(self, prefixes: Collection[PrefixKey]) -> None:
        """Remove entries; those that are not there are passed over."""
        doomed = {prefix for prefix in prefixes if prefix in self._entries}
        if not doomed:
            return
        self.abandon()
        if self._is_bulk(len(doomed)):
            self._rebuild({prefix: expires for prefix, expires in self._entries.items() if prefix not in doomed})
            return
        parts = deny_model.split(doomed)
        for inner, part in zip(self._generation.maps, parts, strict=True):
            bpf.delete_batch(inner.fd, deny_model.encode_keys(inner.kind, part), inner.kind.key_size)
        self._forget(doomed)
        self._write(deny_model.nested(doomed, self._expiring))
        self._narrow(len(doomed))

    def _undo(self, fresh: Collection[PrefixKey], before: Mapping[PrefixKey, int]) -> None:
        for inner, part in zip(self._generation.maps, deny_model.split(fresh), strict=True):
            bpf.delete_batch(inner.fd, deny_model.encode_keys(inner.kind, part), inner.kind.key_size)
        self._forget(fresh)
        self._entries.update(before)
        self._write(before)
        self._narrow(0)

    def _forget(self, doomed: Collection[PrefixKey]) -> None:
        for prefix in doomed:
            del self._entries[prefix]
        self._free_slots([self._slot_of.pop(prefix) for prefix in doomed if prefix in self._slot_of])
        self._expiring.difference_update(doomed)
        for place, part in enumerate(deny_model.split(doomed)):
            self._counts[place] -= len(part)

    def _write(self, prefixes: Iterable[PrefixKey]) -> None:
        """Write values of entries as they are now to the generation in force."""
        for inner, part in zip(self._generation.maps, deny_model.split(prefixes), strict=True):
            if not part:
                continue
            covered = [deny_model.covered_until_one(prefix, self._entries) for prefix in part]
            # Without a slot of its own, an entry has one that the hits map does not have.
            slots = [self._slot_of.get(prefix, self._slots_max) for prefix in part]
            values = deny_model.encode_values(slots, [self._entries[prefix] for prefix in part], covered)
            bpf.update_batch(inner.fd, deny_model.encode_keys(inner.kind, part), values, len(part))

    def _widen(self, parts: tuple[list[PrefixKey], ...]) -> None:
        """Let XDP look for entries that are about to be there."""
        for place, part in enumerate(parts):
            self._counts[place] += len(part)
        families = self._filter.add(chain.from_iterable(parts))
        self._write_filter(self._filter, self._generation.index, families)
        self._word.set_deny_kinds(self._word.policy.deny_kinds | self._kinds(parts))

    def _narrow(self, deleted: int) -> None:
        """Let XDP skip what has gone."""
        self._filter_stale += deleted
        if self._filter_stale > max(FILTER_STALE_MIN, len(self._entries) // 4):
            self._filter, self._filter_stale = DenyFilter(self._entries), 0
            self._write_filter(self._filter, self._generation.index)
        self._word.set_deny_kinds(sum(kind.bit for kind, count in zip(DENY_LISTS, self._counts, strict=True) if count))

    def _write_filter(self, chosen: DenyFilter, index: int, families: Iterable[int] = (4, 16)) -> None:
        for family in families:
            bpf.update(self._filter_fd, _INDEX.pack(filter_element(index, family)), chosen.encode(family))

    # ---- after a start ----

    def adopt(self) -> None:
        """Take over what an earlier life left; nothing is there the first time."""
        index = self._word.policy.deny_index & 1
        maps = self._maps.open(index)
        self._generation = Generation(index, maps)
        contents = [deny_maps.read(inner) for inner in maps]
        for content in contents:
            self._entries.update(zip(content.prefixes, content.expiries, strict=True))
        self._adopt_slots(contents)
        is_whole = len(maps) == len(DENY_LISTS)
        if is_whole and (len(self._slot_of) == len(self._entries) or len(self._entries) > self._entries_max):
            self._take_over(contents)
            return
        if self._word.policy.deny_kinds:
            missing = [kind.pin for kind in DENY_LISTS if kind not in [inner.kind for inner in maps]]
            log.warning(telemetry.DENY_LIST_REMADE, entries=len(self._entries), missing=missing)
        self._require_room(len(self._entries))
        entries, self._entries = self._entries, {}
        self._rebuild(entries)
        self.sweep()

    def _adopt_slots(self, contents: Iterable[deny_maps.Content]) -> None:
        seen: dict[int, PrefixKey] = {}
        for content in contents:
            seen.update(zip(content.slots, content.prefixes, strict=True))
        self._slot_of = {prefix: slot for slot, prefix in seen.items() if slot < self._slots_max}
        self._slots = DenySlots(self._slots_max, self._slot_of.values())
        self._zero(self._slots.all_free())

    def _take_over(self, contents: Sequence[deny_maps.Content]) -> None:
        """Put right what a kill between two writes may have left in the generation in force."""
        for inner in self._generation.maps:
            self._maps.put_into_outer(inner, self._generation.index)
        parts = deny_model.split(self._entries)
        self._note_parts(parts, DenyFilter(self._entries))
        self._write_filter(self._filter, self._generation.index)
        self._word.set_deny_kinds(self._kinds(parts))
        for place, content in zip((1, 3), (contents[1], contents[3]), strict=True):
            found = dict(zip(content.prefixes, content.covered, strict=True))
            nets = deny_model.in_order(parts[place])
            right = zip(nets, deny_model.covered_until(nets, self._entries), strict=True)
            self._write([prefix for prefix, covered in right if self._entries[prefix] and covered != found[prefix]])
        self._maps.clear(1 - self._generation.index)

    def close(self) -> None:
        """Close descriptors; the list stays in force, and the next ``adopt`` tidies what ``sweep`` has not."""
        prepared = self._prepared.made if self._prepared is not None else None
        for generation in (self._generation, self._retired, prepared):
            if generation is not None:
                self._maps.close(generation)

    # ---- small parts ----

    def _note_parts(self, parts: tuple[list[PrefixKey], ...], chosen: DenyFilter) -> None:
        self._counts = [len(part) for part in parts]
        self._expiring = set()
        if any(self._entries.values()):
            self._expiring = {prefix for prefix in parts[1] + parts[3] if self._entries[prefix]}
        self._filter, self._filter_stale = chosen, 0

    def _require_room(self, count: int) -> None:
        if count > self._entries_max:
            raise TooMany(f"{count} deny-list entries, more than [ebpf] deny_entries_max = {self._entries_max} allows")

    def _has_room(self, fresh: tuple[list[PrefixKey], ...]) -> bool:
        sizes = (inner.entries_max for inner in self._generation.maps)
        return (
            all(count + len(part) <= size for count, part, size in zip(self._counts, fresh, sizes, strict=True))
            and sum(map(len, fresh)) <= self._slots.free
        )

    def _is_bulk(self, changes: int) -> bool:
        return changes > max(IN_PLACE_MAX, len(self._entries) // 4)

    def _kinds(self, parts: tuple[list[PrefixKey], ...]) -> int:
        return sum(kind.bit for kind, part in zip(DENY_LISTS, parts, strict=True) if part)

    def _free_slots(self, slots: Collection[int]) -> None:
        self._zero(slots)
        self._slots.give_back(slots)

    def _zero(self, slots: Iterable[int]) -> None:
        """Set hits to zero, a bounded piece at a time."""
        rest = iter(slots)
        while keys := array("I", islice(rest, ZEROED_AT_ONCE)):
            bpf.update_batch(self._hits_fd, keys, bytes(8 * self._cpus * len(keys)), len(keys))
