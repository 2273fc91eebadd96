"""What the kernel says of unix sockets: who is at the other end, and how long a path may be."""

import socket
import struct
from typing import Final

PATH_BYTES_MAX: Final = 107
"""Longest path of a unix socket (sun_path without its end)."""

_UCRED: Final = struct.Struct("iII")


def credentials(connection: socket.socket) -> tuple[int, int, int]:
    """Pid, uid and gid of whoever has connected, or of whoever listens where we have (SO_PEERCRED)."""
    pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid, gid
