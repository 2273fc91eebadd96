"""Read the packet counters that x0d's XDP programs keep, straight from the pinned maps: no daemon has to run.

The layout is that of ``struct x0d_interface`` in ``ebpf/x0d.h``: key u32 ifindex, value per CPU, which begins with
{u64 packets, u64 bytes} for each class and verdict.
"""

import ctypes
import os
import struct
from pathlib import Path

from lab.machine import LabError
from lab.network import Lab
from lab.wires import libbpf

CLASSES, VERDICTS = 9, 6
CELLS = struct.Struct(f"={2 * CLASSES * VERDICTS}Q")
VALUE_BYTES = CELLS.size + 8 * 9 + 24
KEY_BYTES = 4
VERDICT_PASS, VERDICT_REFLECT = 0, 2
MAPS = ("x0d_low", "x0d_interfaces")  # an array for interfaces of low index, a hash table for the others


def packets_by_verdict(lab: Lab, node: str) -> dict[int, int]:
    """Packets that came in on all interfaces of a node so far, by verdict (enum x0d_verdict).

    Raises:
        LabError: a map is not pinned.
    """
    inode = Path(f"/run/netns/{lab.namespace(node)}").stat().st_ino
    directory = lab.directory / "bpf" / node / str(inode) / "maps"
    library = libbpf()
    totals: dict[int, int] = {}
    for name in MAPS:
        descriptor = library.bpf_obj_get(str(directory / name).encode())
        if descriptor < 0:
            raise LabError(f"{directory / name}: {os.strerror(ctypes.get_errno())}")
        try:
            for verdict, packets in _sum(library, descriptor).items():
                totals[verdict] = totals.get(verdict, 0) + packets
        finally:
            os.close(descriptor)
    return totals


def _sum(library: ctypes.CDLL, descriptor: int) -> dict[int, int]:
    cpus = library.libbpf_num_possible_cpus()
    key, following = None, ctypes.create_string_buffer(KEY_BYTES)
    values = ctypes.create_string_buffer(VALUE_BYTES * cpus)
    totals: dict[int, int] = {}
    while library.bpf_map_get_next_key(descriptor, key, following) == 0:
        if library.bpf_map_lookup_elem(descriptor, following, values) == 0:
            for cpu in range(cpus):
                packets = CELLS.unpack_from(values, cpu * VALUE_BYTES)[::2]
                for verdict in range(VERDICTS):
                    totals[verdict] = totals.get(verdict, 0) + sum(packets[verdict::VERDICTS])
        key = ctypes.create_string_buffer(following.raw, KEY_BYTES)
    return totals


def pinned(lab: Lab, node: str) -> list[Path]:
    """Files that a node's x0d has pinned."""
    return sorted(path for path in (lab.directory / "bpf" / node).rglob("*") if path.is_file())
