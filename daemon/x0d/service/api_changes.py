"""Calls that change something end whole: a caller that leaves, or whose deadline passes, stops none half-way."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from x0d.ports.audit import outlives_its_caller, tell_change

Result = TypeVar("Result")


class Changes:
    """Changes under way; each runs to its end in a task of its own."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, change: Coroutine[Any, Any, Result], told: Callable[[Result], str] | None = None) -> Result:
        """Wait for the change, or be cancelled while it goes on.  Raises what it raises.

        Args:
            change: makes the change; it may tell the audit itself what held before and what holds after.
            told: says for the audit, of what the change returned, what holds after.
        """
        task = asyncio.get_running_loop().create_task(_telling(change, told) if told is not None else change)
        self._tasks.add(task)
        outlives_its_caller(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # asked for: that of a change whose caller has left is not logged as forgotten


async def _telling(change: Coroutine[Any, Any, Result], told: Callable[[Result], str]) -> Result:
    result = await change
    tell_change(after=told(result))
    return result
