"""The limit on SYNs to our ports, in the maps of the SYN stage: written here, kept by XDP.

What is in force outlives the daemon, as everything that is pinned.  The maps were added to their layout
later; where programs of before go on, they may be missing.
"""

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from x0d.errors import PinMissing
from x0d.kernel import bpf, layout
from x0d.kernel.layout_policy import SYN_CONFIG, SYN_PORTS, SYN_PORTS_MAX

CONFIG: Final = "x0d_syn_config"
DROPS: Final = "x0d_syn_drops"
SECOND_NS: Final = 1_000_000_000
_ENTRY: Final = bytes(4)


@dataclass(frozen=True, slots=True)
class SynLimit:
    """What holds for every source."""

    ports: tuple[int, ...]
    """TCP ports, at most ``SYN_PORTS_MAX``."""
    rate_pps: int
    """SYNs each second; 0: no limit."""
    burst: int
    """SYNs at once, from 1."""


def encode_syn_limit(limit: SynLimit) -> bytes:
    """Value of map ``x0d_syn_config``."""
    interval_ns = SECOND_NS // limit.rate_pps if limit.rate_pps else 0
    ports = SYN_PORTS.pack(*limit.ports, *(0,) * (SYN_PORTS_MAX - len(limit.ports)))
    return SYN_CONFIG.pack(interval_ns, interval_ns * limit.burst, ports)


def put_syn_limit(map_fds: Mapping[str, int], limit: SynLimit) -> None:
    """Put the limit in force for the next SYN; buckets stay as they are.

    Raises:
        KernelRefused: there is no such map (``PinMissing``), or writing it was refused.
    """
    if CONFIG not in map_fds:
        detail = "the programs are of an earlier version, which had no such limit"
        raise PinMissing("limit SYNs", errno.ENOENT, detail)
    value = encode_syn_limit(limit)
    if bpf.lookup(map_fds[CONFIG], _ENTRY, SYN_CONFIG.size) != value:
        bpf.update(map_fds[CONFIG], _ENTRY, value)


def read_syn_drops(map_fds: Mapping[str, int], cpus: int) -> int:
    """SYNs that the limit has dropped; 0 where the map is missing."""
    value = bpf.lookup(map_fds[DROPS], _ENTRY, layout.COUNT.size * cpus) if DROPS in map_fds else None
    return sum(count for (count,) in layout.COUNT.iter_unpack(value or b""))
