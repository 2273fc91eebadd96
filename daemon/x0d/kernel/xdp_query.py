"""Who holds the XDP hook of an interface: one rtnetlink question, which needs no capability.

bpf(2) could tell it by program and link ids, but only to CAP_SYS_ADMIN.  Blocks, so callers are in
a worker thread; the answer is of that thread's network namespace.
"""

import errno
import socket
import struct
from dataclasses import dataclass

from x0d.errors import KernelRefused
from x0d.kernel.netlink import RTM_GETLINK, Message, NetlinkSocket, unpack_attributes, unpack_u32

_IFINFO = struct.Struct("=BxHiII")
_IFLA_XDP, _XDP_ATTACHED, _XDP_PROG_ID = 43, 2, 4

MODES = {1: "native", 2: "skb", 3: "hardware", 4: "several"}


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
    netlink = NetlinkSocket()
    try:
        answer = netlink.get(operation, Message(RTM_GETLINK, 0, _IFINFO.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0)))
    finally:
        netlink.close()
    if answer is None:
        raise KernelRefused(operation, errno.ENODEV)
    hook = unpack_attributes(unpack_attributes(answer.payload[_IFINFO.size :]).get(_IFLA_XDP, b""))
    mode = MODES.get(hook.get(_XDP_ATTACHED, b"\0")[0], "")
    return XdpHook(mode, unpack_u32(hook[_XDP_PROG_ID]) if _XDP_PROG_ID in hook else 0)
