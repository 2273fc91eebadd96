"""One instance for one state directory.

The lock is an ``flock`` on a file inside it: the kernel releases it when its holder ends, however it
ends, so there is no stale lock to clean up.  The file holds the pid of the holder, for the message
only.  It is never deleted: a second instance could otherwise lock a file that no longer has a name.
"""

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from x0d.errors import StateLocked, StorageFailed, errno_name

LOCK_NAME = "lock"
PID_BYTES_MAX = 32


class StateLock:
    """Exclusive use of a state directory, from ``acquire`` to ``release`` or the end of the process."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._fd: int | None = None

    def acquire(self) -> None:
        """Create the directory (mode 0700) if it is absent, and lock it.

        Raises:
            StateLocked: another process holds it; the text names its pid.
            StorageFailed: the directory or the lock file cannot be created or written.
        """
        assert self._fd is None, "acquired twice"
        path = self._state_dir / LOCK_NAME
        try:
            self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _failed(path, error) from error
        try:
            self._lock(fd, path)
        except BaseException:  # whatever ends the locking leaves no descriptor; it goes on
            os.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        """Let go of the directory; nothing happens if it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _lock(self, fd: int, path: Path) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            raise StateLocked(f"node.state_dir {self._state_dir} is in use by {_holder(fd)}") from error
        except OSError as error:
            raise _failed(path, error) from error

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _holder(fd: int) -> str:
    pid = os.pread(fd, PID_BYTES_MAX, 0).decode("ascii", "replace").strip()
    return f"another x0d, pid {pid}" if pid.isdigit() else "another process"


def _failed(path: Path, error: OSError) -> StorageFailed:
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: f"user {os.geteuid()} may not write there",
        errno.ENOTDIR: "part of the path is not a directory",
        errno.EEXIST: "it is not a directory",
    }
    number = error.errno or 0
    return StorageFailed(
        f"{path}: {reasons.get(number, os.strerror(number))} ({errno_name(number)}); see node.state_dir"
    )
