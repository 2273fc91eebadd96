"""Where the data plane is measured: namespaces of this process alone (network, mounts), with bpf filesystem and /run.

Nothing has a name outside, so nothing is left behind, not even by a SIGKILL: interfaces, programs, maps and pins go
with the last process in here.
"""

import ctypes
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.machine import LabError, run

BPFFS = Path("/sys/fs/bpf")
_NEWNS, _NEWNET = 0x00020000, 0x40000000
_PRIVATE_RECURSIVE = 0x4000 | (1 << 18)
_LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def own_world() -> Iterator[Path]:
    """Move this process into namespaces of its own for good; yields a directory that is removed at the end.

    Call before any thread is started.

    Raises:
        LabError: this machine does not allow it.
    """
    if _LIBC.unshare(_NEWNS | _NEWNET) != 0:
        raise LabError(f"no namespaces of its own: {os.strerror(ctypes.get_errno())}")
    if _LIBC.mount(None, b"/", None, ctypes.c_ulong(_PRIVATE_RECURSIVE), None) != 0:
        raise LabError(f"no mounts of its own: {os.strerror(ctypes.get_errno())}")
    run(["mount", "-t", "tmpfs", "x0d-bench", "/run"])  # xdp-filter's lock is there, and may be a dead process's
    run(["ip", "link", "set", "lo", "up"])
    with tempfile.TemporaryDirectory(prefix="x0d-bench-") as directory, bpf_filesystem():
        yield Path(directory)


@contextmanager
def bpf_filesystem() -> Iterator[None]:
    """A fresh bpf filesystem at the usual place, which hides the one there was until the block ends."""
    run(["mount", "-t", "bpf", "x0d-bench", str(BPFFS)])
    try:
        yield
    finally:
        run(["umount", "-l", str(BPFFS)])


def add_veth(one: str, other: str) -> int:
    """Make a pair of interfaces, both up, that no packet of the kernel's own passes; the index of ``one``."""
    run(["ip", "link", "add", one, "type", "veth", "peer", "name", other])
    for name in (one, other):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        run(["ip", "link", "set", name, "arp", "off", "up"])
    return socket.if_nametoindex(one)
