"""Names in the bpf filesystem: what keeps maps, programs and attachments alive without the daemon.

``<bpffs_dir>/<netns inode>/maps/<map>`` and ``<bpffs_dir>/<netns inode>/<ifindex>-xdp/{link,program}``.
The inode is there because an ifindex repeats across network namespaces; interface names are not,
because bpffs refuses a dot (``eth0.100``) and a rename would orphan them.
"""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from x0d.errors import NotSupported
from x0d.kernel import bpf

BPF_FS_MAGIC = 0xCAFE4A11
BPF_FS_USUAL = Path("/sys/fs/bpf")
NETNS = Path("/proc/thread-self/ns/net")
HOOK_SUFFIX = "-xdp"
MAPS_DIR = "maps"
_HOOK_PINS = ("link", "program", "link_tmp", "program_tmp")
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


def remove_hook(hook: Path) -> None:
    """Detach from one interface, and forget it; nothing happens if it is not there."""
    link_fd = bpf.open_pin(hook / "link")
    if link_fd is not None:
        with bpf.closing(link_fd):
            bpf.detach_link(link_fd)
    for name in _HOOK_PINS:
        (hook / name).unlink(missing_ok=True)
    if hook.is_dir():
        hook.rmdir()


def remove_namespace(directory: Path) -> None:
    """Detach from every interface of a namespace and drop its maps."""
    for _ifindex, hook in hooks(directory):
        remove_hook(hook)
    maps = directory / MAPS_DIR
    if maps.is_dir():
        for pin in maps.iterdir():
            pin.unlink()
        maps.rmdir()
    if directory.is_dir():
        directory.rmdir()
