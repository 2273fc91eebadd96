"""Calls that change something end whole: a caller that leaves, or whose deadline passes, stops none half-way."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from x0d.ports.audit import outlives_its_caller

Result = TypeVar("Result")


class Changes:
    """Changes under way; each runs to its end in a task of its own."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, change: Coroutine[Any, Any, Result]) -> Result:
        """Wait for the change, or be cancelled while it goes on.  Raises what it raises."""
        task = asyncio.get_running_loop().create_task(change)
        self._tasks.add(task)
        outlives_its_caller(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # asked for: that of a change whose caller has left is not logged as forgotten
