"""What this kernel lets this process do, found by doing it: programs loaded, modes attached.

A kernel's configuration, a version number or a library's probe says what should work; hardened
kernels and containers differ.  So each program type is loaded with two instructions, and each XDP
mode is tried on a pair of veth devices that are made for it and removed again.  Map types are made
and instructions loaded in programs of a few lines.  Nothing stays.

A kernel does not change its mind while a process lives: what was tried is remembered.
"""

import contextlib
import errno
import mmap
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL, nlmsg
from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_NEWLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from x0d.errors import KernelRefused
from x0d.kernel import bpf
from x0d.kernel.libbpf import Libbpf
from x0d.kernel.netlink import NetlinkSocket, typed

_BTF_KIND_TYPEDEF = 8
_TRIED_TRACEPOINT = "btf_trace_kfree_skb"
"""The one whose drop reasons x0d wants."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One thing that was tried."""

    name: str
    errno: int
    """0: it works."""
    detail: str = ""
    """More words of the refusal."""


@dataclass(frozen=True, slots=True)
class _Remembered:
    trials: dict[str, Trial] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


_REMEMBERED: Final = _Remembered()
_PASSING: Final = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOMEM})
"""What another try may not meet, so it is not remembered."""


def trial(name: str) -> Trial:
    """Try one thing, once in the life of the process; ``name`` is of ``PROGRAMS`` or ``DETAILS``.

    Raises:
        NotSupported: bpf(2)'s number on this machine is unknown, or libbpf is missing.
    """
    with _REMEMBERED.lock:
        if name not in _REMEMBERED.trials:
            tried = _try(name, {**PROGRAMS, **DETAILS}[name])
            if tried.errno in _PASSING:
                return tried
            _REMEMBERED.trials[name] = tried
        return _REMEMBERED.trials[name]


def try_programs() -> tuple[Trial, ...]:
    """Load one tiny program of each type that x0d uses or will use; errors as of ``trial``."""
    return tuple(trial(name) for name in PROGRAMS)


def try_details() -> tuple[Trial, ...]:
    """Try what the stages and tracing need beside program types: map types, instructions, batches."""
    return tuple(trial(name) for name in DETAILS)


# ---- program types ----


def _load_tp_btf() -> int:
    type_id = Libbpf().find_kernel_type(_TRIED_TRACEPOINT, _BTF_KIND_TYPEDEF)
    return bpf.load_instructions(replace(bpf.TP_BTF_PROGRAM, attach_btf_id=type_id), bpf.RETURN_ZERO)


PROGRAMS: Final[dict[str, Callable[[], int]]] = {
    "xdp": lambda: bpf.load_instructions(bpf.XDP_PROGRAM, bpf.RETURN_PASS),
    "xdp_frags": lambda: bpf.load_instructions(bpf.XDP_FRAGS_PROGRAM, bpf.RETURN_PASS),
    "sched_cls": lambda: bpf.load_instructions(bpf.SCHED_CLS_PROGRAM, bpf.RETURN_ZERO),
    "raw_tp": lambda: bpf.load_instructions(bpf.RAW_TRACEPOINT_PROGRAM, bpf.RETURN_ZERO),
    "tp_btf": _load_tp_btf,
}
"""How a program type is tried; each returns a descriptor."""


# ---- maps and instructions ----

_INSTRUCTION: Final = struct.Struct("=BBhi")
_MOVE, _CALL, _STORE, _LOAD_64, _ATOMIC_64 = 0xB7, 0x85, 0x7A, 0x18, 0xDB
_PSEUDO_MAP_FD: Final = 1
_COMPARE_EXCHANGE: Final = 0xF1
_HELPER_TAIL_CALL = 12
_PROG_ARRAY: Final = 3
_TRIED_MAP: Final = "x0d_doctor"


def _load_tail_call() -> int:
    slots = bpf.create_map(_TRIED_MAP, bpf.MapKind(_PROG_ARRAY, 4, 4, 1))
    with bpf.closing(slots):
        call = (  # r1 is the packet's context already; r2 the array, r3 the slot
            _INSTRUCTION.pack(_LOAD_64, _PSEUDO_MAP_FD << 4 | 2, 0, slots)
            + bytes(_INSTRUCTION.size)
            + _INSTRUCTION.pack(_MOVE, 3, 0, 0)
            + _INSTRUCTION.pack(_CALL, 0, 0, _HELPER_TAIL_CALL)
        )
        return bpf.load_instructions(bpf.XDP_PROGRAM, call + bpf.RETURN_PASS)


def _load_compare_exchange() -> int:
    exchange = (  # *(u64 *)(r10 - 8) = 0, then r0 = its old value and r1 in it if that was r0
        _INSTRUCTION.pack(_STORE, 10, -8, 0)
        + _INSTRUCTION.pack(_MOVE, 0, 0, 0)
        + _INSTRUCTION.pack(_MOVE, 1, 0, 1)
        + _INSTRUCTION.pack(_ATOMIC_64, 1 << 4 | 10, -8, _COMPARE_EXCHANGE)
    )
    return bpf.load_instructions(bpf.XDP_PROGRAM, exchange + bpf.RETURN_PASS)


def _make_array_of_maps() -> int:
    inner = bpf.create_map(_TRIED_MAP, bpf.MapKind(bpf.HASH, 4, 4, 1, bpf.NO_PREALLOC))
    with bpf.closing(inner):
        return bpf.create_map(_TRIED_MAP, bpf.MapKind(bpf.ARRAY_OF_MAPS, 4, 4, 1), inner)


def _read_in_batches() -> int:
    table = bpf.create_map(_TRIED_MAP, bpf.MapKind(bpf.HASH, 4, 4, 1))
    try:
        bpf.update(table, bytes(4), bytes(4))
        list(bpf.entries(table, 4, 4))
    except KernelRefused:
        os.close(table)
        raise
    return table


DETAILS: Final[dict[str, Callable[[], int]]] = {
    "tail_call": _load_tail_call,
    "compare_exchange": _load_compare_exchange,
    "ring_buffer": lambda: bpf.create_map(_TRIED_MAP, bpf.MapKind(bpf.RINGBUF, 0, 0, mmap.PAGESIZE)),
    "lpm_trie": lambda: bpf.create_map(_TRIED_MAP, bpf.MapKind(bpf.LPM_TRIE, 8, 4, 1, bpf.NO_PREALLOC)),
    "array_of_maps": _make_array_of_maps,
    "batch_lookup": _read_in_batches,
}
"""How a map type, instruction or helper is tried; each returns a descriptor."""


# ---- modes ----


def try_xdp_modes() -> tuple[Trial, ...]:
    """Attach in each mode to a veth pair of our own; needs CAP_NET_ADMIN and CAP_BPF.

    Raises:
        KernelRefused: no veth pair can be made, or no XDP program loaded.
    """
    with contextlib.ExitStack() as stack:
        program_fd = stack.enter_context(bpf.closing(bpf.load_instructions(bpf.XDP_PROGRAM, bpf.RETURN_PASS)))
        one, other = stack.enter_context(_veth_pair())
        # Each its own end: the kernel lets go of a hook a little after its link is closed.
        return (
            _try("hardware", lambda: bpf.create_xdp_link(program_fd, one, bpf.XDP_FLAGS_HARDWARE)),
            _try("native", lambda: bpf.create_xdp_link(program_fd, one, bpf.XDP_FLAGS_NATIVE)),
            _try("skb", lambda: bpf.create_xdp_link(program_fd, other, bpf.XDP_FLAGS_SKB)),
        )


def _try(name: str, make_fd: Callable[[], int]) -> Trial:
    try:
        os.close(make_fd())
    except KernelRefused as refusal:
        return Trial(name, refusal.errno, refusal.operation)
    return Trial(name, 0)


@contextlib.contextmanager
def _veth_pair() -> Iterator[tuple[int, int]]:
    """Indexes of two joined devices, which are removed at the end."""
    names = [f"x0dd{os.getpid()}{end}" for end in "ab"]
    peer = {"attrs": [("VETH_INFO_PEER", {"attrs": [("IFLA_IFNAME", names[1])]})]}
    make = typed(ifinfmsg(), RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
    info = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", peer)]}
    make["attrs"] = [("IFLA_IFNAME", names[0]), ("IFLA_LINKINFO", info)]
    netlink = NetlinkSocket()
    try:
        _perform(netlink, "make a veth pair", make)
        one, other = (socket.if_nametoindex(name) for name in names)
        try:
            yield one, other
        finally:
            remove = typed(ifinfmsg(), RTM_DELLINK)
            remove["index"] = one
            _perform(netlink, "remove the veth pair", remove)
    finally:
        netlink.close()


def _perform(netlink: NetlinkSocket, operation: str, message: nlmsg) -> None:
    (refusal,) = netlink.batch([(operation, message)])
    if refusal is not None and refusal.errno != errno.ENODEV:
        raise refusal
