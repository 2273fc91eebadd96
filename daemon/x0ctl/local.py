"""The way to the daemon of this host: its control socket."""

import errno
import socket
from typing import Final

import grpc

from x0ctl.failure import EXIT_NOT_PERMITTED, EXIT_UNREACHABLE, Failure
from x0ctl.way import CHANNEL_OPTIONS

BE_SOMEBODY: Final = (
    "run as root, for reading join group x0d, or have an [[identity.bindings]] of the configuration give your user or "
    "group the role"
)


class LocalWay:
    """A channel over the control socket; satisfies ``Way``."""

    ask_there = "systemctl status x0d"
    log_there = "journalctl -u x0d"
    role_missing = BE_SOMEBODY
    identity_missing = BE_SOMEBODY
    method_missing = "the daemon is older than this x0ctl"

    def __init__(self, path: str) -> None:
        self.name = path
        self.channel = grpc.insecure_channel(f"unix:{path}", options=CHANNEL_OPTIONS)

    def connect(self) -> None:
        """A socket of this host answers at once, or not at all."""

    def unreachable(self, details: str) -> Failure:
        """Ask the socket itself what is wrong with it."""
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1)
                probe.connect(self.name)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                return Failure(
                    EXIT_NOT_PERMITTED,
                    f"{self.name}: permission denied",
                    "a directory above it is closed to you: run as root",
                )
            reason = error.strerror or str(error)
            text = f"cannot reach x0d at {self.name}: {reason}"
            return Failure(EXIT_UNREACHABLE, text, f"is x0d running? {self.ask_there}")
        text = f"the connection to {self.name} ended: {details}"
        return Failure(EXIT_UNREACHABLE, text, f"x0d is stopping, or has too many clients; {self.ask_there}")

    def silent(self) -> Failure | None:
        """Nothing more than the deadline is known."""
        return None
