"""The limits in the kernel: two tries that lead to elements of ``x0d_limits``, and their hits.

A source caches what the tries said under the generation in ``x0d_policy``.  A change is written in an
order in which XDP finds a complete element behind every index, and then the generation moves on; a
source that asked meanwhile asks again.  Generation 0 says that there is no limit at all, whatever the
tries hold.  All methods block and are called from one thread.
"""

import random
import struct
from collections.abc import Iterable, Mapping

import structlog

from x0d import telemetry
from x0d.errors import KernelRefused, TooMany
from x0d.kernel import bpf
from x0d.kernel.layout_policy import LIMIT, LIMIT_INDEX, LIMITS_MAX, NET4_KEY, NET6_KEY
from x0d.kernel.limit_model import decode_key, decode_limit, encode_key, encode_limit, fallback_of
from x0d.kernel.policy_word import PolicyWord
from x0d.policy.model import PackedPrefix
from x0d.ports.policy import LimitRate

_INDEX = struct.Struct("=I")
_GENERATIONS = 1 << 32

log = structlog.get_logger()


class LimitTable:
    """Prefix to limit, as XDP has it."""

    def __init__(self, map_fds: Mapping[str, int], word: PolicyWord) -> None:
        """``map_fds`` stay the caller's."""
        self._word = word
        self._tries = {4: map_fds["x0d_limit4"], 16: map_fds["x0d_limit6"]}
        self._limits_fd = map_fds["x0d_limits"]
        self._hits_fd = map_fds["x0d_limit_hits"]
        self._cpus = bpf.possible_cpus()
        self._limits: dict[PackedPrefix, LimitRate] = {}
        self._index_of: dict[PackedPrefix, int] = {}
        self._free = list(reversed(range(LIMITS_MAX)))
        # Sources remember generations longer than a daemon lives, so it does not begin at 1 each time.
        self._generation = word.policy.limit_generation or random.SystemRandom().randrange(1, _GENERATIONS)
        self._hits_buffer = bpf.MapBuffer(4, 8 * self._cpus, LIMITS_MAX)

    @property
    def limits(self) -> Mapping[PackedPrefix, LimitRate]:
        """What is in force; changes with the next call."""
        return self._limits

    def hits(self) -> dict[PackedPrefix, int]:
        """Packets dropped by each limit."""
        if not self._index_of:
            return {}
        self._hits_buffer.read(self._hits_fd, entries_max=LIMITS_MAX)
        totals = bpf.sum_cpus(self._hits_buffer.values, self._cpus)
        return {prefix: totals[index] for prefix, index in self._index_of.items()}

    def replace(self, limits: Mapping[PackedPrefix, LimitRate]) -> None:
        """Put these limits in force and no others; those that were there keep their hits.

        Raises:
            TooMany: nothing has changed.
            KernelRefused: nothing has changed.
        """
        if len(limits) > LIMITS_MAX:
            raise TooMany(f"{len(limits)} limits, and there is room for {LIMITS_MAX}")
        if limits == self._limits:
            return
        limits = dict(limits)
        gone = [prefix for prefix in self._limits if prefix not in limits]
        new = [prefix for prefix in limits if prefix not in self._limits]
        if len(new) > len(self._free):  # a full table that changes: the old ones make room first
            self._replace_in_steps(limits, gone)
            return
        index_of = {prefix: index for prefix, index in self._index_of.items() if prefix in limits}
        index_of.update({prefix: self._free.pop() for prefix in new})
        self._zero_hits(index_of[prefix] for prefix in new)
        self._write_elements(new, limits, index_of)
        self._insert(new, index_of)
        self._write_elements([prefix for prefix in limits if prefix in self._limits], limits, index_of)
        self._remove(gone)
        self._free[:0] = [self._index_of[prefix] for prefix in gone]  # taken last: a source may still have them cached
        self._limits, self._index_of = limits, index_of
        self._next_generation()

    def _replace_in_steps(self, limits: dict[PackedPrefix, LimitRate], gone: list[PackedPrefix]) -> None:
        before = dict(self._limits)
        self.replace({prefix: limit for prefix, limit in self._limits.items() if prefix not in gone})
        try:
            self.replace(limits)
        except KernelRefused:
            self.replace(before)
            raise

    def _insert(self, new: Iterable[PackedPrefix], index_of: Mapping[PackedPrefix, int]) -> None:
        done: list[PackedPrefix] = []
        try:
            for prefix in new:
                bpf.update(self._tries[len(prefix.address)], encode_key(prefix), LIMIT_INDEX.pack(index_of[prefix]))
                done.append(prefix)
        except KernelRefused:
            self._remove(done)
            self._free += (index_of[prefix] for prefix in new)
            raise

    def _remove(self, prefixes: Iterable[PackedPrefix]) -> None:
        for prefix in prefixes:
            bpf.delete(self._tries[len(prefix.address)], encode_key(prefix))

    def _write_elements(
        self,
        prefixes: Iterable[PackedPrefix],
        limits: Mapping[PackedPrefix, LimitRate],
        index_of: Mapping[PackedPrefix, int],
    ) -> None:
        for prefix in prefixes:
            fallback = fallback_of(prefix, limits)
            value = encode_limit(limits[prefix], index_of[fallback] + 1 if fallback else 0)
            bpf.update(self._limits_fd, _INDEX.pack(index_of[prefix]), value)

    def _zero_hits(self, indices: Iterable[int]) -> None:
        keys = b"".join(map(_INDEX.pack, indices))
        count = len(keys) // _INDEX.size
        bpf.update_batch(self._hits_fd, keys, bytes(8 * self._cpus * count), count)

    def _next_generation(self) -> None:
        self._generation = (self._generation + 1) % _GENERATIONS or 1
        self._word.set_limit_generation(self._generation if self._limits else 0)

    # ---- after a start ----

    def adopt(self) -> None:
        """Take over what an earlier life left; what is not in force or not whole is removed."""
        elements = bpf.MapBuffer(4, LIMIT.size, LIMITS_MAX)
        elements.read(self._limits_fd)
        values = bytes(elements.values)
        wrong = []
        for trie, key_size in zip(self._tries.values(), (NET4_KEY.size, NET6_KEY.size), strict=True):
            for key, value in list(bpf.entries(trie, key_size, LIMIT_INDEX.size)):
                prefix, index = decode_key(key), LIMIT_INDEX.unpack(value)[0]
                limit = decode_limit(values[index * LIMIT.size :][: LIMIT.size]) if index < LIMITS_MAX else None
                if limit is None or index in self._index_of.values() or not self._word.policy.limit_generation:
                    wrong.append(prefix)
                else:
                    self._limits[prefix], self._index_of[prefix] = limit, index
        self._remove(wrong)
        if wrong:
            log.warning(telemetry.LIMITS_REMADE, removed=len(wrong), kept=len(self._limits))
        used = set(self._index_of.values())
        self._free = [index for index in reversed(range(LIMITS_MAX)) if index not in used]
        self._write_elements(self._limits, self._limits, self._index_of)
        self._next_generation()
