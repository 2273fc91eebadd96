"""Who holds the XDP hook of an interface: one rtnetlink question, which needs no capability.

bpf(2) could tell it by program and link ids, but only to CAP_SYS_ADMIN.  Blocks, so callers are in
a worker thread; the answer is of that thread's network namespace.
"""

import errno
from dataclasses import dataclass

from pyroute2.netlink.rtnl import RTM_GETLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from x0d.errors import KernelRefused
from x0d.kernel.netlink import NetlinkSocket, typed

MODES = {"xdp": "native", "xdpgeneric": "skb", "xdpoffload": "hardware", "xdpmulti": "several"}
"""By pyroute2's name of the mode."""


@dataclass(frozen=True, slots=True)
class XdpHook:
    """The state of an interface's XDP hook."""

    mode: str
    """``native``, ``skb``, ``hardware``, ``several``; empty when nothing is attached."""
    program_id: int
    """0 when nothing is attached, or programs in several modes."""


def read_xdp_hook(ifindex: int) -> XdpHook:
    """Ask the kernel.

    Raises:
        KernelRefused: ENODEV when there is no such interface.
    """
    operation = f"read the XDP hook of interface {ifindex}"
    request = typed(ifinfmsg(), RTM_GETLINK)
    request["index"] = ifindex
    netlink = NetlinkSocket()
    try:
        answer = netlink.get(operation, request)
    finally:
        netlink.close()
    if answer is None:
        raise KernelRefused(operation, errno.ENODEV)
    hook = answer.get_attr("IFLA_XDP")
    if hook is None:
        return XdpHook("", 0)
    return XdpHook(MODES.get(hook.get_attr("IFLA_XDP_ATTACHED"), ""), hook.get_attr("IFLA_XDP_PROG_ID", 0))
