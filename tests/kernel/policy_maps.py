"""The maps that deny-list, limits and events share with XDP, made without it, in a bpf filesystem of a test's own."""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from x0d.kernel import bpf, layout
from x0d.kernel.layout_policy import DENY, DENY_KEYS

_KINDS = {
    "x0d_config": bpf.ARRAY,
    "x0d_policy": bpf.ARRAY,
    "x0d_deny_filter": bpf.ARRAY,
    "x0d_deny_hits": bpf.PERCPU_ARRAY,
    "x0d_limit4": bpf.LPM_TRIE,
    "x0d_limit6": bpf.LPM_TRIE,
    "x0d_limits": bpf.ARRAY,
    "x0d_limit_hits": bpf.PERCPU_ARRAY,
    "x0d_sources": bpf.LRU_HASH,
}


@dataclass
class PolicyMaps:
    """Maps by name, and the directory of the pins."""

    fds: dict[str, int]
    directory: Path


def make_maps(deny_entries_max: int, sources_max: int = 1024, event_bytes: int = 65536) -> dict[str, int]:
    """Make them; the caller closes the descriptors."""
    shapes = layout.map_shapes(deny_entries_max, sources_max, event_bytes)
    fds = {"x0d_events": bpf.create_map("x0d_events", bpf.MapKind(bpf.RINGBUF, 0, 0, event_bytes))}
    for name, map_type in _KINDS.items():
        shape = shapes[name]
        flags = bpf.NO_PREALLOC if map_type == bpf.LPM_TRIE else 0
        fds[name] = bpf.create_map(
            name, bpf.MapKind(map_type, shape.key_size, shape.value_size, shape.entries_max, flags)
        )
    for name, key_size in DENY_KEYS.items():
        kind = bpf.LPM_TRIE if name.endswith("_nets") else bpf.HASH
        pattern = bpf.MapKind(kind, key_size, DENY.size, 1, bpf.NO_PREALLOC)
        with bpf.closing(bpf.create_map("pattern", pattern)) as inner:
            fds[name] = bpf.create_map(name, bpf.MapKind(bpf.ARRAY_OF_MAPS, 4, 4, 2), inner)
    return fds


@contextmanager
def policy_maps(
    deny_entries_max: int = 4096, sources_max: int = 1024, event_bytes: int = 65536
) -> Iterator[PolicyMaps]:
    """Maps and a directory for pins, gone at the end."""
    bpffs = Path(tempfile.mkdtemp(prefix="x0dt-bpf-"))
    subprocess.run(["mount", "-t", "bpf", "x0dt-bpf", bpffs], check=True)
    fds: Mapping[str, int] = {}
    try:
        fds = make_maps(deny_entries_max, sources_max, event_bytes)
        directory = bpffs / "maps"
        directory.mkdir()
        yield PolicyMaps(dict(fds), directory)
    finally:
        for fd in fds.values():
            os.close(fd)
        subprocess.run(["umount", "-l", bpffs], check=True)
        bpffs.rmdir()


def index_key(number: int) -> bytes:
    """Key of an array or an outer map."""
    return number.to_bytes(4, "little")
