"""A watcher on a real agent, with a wall clock that a test sets; what the tests of ``spiffe`` share."""

import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop

from fakes.agent import FakeAgent, update_of
from fakes.authority import CA, NOW, Issued
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.spiffe.watcher import Watcher
from x0d.spiffe.workload_api import SvidUpdate

PATIENCE_S: Final = 20.0
LOCAL: Final = TrustDomain("dev.x0d.test")
PARTNER: Final = TrustDomain("partner.example")
N1: Final = SpiffeId(LOCAL, "/node/n1")
LOOPS: Final = {"stdlib": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
Result = TypeVar("Result")


class WallClock:
    """A wall clock that stands where it was set."""

    def __init__(self) -> None:
        self.unix_s = NOW
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.unix_s


@dataclass
class Lab:
    """One watcher, its agent, and who signs for both."""

    agent: FakeAgent
    watcher: Watcher
    clock: WallClock
    root: CA
    changes: list[int] = field(default_factory=list)
    """Generation at each call of a subscriber."""

    def good(self, issued: Issued | None = None) -> SvidUpdate:
        """Make an update that must be taken."""
        return update_of(issued or self.root.issue(), self.root)

    @property
    def rejected(self) -> int:
        """Updates refused so far."""
        return sum(self.watcher.status().rejected.values())

    @property
    def generation(self) -> int:
        return self.watcher.current.generation if self.watcher.current else 0

    async def push(self, update: SvidUpdate | bytes) -> None:
        """Send an update and wait until it was taken or refused."""
        updates, rejected = self.watcher.status().updates, self.rejected
        self.agent.push(update)
        await until(lambda: (updates, rejected) != (self.watcher.status().updates, self.rejected))


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  conditions are of anything
            await asyncio.sleep(0.002)  # tidy: looks again, the agent works meanwhile


def run(loop: str, scene: Coroutine[Any, Any, Result]) -> Result:
    """Run a scene on one of LOOPS; one that hangs fails."""

    async def bounded() -> Result:
        async with asyncio.timeout(2 * PATIENCE_S):
            return await scene

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(bounded())


@asynccontextmanager
async def watching(
    *,
    owner_uid: int | None = None,
    agent_runs: bool = True,
    federation: frozenset[TrustDomain] = frozenset({PARTNER}),
) -> AsyncIterator[Lab]:
    """Run an agent and a watcher for ``/node/n1``; the agent has nothing to say yet."""
    with tempfile.TemporaryDirectory(prefix="x0d-") as directory:
        agent, clock = FakeAgent(Path(directory) / "agent.sock"), WallClock()
        watcher = Watcher(
            socket=agent.path,
            own_id=N1,
            trust_domain=LOCAL,
            federation=federation,
            dev_allowed=True,
            owner_uid=owner_uid,
            unix_s=clock,
            monotonic_ns=time.monotonic_ns,
            rng=random.Random(1),
        )
        lab = Lab(agent, watcher, clock, CA())
        watcher.subscribe(lambda: lab.changes.append(lab.generation))
        if agent_runs:
            await agent.start()
        task = asyncio.create_task(watcher.run())
        try:
            yield lab
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await agent.stop()
