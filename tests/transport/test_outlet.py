"""Headers that are on their way when a servicer is cancelled are finished before anything else is sent."""

import asyncio
from typing import Any

import pytest

from fakes.control import run
from x0d.transport.outlet import Outlet


class SlowContext:
    """A call's context whose transport takes a message only when ``taken`` is set."""

    def __init__(self) -> None:
        self.taken = asyncio.Event()
        self.began: list[object] = []
        self.finished: list[object] = []
        self.fails = False

    async def write(self, message: object) -> None:
        self.began.append(message)
        await self.taken.wait()
        if self.fails:
            raise ConnectionError
        self.finished.append(message)

    async def send_initial_metadata(self, metadata: object) -> None:
        await self.write(metadata)

    def peer(self) -> str:
        return "ipv4:192.0.2.1:5"


async def cut(sending: Any) -> None:  # noqa: ANN401 - a coroutine
    """Cancel a servicer in the middle of what it sends."""
    task = asyncio.create_task(sending)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("method", ["write", "send_initial_metadata"])
def test_headers_are_finished(method: str) -> None:
    """What carries the headers goes on after its servicer was cancelled, and is waited for."""

    async def scene() -> None:
        context: Any = SlowContext()
        outlet = Outlet(context)
        await cut(getattr(outlet, method)("first"))
        settling = asyncio.create_task(outlet.settled())
        await asyncio.sleep(0)
        assert not settling.done()
        context.taken.set()
        await settling
        assert ["first"] == context.finished

    run(scene())


def test_later_writes_end_with_their_servicer() -> None:
    """Once the headers are out a write is cancelled like anything else: a client that reads nothing holds nobody."""

    async def scene() -> None:
        context: Any = SlowContext()
        outlet = Outlet(context)
        context.taken.set()
        await outlet.write("first")
        context.taken.clear()
        await cut(outlet.write("second"))
        await outlet.settled()
        assert (["first", "second"], ["first"]) == (context.began, context.finished)

    run(scene())


def test_nothing_written() -> None:
    """A stream that has sent nothing is settled, and all but writing is the context's own."""

    async def scene() -> None:
        context: Any = SlowContext()
        outlet = Outlet(context)
        await outlet.settled()
        assert "ipv4:192.0.2.1:5" == outlet.peer()

    run(scene())


def test_a_client_that_is_gone() -> None:
    """A write that fails after its servicer was cancelled is no error of anybody's."""

    async def scene() -> None:
        context: Any = SlowContext()
        context.fails = True
        outlet = Outlet(context)
        await cut(outlet.write("first"))
        context.taken.set()
        await outlet.settled()

    run(scene())
