"""An arena for tests of the kernel's refusals: a veth pair in two namespaces, a bpf filesystem, tiny programs.

Programs are a few instructions each, links and netlink attachments are made directly: what is provoked is the kernel's
answer, not our loader's.  Everything is released when the arena is left.
"""

import ctypes
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from pyroute2.netlink.rtnl import RTM_SETLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from kernel.namespaces import Namespace, namespace, veth
from x0d.errors import KernelRefused
from x0d.kernel import bpf
from x0d.kernel.netlink import NetlinkSocket, typed
from x0d.kernel.xdp_query import XdpHook, read_xdp_hook

Result = TypeVar("Result")
NATIVE, SKB, HARDWARE = bpf.XDP_FLAGS_NATIVE, bpf.XDP_FLAGS_SKB, bpf.XDP_FLAGS_HARDWARE
NO_PROGRAM_THERE, REPLACE = 1, 16
"""Flags of a netlink attachment."""
MOVED_INDEX = 11
NAME = "x0dt0"


class Arena:
    """``ifindex`` is the end of the pair in ``home``; its peer is in ``away``."""

    def __init__(self, home: Namespace, away: Namespace, bpffs: Path) -> None:
        self.home = home
        self.away = away
        self.bpffs = bpffs
        self.ifindex = MOVED_INDEX
        self._fds: list[int] = []

    def keep(self, fd: int) -> int:
        """Close the descriptor when the arena is left."""
        self._fds.append(fd)
        return fd

    def program(self, kind: bpf.ProgramType = bpf.XDP_FRAGS_PROGRAM) -> int:
        """Load a program that passes everything; each call makes another."""
        return self.keep(bpf.load_instructions(kind, bpf.RETURN_PASS))

    def link(self, program_fd: int, flags: int = NATIVE, ifindex: int = MOVED_INDEX) -> int:
        """Attach by a link, in ``home``."""
        return self.keep(self.home.call(lambda: bpf.create_xdp_link(program_fd, ifindex, flags)))

    def netlink(self, program_fd: int, flags: int, expected_fd: int | None = None) -> KernelRefused | None:
        """Attach (-1: detach) by netlink, in ``home``, as others do; returns the refusal."""
        attributes = [("IFLA_XDP_FD", program_fd), ("IFLA_XDP_FLAGS", flags)]
        if expected_fd is not None:
            attributes.append(("IFLA_XDP_EXPECTED_FD", expected_fd))

        def send() -> KernelRefused | None:
            message = typed(ifinfmsg(), RTM_SETLINK)
            message["index"] = self.ifindex
            message["attrs"] = [("IFLA_XDP", {"attrs": attributes})]
            netlink = NetlinkSocket()
            try:
                (refusal,) = netlink.batch([("set XDP by netlink", message)])
            finally:
                netlink.close()
            return refusal

        return self.home.call(send)

    def hook(self, ifindex: int = MOVED_INDEX) -> XdpHook:
        """Read who holds the hook, in ``home``."""
        return self.home.call(lambda: read_xdp_hook(ifindex))

    def close(self) -> None:
        """Close all that was kept."""
        for fd in self._fds:
            with suppress(OSError):
                os.close(fd)


@contextmanager
def arena(directory: Path) -> Iterator[Arena]:
    """Make all of it, and remove it again."""
    bpffs = directory / "bpf"
    bpffs.mkdir()
    subprocess.run(["mount", "-t", "bpf", "x0dt-bpf", bpffs], check=True)
    try:
        with namespace("hook") as home, namespace("peer") as away:
            veth(home, away, (NAME, "x0dt1"))
            pins = bpffs / "pins"  # the mount itself shows files of the kernel's
            pins.mkdir()
            made = Arena(home, away, pins)
            try:
                yield made
            finally:
                made.close()
    finally:
        subprocess.run(["umount", "-l", bpffs], check=True)
        bpffs.rmdir()


def refusal_of(work: Callable[[], object]) -> KernelRefused:
    """Do what the kernel refuses and return the bare refusal."""
    with pytest.raises(KernelRefused) as caught:
        work()
    assert type(caught.value) is KernelRefused
    return caught.value


def without_capabilities(work: Callable[[], Result]) -> Result:
    """Call with no capability in force; they are the thread's own and come back."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    held, none = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, held) == 0
    none[1], none[4] = held[1], held[4]  # permitted stays, so that they can come back
    assert libc.capset(header, none) == 0, errno.errorcode[ctypes.get_errno()]
    try:
        return work()
    finally:
        assert libc.capset(header, held) == 0


def with_attach_type(kind: bpf.ProgramType, attach_type: int) -> bpf.ProgramType:
    """Return the same type of program, loaded for another hook."""
    return replace(kind, attach_type=attach_type)
