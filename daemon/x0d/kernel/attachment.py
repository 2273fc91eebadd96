"""XDP on one interface: adopt what is pinned, else attach in the best mode allowed.

An attachment is a bpf_link.  Pinned, it outlives the daemon; its successor opens the pin and swaps
the root program in place, so that no packet passes in between.  Pins are made beside their final
name and renamed, and an unpinned link ends with its process: killed at any instant, the daemon
leaves an attachment with its pin or none at all.  Beside the link its root program is pinned, by
which the next swap tells the kernel what it believes to replace, and the array of stages, which the
kernel would empty otherwise.

Modes are tried from the best: hardware, native with multi-buffer frames, native, and skb where that
is allowed.  A program of somebody else is never touched.

An attachment is never adopted by programs that lack a stage which it has in force.
"""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from x0d.errors import (
    DeviceGone,
    ForeignGeneration,
    ForeignProgram,
    HookChanged,
    KernelRefused,
    NotPermitted,
    errno_name,
)
from x0d.kernel import bpf, pins
from x0d.kernel.former import stages_in_force
from x0d.kernel.held_links import HeldLinks
from x0d.kernel.pipeline import Pipeline
from x0d.kernel.refusals import Operation, refine
from x0d.kernel.xdp_query import read_xdp_hook
from x0d.ports import Attachment, RefusedMode

PipelineSource = Callable[[bool], Pipeline]
"""Our programs, with (True) or without frags; raises KernelRefused if they do not load."""

BUSY_DELAYS_S = (0.05, 0.1, 0.2, 0.4)
"""The kernel lets go of a closed link's hook a little later."""

_FLAGS = {"hardware": bpf.XDP_FLAGS_HARDWARE, "native": bpf.XDP_FLAGS_NATIVE, "skb": bpf.XDP_FLAGS_SKB}
_SWAPPED_PINS = ("stages", "program")
"""In the order of renaming: ``program`` last, as it tells whether the others are up to date."""


def mode_name(mode: str, *, frags: bool) -> str:
    """``hardware``, ``native+frags``, ``native``, ``skb+frags`` or ``skb``."""
    return f"{mode}+frags" if frags and mode != "hardware" else mode


class XdpAttacher:
    """Attaches in one network namespace, whose threads must call it; blocks for some milliseconds."""

    def __init__(
        self,
        directory: Path,
        pipeline: PipelineSource,
        held: HeldLinks,
        *,
        allow_skb_mode: bool,
        maps_are_continued: bool,
    ) -> None:
        """``held`` is the caller's to close; ``maps_are_continued``: earlier programs work on the maps of this life."""
        self._directory = directory
        self._pipeline = pipeline
        self._allow_skb_mode = allow_skb_mode
        self._maps_are_continued = maps_are_continued
        self._frags: dict[int, bool] = {}
        self._held = held

    def attach(self, interface: str, ifindex: int) -> Attachment:
        """Adopt or attach; errors as in ``ports.DataPlane.attach``."""
        hook = self._hook(ifindex)
        pins.make_hook(hook)
        self._held.repin(ifindex, hook)
        link_fd = _open_link(hook)
        if link_fd is not None:
            with bpf.closing(link_fd):
                adopted = self._adopt(interface, ifindex, hook, link_fd)
            if adopted is not None:
                self._held.hold(ifindex, hook)
                self._frags[ifindex] = adopted.frags
                return adopted
            pins.remove_hook(hook)
            hook.mkdir(mode=0o700)
        try:
            made = self._create(interface, ifindex, hook)
        except KernelRefused:
            self.detach(ifindex)
            raise
        self._held.hold(ifindex, hook)
        self._frags[ifindex] = made.frags
        return made

    def detach(self, ifindex: int) -> None:
        """Take our program off; nothing happens if it is not there."""
        pins.remove_hook(self._hook(ifindex))
        self._held.release(ifindex)
        self._frags.pop(ifindex, None)

    def verify(self) -> dict[int, str]:
        """Interfaces that our program is on no longer, with why; pins that somebody removed are made again."""
        faults = {}
        for ifindex, frags in list(self._frags.items()):
            pipeline = self._pipeline(frags)
            fault = self._held.fault(ifindex, pipeline.root.program_id)
            if fault:
                faults[ifindex] = fault
            else:
                self._held.mend_pins(ifindex, self._hook(ifindex), _pins_of(pipeline))
        return faults

    def attached(self, *, frags: bool) -> list[int]:
        """Interfaces on which ``attach`` has put this variant."""
        known = list(self._frags.items())  # in one go: the event loop asks while the worker attaches
        return [ifindex for ifindex, has_frags in known if has_frags == frags]

    def replace(self, ifindex: int, pipeline: Pipeline) -> None:
        """Put another pipeline of the same variant on an interface; one whose device is gone is passed over.

        Raises:
            KernelRefused: the former one goes on.
        """
        hook = self._hook(ifindex)
        link_fd = _open_link(hook)
        if link_fd is None:
            return
        with bpf.closing(link_fd):
            try:
                _swap_program(hook, link_fd, pipeline)
            except DeviceGone:
                return
            except OSError as error:  # of the pins
                operation = f"replace the programs of interface {ifindex}"
                raise KernelRefused(operation, error.errno or errno.EIO, str(error)) from error

    def _hook(self, ifindex: int) -> Path:
        return self._directory / f"{ifindex}{pins.HOOK_SUFFIX}"

    def _adopt(self, interface: str, ifindex: int, hook: Path, link_fd: int) -> Attachment | None:
        """Put our programs in a pinned link; None if the link no longer serves and is to be dropped."""
        info = bpf.link_info(link_fd)
        if info.link_type != bpf.LINK_TYPE_XDP:
            reason = f"the pin {hook / 'link'} is not an XDP link; remove it"
            raise ForeignGeneration(f"adopt XDP on {interface}", errno.EINVAL, reason)
        seen = read_xdp_hook(ifindex)
        is_here = info.ifindex == ifindex and seen.program_id == info.program_id
        if not is_here or (seen.mode == "skb" and not self._allow_skb_mode):
            return None  # its device is gone or was moved, or its mode is allowed no longer
        refused: list[RefusedMode] = []
        kind = KernelRefused
        needed = stages_in_force(hook) if self._maps_are_continued else frozenset()
        for frags in (True, False):
            try:
                pipeline = self._pipeline(frags)
                _require_stages(pipeline, needed)
                _swap_program(hook, link_fd, pipeline)
            except DeviceGone:
                return None
            except (HookChanged, NotPermitted):
                raise
            except KernelRefused as refusal:
                kind = type(refusal)
                refused.append(RefusedMode(mode_name(seen.mode, frags=frags), refusal.errno))
                continue
            return Attachment(interface, ifindex, seen.mode, frags, adopted=True, refused=tuple(refused))
        detail = "the pinned attachment takes no new program, the old one goes on; " + _describe(refused)
        raise kind(f"adopt XDP on {interface}", refused[-1].errno, detail)

    def _modes(self) -> Iterator[tuple[str, bool]]:
        yield from (("hardware", self._has_frags()), ("native", True), ("native", False))
        if self._allow_skb_mode:
            yield from (("skb", True), ("skb", False))

    def _has_frags(self) -> bool:
        try:
            self._pipeline(True)
        except KernelRefused:
            return False
        return True

    def _create(self, interface: str, ifindex: int, hook: Path) -> Attachment:
        refused: list[RefusedMode] = []
        kind, log_tail = KernelRefused, ""
        for mode, frags in self._modes():
            try:
                pipeline = self._pipeline(frags)
                link_fd = _create_link(interface, pipeline.root.fd, ifindex, _FLAGS[mode])
            except (ForeignProgram, DeviceGone, NotPermitted):
                raise
            except KernelRefused as refusal:
                refused.append(RefusedMode(mode_name(mode, frags=frags), refusal.errno))
                kind, log_tail = type(refusal), refusal.log_tail or log_tail
                continue
            with bpf.closing(link_fd):
                _pin_new(hook, link_fd, pipeline)
            return Attachment(interface, ifindex, mode, frags, adopted=False, refused=tuple(refused))
        detail = _describe(refused)
        if not self._allow_skb_mode:
            detail += "; ebpf.allow_skb_mode = false leaves skb mode out"
        raise kind(f"attach XDP to {interface}", refused[-1].errno, detail, log_tail)


def _require_stages(pipeline: Pipeline, needed: frozenset[str]) -> None:
    """See that nothing which is in force would be missing.  Raises the kernel's refusal of that stage."""
    for stage in sorted(needed - pipeline.stages.keys()):
        refusal = pipeline.refused.get(stage)
        raise refusal or KernelRefused(f"adopt without the {stage} stage", errno.ENOENT, pipeline.shortfall(stage))


def _describe(refused: list[RefusedMode]) -> str:
    return "refused: " + ", ".join(f"{mode.mode} {errno_name(mode.errno)}" for mode in refused)


def _open_link(hook: Path) -> int | None:
    """The pinned link; one whose renaming was cut short is put right first."""
    pinned, unfinished = hook / "link", hook / f"link{pins.UNFINISHED}"
    if unfinished.exists():
        if pinned.exists():
            unfinished.unlink()
        else:
            unfinished.rename(pinned)
    return bpf.open_pin(pinned)


def _swap_program(hook: Path, link_fd: int, pipeline: Pipeline) -> None:
    """Replace the program of a link, and the pins beside it.

    Raises:
        HookChanged: somebody else changes it at the same time, also when it was read again.
        DeviceGone: the link has no interface any more.
        KernelRefused: the link does not take this program.
    """
    for is_last in (False, True):
        try:
            _swap_once(hook, link_fd, pipeline)
        except KernelRefused as refusal:
            meant = refine(Operation.LINK_UPDATE, refusal)
            if is_last or not isinstance(meant, HookChanged):
                raise meant from refusal
        else:
            return


def _swap_once(hook: Path, link_fd: int, pipeline: Pipeline) -> None:
    """Swap, with what the pins and the link tell now.

    The pinned old program tells the kernel what we believe to replace.  A daemon killed between
    swap and renaming has left the true pins under their temporary names.  Where neither program is
    the link's, the link is still ours by its pin and takes the program unconditionally.
    """
    current = bpf.link_info(link_fd).program_id
    with ExitStack() as held:
        old_fds: dict[str, int] = {}
        for name in ("program", f"program{pins.UNFINISHED}"):
            fd = bpf.open_pin(hook / name)
            if fd is not None:
                old_fds[name] = held.enter_context(bpf.closing(fd))
        in_force = next((name for name, fd in old_fds.items() if bpf.program_id(fd) == current), "")
        if in_force == f"program{pins.UNFINISHED}":
            _rename_swapped(hook)
        staged = [pins.stage_pin(fd, hook / name) for name, fd in _pins_of(pipeline)]
        try:
            bpf.update_link(link_fd, pipeline.root.fd, old_fds.get(in_force))
        except KernelRefused:
            for path in staged:
                path.unlink()
            raise
        _rename_swapped(hook)


def _pins_of(pipeline: Pipeline) -> list[tuple[str, int]]:
    """What is pinned beside a link, in the order of ``_SWAPPED_PINS``."""
    return list(zip(_SWAPPED_PINS, (pipeline.array_fd, pipeline.root.fd), strict=True))


def _rename_swapped(hook: Path) -> None:
    """Give the pins of what is in force now their names; some may have theirs already."""
    for name in _SWAPPED_PINS:
        unfinished = hook / f"{name}{pins.UNFINISHED}"
        if unfinished.exists():
            unfinished.rename(hook / name)


def _pin_new(hook: Path, link_fd: int, pipeline: Pipeline) -> None:
    for path in list(hook.iterdir()):
        path.unlink()
    for name, fd in _pins_of(pipeline):
        bpf.pin(fd, hook / name)
    pins.replace_pin(link_fd, hook / "link")


def _create_link(interface: str, program_fd: int, ifindex: int, flags: int) -> int:
    """Attach in one mode, with patience for a hook that is just being let go."""
    for delay_s in (*BUSY_DELAYS_S, None):
        try:
            return bpf.create_xdp_link(program_fd, ifindex, flags)
        except KernelRefused as refusal:
            is_busy = refusal.errno in {errno.EBUSY, errno.EEXIST}
            if not is_busy or delay_s is None:
                holder = read_xdp_hook(ifindex).program_id if is_busy else 0
                raise refine(
                    Operation.LINK_CREATE, refusal, interface=interface, ifindex=ifindex, program_id=holder
                ) from refusal
        time.sleep(delay_s)
    raise AssertionError("the last try returns or raises")
