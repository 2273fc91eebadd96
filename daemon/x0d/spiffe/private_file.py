"""Small files that hold keys: 0600 in a directory 0700, replaced whole.

A file is written beside its place, brought to the disk, renamed, and the directory brought to the disk: whoever is
killed at any moment leaves the old content or the new.  A file that others could read is refused when it is read: its
keys may have been copied, and only a person can know.
"""

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from x0d.errors import StorageFailed, errno_name

FILE_BYTES_MAX: Final = 1 << 20
"""Far above any content of ours."""
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def make_private_directory(path: Path) -> None:
    """Make the directory, 0700; one that exists is made so.  Its parent must exist.

    Raises:
        StorageFailed: it cannot be made, or belongs to somebody else.
    """
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise StorageFailed(f"{path} is not a directory; move it")
        if found.st_mode & OTHERS:
            path.chmod(0o700)
    except OSError as error:
        raise _failed(path, error) from error


def write_private(path: Path, data: bytes) -> None:
    """Replace the file.

    Raises:
        StorageFailed: it could not be written; the old content stands.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.unlink(missing_ok=True)  # of a life that was killed; made anew, it has no mode of before
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        beside.rename(path)
        _sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise _failed(path, error) from error


def read_private(path: Path) -> bytes | None:
    """Read the file; None if there is none.

    Raises:
        StorageFailed: it cannot be read, is no plain file, or others may read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failed(path, error) from error
    try:
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            data = file.read(FILE_BYTES_MAX + 1) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise _failed(path, error) from error
    if not stat.S_ISREG(mode) or len(data) > FILE_BYTES_MAX:
        raise StorageFailed(f"{path} is no file of ours; move it away")
    if mode & OTHERS:
        text = f"{path} holds keys, and its mode {stat.S_IMODE(mode):o} lets others at them"
        raise StorageFailed(f"{text}; chmod 600 it, or remove it if it may have been read")
    return data


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(path: Path, error: OSError) -> StorageFailed:
    return StorageFailed(f"{path}: {error.strerror} ({errno_name(error.errno or 0)})")
