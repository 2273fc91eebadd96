"""Calls to a daemon, and what each of its statuses means to the operator.

A status that x0d decided carries the trailing metadata ``x0d-reason``; one without was made up by
gRPC on this side: nobody answered.  Which way a call goes is ``x0ctl.local``'s or ``x0ctl.remote``'s.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import grpc
from google.protobuf.message import Message

from x0ctl.endpoint import is_local, place_of, require_server_id, socket_path
from x0ctl.failure import EXIT_FAILED, EXIT_NOT_PERMITTED, EXIT_UNREACHABLE, Failure
from x0ctl.output import clean
from x0ctl.way import Way

if TYPE_CHECKING:
    from x0ctl.command import Options

Reply = TypeVar("Reply", bound=Message)


@contextmanager
def connected(options: "Options") -> Iterator["Client"]:
    """Calls to the daemon that the options name, until the end of the block.  Raises Failure."""
    if is_local(options.endpoint):
        from x0ctl.local import LocalWay  # noqa: PLC0415 - one of two ways

        local = LocalWay(socket_path(options.endpoint))
        with local.channel:
            yield Client(local, options.timeout_s)
        return
    place = place_of(options.endpoint)
    server_id = require_server_id(options.server_id, options.endpoint)
    from x0ctl.remote import dialed  # noqa: PLC0415 - start-up time: cryptography and asyncio

    with dialed(place, server_id, Path(options.workload_socket), options.timeout_s) as remote:
        yield Client(remote, options.timeout_s)


class Client:
    """Calls to one daemon.  ``timeout_s`` limits each call that is not a stream."""

    def __init__(self, way: Way, timeout_s: float) -> None:
        self._way = way
        self._timeout_s = timeout_s

    def unary(self, stub: Callable[[grpc.Channel], Any], method: str, request: Message, kind: type[Reply]) -> Reply:
        """Call and wait for the answer.  Raises Failure."""
        try:
            reply = getattr(stub(self._way.channel), method)(request, timeout=self._timeout_s)
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
        self._way.connect()
        call = getattr(stub(self._way.channel), method)(request)
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
        if status is grpc.StatusCode.UNAUTHENTICATED or reason == "peer":
            return Failure(EXIT_NOT_PERMITTED, f"{self._way.name}: {details}", self._way.identity_missing)
        if reason == "role":  # about the caller; PERMISSION_DENIED of another reason is the kernel's word about x0d
            return Failure(EXIT_NOT_PERMITTED, f"{self._way.name}: {details}", self._way.role_missing)
        if reason == "method":
            return Failure(EXIT_FAILED, f"{self._way.name}: {details}", self._way.method_missing)
        if reason:
            return Failure(EXIT_FAILED, _one_a_line(reason, details), _NEXT_STEP.get(reason, ""))
        return self._unanswered(status, details)

    def _unanswered(self, status: grpc.StatusCode, details: str) -> Failure:
        way = self._way
        if status is grpc.StatusCode.UNAVAILABLE:
            return way.unreachable(details)
        if status is grpc.StatusCode.DEADLINE_EXCEEDED:
            text = f"no answer from {way.name} within {self._timeout_s:g} s"
            return way.silent() or Failure(
                EXIT_UNREACHABLE, text, f"wait longer with --timeout, or see: {way.log_there}"
            )
        if status is grpc.StatusCode.CANCELLED:
            return Failure(EXIT_UNREACHABLE, "x0d ended the call: it is stopping", way.ask_there)
        return Failure(EXIT_FAILED, f"{status.name}: {details}")


def _one_a_line(reason: str, details: str) -> str:
    """Several reasons in one sentence are hard to read: each gets a line of its own."""
    if reason == "WouldLockOut":
        head, colon, reasons = details.partition(": ")
        return f"{head}:\n  " + reasons.replace("; ", "\n  ") if colon else details
    return re.sub(r"; (?=line \d+: )", "\n", details)


_NEXT_STEP: Final = {
    "starting": "try again in a moment; x0ctl status shows the step under way",
    "unknown": "x0ctl incident list shows the ids",
    "ConfigInvalid": "nothing was changed; mend the file and reload again",
    "StorageFailed": "is the disk of node.state_dir full or read-only? x0ctl status shows alerts; nothing was changed",
    "streams": "end another x0ctl watch first",
    "Busy": "try again when that has ended",
    "NotPermitted": "x0d itself lacks the capability; x0ctl doctor shows what it has",
    "ProgramTypeRefused": "x0ctl doctor shows what this kernel allows",
    "ProgramRejected": "what was loaded before is still in force; x0ctl ebpf list shows it",
    "MapTooLarge": "lower the sizes in [ebpf] of the configuration",
    "MapFull": "remove entries, or raise the size in [ebpf] of the configuration",
    "slow": "the reader was too slow for what happens; watch again",
}
