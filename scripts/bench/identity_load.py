"""Load while identities rotate: unary calls on one channel, new connections, and a stream with numbered messages."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from grpc import aio

from bench.identity_children import Order

STATUS = "/x0d.v1.NodeService/GetStatus"
WATCH = "/x0d.v1.IncidentService/WatchIncidents"
CALLERS = 4
CALL_S = 20.0
PAUSE_S = 0.002
"""Of each caller, between two calls."""
DIAL_PAUSE_S = 0.05
Open = Callable[[], AbstractAsyncContextManager[aio.Channel]]


class Load:
    """One run of it."""

    def __init__(self, open_channel: Open) -> None:
        """Nothing is called yet."""
        self._open_channel = open_channel
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._counts: Counter[str] = Counter()
        self._errors: list[str] = []
        self._stream_call: aio.UnaryStreamCall[bytes, bytes] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Open channel and stream; returns once the stream's first message has come."""
        channel = await self._stack.enter_async_context(self._open_channel())
        streaming = await self._stack.enter_async_context(self._open_channel())
        watch: aio.UnaryStreamMultiCallable[bytes, bytes] = streaming.unary_stream(WATCH)
        self._stream_call = watch(b"")
        async with asyncio.timeout(CALL_S):
            first = _number(await self._stream_call.read())
        self._counts["messages"] = first
        work = [self._read(self._stream_call), self._dial(), *(self._call(channel) for _ in range(CALLERS))]
        self._tasks = [asyncio.create_task(one) for one in work]

    async def stop(self) -> Order:
        """End everything and say what came of it."""
        self._stopping = True
        await asyncio.gather(*self._tasks[1:])
        if self._stream_call is not None:
            self._stream_call.cancel()
        await asyncio.gather(*self._tasks)
        await self._stack.aclose()
        return {**self._counts, "errors": self._errors[:5]}

    async def _call(self, channel: aio.Channel) -> None:
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(STATUS)
        while not self._stopping:
            await self._one(call, "calls")
            await asyncio.sleep(PAUSE_S)

    async def _dial(self) -> None:
        while not self._stopping:
            async with self._open_channel() as channel:
                await self._one(channel.unary_unary(STATUS), "connections")
            await asyncio.sleep(DIAL_PAUSE_S)

    async def _one(self, call: "aio.UnaryUnaryMultiCallable[bytes, bytes]", kind: str) -> None:
        message = b"%d" % time.perf_counter_ns()
        self._counts[kind] += 1
        try:
            answer = await call(message, timeout=CALL_S)
        except aio.AioRpcError as error:
            self._counts[f"{kind}_failed"] += 1
            self._errors.append(f"{kind}: {error.code().name}: {error.details()}")
        else:
            self._counts[f"{kind}_failed"] += answer != message

    async def _read(self, call: "aio.UnaryStreamCall[bytes, bytes]") -> None:
        """Count messages, those that are missing between two, and whether the stream ended by itself."""
        last = self._counts["messages"]
        try:
            while (message := await call.read()) is not aio.EOF:
                number = _number(message)
                self._counts["messages"] += 1
                self._counts["lost"] += abs(number - last - 1)
                last = number
            text = "the server has ended it"
        except (aio.AioRpcError, asyncio.CancelledError) as error:
            text = str(error)
        if not self._stopping:
            self._counts["streams_ended"] += 1
            self._errors.append(f"stream after {last}: {text}")


def _number(message: object) -> int:
    """The stream's message; whatever else is read from it is an end."""
    assert isinstance(message, bytes), "the stream ended"
    return int(message)
