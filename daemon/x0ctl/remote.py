"""The way to the daemon of another host: mTLS to its control port, and to nobody but the SPIFFE ID that was named.

Our own identity comes from the Workload API, as any workload's does.  gRPC knows nothing of why a connection failed;
the connector does, and whom it met is said here: the other end tells a stranger nothing.
"""

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc

from x0ctl.endpoint import CONTROL_PORT, Place
from x0ctl.failure import EXIT_FAILED, EXIT_NOT_PERMITTED, EXIT_UNREACHABLE, EXIT_USAGE, Failure
from x0ctl.output import clean
from x0ctl.way import CHANNEL_OPTIONS
from x0d.identity.errors import AddressUnavailable, InvalidInput, NoIdentity
from x0d.identity.model import Reason
from x0d.identity.spiffe_id import SpiffeId
from x0d.transport.connector import UNREACHABLE, DialedChannel, open_connector

IDENTITY_HOW: Final = (
    "run x0ctl on the issuer of the cluster, as root or as a member of group x0d (a node that has joined has an "
    "identity for root alone); or where SPIRE's agent has an entry for you, with --workload-socket"
)
ROLE_HOW: Final = (
    "your SPIFFE ID has no role for this there: give it one in [[identity.bindings]] of that x0d's configuration, "
    "or run x0ctl where you have another identity"
)
WHICH_PORT: Final = f"listen.control_port there, {CONTROL_PORT} by default"
_NEXT_STEP: Final = {
    UNREACHABLE: "is x0d running there, and does a firewall let its control port through?",
    Reason.TIMEOUT: "is that the control port of an x0d?",
    Reason.WRONG_ID: "name it with --server-id if that is the one you mean; if not, somebody else answers there",
    Reason.UNTRUSTED: "is it of this cluster? compare the roots: x0ctl identity show, here and there",
    Reason.UNKNOWN_TRUST_DOMAIN: "look at --server-id, and at federation with that trust domain",
    Reason.EXPIRED: "compare the clocks; if they are right: x0ctl identity check there",
    Reason.NOT_YET_VALID: "compare the clocks",
    Reason.HANDSHAKE: "is that the control port of an x0d, and does it trust the roots of your identity?",
    Reason.NO_OWN_SVID: IDENTITY_HOW,
    Reason.OWN_SVID_EXPIRED: "x0ctl identity check, on this host, says why it is not renewed",
}


@contextmanager
def dialed(place: Place, server_id: str, workload_socket: Path, timeout_s: float) -> Iterator["RemoteWay"]:
    """Get ready to connect; ``timeout_s`` is for our own identity, and then for the connection.

    Raises:
        Failure: no identity of our own.
    """
    try:
        expected = SpiffeId.parse(server_id)
    except InvalidInput as error:
        raise Failure(EXIT_USAGE, f"--server-id: {clean(error)}", "such as spiffe://dev.x0d.test/node/n2") from None
    try:
        with open_connector(
            place.host, place.port, expected, workload_socket, timeout_s, channel_options=CHANNEL_OPTIONS
        ) as found:
            yield RemoteWay(place, found, timeout_s)
    except NoIdentity as error:
        raise Failure(EXIT_NOT_PERMITTED, f"no identity to show: {clean(error)}", IDENTITY_HOW) from None
    except AddressUnavailable as error:
        raise Failure(EXIT_FAILED, clean(error), "set TMPDIR to a short path that can be written") from None


class RemoteWay:
    """A channel to another host's control port; satisfies ``Way``."""

    ask_there = "on that host: systemctl status x0d"
    log_there = "on that host: journalctl -u x0d"
    role_missing = ROLE_HOW
    method_missing = "the daemon there is older than this x0ctl"
    identity_missing = "does it trust the roots of your identity? on that host: journalctl -u x0d says what it saw"

    def __init__(self, place: Place, found: DialedChannel, timeout_s: float) -> None:
        self.name = str(place)
        if place.port != CONTROL_PORT:  # the peer port refuses operators by the method, and nodes by their role
            self.method_missing = (
                f"most likely {place.port} is the peer port of that x0d; x0ctl needs its control port: {WHICH_PORT}"
            )
            self.role_missing = f"{ROLE_HOW}; or is {place.port} the peer port? the control port is {WHICH_PORT}"
        self.channel = found.channel
        self._last_error = found.last_error
        self._timeout_s = timeout_s

    def connect(self) -> None:
        """Wait for the connection.

        Not for every call: one with a deadline needs it not, and gRPC takes 0.2 s at the end of a channel that
        somebody has watched.

        Raises:
            Failure: it did not come up, and why.
        """
        seen: queue.SimpleQueue[grpc.ChannelConnectivity] = queue.SimpleQueue()
        tell = seen.put
        self.channel.subscribe(tell, try_to_connect=True)
        ends_s = time.monotonic() + self._timeout_s
        try:
            while (state := seen.get(timeout=max(0.0, ends_s - time.monotonic()))) is not _READY:
                if state is _FAILED:
                    raise self.unreachable("")
        except queue.Empty:
            text = f"no connection to {self.name} within {self._timeout_s:g} s"
            raise self._told() or Failure(EXIT_UNREACHABLE, text, _NEXT_STEP[UNREACHABLE]) from None
        finally:
            self.channel.unsubscribe(tell)

    def unreachable(self, details: str) -> Failure:
        """Say what the connector met."""
        text = f"the connection to {self.name} ended: {details}".removesuffix(": ")
        return self._told() or Failure(EXIT_UNREACHABLE, text, self.ask_there)

    def silent(self) -> Failure | None:
        """Say what the connector met, if it met anything."""
        return self._told()

    def _told(self) -> Failure | None:
        error = self._last_error()
        if error is None:
            return None
        reached = error.reason not in (UNREACHABLE, Reason.TIMEOUT)
        next_step = _NEXT_STEP.get(error.reason, "x0ctl identity check, on both hosts, says more")
        if not reached:
            return Failure(EXIT_UNREACHABLE, f"cannot reach x0d: {clean(error.detail)}", next_step)
        return Failure(EXIT_NOT_PERMITTED, f"refused ({error.reason}): {clean(error.detail)}", next_step)


_READY: Final = grpc.ChannelConnectivity.READY
_FAILED: Final = grpc.ChannelConnectivity.TRANSIENT_FAILURE
