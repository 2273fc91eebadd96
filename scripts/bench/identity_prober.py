"""A child that asks a daemon for its status, as x0ctl does: by its unix socket, and over mTLS on its control port.

Arguments: the control socket, the Workload API's socket, host, port, the daemon's SPIFFE ID.  Each call begins at its
own time, whatever became of the one before, so a daemon that is slow does not slow the questions down.
"""

import asyncio
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from grpc import aio

from bench.identity_children import Order, obey, run_child
from x0d.identity.spiffe_id import SpiffeId
from x0d.spiffe.fetch import fetch_once
from x0d.spiffe.snapshot import Snapshot
from x0d.transport.connector import Connector, ExpectId
from x0d.v1 import node_pb2, node_pb2_grpc

CALL_S = 3.0
"""A call that takes longer has failed, and counts as that long."""
EVERY_S = {"unix": 0.05, "tls": 0.05, "fresh": 0.1}
"""Between two calls of a kind; ``fresh`` has a connection of its own."""
SPREAD_S = 0.013
METRICS = "http://127.0.0.1:9475/metrics"
Open = Callable[[], AbstractAsyncContextManager[aio.Channel]]


class _Held:
    """An SVID that does not change while the benchmark runs."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.current = snapshot

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Nobody is told."""


class Prober:
    """Calls of all kinds, from ``begin`` to ``end``."""

    def __init__(self, kept: dict[str, aio.Channel], open_fresh: Open) -> None:
        """``kept`` are channels that stay open, by kind."""
        self._kept = kept
        self._open_fresh = open_fresh
        self._task: asyncio.Task[None] | None = None
        self._ms: dict[str, list[float]] = {}
        self._errors: list[str] = []

    async def answer(self, order: Order) -> Order:
        """``begin``, ``end`` with what was measured, or ``counters`` of a name."""
        if order["do"] == "counters":
            return await asyncio.to_thread(_counters, str(order["name"]))
        if order["do"] == "begin":
            self._ms, self._errors = {kind: [] for kind in EVERY_S}, []
            self._task = asyncio.create_task(self._ask_all())
            return {}
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        return {"ms": self._ms, "errors": self._errors[:5], "failed": len(self._errors)}

    async def _ask_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number, (kind, every_s) in enumerate(EVERY_S.items()):
                group.create_task(self._ask_on(kind, every_s, number * SPREAD_S, group))

    async def _ask_on(self, kind: str, every_s: float, after_s: float, group: asyncio.TaskGroup) -> None:
        due = time.monotonic() + after_s
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += every_s
            group.create_task(self._ask(kind))

    async def _ask(self, kind: str) -> None:
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(CALL_S):
                if kind in self._kept:
                    await _status(self._kept[kind])
                else:
                    async with self._open_fresh() as channel:
                        await _status(channel)
        except (aio.AioRpcError, TimeoutError) as error:
            self._errors.append(f"{kind}: {error.details() if isinstance(error, aio.AioRpcError) else 'too late'}")
            self._ms[kind].append(CALL_S * 1e3)
        else:
            self._ms[kind].append((time.perf_counter() - begun) * 1e3)


async def _status(channel: aio.Channel) -> None:
    await node_pb2_grpc.NodeServiceStub(channel).GetStatus(node_pb2.GetStatusRequest(), timeout=CALL_S)


def _counters(name: str) -> Order:
    """What the daemon's metrics say, by labels as they are written there."""
    with urllib.request.urlopen(METRICS, timeout=CALL_S) as answer:
        lines = answer.read().decode().splitlines()
    return {line.split()[0]: float(line.split()[-1]) for line in lines if line.startswith(name)}


async def main(argv: Sequence[str]) -> None:
    """Probe until the input ends."""
    socket, workload, host, port, server_id = argv
    source = _Held(await fetch_once(Path(workload), 10.0))
    with tempfile.TemporaryDirectory(prefix="x0d-bench-") as directory:

        @asynccontextmanager
        async def over_tls() -> AsyncIterator[aio.Channel]:
            connector = Connector(
                host=host,
                port=int(port),
                interface="",
                expect=ExpectId(SpiffeId.parse(server_id), source, require_pq=False),
                directory=Path(directory),
                unix_s=time.time,
            )
            await connector.start()
            try:
                async with aio.insecure_channel(connector.target, options=connector.channel_options) as channel:
                    yield channel
            finally:
                await connector.stop()

        async with over_tls() as tls, aio.insecure_channel(f"unix:{socket}") as unix:
            await obey(Prober({"unix": unix, "tls": tls}, over_tls).answer)


if __name__ == "__main__":
    run_child(main(sys.argv[1:]))
