"""Names in the bpf filesystem: what keeps maps, programs and attachments alive without the daemon.

    <bpffs_dir>/<netns inode>/maps/<map>                            what every program shares
    <bpffs_dir>/<netns inode>/layout-<n>/<map>                      maps of another layout, for their counters
    <bpffs_dir>/<netns inode>/<ifindex>-xdp/{link,program,stages}   one attachment

The inode is there because an ifindex repeats across network namespaces; interface names are not,
because bpffs refuses a dot (``eth0.100``) and a rename would orphan them.  ``stages`` is the array
that the attachment's root program calls: the kernel empties an array whose last pin and descriptor
are gone, so each attachment holds on to its own for as long as it needs it.

A pin is made at once or not at all, and so is a renaming.  Where a new pin takes the place of
another it is made as ``<name>_tmp`` and renamed; one that a killed daemon left is dropped later.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from x0d.errors import KernelRefused, NotSupported
from x0d.kernel import bpf

BPF_FS_MAGIC = 0xCAFE4A11
BPF_FS_USUAL = Path("/sys/fs/bpf")
NETNS = Path("/proc/thread-self/ns/net")
HOOK_SUFFIX = "-xdp"
MAPS_DIR = "maps"
UNFINISHED = "_tmp"
"""What the names of pins end with that are still to be renamed."""
_RETIRED_PREFIX = "layout-"
_STATFS_BYTES = 256


def netns_inode() -> int:
    """Number of the network namespace of the calling thread."""
    return NETNS.stat().st_ino


def is_bpffs(path: Path) -> bool:
    """Whether an existing path lies in a bpf filesystem."""
    libc = ctypes.CDLL(None, use_errno=True)
    answer = ctypes.create_string_buffer(_STATFS_BYTES)
    if libc.statfs(os.fsencode(path), answer) < 0:
        return False
    return ctypes.c_long.from_buffer(answer).value & 0xFFFFFFFF == BPF_FS_MAGIC


def existing_part(bpffs_dir: Path) -> Path:
    """The directory itself, or its parent where it does not exist or is hidden from us."""
    try:
        return bpffs_dir if bpffs_dir.is_dir() else bpffs_dir.parent
    except PermissionError:
        return bpffs_dir.parent


def how_to_have_bpffs(bpffs_dir: Path) -> str:
    """What to do where ``bpffs_dir`` lies in no bpf filesystem; never a mount that would hide other files."""
    if bpffs_dir == BPF_FS_USUAL or BPF_FS_USUAL in bpffs_dir.parents:
        if is_bpffs(BPF_FS_USUAL):  # it is mounted; a second mount would hide the pins of the first
            return f"run: mkdir -p {bpffs_dir}, and give it to x0d's user"
        return f"run: mount -t bpf bpf {BPF_FS_USUAL}"
    return (
        f"node.bpffs_dir must be a directory of a bpf filesystem, such as {BPF_FS_USUAL}/x0d, or a bind mount of one; "
        f"/run/x0d-bpf exists only inside x0d.service, bound from {BPF_FS_USUAL}/x0d, "
        "which systemd-tmpfiles --create makes"
    )


def prepare_directory(bpffs_dir: Path) -> Path:
    """Make the directory of this network namespace, and ``bpffs_dir`` itself if its parent is in bpffs.

    Raises:
        NotSupported: no bpf filesystem there, or no right to write in it.
    """
    existing = existing_part(bpffs_dir)
    if not is_bpffs(existing):
        raise NotSupported(
            f"bpf filesystem at {bpffs_dir}",
            f"{existing} is not in one; {how_to_have_bpffs(bpffs_dir)}",
        )
    directory = bpffs_dir / str(netns_inode())
    try:
        for made in (bpffs_dir, directory, directory / MAPS_DIR):
            made.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise NotSupported(
            f"bpf filesystem at {bpffs_dir}", f"{error}; the directory must belong to x0d's user"
        ) from error
    return directory


def hooks(directory: Path) -> Iterator[tuple[int, Path]]:
    """The interfaces with pins in a namespace's directory, by index."""
    if not directory.is_dir():
        return
    for path in sorted(directory.iterdir()):
        number = path.name.removesuffix(HOOK_SUFFIX)
        if path.name.endswith(HOOK_SUFFIX) and number.isdigit():
            yield int(number), path


def make_hook(hook: Path) -> None:
    """Make the directory of an attachment, and those above it that somebody may have removed; it may be there.

    Raises:
        KernelRefused: the bpf filesystem is gone, or takes no directory.
    """
    directory = hook.parent
    try:
        if not directory.is_dir() and not is_bpffs(existing_part(directory.parent)):
            raise KernelRefused(f"pin in {hook}", errno.ENOENT, "the bpf filesystem is not mounted there any more")
        for made in (directory.parent, directory, hook):
            made.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise KernelRefused(f"pin in {hook}", error.errno or errno.EIO, str(error)) from error


def remove_hook(hook: Path) -> None:
    """Detach from one interface, and forget it; nothing happens if it is not there."""
    for name in ("link", f"link{UNFINISHED}"):
        link_fd = bpf.open_pin(hook / name)
        if link_fd is not None:
            with bpf.closing(link_fd):
                bpf.detach_link(link_fd)
    _remove_files(hook)


def replace_pin(fd: int, path: Path) -> None:
    """Pin under a name that may be taken; at no moment is there nothing under it."""
    staged = stage_pin(fd, path)
    staged.rename(path)


def stage_pin(fd: int, path: Path) -> Path:
    """Pin under the temporary name of ``path``; returns that name, to be renamed or unlinked."""
    staged = path.with_name(path.name + UNFINISHED)
    staged.unlink(missing_ok=True)
    bpf.pin(fd, staged)
    return staged


def drop_unfinished(maps_dir: Path) -> None:
    """Unlink what a killed daemon had not renamed yet; of an attachment's pins the attacher decides."""
    for path in maps_dir.iterdir():
        if path.name.endswith(UNFINISHED):
            path.unlink()


def retired(directory: Path) -> Iterator[tuple[int, Path]]:
    """Directories of maps of other layouts, with the layout's version."""
    for path in sorted(directory.glob(f"{_RETIRED_PREFIX}*")):
        version = path.name.removeprefix(_RETIRED_PREFIX).partition("-")[0]
        if version.isdigit():
            yield int(version), path


def retire_maps(directory: Path, version: int, last: str) -> None:
    """Move all pins of ``maps`` to ``layout-<version>``, ``last`` at the end: a directory with it is complete.

    Called again after it was cut short, it moves the rest.  A second set of the same version, which
    takes a downgrade in between, goes to ``layout-<version>-2`` and so on.
    """
    number, target = 1, directory / f"{_RETIRED_PREFIX}{version}"
    while (target / last).exists():
        number += 1
        target = directory / f"{_RETIRED_PREFIX}{version}-{number}"
    target.mkdir(mode=0o700, exist_ok=True)
    for path in sorted((directory / MAPS_DIR).iterdir(), key=lambda path: path.name == last):
        path.rename(target / path.name)


@dataclass(frozen=True, slots=True)
class Removed:
    """What ``remove_without_daemon`` has done."""

    directory: Path
    """Of this network namespace."""
    existed: bool


def remove_without_daemon(bpffs_dir: Path) -> Removed:
    """Take everything of this network namespace out of the kernel.

    Raises:
        NotSupported: no right to look there.
        KernelRefused: the kernel lets go of no attachment.
    """
    directory = bpffs_dir / str(netns_inode())
    try:
        existed = directory.is_dir()
        remove_namespace(directory)
    except OSError as error:
        raise NotSupported(f"bpf filesystem at {bpffs_dir}", str(error)) from error
    return Removed(directory, existed)


def remove_namespace(directory: Path) -> None:
    """Detach from every interface of a namespace and drop its maps, those of former layouts included.

    All that lies in the directory is ours: inner maps of the deny-list are pinned beside the others.
    """
    for _ifindex, hook in list(hooks(directory)):
        remove_hook(hook)
    _remove_files(directory)


def _remove_files(directory: Path) -> None:
    """Remove a directory and all below it: it is ours, whatever somebody else has put there."""
    if not directory.is_dir():
        return
    for path in list(directory.iterdir()):
        if path.is_dir():
            _remove_files(path)
        else:
            path.unlink()
    directory.rmdir()
