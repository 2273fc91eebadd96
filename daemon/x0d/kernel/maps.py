"""The pinned maps of one network namespace: opened, made anew where they no longer fit, measured.

Everything that the kernel counts and knows lives in pinned maps, which outlive the daemon.  A start
opens them and decides, map by map:

- Layout version of ``x0d_config`` other than ours: all maps move to ``layout-<version>`` beside
  ``maps``, where they stay as they are; ``counters`` goes on adding what a known layout has counted.
  Neighbours' records, whose meaning has not changed since layout 1, are copied into the new maps.
- Same layout, other shape (a size was changed in the configuration): only that map is made anew; the
  hits of deny-list entries, whose places do not change, are copied as far as there is room.
- Otherwise: used again, with all that is in it.

Maps that are missing are made by libbpf along with the first program; ``adopt`` pins them.
``x0d_config`` is written and pinned before all others and moved after all others, so that no pin is
without its layout version wherever the daemon was killed.
"""

import os
import struct
from collections.abc import Mapping
from pathlib import Path

import structlog

from x0d import telemetry
from x0d.kernel import bpf, bpf_maps, layout, pins
from x0d.ports import MapStatus

CONFIG = "x0d_config"
STAGES = "x0d_stages"
"""Arrays of programs: each loading of the programs makes its own, so they are not kept here."""
RESIZED = frozenset({"x0d_sources", "x0d_deny_hits", "x0d_events"})
"""Maps whose size is the configuration's, and of which nothing hangs on a program's using an earlier one."""
LATER = frozenset({"x0d_syn_config", "x0d_syn_sources", "x0d_syn_drops"})
"""Maps that were added to this layout; programs of before work without them."""
HITS = "x0d_deny_hits"
CARRIED = {1: ("x0d_links", "x0d_locals")}
"""Maps whose entries mean the same in an earlier layout and in ours."""

_FIRST_WORD = struct.Struct("=I")
_INFO = struct.Struct("=IIIII")
_TYPES = {
    1: "hash",
    2: "array",
    3: "prog_array",
    5: "percpu_hash",
    6: "percpu_array",
    9: "lru_hash",
    11: "lpm_trie",
    12: "array_of_maps",
    27: "ringbuf",
}

log = structlog.get_logger(__name__)


class PinnedMaps:
    """Descriptors of the shared maps by name; ``open`` first, ``adopt`` what the first program brought."""

    def __init__(self, directory: Path, shapes: Mapping[str, layout.MapShape]) -> None:
        """Settings only; ``directory`` is the namespace's, ``shapes`` are those that the configuration asks for."""
        self._directory = directory
        self._shapes = {name: shape for name, shape in shapes.items() if name != STAGES}
        self.fds: dict[str, int] = {}
        self._former_hits: int | None = None
        self.are_continued = False
        """Whether programs of an earlier life read and write these very maps, except ``RESIZED`` and ``LATER``."""

    @property
    def directory(self) -> Path:
        """Where they are pinned."""
        return self._directory / pins.MAPS_DIR

    @property
    def sizes(self) -> dict[str, int]:
        """Greatest number of entries by name, for those that are still to be made."""
        return {name: shape.entries_max for name, shape in self._shapes.items()}

    def open(self) -> None:
        """Open what is pinned and fits; move or unpin what does not."""
        pins.drop_unfinished(self.directory)
        version = self._pinned_version()
        if version not in {0, layout.LAYOUT_VERSION}:
            log.warning(telemetry.DATAPLANE_MAPS_REMADE, pinned_version=version, version=layout.LAYOUT_VERSION)
            pins.retire_maps(self._directory, version, CONFIG)
        for name, shape in self._shapes.items():
            fd = bpf.open_pin(self.directory / name)
            if fd is None:
                continue
            found = layout.MapShape(*bpf.map_shape(fd))
            if found == shape:
                self.fds[name] = fd
                continue
            log.warning(telemetry.DATAPLANE_MAPS_REMADE, misfits=[name], pinned=str(found), wanted=str(shape))
            if name == HITS:
                self._former_hits = fd
            else:
                os.close(fd)
            (self.directory / name).unlink()
        self.are_continued = version == layout.LAYOUT_VERSION and self.missing() <= RESIZED | LATER

    def missing(self) -> frozenset[str]:
        """Maps that the first program is to bring."""
        return frozenset(self._shapes.keys() - self.fds.keys())

    def adopt(self, made: Mapping[str, int], config: layout.DataPlaneConfig) -> None:
        """Take over descriptors of maps, and pin those that are new; ``config`` is written if any is."""
        fresh = {name: fd for name, fd in made.items() if name in self._shapes and name not in self.fds}
        for name, fd in made.items():
            if name not in fresh:
                os.close(fd)
        self.fds.update(fresh)
        for name in fresh:
            self._carry(name)
        if HITS in fresh:
            self._carry_hits()
        if fresh:
            self.configure(config)
        for name in sorted(fresh, key=lambda name: name != CONFIG):
            bpf.pin(fresh[name], self.directory / name)

    def configure(self, config: layout.DataPlaneConfig) -> None:
        """Write the one entry of ``x0d_config``, for all programs at once."""
        bpf.update(self.fds[CONFIG], bytes(4), layout.encode_config(config))

    def statuses(self) -> list[MapStatus]:
        """Every map that is pinned, those that others have pinned beside ours included."""
        found = []
        for path in sorted(self.directory.iterdir()):
            fd = bpf.open_pin(path)
            if fd is not None:
                with bpf.closing(fd):
                    found.append(describe(path.name, fd))
        return found

    def close(self) -> None:
        """Let go of the descriptors; what is pinned stays."""
        while self.fds:
            os.close(self.fds.popitem()[1])
        self._let_go_of_former()

    def _pinned_version(self) -> int:
        """Layout version of the pinned maps; 0 when there is no configuration, or none written yet."""
        fd = bpf.open_pin(self.directory / CONFIG)
        if fd is None:
            return 0
        with bpf.closing(fd):
            _key_size, value_size, _entries_max = bpf.map_shape(fd)
            value = bpf.lookup(fd, bytes(4), value_size)
        version: int = _FIRST_WORD.unpack_from(value or bytes(_FIRST_WORD.size))[0]  # of every layout the first word
        return version

    def _carry(self, name: str) -> None:
        """Copy the entries of an earlier layout, so that no probe goes unanswered until they are put again."""
        shape = self._shapes[name]
        for version, retired in pins.retired(self._directory):
            former = bpf.open_pin(retired / name) if name in CARRIED.get(version, ()) else None
            if former is None:
                continue
            with bpf.closing(former):
                if layout.MapShape(*bpf.map_shape(former)) == shape:
                    for key, value in list(bpf.entries(former, shape.key_size, shape.value_size)):
                        bpf.update(self.fds[name], key, value)

    def _carry_hits(self) -> None:
        """Copy what deny-list entries have dropped, from the map of another size; what comes meanwhile is not seen."""
        if self._former_hits is None:
            return
        entries_max, cpus = self._shapes[HITS].entries_max, bpf.possible_cpus()
        size = layout.COUNT.size * cpus
        former = bpf.MapBuffer(_FIRST_WORD.size, size)
        former.read(self._former_hits, entries_max=entries_max)
        for index, count in enumerate(bpf.sum_cpus(former.values, cpus)):
            if count:
                value = bytes(former.values[index * size : (index + 1) * size])
                bpf.update(self.fds[HITS], _FIRST_WORD.pack(index), value)
        self._let_go_of_former()

    def _let_go_of_former(self) -> None:
        if self._former_hits is not None:
            os.close(self._former_hits)
            self._former_hits = None


def describe(name: str, fd: int) -> MapStatus:
    """What the kernel says of a map, the memory it takes included."""
    kind, _id, _key_size, _value_size, entries_max = _INFO.unpack_from(bpf_maps.object_info(fd, 80))
    return MapStatus(name, _TYPES.get(kind, f"type {kind}"), entries_max, bpf.map_memory_bytes(fd))
