"""``ports.PolicyPlane``: deny-list, limits and sources in the maps that XDP asks.

The maps are the data plane's; they are asked for at each ``open``, because a plane that was opened
anew has others.  The work is system calls that take from microseconds to half a second, so it is done
in one thread of this object's own, one operation after the other.
"""

import asyncio
import os
import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from x0d import telemetry
from x0d.errors import KernelRefused, NotSupported
from x0d.kernel import bpf
from x0d.kernel.denylist import DenyList
from x0d.kernel.layout_policy import DENY_KEYS, IPV4_MAPPED, SOURCE
from x0d.kernel.limits import LimitTable
from x0d.kernel.policy_word import PolicyWord
from x0d.policy.model import PackedPrefix, PrefixKey
from x0d.ports.policy import LimitRate, Source

T = TypeVar("T")
_ADDRESS_BYTES = 16
_ADDRESS_PARTS = struct.Struct("12s4s")  # the first twelve bytes tell an IPv4 address
_make_source: Callable[[Iterable[object]], Source] = partial(tuple.__new__, Source)
"""As ``Source._make``, which looks at every length first and takes twice as long."""
_MAPS = frozenset(
    {
        "x0d_policy",
        "x0d_deny_filter",
        "x0d_deny_hits",
        "x0d_limit4",
        "x0d_limit6",
        "x0d_limits",
        "x0d_limit_hits",
        "x0d_sources",
        *DENY_KEYS,
    }
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Tables:
    """What is open of one plane."""

    deny: DenyList
    limits: LimitTable
    sources_fd: int
    sources: bpf.MapBuffer
    resources: ExitStack
    """Closes all of it."""


class KernelPolicy:
    """The policy plane over the maps of an XDP data plane."""

    def __init__(
        self, map_fds: Callable[[], Mapping[str, int]], maps_dir: Callable[[], Path], deny_entries_max: int
    ) -> None:
        """``map_fds`` tells the descriptors by ELF name, which stay the plane's; ``maps_dir`` where they are pinned."""
        self._map_fds = map_fds
        self._maps_dir = maps_dir
        self._deny_entries_max = deny_entries_max
        self._tables: _Tables | None = None
        self._suspended = False
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy")

    async def open(self) -> None:
        """Take over what is in force; again after the plane was opened anew.

        Raises:
            NotSupported: the plane is not loaded.
            KernelRefused: a map could not be read or made.
        """
        await self._run(self._open)

    async def close(self) -> None:
        """Close descriptors, after what is under way; everything stays in force."""
        await self._run(self._close)
        self._worker.shutdown()

    async def suspend(self) -> None:
        """As the port says; until ``open``."""
        await self._run(self._suspend)

    async def replace_deny(self, entries: Mapping[PrefixKey, int]) -> None:
        """As the port says."""
        await self._do(lambda tables: tables.deny.replace(entries), None)
        self._sweep_later()

    async def prepare_deny(self, entries: Mapping[PrefixKey, int]) -> None:
        """As the port says."""
        await self._do(lambda tables: tables.deny.prepare(entries), None)

    async def abandon_deny(self) -> None:
        """As the port says."""
        await self._do(lambda tables: tables.deny.abandon(), None)

    async def put_deny(self, entries: Mapping[PrefixKey, int]) -> None:
        """As the port says."""
        await self._do(lambda tables: tables.deny.put(entries), None)
        self._sweep_later()

    async def delete_deny(self, prefixes: Collection[PrefixKey]) -> None:
        """As the port says."""
        await self._do(lambda tables: tables.deny.delete(prefixes), None)
        self._sweep_later()

    async def deny(self) -> Mapping[PrefixKey, int]:
        """As the port says."""
        return await self._do(lambda tables: dict(tables.deny.entries), {})

    async def deny_hits(self) -> Mapping[PrefixKey, int]:
        """As the port says."""
        return await self._do(lambda tables: tables.deny.hits(), {})

    async def replace_limits(self, limits: Mapping[PackedPrefix, LimitRate]) -> None:
        """As the port says."""
        await self._do(lambda tables: tables.limits.replace(limits), None)

    async def limits(self) -> Mapping[PackedPrefix, LimitRate]:
        """As the port says."""
        return await self._do(lambda tables: dict(tables.limits.limits), {})

    async def limit_hits(self) -> Mapping[PackedPrefix, int]:
        """As the port says."""
        return await self._do(lambda tables: tables.limits.hits(), {})

    async def sources(self) -> Sequence[Source]:
        """As the port says."""
        return await self._do(_read_sources, ())

    # ---- in the worker thread ----

    def _open(self) -> None:
        self._close()
        if not self._map_fds():
            raise NotSupported("deny-list and limits", "no data plane is loaded")
        with ExitStack() as stack:
            # Copies: the plane may close its own while something is under way here.
            map_fds = {name: os.dup(fd) for name, fd in self._map_fds().items() if name in _MAPS}
            for fd in map_fds.values():
                stack.callback(os.close, fd)
            word = PolicyWord(map_fds["x0d_policy"])
            deny = DenyList(map_fds, self._maps_dir(), word, self._deny_entries_max)
            stack.callback(deny.close)
            deny.adopt()
            limits = LimitTable(map_fds, word)
            limits.adopt()
            sources = bpf.MapBuffer(_ADDRESS_BYTES, SOURCE.size)
            self._tables = _Tables(deny, limits, map_fds["x0d_sources"], sources, stack.pop_all())
            self._suspended = False

    def _suspend(self) -> None:
        self._suspended = True
        self._close()

    def _close(self) -> None:
        tables, self._tables = self._tables, None
        if tables is not None:
            tables.resources.close()

    def _sweep(self) -> None:
        if self._tables is not None:
            self._tables.deny.sweep()

    # ---- on the event loop ----

    async def _do(self, work: Callable[[_Tables], T], suspended: T) -> T:
        """Do something with the maps; the answer while there are none is ``suspended``."""

        def whole() -> T:
            if self._suspended:
                return suspended
            assert self._tables is not None, "not open"
            return work(self._tables)

        return await self._run(whole)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    def _sweep_later(self) -> None:
        """Free what a replaced list had without letting anybody wait for a grace period."""
        self._worker.submit(self._sweep).add_done_callback(_log_refusal)


def _read_sources(tables: _Tables) -> Sequence[Source]:
    count = tables.sources.read(tables.sources_fd)
    keys = memoryview(tables.sources.keys)[: count * _ADDRESS_BYTES]
    values, words = tables.sources.values.cast("Q").tolist(), SOURCE.size // 8
    shown = [tail if head == IPV4_MAPPED else head + tail for head, tail in _ADDRESS_PARTS.iter_unpack(keys)]
    return list(map(_make_source, zip(shown, values[2::words], values[3::words], values[4::words], strict=False)))


def _log_refusal(sweep: "Future[None]") -> None:
    refusal = sweep.exception()
    if isinstance(refusal, KernelRefused):
        log.warning(telemetry.POLICY_SWEEP_FAILED, error=str(refusal))
