"""What a servicer writes to its stream, so that a stream can be cut at any moment.

A call's headers go out with its first message.  A write that is cancelled in that moment leaves them half sent: gRPC
then takes no status for the call any more, and its client would wait for ever.  So the first write, and headers sent on
their own, are finished whatever happens to the servicer; ``settled`` waits for that.  Later writes need no such care.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeAlias

from grpc import aio

Context: TypeAlias = "aio.ServicerContext[Any, Any] | Outlet"
"""Of a call, as the gate has it: a stream's is behind an outlet."""


class Outlet:
    """Stands for a stream's context; all but writing is the context's own."""

    def __init__(self, context: "Context") -> None:
        self._context = context
        self._first: asyncio.Task[None] | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the context has
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:  # noqa: ANN401 - any message
        """Write a message; returns when the transport has taken it."""
        if self._first is None:
            await self._hold(self._context.write(message))
        else:
            await self._context.write(message)

    async def send_initial_metadata(self, metadata: Any) -> None:  # noqa: ANN401 - gRPC's
        """Send the headers alone."""
        await self._hold(self._context.send_initial_metadata(metadata))

    async def settled(self) -> None:
        """Wait until nothing is half sent."""
        if self._first is not None:
            await asyncio.wait({self._first})

    async def _hold(self, sending: Coroutine[Any, Any, None]) -> None:
        self._first = asyncio.get_running_loop().create_task(sending)
        self._first.add_done_callback(_look_at)
        await asyncio.shield(self._first)


def _look_at(task: "asyncio.Task[None]") -> None:
    """An error of a write whose servicer has gone concerns nobody: the client is gone, too."""
    if not task.cancelled():
        task.exception()
