"""What a connection to a daemon offers to the client, whichever way it goes."""

from typing import Final, Protocol

import grpc

from x0ctl.failure import Failure

RESPONSE_BYTES_MAX: Final = 16 << 20
CHANNEL_OPTIONS: Final = (("grpc.max_receive_message_length", RESPONSE_BYTES_MAX), ("grpc.enable_retries", 0))


class Way(Protocol):
    """A channel, and what its failures mean to the operator."""

    name: str
    """What it leads to, for texts: a path, or host and port."""
    channel: grpc.Channel
    ask_there: str
    """Command that shows whether the daemon runs."""
    log_there: str
    """Command that shows its log."""
    role_missing: str
    """What to do where the caller may not make this call."""
    identity_missing: str
    """What to do where the caller was not let in at all."""

    method_missing: str
    """What to do where what answers knows no such method."""

    def connect(self) -> None:
        """Wait for the connection, before a call that has no deadline.  Raises Failure."""

    def unreachable(self, details: str) -> Failure:
        """Say why nobody answered; ``details`` is what gRPC has to say."""

    def silent(self) -> Failure | None:
        """Say why nothing came in time, where more is known than that."""
