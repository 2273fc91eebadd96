"""Who holds the XDP hook of an interface: one rtnetlink question, which needs no capability.

bpf(2) could tell it by program and link ids, but only to CAP_SYS_ADMIN.  The socket is a plain
blocking one; callers are in a worker thread.
"""

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from x0d.errors import KernelRefused

_RTM_NEWLINK, _RTM_GETLINK, _NLM_F_REQUEST, _NLMSG_ERROR = 16, 18, 1, 2
_IFLA_XDP, _XDP_ATTACHED, _XDP_PROG_ID = 43, 2, 4
_NLA_TYPE_MASK = 0x3FFF
_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_ANSWER_BYTES_MAX = 65536
_TIMEOUT_S = 5.0

MODES = {1: "native", 2: "skb", 3: "hardware", 4: "several"}


@dataclass(frozen=True, slots=True)
class XdpHook:
    """The state of an interface's XDP hook."""

    mode: str
    """``native``, ``skb``, ``hardware``, ``several``; empty when nothing is attached."""
    program_id: int
    """0 when nothing is attached, or programs in several modes."""


def read_xdp_hook(ifindex: int) -> XdpHook:
    """Ask the kernel, in the network namespace of the calling thread.

    Raises:
        KernelRefused: ENODEV when there is no such interface.
    """
    message = _HEADER.pack(_HEADER.size + _IFINFO.size, _RTM_GETLINK, _NLM_F_REQUEST, 1, 0)
    message += _IFINFO.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as query:
        query.settimeout(_TIMEOUT_S)
        query.send(message)
        answer = query.recv(_ANSWER_BYTES_MAX)
    _length, kind, *_rest = _HEADER.unpack_from(answer)
    if kind == _NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, _HEADER.size)
        raise KernelRefused(f"read the XDP hook of interface {ifindex}", -code or errno.EIO)
    assert kind == _RTM_NEWLINK, f"netlink message {kind}"
    nested = dict(_attributes(answer[_HEADER.size + _IFINFO.size :])).get(_IFLA_XDP, b"")
    hook = dict(_attributes(nested))
    attached = hook.get(_XDP_ATTACHED, b"\0")[0]
    program_id = int.from_bytes(hook.get(_XDP_PROG_ID, b""), "little")
    return XdpHook(MODES.get(attached, ""), program_id)


def _attributes(buffer: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(buffer):
        length, kind = struct.unpack_from("=HH", buffer, offset)
        if length < 4:
            return
        yield kind & _NLA_TYPE_MASK, buffer[offset + 4 : offset + length]
        offset += (length + 3) & ~3
