"""What this kernel lets this process do, found by doing it: programs loaded, modes attached.

A kernel's configuration, a version number or a library's probe says what should work; hardened
kernels and containers differ.  So each program type is loaded with two instructions, and each XDP
mode is tried on a pair of veth devices that are made for it and removed again.  Nothing stays.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

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


def try_programs() -> tuple[Trial, ...]:
    """Load one tiny program of each type that x0d uses or will use.

    Raises:
        NotSupported: bpf(2)'s number on this machine is unknown, or libbpf is missing.
    """

    def load_tp_btf() -> int:
        type_id = Libbpf().find_kernel_type(_TRIED_TRACEPOINT, _BTF_KIND_TYPEDEF)
        return bpf.load_instructions(replace(bpf.TP_BTF_PROGRAM, attach_btf_id=type_id), bpf.RETURN_ZERO)

    loaders: dict[str, Callable[[], int]] = {
        "xdp": lambda: bpf.load_instructions(bpf.XDP_PROGRAM, bpf.RETURN_PASS),
        "xdp_frags": lambda: bpf.load_instructions(bpf.XDP_FRAGS_PROGRAM, bpf.RETURN_PASS),
        "sched_cls": lambda: bpf.load_instructions(bpf.SCHED_CLS_PROGRAM, bpf.RETURN_ZERO),
        "raw_tp": lambda: bpf.load_instructions(bpf.RAW_TRACEPOINT_PROGRAM, bpf.RETURN_ZERO),
        "tp_btf": load_tp_btf,
    }
    return tuple(_try(name, load) for name, load in loaders.items())


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
