"""What the tracing programs and the daemon share: the Python side of ``ebpf/trace.h``.

Decoders take one value of a per-CPU map, all CPUs in a row, and return the sum; the CPUs' shares are multiples of 8
bytes here, so there is no padding.  The layout's number is that of all objects, ``layout.LAYOUT_VERSION``.
"""

import operator
import struct
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address
from typing import Final

from x0d.kernel.layout import LAYOUT_VERSION
from x0d.ports import Log2Histogram

SYSCALLS_MAX: Final = 512
"""Numbers past it are counted in the last."""
STATES: Final = 16
BUCKETS: Final = 40

TABLES: Final = ("x0d_t_drops", "x0d_t_retrans", "x0d_t_rst_out", "x0d_t_rst_in")
"""Maps with an end, in the order of ``enum x0d_trace_table``: places of ``x0d_t_past``."""

CONFIG_MAP: Final = "x0d_t_config"
TIMEBOX_MAP: Final = "x0d_t_timebox"

CONFIG: Final = struct.Struct("=II")
PEER: Final = struct.Struct("=16s")
HISTOGRAM: Final = struct.Struct(f"={BUCKETS}QQ")
TIMEBOX: Final = struct.Struct("=QIIII")
CALL: Final = struct.Struct("=QII")
"""Begun at, number, reserved."""
NUMBER: Final = struct.Struct("=I")
COUNT: Final = struct.Struct("=Q")

assert (CONFIG.size, PEER.size, HISTOGRAM.size, TIMEBOX.size, CALL.size) == (8, 16, 328, 24, 16)

VALUE_BYTES: Final[Mapping[str, tuple[int, int]]] = {
    "x0d_t_past": (NUMBER.size, COUNT.size),
    "x0d_t_drops": (NUMBER.size, COUNT.size),
    "x0d_t_retrans": (PEER.size, COUNT.size),
    "x0d_t_rst_out": (PEER.size, COUNT.size),
    "x0d_t_rst_in": (PEER.size, COUNT.size),
    "x0d_t_states": (NUMBER.size, COUNT.size),
    "x0d_t_runq": (NUMBER.size, HISTOGRAM.size),
    "x0d_t_syscalls": (NUMBER.size, HISTOGRAM.size),
}
"""Bytes of a key, and of a value on one CPU, of the maps that are read."""
ENTRIES_MAX: Final[Mapping[str, int]] = {
    "x0d_t_past": len(TABLES),
    "x0d_t_drops": 512,
    "x0d_t_retrans": 1024,
    "x0d_t_rst_out": 1024,
    "x0d_t_rst_in": 1024,
    "x0d_t_states": 2 * STATES * STATES,
    "x0d_t_runq": 1,
    "x0d_t_syscalls": SYSCALLS_MAX,
}

_FAMILIES: Final = ("ipv4", "ipv6")
_TCP_STATES: Final = (
    "",
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
    "new_syn_recv",
    "bound_inactive",
)
"""From <net/tcp_states.h>; ``ss`` and the kernel's MIBs number them so, and later ones come behind."""
_NEVER: Final = 0xFFFFFFFF

NO_DURATIONS: Final = Log2Histogram((0,) * BUCKETS, 0)


def encode_config(netns_inode: int | None) -> bytes:
    """Value of map ``x0d_t_config``; None: every network namespace."""
    return CONFIG.pack(LAYOUT_VERSION, netns_inode or 0)


def encode_timebox(until_ns: int, sample_every: int, never_return: Sequence[int]) -> bytes:
    """Value of map ``x0d_t_timebox``; of ``never_return`` the first two are told."""
    first, second = (*never_return, _NEVER, _NEVER)[:2]
    return TIMEBOX.pack(until_ns, sample_every, LAYOUT_VERSION, first, second)


def decode_histogram(value: bytes) -> Log2Histogram:
    """Sum over the CPUs, bucket by bucket."""
    words, row = memoryview(value).cast("Q"), BUCKETS + 1
    *counts, sum_ns = [sum(words[i::row]) for i in range(row)]
    return Log2Histogram(tuple(counts), sum_ns)


def add(one: Log2Histogram, other: Log2Histogram) -> Log2Histogram:
    """Sum of two, bucket by bucket."""
    counts = tuple(map(operator.add, one.counts, other.counts))
    return Log2Histogram(counts, one.sum_ns + other.sum_ns)


def decode_peer(key: bytes) -> str:
    """A /24 or /48."""
    address = IPv6Address(key)
    return f"{address.ipv4_mapped}/24" if address.ipv4_mapped else f"{address}/48"


def decode_transition(index: int) -> tuple[str, str, str]:
    """Family, state before and state after of a place in map ``x0d_t_states``."""
    family, states = divmod(index, STATES * STATES)
    before, after = divmod(states, STATES)
    return _FAMILIES[family], _state_name(before), _state_name(after)


def _state_name(number: int) -> str:
    return _TCP_STATES[number] if 0 < number < len(_TCP_STATES) else f"state_{number}"
