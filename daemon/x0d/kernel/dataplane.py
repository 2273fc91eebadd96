"""The data plane as the services see it: the XDP programs, their attachments and their maps.

Everything that the kernel counts lives in pinned maps, which outlive the daemon: a start opens them
and goes on, and the pinned attachments take the programs of the new life, so no packet goes
uncounted or unanswered in between.  ``maps`` says when a map is made anew, ``pipeline`` how programs
are replaced, ``attachment`` how an interface is adopted.

Loading and attaching take milliseconds and run in one worker thread; reading a map is a system
call of microseconds and is done on the spot.  While nothing is loaded, before ``open`` and after
``detach_all``, there is nothing to read, and what would write is ``PinMissing``.
"""

import asyncio
import errno
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from x0d.errors import PinMissing
from x0d.kernel import bpf, pins
from x0d.kernel.loaded import OBJECT_FILE, LoadedPlane, PlaneSettings, require_bpf
from x0d.kernel.syn import SynLimit, put_syn_limit, read_syn_drops
from x0d.mesh.model import Address, ProbeRecord
from x0d.ports import Attachment, MapStatus, ObjectStatus, PlaneSample, ProgramStatus, Upgraded

__all__ = ["OBJECT_FILE", "PlaneSettings", "XdpDataPlane", "require_bpf"]

DETACHED: Final = "everything is detached: x0ctl ebpf attach --all"
"""What ``shortfall`` says of every stage while nothing is loaded."""
_NO_MAPS: Final[Mapping[str, int]] = MappingProxyType({})
T = TypeVar("T")


class XdpDataPlane:
    """``ports.DataPlane`` and ``ports.SynGuard`` on the kernel; ``open`` it first."""

    def __init__(
        self, bpffs_dir: Path, settings: PlaneSettings, on_programs: Callable[[], None] = lambda: None
    ) -> None:
        """Settings only, without effect.

        ``on_programs`` is called on the event loop whenever ``programs`` may tell something else than before.
        """
        self._on_programs = on_programs
        self._bpffs_dir = bpffs_dir
        self._settings = settings
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="x0d-xdp")
        self._loaded: LoadedPlane | None = None
        self._retired_may_move = True

    async def open(self) -> None:
        """Load the programs with the pinned maps and write their configuration; nothing happens if they are.

        Raises:
            NotSupported: no bpf(2), no libbpf, no bpf filesystem, or the object is not built.
            InvalidInput: the object file is not one, or of another layout.
            KernelRefused: the kernel loads the root of neither variant; refused stages are in ``programs``.
        """
        if self._loaded is None:
            self._loaded = await self._in_worker(lambda: LoadedPlane(self._bpffs_dir, self._settings))
            self._retired_may_move = True
            self._on_programs()

    def close(self) -> None:
        """Let go of every descriptor; what is pinned goes on."""
        self._worker.shutdown(wait=True)
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close()

    @property
    def map_fds(self) -> Mapping[str, int]:
        """Descriptors of the shared maps by name, for reading and writing; empty while nothing is loaded."""
        return self._loaded.map_fds() if self._loaded is not None else _NO_MAPS

    @property
    def maps_dir(self) -> Path:
        """Where the maps of this network namespace are pinned."""
        if self._loaded is not None:
            return self._loaded.maps.directory
        return self._bpffs_dir / str(pins.netns_inode()) / pins.MAPS_DIR

    # ---- attachments ----

    async def attach(self, interface: str, ifindex: int) -> Attachment:
        """Adopt or attach; see ``ports.DataPlane``."""
        loaded = self._open_plane(f"attach XDP to {interface}")
        try:
            attachment = await self._in_worker(lambda: loaded.attach(interface, ifindex))
        finally:
            self._on_programs()  # the variant without multi-buffer frames is loaded when an interface needs it
        self._retired_may_move = True
        return attachment

    async def detach(self, ifindex: int) -> None:
        """Take our program off an interface and forget what it counted there."""
        loaded = self._loaded
        if loaded is not None:
            await self._in_worker(lambda: loaded.forget(ifindex))

    async def verify(self) -> Mapping[int, str]:
        """Ask the kernel whether our programs are where they were attached; see ``ports.DataPlane``."""
        loaded = self._loaded
        return await self._in_worker(loaded.attacher.verify) if loaded is not None else {}

    async def collect(self, ifindexes: frozenset[int]) -> None:
        """Unpin and forget what belongs to interfaces that no longer exist."""
        loaded = self._loaded
        if loaded is not None:
            await self._in_worker(lambda: loaded.collect(ifindexes))

    async def detach_all(self) -> None:
        """Leave nothing of this network namespace in the kernel; ``open`` starts anew."""
        # Taken away here, on the event loop's thread, so that nobody there reads a closed descriptor.
        loaded, self._loaded = self._loaded, None
        try:
            await self._in_worker(lambda: self._remove(loaded))
        finally:
            self._on_programs()

    def _remove(self, loaded: LoadedPlane | None) -> None:
        try:
            pins.remove_namespace(self._bpffs_dir / str(pins.netns_inode()))
        finally:
            if loaded is not None:
                loaded.close()

    async def upgrade(self) -> Upgraded:
        """Read the object again and put it in force; see ``ports.DataPlane``."""
        loaded = self._open_plane("upgrade the programs")
        upgraded = await self._in_worker(loaded.upgrade)
        self._on_programs()
        return upgraded

    def shortfall(self, stage: str) -> str:
        """Why a stage does nothing somewhere; see ``ports.DataPlane``."""
        return self._loaded.shortfall(stage) if self._loaded is not None else DETACHED

    def attached_ifindexes(self) -> frozenset[int]:
        """Interfaces with pins of ours, attached by this or an earlier life of the daemon."""
        return self._loaded.attached_ifindexes() if self._loaded is not None else frozenset()

    # ---- neighbours ----

    def put_link(self, ifindex: int, neighbour: Address, local: Address) -> None:
        """Let XDP answer and accept this neighbour's probes; the record of an adopted link stays.

        Raises:
            KernelRefused: E2BIG at ``layout.LINKS_MAX`` neighbours.
        """
        self._open_plane(f"put neighbour {neighbour}").neighbours.put(ifindex, neighbour, local)

    def delete_link(self, ifindex: int, neighbour: Address) -> None:
        """Forget a neighbour; nothing happens if it is not there."""
        if self._loaded is not None:
            self._loaded.neighbours.delete(ifindex, neighbour)

    def links(self) -> Mapping[tuple[int, Address], Address]:
        """Own address by interface and neighbour, of all records there are, adopted ones among them."""
        return self._loaded.neighbours.links() if self._loaded is not None else {}

    def probe_record(self, ifindex: int, neighbour: Address) -> ProbeRecord | None:
        """Read the kernel's record; its prober's half is zero until this life's first reply."""
        return self._loaded.neighbours.record(ifindex, neighbour) if self._loaded is not None else None

    # ---- SYNs to our ports ----

    def set_limit(self, ports: Sequence[int], rate_pps: int, burst: int) -> None:
        """Limit SYNs by source; see ``ports.SynGuard``.

        Raises:
            PinMissing: nothing is loaded, or an object of before the limit.
            KernelRefused: another refusal.
        """
        put_syn_limit(self._open_plane("limit SYNs").map_fds(), SynLimit(tuple(ports), rate_pps, burst))

    def limited(self) -> int:
        """SYNs dropped; see ``ports.SynGuard``."""
        return read_syn_drops(self.map_fds, bpf.possible_cpus())

    # ---- reading ----

    def sample(self) -> PlaneSample:
        """Read every counter in one pass; see ``ports.DataPlane``."""
        loaded, now_ns = self._loaded, time.monotonic_ns()
        if loaded is None:
            return PlaneSample(now_ns, (), (), 0, 0)
        if self._retired_may_move:
            # Asked before reading: what is counted until the last adoption is read once after it.
            self._retired_may_move = loaded.has_unadopted()
            loaded.retired.refresh()
        return replace(loaded.counters.sample(now_ns), syn_limited=self.limited())

    def programs(self) -> Sequence[ProgramStatus]:
        """Every program of the object, loaded or not; empty while nothing is loaded."""
        return self._loaded.programs() if self._loaded is not None else ()

    def maps(self) -> Sequence[MapStatus]:
        """Every pinned map, with the memory it takes."""
        return self._loaded.maps.statuses() if self._loaded is not None else ()

    def objects(self) -> Sequence[ObjectStatus]:
        """The object that was read last; empty while nothing is loaded."""
        return (self._loaded.object_status,) if self._loaded is not None else ()

    def _open_plane(self, operation: str) -> LoadedPlane:
        """What is loaded.

        Raises:
            PinMissing: nothing is.
        """
        if self._loaded is None:
            detail = "nothing of x0d's is in the kernel: it was detached; x0ctl ebpf attach --all loads it again"
            raise PinMissing(operation, errno.ENOENT, detail)
        return self._loaded

    async def _in_worker(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)
