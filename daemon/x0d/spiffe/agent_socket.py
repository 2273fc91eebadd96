"""Whether the Workload API's socket is who it should be, before anything is asked there.

In production the agent decides who we are, so whoever can put a socket of their own in its place decides it.  The
socket must belong to the configured uid or to root, be served by one of them and not by ourselves, and lie where nobody
else can swap it: below directories of these two that others cannot write to (or that are sticky, as /tmp is).
gRPC dials by path and shows no credentials, so the path is what is proved: symbolic links are resolved first, and the
resolved path is dialled.
"""

import os
import socket
import stat
from pathlib import Path

from x0d.errors import NoIdentity
from x0d.spiffe.unix_socket import credentials


def prove_socket(path: Path, owner_uid: int) -> Path:
    """Return the path to dial.

    Args:
        path: as it is configured.
        owner_uid: who runs the agent, beside root.

    Raises:
        NoIdentity: there is no socket, or somebody else could answer there; says what to do.
    """
    trusted = frozenset({0, owner_uid})
    try:
        real = path.resolve(strict=True)
        status = real.stat()
        if not stat.S_ISSOCK(status.st_mode):
            raise NoIdentity(f"{path} is no socket: set identity.workload_socket to the SPIRE agent's")
        if status.st_uid not in trusted:
            raise NoIdentity(
                f"{path} belongs to uid {status.st_uid}, not to root or identity.workload_uid = {owner_uid}"
            )
        for directory in real.parents:
            _check_directory(path, directory, trusted)
        pid, uid = _server_of(real)
    except OSError as failure:
        raise NoIdentity(
            f"the Workload API at {path} cannot be reached: {os.strerror(failure.errno or 0)}; is the agent running?"
        ) from failure
    if pid == os.getpid():
        raise NoIdentity(f"{path} is served by x0d itself: in production another process must say who we are")
    if uid not in trusted:
        raise NoIdentity(f"{path} is served by uid {uid}, not by root or identity.workload_uid = {owner_uid}")
    return real


def _check_directory(path: Path, directory: Path, trusted: frozenset[int]) -> None:
    status = directory.stat()
    others_write = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != 0)
    if status.st_uid not in trusted or (others_write and not status.st_mode & stat.S_ISVTX):
        raise NoIdentity(f"{path} could be replaced by others: they may write to {directory}")


def _server_of(path: Path) -> tuple[int, int]:
    """Pid and uid of whoever listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog is an error at once, and no wait on the event loop
        probe.connect(str(path))
        pid, uid, _ = credentials(probe)
    return pid, uid
