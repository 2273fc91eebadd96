"""The attachments of this life, each held by a descriptor of its link, and looked at now and then.

A pin is a file, and who may remove it can take our program off an interface without a word: the link
ends with its last reference.  So the daemon holds one itself, and pins anew what has lost its pins.
What a descriptor cannot prevent is told by ``fault``: a link that somebody detached, or that runs
another program.  The kernel says nothing of either, so it is asked; a link that is in its place
keeps every other program out of the hook, so nobody else has to be.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import structlog

from x0d import telemetry
from x0d.errors import KernelRefused
from x0d.kernel import bpf, pins

log = structlog.get_logger(__name__)


class HeldLinks:
    """Links by interface index; for one thread."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}
        self._unmended: set[int] = set()
        """Interfaces whose pins could not be made again, which is told once."""

    def hold(self, ifindex: int, hook: Path) -> None:
        """Hold the link that is pinned in this directory, instead of a former one."""
        fd = bpf.open_pin(hook / "link")
        self._close(ifindex)
        if fd is not None:
            self._fds[ifindex] = fd

    def fault(self, ifindex: int, program_id: int) -> str:
        """Why the program is not what runs on the interface; empty if it is."""
        fd = self._fds.get(ifindex)
        if fd is None:
            return "its XDP link is gone"
        info = bpf.link_info(fd)
        if info.ifindex != ifindex:
            return "somebody else detached its XDP link"
        if info.program_id != program_id:
            return f"somebody else put program id {info.program_id} in its XDP link"
        return ""

    def mend_pins(self, ifindex: int, hook: Path, others: Sequence[tuple[str, int]]) -> None:
        """Pin again what has lost its pin: the link, and ``others``, names and descriptors.

        Where that fails the attachment goes on all the same, as long as the daemon lives.
        """
        fd = self._fds[ifindex]
        try:
            there = _names_in(hook)
            missing = [(name, pinned) for name, pinned in (*others, ("link", fd)) if name not in there]
            if missing:
                pins.make_hook(hook)
                for name, pinned in missing:
                    pins.replace_pin(pinned, hook / name)
        except (OSError, KernelRefused) as error:
            if ifindex not in self._unmended:
                log.warning(telemetry.PINS_LOST, ifindex=ifindex, error=str(error))
            self._unmended.add(ifindex)
            return
        self._unmended.discard(ifindex)
        if missing:
            log.warning(telemetry.PINS_REMADE, ifindex=ifindex, pins=[name for name, _ in missing])

    def repin(self, ifindex: int, hook: Path) -> None:
        """Give a link that still works its pin back before it is adopted."""
        fd = self._fds.get(ifindex)
        if fd is not None and bpf.link_info(fd).ifindex == ifindex and not (hook / "link").exists():
            pins.replace_pin(fd, hook / "link")

    def release(self, ifindex: int) -> None:
        """Detach what is held, which may have no pin any more; nothing happens if nothing is."""
        fd = self._fds.get(ifindex)
        if fd is not None:
            bpf.detach_link(fd)
            self._close(ifindex)
        self._unmended.discard(ifindex)

    def close(self) -> None:
        """Let go; what is pinned goes on."""
        for ifindex in list(self._fds):
            self._close(ifindex)

    def _close(self, ifindex: int) -> None:
        fd = self._fds.pop(ifindex, None)
        if fd is not None:
            os.close(fd)


def _names_in(hook: Path) -> frozenset[str]:
    """Names of what is pinned in a directory; one call for all, as every attachment is looked at every second."""
    try:
        return frozenset(os.listdir(hook))  # noqa: PTH208  a third of the time of Path.iterdir
    except FileNotFoundError:
        return frozenset()
