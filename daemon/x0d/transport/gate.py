"""What every call passes before it reaches a servicer, and every error before it reaches a caller.

In this order: who calls (a peer that did not come through the front is refused), may it (one table,
deny by default), is the node ready (else UNAVAILABLE, which clients may retry), is there room for
one more stream.  Unary calls get a deadline; a stream ends with its client's deadline, its client or
the daemon.  Errors that x0d raises on purpose become statuses here and nowhere else.  Every status
that this server decides carries the trailing metadata ``x0d-reason``, by which a client tells a
refusal from a server that is not there, and what the gate refuses from what the kernel does.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode, aio

from x0d.errors import (
    Busy,
    ConfigInvalid,
    DeviceGone,
    HookChanged,
    InvalidInput,
    KernelRefused,
    MapFull,
    NotPermitted,
    NotSupported,
    NotThere,
    PinExists,
    PinInvalid,
    PinMissing,
    ProgramTypeRefused,
    StorageFailed,
    TooMany,
    X0dError,
)
from x0d.transport.access import METHODS, WHILE_STARTING, Caller, Role, Roles, caller_of

UNARY_S_DEFAULT: Final = 30.0
"""Deadline of a unary call whose client set none."""
UNARY_S_MAX: Final = 120.0
"""Longest deadline of a unary call, whatever the client set."""
STREAMS_MAX: Final = 64
"""Streaming calls at a time, of all clients; the next is refused as RESOURCE_EXHAUSTED."""
STREAMS_ADMIN_RESERVED: Final = 8
"""Of these, kept for admins."""
DETAILS_BYTES_MAX: Final = 7_000
"""Of an error's text as gRPC encodes it; clients take 8 KiB of headers."""
LOG_CHARACTERS_MAX: Final = 4_000
"""Of a verifier's log in an error's text."""

if TYPE_CHECKING:
    _Context = aio.ServicerContext[Any, Any]
    _Handler = grpc.RpcMethodHandler[Any, Any]

_STATUS: Final[tuple[tuple[type[X0dError], StatusCode], ...]] = (
    (InvalidInput, StatusCode.INVALID_ARGUMENT),
    (ConfigInvalid, StatusCode.INVALID_ARGUMENT),
    (StorageFailed, StatusCode.UNAVAILABLE),
    (Busy, StatusCode.UNAVAILABLE),
    (NotSupported, StatusCode.UNIMPLEMENTED),
    (ProgramTypeRefused, StatusCode.UNIMPLEMENTED),
    (NotThere, StatusCode.NOT_FOUND),
    (DeviceGone, StatusCode.NOT_FOUND),
    (PinMissing, StatusCode.NOT_FOUND),
    (PinExists, StatusCode.ALREADY_EXISTS),
    (PinInvalid, StatusCode.INVALID_ARGUMENT),
    (HookChanged, StatusCode.ABORTED),
    (NotPermitted, StatusCode.PERMISSION_DENIED),
    (MapFull, StatusCode.RESOURCE_EXHAUSTED),
    (TooMany, StatusCode.RESOURCE_EXHAUSTED),
    # the state of the kernel or of the lists is in the way: all other refusals, and WouldLockOut
    (KernelRefused, StatusCode.FAILED_PRECONDITION),
    (X0dError, StatusCode.FAILED_PRECONDITION),
)
"""First match counts.  What the kernel does not permit to x0d is no word about the caller: ``x0d-reason`` tells."""


def status_of(error: X0dError) -> StatusCode:
    """Status that tells a caller of ``error``."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def details_of(error: X0dError) -> str:
    """Sentence for people, and the last of what the verifier has said: that is where it says why."""
    log = error.log_tail.strip() if isinstance(error, KernelRefused) else ""
    return f"{error}\n{log[-LOG_CHARACTERS_MAX:]}" if log else str(error)


def fitting(details: str) -> str:
    """Cut a text to what fits a header, where all but printable ASCII is percent-encoded."""
    room = DETAILS_BYTES_MAX
    for index, character in enumerate(details):
        plain = character.isascii() and character.isprintable() and character != "%"
        room -= 1 if plain else 3 * len(character.encode(errors="replace"))
        if room < 0:
            return details[:index] + " ... (cut)"
    return details


async def refuse(context: "_Context", status: StatusCode, reason: str, details: str) -> NoReturn:
    """End the call with a status of ours; ``reason`` is a word for programs, ``details`` a sentence for people."""
    details = fitting(details)
    await context.abort(status, details, (("x0d-reason", reason),))
    raise AssertionError  # abort raises


async def _refuse_for(context: "_Context", error: X0dError) -> NoReturn:
    await refuse(context, status_of(error), type(error).__name__, details_of(error))


class _Unreadable:
    """Stands for bytes that are no message, until the caller is known and can be told."""


def _tolerant(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Left to itself gRPC answers UNKNOWN, and writes a traceback for every such call."""
    if decode is None:
        return None

    def read(raw: bytes) -> Any:  # noqa: ANN401 - any message
        try:
            return decode(raw)
        except DecodeError:
            return _Unreadable()

    return read


def _readable(request: Any) -> Any:  # noqa: ANN401 - any message
    if isinstance(request, _Unreadable):
        raise InvalidInput("the request's bytes are not the message that this method takes")
    return request


async def _all_readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _readable(request)


class Gate(aio.ServerInterceptor):
    """Interceptor of every method, unknown ones too.

    ``step`` is the start-up step under way; None once the node is ready.
    """

    def __init__(self, private: Path, roles: Roles, viewer_group: str) -> None:
        self._private = private
        self._roles = roles
        self._viewer_group = viewer_group
        self._caller_of = lru_cache(maxsize=512)(self._read_peer)
        self._streams = 0
        self.step: str | None = "control socket"

    def _read_peer(self, peer: str) -> Caller | None:
        return caller_of(peer, self._private)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler":
        """Put the checks around the method's handler."""
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None:
            return self._unknown(method)
        codec = (_tolerant(handler.request_deserializer), handler.response_serializer)
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(self._unary(method, handler.unary_unary), *codec)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(self._stream(method, handler.unary_stream), *codec)
        if handler.stream_unary is not None:
            return grpc.stream_unary_rpc_method_handler(self._gather(method, handler.stream_unary), *codec)
        assert handler.stream_stream is not None
        return grpc.stream_stream_rpc_method_handler(self._stream(method, handler.stream_stream), *codec)

    async def _admit(self, method: str, context: "_Context") -> Role:
        """Refuse the call or return its caller's role."""
        caller = self._caller_of(context.peer())
        if caller is None:
            await refuse(context, StatusCode.UNAUTHENTICATED, "peer", "call through the control socket x0d.sock")
        role = self._roles.of(caller)
        needed = METHODS.get(method)
        if role is Role.NOBODY or needed is None or role < needed:
            await refuse(context, StatusCode.PERMISSION_DENIED, "role", self._denial(method, caller, role))
        if self.step is not None and method not in WHILE_STARTING:
            await refuse(context, StatusCode.UNAVAILABLE, "starting", f"starting: {self.step}")
        return role

    def _denial(self, method: str, caller: Caller, role: Role) -> str:
        if role is Role.NOBODY:
            return f"{caller} has no role here: be root or a member of group {self._viewer_group}"
        return f"{caller} may not call {method}: it is for root and x0d's own user"

    def _unary(self, method: str, behaviour: Callable[..., Any]) -> "Callable[[Any, _Context], Awaitable[Any]]":
        async def call(request: Any, context: "_Context") -> Any:  # noqa: ANN401 - any message
            await self._admit(method, context)
            remaining = context.time_remaining()
            limit_s = UNARY_S_DEFAULT if remaining is None else min(remaining, UNARY_S_MAX)
            try:
                async with asyncio.timeout(limit_s) as deadline:
                    return await behaviour(_readable(request), context)
            except TimeoutError:
                if not deadline.expired():
                    raise
                await refuse(context, StatusCode.DEADLINE_EXCEEDED, "deadline", f"not done within {limit_s:.0f} s")
            except X0dError as error:
                await _refuse_for(context, error)

        return call

    def _stream(self, method: str, behaviour: Callable[..., Any]) -> "Callable[[Any, _Context], Awaitable[None]]":
        async def call(request: Any, context: "_Context") -> None:  # noqa: ANN401 - a message or an iterator
            async with self._streaming(method, context):
                request = _all_readable(request) if hasattr(request, "__aiter__") else _readable(request)
                if not inspect.isasyncgenfunction(behaviour):
                    await behaviour(request, context)
                    return
                # closed here: what a servicer has begun ends with its call, not when the generator is collected
                async with aclosing(behaviour(request, context)) as messages:
                    async for message in messages:
                        await context.write(message)

        return call

    def _gather(self, method: str, behaviour: Callable[..., Any]) -> "Callable[[Any, _Context], Awaitable[Any]]":
        async def call(requests: Any, context: "_Context") -> Any:  # noqa: ANN401 - any iterator and message
            async with self._streaming(method, context):
                return await behaviour(_all_readable(requests), context)

        return call

    @asynccontextmanager
    async def _streaming(self, method: str, context: "_Context") -> AsyncIterator[None]:
        """Admit a call that streams in either direction, and count it while it lasts."""
        role = await self._admit(method, context)
        limit = STREAMS_MAX if role is Role.ADMIN else STREAMS_MAX - STREAMS_ADMIN_RESERVED
        if self._streams >= limit:
            await refuse(context, StatusCode.RESOURCE_EXHAUSTED, "streams", f"{self._streams} streams are open")
        self._streams += 1
        try:
            yield
        except X0dError as error:
            await _refuse_for(context, error)
        finally:
            self._streams -= 1

    def _unknown(self, method: str) -> "_Handler":
        """Answer for a method that does not exist: strangers learn no more than of one that does."""

        async def call(requests: Any, context: "_Context") -> None:  # noqa: ANN401, ARG001 - never read
            caller = self._caller_of(context.peer())
            if caller is not None and self._roles.of(caller) is Role.ADMIN:
                await refuse(context, StatusCode.UNIMPLEMENTED, "method", f"{method} does not exist in this version")
            await self._admit(method, context)

        return grpc.stream_stream_rpc_method_handler(call)
