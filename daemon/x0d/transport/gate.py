"""What every call passes before it reaches a servicer, and every error before it reaches a caller.

In this order: who calls (``authenticate`` of the listener: a unix socket's front, or TLS), may it (one table, deny by
default), is the node ready (else UNAVAILABLE, which clients may retry), is there room for one more call of this caller
and for one more stream, does the request come soon, and for what changes something: is the record written.  Unary calls
get a deadline; a stream ends with its client's deadline, its client, its caller's trust or the daemon.  Errors that x0d
raises on purpose become statuses here and nowhere else (``statuses.py``).  Every status that this server decides
carries the trailing metadata ``x0d-reason``, by which a client tells a refusal from a server that is not there, and
what the gate refuses from what the kernel does.

Over TCP a refusal is one of two sentences, and a method that does not exist is refused like one that does: who holds
no role learns nothing.  On the unix socket ``explain`` says what is missing.
"""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
from grpc import StatusCode, aio

from x0d.errors import IdentityRefused, X0dError
from x0d.identity.model import Principal, Reason
from x0d.identity.roles import Role
from x0d.ports.audit import Auditor
from x0d.ports.identity import CALLER
from x0d.transport.access import AUDITED, METHODS, WHILE_STARTING
from x0d.transport.audited import audited
from x0d.transport.denials import Denials
from x0d.transport.messages import all_readable, only_one, readable, tolerant
from x0d.transport.open_calls import OpenCalls
from x0d.transport.open_streams import OpenStream, OpenStreams
from x0d.transport.outlet import Context, Outlet
from x0d.transport.place import place_of
from x0d.transport.statuses import details_of, fitting, status_of

UNARY_S_DEFAULT: Final = 30.0
"""Deadline of a unary call whose client set none."""
UNARY_S_MAX: Final = 120.0
"""Longest deadline of a unary call, whatever the client set."""
REQUEST_S_MAX: Final = 5.0
"""For the request of a call that takes one, from its admission: it is sent with the call or soon after."""
STREAMS_MAX: Final = 64
"""Streaming calls at a time, of all clients; the next is refused as RESOURCE_EXHAUSTED."""
STREAMS_ADMIN_RESERVED: Final = 8
"""Of these, kept for admins."""
UNAUTHENTICATED: Final = "not authenticated: show an SVID that this node trusts"
"""All that a caller over TCP is told who proves nothing."""
FORBIDDEN: Final = "not permitted"
"""All that a caller over TCP is told who may not call."""
CUT_S_MAX: Final = 1.0
"""For telling a client why its stream was cut; one that does not read is not waited for."""

if TYPE_CHECKING:
    _Handler = grpc.RpcMethodHandler[Any, Any]


async def refuse(context: "Context", status: StatusCode, reason: str, details: str) -> NoReturn:
    """End the call with a status of ours; ``reason`` is a word for programs, ``details`` a sentence for people."""
    details = fitting(details)
    await context.abort(status, details, (("x0d-reason", reason),))
    raise AssertionError  # abort raises


@asynccontextmanager
async def _in_time(context: "Context") -> AsyncIterator[None]:
    """Hold a unary call to its client's deadline, or to ours."""
    remaining = context.time_remaining()
    limit_s = UNARY_S_DEFAULT if remaining is None else min(remaining, UNARY_S_MAX)
    try:
        async with asyncio.timeout(limit_s) as deadline:
            yield
    except TimeoutError:
        if not deadline.expired():
            raise
        await refuse(context, StatusCode.DEADLINE_EXCEEDED, "deadline", f"not done within {limit_s:.0f} s")


async def _request(requests: AsyncIterator[Any], context: "Context") -> Any:  # noqa: ANN401 - any message
    """Read the one request; a call whose request does not come gives its place back."""
    try:
        async with asyncio.timeout(REQUEST_S_MAX):
            return await only_one(requests)
    except TimeoutError:
        text = f"no request came within {REQUEST_S_MAX:g} s"
        await refuse(context, StatusCode.DEADLINE_EXCEEDED, "request", text)


class Gate(aio.ServerInterceptor):
    """Interceptor of every method of one listener, unknown ones too.

    ``step`` is the start-up step under way; None once the node is ready.  ``auditor`` may be set later: until then
    calls that change something are refused.
    """

    def __init__(
        self,
        authenticate: Callable[[Any], Principal],
        denials: Denials,
        *,
        auditor: Auditor | None = None,
        streams: OpenStreams | None = None,
        explain: Callable[[str, Principal], str] | None = None,
        limit: Callable[[str, Principal], None] | None = None,
    ) -> None:
        """``authenticate`` gets the call's context and raises IdentityRefused.

        ``explain`` says why a caller may not call; None: neither that nor anything else is told.  ``limit`` raises Busy
        for a unary call that its caller makes too often, before a record is written.
        """
        self._authenticate = authenticate
        self._denials = denials
        self._streams = OpenStreams() if streams is None else streams
        self._calls = OpenCalls()
        self._explain = explain
        self._limit = limit
        self.auditor = auditor
        self.step: str | None = "first steps"

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler":
        """Put the checks around the method's handler.

        All kinds are registered as streams of requests: gRPC then calls us before it has read one, so that whoever is
        refused neither holds a place while it sends nothing, nor tells methods apart by when they answer.
        """
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None:
            return grpc.stream_unary_rpc_method_handler(self._unknown(method))
        codec = (tolerant(handler.request_deserializer), handler.response_serializer)
        if handler.unary_unary is not None:
            return grpc.stream_unary_rpc_method_handler(self._unary(method, handler.unary_unary), *codec)
        if handler.unary_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream, takes_one=True), *codec
            )
        if handler.stream_unary is not None:
            return grpc.stream_unary_rpc_method_handler(self._gather(method, handler.stream_unary), *codec)
        assert handler.stream_stream is not None
        return grpc.stream_stream_rpc_method_handler(
            self._stream(method, handler.stream_stream, takes_one=False), *codec
        )

    # ---- who, and may it ----

    async def _identify(self, method: str, context: "Context") -> Principal:
        try:
            return self._authenticate(context)
        except IdentityRefused as refused:
            self._denials.tell(refused, place_of(context.peer()), method)
            text = UNAUTHENTICATED if self._explain is None else str(refused)
            await refuse(context, StatusCode.UNAUTHENTICATED, "identity", text)

    async def _admit(self, method: str, context: "Context") -> Principal:
        """Refuse the call or say whose it is; nothing else runs before its caller counts it."""
        principal = await self._identify(method, context)
        if not METHODS.get(method, frozenset()) & principal.roles:
            await self._forbid(method, principal, context)
        if self.step is not None and method not in WHILE_STARTING:
            await refuse(context, StatusCode.UNAVAILABLE, "starting", f"starting: {self.step}")
        if excess := self._calls.excess(principal):
            await refuse(context, StatusCode.RESOURCE_EXHAUSTED, "calls", excess)
        CALLER.set(principal)
        return principal

    async def _forbid(self, method: str, principal: Principal, context: "Context") -> NoReturn:
        held = ", ".join(sorted(principal.roles)) or "no role"
        refused = IdentityRefused(Reason.POLICY, f"{principal.name} holds {held}")
        self._denials.tell(refused, principal.name, method)
        text = FORBIDDEN if self._explain is None else self._explain(method, principal)
        await refuse(context, StatusCode.PERMISSION_DENIED, "role", text)

    async def _refuse_for(self, error: X0dError, method: str, principal: Principal, context: "Context") -> NoReturn:
        """Translate an error of a servicer; over TCP one about the caller itself is no more than the gate's own."""
        if isinstance(error, IdentityRefused) and self._explain is None:
            self._denials.tell(error, principal.name, method)
            await refuse(context, StatusCode.PERMISSION_DENIED, "role", FORBIDDEN)
        await refuse(context, status_of(error), type(error).__name__, details_of(error))

    # ---- the four kinds of calls ----

    def _unary(self, method: str, behaviour: Callable[..., Any]) -> "Callable[[Any, Context], Awaitable[Any]]":
        async def call(requests: Any, context: "Context") -> Any:  # noqa: ANN401 - any iterator and message
            principal = await self._admit(method, context)
            with self._calls.hold(principal):
                try:
                    if self._limit is not None:
                        self._limit(method, principal)
                    async with _in_time(context):
                        request = await _request(requests, context)
                        if method not in AUDITED:
                            return await behaviour(request, context)
                        async with audited(self.auditor, principal, method, request, context):
                            return await behaviour(request, context)
                except X0dError as error:
                    await self._refuse_for(error, method, principal, context)

        return call

    def _stream(
        self, method: str, behaviour: Callable[..., Any], *, takes_one: bool
    ) -> "Callable[[Any, Context], Awaitable[None]]":
        async def call(requests: Any, context: "Context") -> None:  # noqa: ANN401 - any iterator
            outlet = Outlet(context)
            async with self._streaming(method, requests, outlet, takes_one=takes_one) as given:
                if not inspect.isasyncgenfunction(behaviour):
                    await behaviour(given, outlet)
                    return
                # closed here: what a servicer has begun ends with its call, not when the generator is collected
                async with aclosing(behaviour(given, outlet)) as messages:
                    async for message in messages:
                        await outlet.write(message)

        return call

    def _gather(self, method: str, behaviour: Callable[..., Any]) -> "Callable[[Any, Context], Awaitable[Any]]":
        async def call(requests: Any, context: "Context") -> Any:  # noqa: ANN401 - any iterator and message
            outlet = Outlet(context)
            async with self._streaming(method, requests, outlet, takes_one=False) as given:
                return await behaviour(given, outlet)

        return call

    @asynccontextmanager
    async def _streaming(
        self,
        method: str,
        requests: AsyncIterator[Any],
        context: Outlet,
        *,
        takes_one: bool,
    ) -> AsyncIterator[Any]:
        """Admit a call that streams in either direction, hold it while it lasts, and give its request or requests."""
        principal = await self._admit(method, context)
        limit = STREAMS_MAX if Role.ADMIN in principal.roles else STREAMS_MAX - STREAMS_ADMIN_RESERVED
        if len(self._streams) >= limit:
            await refuse(context, StatusCode.RESOURCE_EXHAUSTED, "streams", f"{len(self._streams)} streams are open")
        with self._calls.hold(principal), self._streams.hold(principal, method) as stream:
            try:
                if method not in AUDITED:
                    yield await _request(requests, context) if takes_one else all_readable((), requests)
                    return
                # The first message says what is about to change, and the record comes before the servicer sees it.
                first = await _request(requests, context) if takes_one else readable(await anext(requests, None))
                async with audited(self.auditor, principal, method, first, context):
                    yield first if takes_one else all_readable(() if first is None else (first,), requests)
            except X0dError as error:
                await self._refuse_for(error, method, principal, context)
            except asyncio.CancelledError:
                if stream.refused is None:
                    raise
                await self._tell_cut(stream, context)

    async def _tell_cut(self, stream: OpenStream, context: Outlet) -> NoReturn:
        """End a stream whose caller is not trusted any more; its task was cancelled for that, and by nobody else."""
        assert stream.refused is not None
        if stream.task is not None:
            stream.task.uncancel()
        is_policy = stream.refused.reason == Reason.POLICY
        status = StatusCode.PERMISSION_DENIED if is_policy else StatusCode.UNAUTHENTICATED
        text = FORBIDDEN if is_policy else UNAUTHENTICATED
        with contextlib.suppress(TimeoutError, aio.UsageError):  # UsageError: its servicer was just ending it itself
            async with asyncio.timeout(CUT_S_MAX):
                await context.settled()
                await refuse(context, status, "role" if is_policy else "identity", text)
        raise asyncio.CancelledError  # a client that reads nothing is not told

    def _unknown(self, method: str) -> "Callable[[Any, Context], Awaitable[None]]":
        """Answer for a method that does not exist here: who may not call everything is refused as for one that does."""

        async def call(requests: Any, context: "Context") -> None:  # noqa: ANN401, ARG001 - never read
            principal = await self._identify(method, context)
            if Role.ADMIN not in principal.roles and not METHODS.get(method, frozenset()) & principal.roles:
                await self._forbid(method, principal, context)
            await refuse(context, StatusCode.UNIMPLEMENTED, "method", f"{method} does not exist here")

        return call
