"""The connection to a daemon, and what each of its statuses means to the operator.

A status that x0d decided carries the trailing metadata ``x0d-reason``; one without was made up by
gRPC on this side: nobody answered.
"""

import errno
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from x0ctl.failure import EXIT_FAILED, EXIT_NOT_PERMITTED, EXIT_UNREACHABLE, Failure
from x0ctl.output import clean

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read at import; our own errors say it in words

import grpc

RESPONSE_BYTES_MAX: Final = 16 << 20

_OPTIONS: Final = (("grpc.max_receive_message_length", RESPONSE_BYTES_MAX), ("grpc.enable_retries", 0))

Reply = TypeVar("Reply", bound=Message)


def socket_path(endpoint: str) -> str:
    """Path of a ``unix:`` endpoint.

    Raises:
        Failure: another kind of endpoint.
    """
    if endpoint.startswith("unix:"):
        return endpoint.removeprefix("unix:").removeprefix("//")
    if endpoint.startswith("dns:"):
        text = f"{endpoint} needs identity; not available in this version"
        raise Failure(EXIT_FAILED, text, "run x0ctl on the host itself: --endpoint unix:///run/x0d/x0d.sock")
    raise Failure(2, f"{endpoint!r} is not an endpoint", "it looks like unix:///run/x0d/x0d.sock")


class Client:
    """Calls to one daemon.  ``timeout_s`` limits each call that is not a stream."""

    def __init__(self, endpoint: str, timeout_s: float) -> None:
        self._path = socket_path(endpoint)
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(f"unix:{self._path}", options=_OPTIONS)

    def unary(self, stub: Callable[[grpc.Channel], Any], method: str, request: Message, kind: type[Reply]) -> Reply:
        """Call and wait for the answer.  Raises Failure."""
        try:
            reply = getattr(stub(self._channel), method)(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise self._failure(error) from None
        assert isinstance(reply, kind)
        return reply

    def stream(
        self, stub: Callable[[grpc.Channel], Any], method: str, request: Message | Iterator[Message]
    ) -> Iterator[Any]:
        """Call and give each message as it comes.  Raises Failure; ends when the daemon ends it.

        An iterator as ``request`` is read in another thread while answers come; it must not raise.
        """
        call = getattr(stub(self._channel), method)(request)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._failure(error) from None
        finally:
            call.cancel()

    def _failure(self, error: Any) -> Failure:  # noqa: ANN401 - an RpcError that is also a Call
        status: grpc.StatusCode = error.code()
        details = "\n".join(clean(line) for line in (error.details() or status.name).split("\n"))
        metadata: Mapping[str, str | bytes] = dict(error.trailing_metadata() or ())
        reason = str(metadata.get("x0d-reason", ""))
        if reason in _GATE_REFUSALS:
            return Failure(EXIT_NOT_PERMITTED, details, "run as root, or for reading join group x0d")
        if reason:
            return Failure(EXIT_FAILED, _one_a_line(reason, details), _NEXT_STEP.get(reason, ""))
        if status is grpc.StatusCode.UNAVAILABLE:
            return self._unreachable(details)
        if status is grpc.StatusCode.DEADLINE_EXCEEDED:
            text = f"no answer from {self._path} within {self._timeout_s:g} s"
            return Failure(EXIT_UNREACHABLE, text, "wait longer with --timeout, or see: journalctl -u x0d")
        if status is grpc.StatusCode.CANCELLED:
            return Failure(EXIT_UNREACHABLE, "x0d ended the call: it is stopping", "systemctl status x0d")
        return Failure(EXIT_FAILED, f"{status.name}: {details}")

    def _unreachable(self, details: str) -> Failure:
        """Ask the socket itself what is wrong with it."""
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1)
                probe.connect(self._path)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                text = f"{self._path}: permission denied"
                return Failure(EXIT_NOT_PERMITTED, text, "run as root, or for reading join group x0d")
            reason = error.strerror or str(error)
            text = f"cannot reach x0d at {self._path}: {reason}"
            return Failure(EXIT_UNREACHABLE, text, "is x0d running? systemctl status x0d")
        text = f"the connection to {self._path} ended: {details}"
        return Failure(EXIT_UNREACHABLE, text, "x0d is stopping, or has too many clients; systemctl status x0d")


def _one_a_line(reason: str, details: str) -> str:
    """Several reasons in one sentence are hard to read: each gets a line of its own."""
    if reason == "WouldLockOut":
        head, colon, reasons = details.partition(": ")
        return f"{head}:\n  " + reasons.replace("; ", "\n  ") if colon else details
    return re.sub(r"; (?=line \d+: )", "\n", details)


_GATE_REFUSALS: Final = ("role", "peer")
"""About the caller; PERMISSION_DENIED of another reason is the kernel's word about x0d."""

_NEXT_STEP: Final = {
    "starting": "try again in a moment; x0ctl status shows the step under way",
    "unknown": "x0ctl incident list shows the ids",
    "ConfigInvalid": "nothing was changed; mend the file and reload again",
    "StorageFailed": "is the disk of node.state_dir full or read-only? x0ctl status shows alerts; nothing was changed",
    "streams": "end another x0ctl watch first",
    "method": "the daemon is older than this x0ctl",
    "Busy": "try again when that has ended",
    "NotPermitted": "x0d itself lacks the capability; x0ctl doctor shows what it has",
    "ProgramTypeRefused": "x0ctl doctor shows what this kernel allows",
    "ProgramRejected": "what was loaded before is still in force; x0ctl ebpf list shows it",
    "MapTooLarge": "lower the sizes in [ebpf] of the configuration",
    "MapFull": "remove entries, or raise the size in [ebpf] of the configuration",
    "slow": "the reader was too slow for what happens; watch again",
}
