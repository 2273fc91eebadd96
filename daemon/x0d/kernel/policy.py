"""``ports.PolicyPlane``: deny-list, limits and sources in the maps that XDP asks.

The maps are the data plane's; they are asked for at each ``open``, because a plane that was opened
anew has others.  The work is system calls that take from microseconds to half a second, so it is done
in one thread of this object's own, one operation after the other.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from x0d import telemetry
from x0d.errors import KernelRefused
from x0d.kernel import bpf
from x0d.kernel.denylist import DenyList
from x0d.kernel.layout_policy import IPV4_MAPPED, SOURCE
from x0d.kernel.limits import LimitTable
from x0d.kernel.policy_word import PolicyWord
from x0d.policy.model import PackedPrefix
from x0d.ports.policy import LimitRate, Source

T = TypeVar("T")
_ADDRESS_BYTES = 16

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Tables:
    """What is open of one plane."""

    deny: DenyList
    limits: LimitTable
    sources_fd: int
    sources: bpf.MapBuffer


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
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy")

    async def open(self) -> None:
        """Take over what is in force; again after the plane was opened anew.

        Raises:
            KernelRefused: a map could not be read or made.
        """
        await self._do(self._open)

    async def close(self) -> None:
        """Close descriptors, after what is under way; everything stays in force."""
        await self._do(self._close)
        self._worker.shutdown()

    async def replace_deny(self, entries: Mapping[PackedPrefix, int]) -> None:
        """As the port says."""
        await self._do(lambda: self._open_tables().deny.replace(entries))
        self._sweep_later()

    async def put_deny(self, entries: Mapping[PackedPrefix, int]) -> None:
        """As the port says."""
        await self._do(lambda: self._open_tables().deny.put(entries))
        self._sweep_later()

    async def delete_deny(self, prefixes: Collection[PackedPrefix]) -> None:
        """As the port says."""
        await self._do(lambda: self._open_tables().deny.delete(prefixes))
        self._sweep_later()

    async def deny(self) -> Mapping[PackedPrefix, int]:
        """As the port says."""
        return await self._do(lambda: dict(self._open_tables().deny.entries))

    async def deny_hits(self) -> Mapping[PackedPrefix, int]:
        """As the port says."""
        return await self._do(lambda: self._open_tables().deny.hits())

    async def replace_limits(self, limits: Mapping[PackedPrefix, LimitRate]) -> None:
        """As the port says."""
        await self._do(lambda: self._open_tables().limits.replace(limits))

    async def limits(self) -> Mapping[PackedPrefix, LimitRate]:
        """As the port says."""
        return await self._do(lambda: dict(self._open_tables().limits.limits))

    async def limit_hits(self) -> Mapping[PackedPrefix, int]:
        """As the port says."""
        return await self._do(lambda: self._open_tables().limits.hits())

    async def sources(self) -> Sequence[Source]:
        """As the port says."""
        return await self._do(self._read_sources)

    # ---- in the worker thread ----

    def _open(self) -> None:
        self._close()
        map_fds = self._map_fds()
        word = PolicyWord(map_fds["x0d_policy"])
        deny = DenyList(map_fds, self._maps_dir(), word, self._deny_entries_max)
        deny.adopt()
        limits = LimitTable(map_fds, word)
        limits.adopt()
        self._tables = _Tables(deny, limits, map_fds["x0d_sources"], bpf.MapBuffer(_ADDRESS_BYTES, SOURCE.size))

    def _close(self) -> None:
        tables, self._tables = self._tables, None
        if tables is not None:
            tables.deny.close()

    def _open_tables(self) -> _Tables:
        assert self._tables is not None, "not open"
        return self._tables

    def _read_sources(self) -> Sequence[Source]:
        tables = self._open_tables()
        count = tables.sources.read(tables.sources_fd)
        keys, values = bytes(tables.sources.keys), tables.sources.values.cast("Q").tolist()
        addresses = [keys[at : at + _ADDRESS_BYTES] for at in range(0, count * _ADDRESS_BYTES, _ADDRESS_BYTES)]
        shown = [address[12:] if address.startswith(IPV4_MAPPED) else address for address in addresses]
        words = SOURCE.size // 8
        return list(map(Source, shown, values[2::words], values[3::words], values[4::words]))

    # ---- on the event loop ----

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    def _sweep_later(self) -> None:
        """Free what a replaced list had without letting anybody wait for a grace period."""
        self._worker.submit(self._sweep).add_done_callback(_log_refusal)

    def _sweep(self) -> None:
        if self._tables is not None:
            self._tables.deny.sweep()


def _log_refusal(sweep: "Future[None]") -> None:
    refusal = sweep.exception()
    if isinstance(refusal, KernelRefused):
        log.warning(telemetry.POLICY_SWEEP_FAILED, error=str(refusal))
