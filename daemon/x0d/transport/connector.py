"""What programs use to reach a daemon over mTLS: ``Connector`` with an event loop, ``open_connector`` without one."""

import asyncio
import contextlib
import random
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import grpc

from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.spiffe.fetch import fetch_once
from x0d.spiffe.snapshot import Snapshot
from x0d.transport.connector_endpoint import UNREACHABLE, Connector, DialError
from x0d.transport.connector_tls import Expect, ExpectId, ExpectPinnedRoot

if TYPE_CHECKING:
    from x0d.spiffe.watcher import Watcher

__all__ = [
    "UNREACHABLE",
    "Connector",
    "DialError",
    "DialedChannel",
    "Expect",
    "ExpectId",
    "ExpectPinnedRoot",
    "open_connector",
]

WATCH_AFTER_S: Final = 10.0
"""A channel of ``open_connector`` that lives longer subscribes to the Workload API; most commands never get there."""
END_S_MAX: Final = 2.0
"""For tasks to end once they are cancelled; a program that is done does not wait longer for them."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DialedChannel:
    """A channel for a program without an event loop."""

    channel: grpc.Channel
    connector: Connector

    def last_error(self) -> DialError | None:
        """Why the last dial failed, where gRPC has nothing to say."""
        return self.connector.last_error


@contextlib.contextmanager
def open_connector(
    host: str,
    port: int,
    expected: SpiffeId,
    workload_socket: Path,
    timeout_s: float,
    *,
    channel_options: Sequence[tuple[str, int | str]] = (),
) -> Iterator[DialedChannel]:
    """Open a channel to exactly ``expected``, with this process's own SVID.

    Args:
        host: address or name; a link-local one with its zone: ``fe80::1%eth1``.
        port: of TCP.
        expected: who must answer.
        workload_socket: the Workload API that gives us an SVID, now and as long as the channel is open.
        timeout_s: for its first answer.
        channel_options: beside the connector's own.

    Raises:
        NoIdentity: the Workload API gives no SVID; says what to do.
        AddressUnavailable: no private socket can be made.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="connector", daemon=True)
    thread.start()
    try:
        federation = frozenset({expected.trust_domain})  # theirs is used beside our own, whichever others come along
        first = _within(loop, fetch_once(workload_socket, timeout_s, federation))
        source = _Renewed(first, workload_socket, federation)
        connector = Connector(
            host=host,
            port=port,
            interface="",
            expect=ExpectId(expected, source, require_pq=False),
            directory=Path(tempfile.gettempdir()),
            unix_s=time.time,
        )
        _within(loop, connector.start())
        asyncio.run_coroutine_threadsafe(source.watch(), loop)
        try:
            options = [*connector.channel_options, *channel_options]
            with grpc.insecure_channel(connector.target, options=options) as channel:
                yield DialedChannel(channel, connector)
        finally:
            _within(loop, connector.stop())
    finally:
        _within(loop, _end_all())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Renewed:
    """The SVID that was fetched first; of a channel that stays open, the one that is delivered later."""

    def __init__(self, first: Snapshot, workload_socket: Path, federation: frozenset[TrustDomain]) -> None:
        self._first = first
        self._workload_socket = workload_socket
        self._federation = federation
        self._watcher: Watcher | None = None
        self._subscribers: list[Callable[[], None]] = []

    @property
    def current(self) -> Snapshot | None:
        later = None if self._watcher is None else self._watcher.current
        return later or self._first

    def subscribe(self, on_change: Callable[[], None]) -> None:
        self._subscribers.append(on_change)

    async def watch(self) -> None:
        """Subscribe to the Workload API, once the channel has lived longer than most commands do."""
        await asyncio.sleep(WATCH_AFTER_S)
        # Only now: most commands never get here, and logs and metrics would double the time in which they start.
        import structlog  # noqa: PLC0415

        from x0d.spiffe.watcher import Watcher  # noqa: PLC0415

        if not structlog.is_configured():  # a command that keeps no log wants no events between its lines
            structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
        self._watcher = Watcher(
            socket=self._workload_socket,
            own_id=None,
            trust_domain=None,
            federation=self._federation,
            dev_allowed=True,
            owner_uid=None,
            unix_s=time.time,
            monotonic_ns=time.monotonic_ns,
            rng=random.Random(),
        )
        self._watcher.subscribe(self._changed)
        await self._watcher.run()

    def _changed(self) -> None:
        for on_change in self._subscribers:
            on_change()


async def _end_all() -> None:
    """End what still runs on this loop; a task that outlives its loop complains on the program's stderr."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=END_S_MAX)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _within(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` on the thread's loop and wait for it."""
    return asyncio.run_coroutine_threadsafe(work, loop).result()
