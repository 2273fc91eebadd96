"""One XDP program on one interface: adopt what is pinned, else attach in the best mode allowed.

An attachment is a bpf_link.  Pinned, it outlives the daemon; its successor opens the pin and swaps
the program in place, so that no packet passes in between.  Pins are made beside their final name
and renamed, and an unpinned link ends with its process: killed at any instant, the daemon leaves
an attachment with its pin or none at all.

Modes are tried from the best: native with multi-buffer frames, native, and skb where that is
allowed.  A program of somebody else is never touched.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from x0d.errors import ForeignProgram, KernelRefused, errno_name
from x0d.kernel import bpf, pins
from x0d.kernel.xdp_query import read_xdp_hook
from x0d.ports import Attachment, RefusedMode

ProgramSource = Callable[[bool], int]
"""Descriptor of our program, with (True) or without frags; raises KernelRefused if it does not load."""

BUSY_DELAYS_S = (0.05, 0.1, 0.2, 0.4)
"""The kernel lets go of a closed link's hook a little later."""

_FLAGS = {"native": bpf.XDP_FLAGS_NATIVE, "skb": bpf.XDP_FLAGS_SKB}


def mode_name(mode: str, *, frags: bool) -> str:
    """``native+frags``, ``native``, ``skb+frags`` or ``skb``."""
    return f"{mode}+frags" if frags else mode


class XdpAttacher:
    """Attaches in one network namespace, whose threads must call it; blocks for some milliseconds."""

    def __init__(self, directory: Path, program: ProgramSource, *, allow_skb_mode: bool) -> None:
        self._directory = directory
        self._program = program
        self._allow_skb_mode = allow_skb_mode

    def attach(self, interface: str, ifindex: int) -> Attachment:
        """Adopt or attach; errors as in ``ports.DataPlane.attach``."""
        hook = self._directory / f"{ifindex}{pins.HOOK_SUFFIX}"
        hook.mkdir(mode=0o700, exist_ok=True)
        link_fd = _open_link(hook)
        if link_fd is not None:
            with bpf.closing(link_fd):
                adopted = self._adopt(interface, ifindex, hook, link_fd)
            if adopted is not None:
                return adopted
            pins.remove_hook(hook)
            hook.mkdir(mode=0o700)
        try:
            return self._create(interface, ifindex, hook)
        except KernelRefused:
            pins.remove_hook(hook)
            raise

    def _adopt(self, interface: str, ifindex: int, hook: Path, link_fd: int) -> Attachment | None:
        """Put our program in a pinned link; None if the link no longer serves and is to be dropped."""
        info = bpf.link_info(link_fd)
        if info.link_type != bpf.LINK_TYPE_XDP:
            raise KernelRefused(f"adopt {hook / 'link'}", errno.EINVAL, "the pin is not an XDP link; remove it")
        seen = read_xdp_hook(ifindex)
        is_here = info.ifindex == ifindex and seen.program_id == info.program_id
        if not is_here or (seen.mode == "skb" and not self._allow_skb_mode):
            return None  # its device is gone or was moved, or its mode is allowed no longer
        refused: list[RefusedMode] = []
        for frags in (True, False):
            try:
                _swap_program(hook, link_fd, self._program(frags))
            except KernelRefused as refusal:
                if refusal.errno == errno.ENOLINK:
                    return None
                refused.append(RefusedMode(mode_name(seen.mode, frags=frags), refusal.errno))
                continue
            return Attachment(interface, ifindex, seen.mode, frags, adopted=True, refused=tuple(refused))
        detail = "the pinned attachment takes no new program, the old one goes on; " + _describe(refused)
        raise KernelRefused(f"adopt XDP on {interface}", refused[-1].errno, detail)

    def _modes(self) -> Iterator[tuple[str, bool]]:
        yield from (("native", True), ("native", False))
        if self._allow_skb_mode:
            yield from (("skb", True), ("skb", False))

    def _create(self, interface: str, ifindex: int, hook: Path) -> Attachment:
        refused: list[RefusedMode] = []
        log_tail = ""
        for mode, frags in self._modes():
            try:
                program_fd = self._program(frags)
                link_fd = _create_link(interface, program_fd, ifindex, _FLAGS[mode])
            except ForeignProgram:
                raise
            except KernelRefused as refusal:
                if refusal.errno == errno.EPERM:
                    raise
                refused.append(RefusedMode(mode_name(mode, frags=frags), refusal.errno))
                log_tail = refusal.log_tail or log_tail
                continue
            with bpf.closing(link_fd):
                _pin_new(hook, link_fd, program_fd)
            return Attachment(interface, ifindex, mode, frags, adopted=False, refused=tuple(refused))
        detail = _describe(refused)
        if not self._allow_skb_mode:
            detail += "; ebpf.allow_skb_mode = false leaves skb mode out"
        raise KernelRefused(f"attach XDP to {interface}", refused[-1].errno, detail, log_tail)


def _describe(refused: list[RefusedMode]) -> str:
    return "refused: " + ", ".join(f"{mode.mode} {errno_name(mode.errno)}" for mode in refused)


def _open_link(hook: Path) -> int | None:
    """The pinned link; one whose renaming was cut short is put right first."""
    pinned, unfinished = hook / "link", hook / "link_tmp"
    if unfinished.exists():
        if pinned.exists():
            unfinished.unlink()
        else:
            unfinished.rename(pinned)
    return bpf.open_pin(pinned)


def _swap_program(hook: Path, link_fd: int, program_fd: int) -> None:
    """Replace the program of a link, and its pin.

    The pinned old program tells the kernel what we believe to replace.  A daemon killed between
    swap and rename has left the true one under ``program_tmp``; where neither is it, the link is
    still ours by its pin and takes the program unconditionally.
    """
    current = bpf.link_info(link_fd).program_id
    pinned, staged = hook / "program", hook / "program_tmp"
    old_fds = [fd for path in (pinned, staged) if (fd := bpf.open_pin(path)) is not None]
    try:
        old_fd = next((fd for fd in old_fds if bpf.program_id(fd) == current), None)
        staged.unlink(missing_ok=True)
        bpf.pin(program_fd, staged)
        try:
            bpf.update_link(link_fd, program_fd, old_fd)
        except KernelRefused:
            staged.unlink()
            raise
        staged.rename(pinned)
    finally:
        for fd in old_fds:
            os.close(fd)


def _pin_new(hook: Path, link_fd: int, program_fd: int) -> None:
    for name in ("program", "link_tmp", "link"):
        (hook / name).unlink(missing_ok=True)
    bpf.pin(program_fd, hook / "program")
    bpf.pin(link_fd, hook / "link_tmp")
    (hook / "link_tmp").rename(hook / "link")


def _create_link(interface: str, program_fd: int, ifindex: int, flags: int) -> int:
    """Attach in one mode, with patience for a hook that is just being let go."""
    for delay_s in (*BUSY_DELAYS_S, None):
        try:
            return bpf.create_xdp_link(program_fd, ifindex, flags)
        except KernelRefused as refusal:
            if refusal.errno not in {errno.EBUSY, errno.EEXIST}:
                raise
            if delay_s is None:
                raise ForeignProgram(interface, refusal.errno, read_xdp_hook(ifindex).program_id) from refusal
        time.sleep(delay_s)
    raise AssertionError("the last try returns or raises")
