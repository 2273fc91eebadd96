"""The data plane as the services see it: the XDP program, its attachments and its maps.

Everything that the kernel counts lives in pinned maps, which outlive the daemon: a start opens them
and goes on.  They are used again only if their shapes and the layout version in ``x0d_config`` are
this version's.  Otherwise they are made anew, with a warning in the log: they hold counters and
records that refill by themselves, nothing that an operator has put there, and a record read by the
wrong layout would invent failures.  The pinned attachments are adopted all the same and take a
program with the new maps, so no packet goes uncounted or unanswered in between.

Loading and attaching take milliseconds and run in one worker thread; reading a map is a system
call of microseconds and is done on the spot.
"""

import asyncio
import errno
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import structlog

from x0d import telemetry
from x0d.errors import KernelRefused, NotSupported
from x0d.kernel import bpf, layout, pins
from x0d.kernel.attachment import XdpAttacher
from x0d.kernel.libbpf import Libbpf, read_object
from x0d.mesh.model import Address, ProbeRecord
from x0d.ports import Attachment, PacketCounter, ProbeCounter

OBJECT_FILE = Path(__file__).parent / "objects" / "xdp.bpf.o"
PROGRAMS = {True: "x0d_xdp_frags", False: "x0d_xdp"}
"""Program names by whether they take multi-buffer frames."""

_CAPABILITIES = "x0d needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root"

log = structlog.get_logger(__name__)
T = TypeVar("T")


class XdpDataPlane:
    """``ports.DataPlane`` on the kernel; ``open`` it first."""

    def __init__(
        self,
        bpffs_dir: Path,
        *,
        allow_skb_mode: bool,
        probe_port: int,
        probe_rate_pps: int,
        probe_burst: int,
        session: int,
        object_file: Path = OBJECT_FILE,
    ) -> None:
        """Settings only, without effect; ``session`` is the prober's, random and not 0."""
        self._bpffs_dir = bpffs_dir
        self._allow_skb_mode = allow_skb_mode
        self._config = layout.DataPlaneConfig(session, probe_port, probe_rate_pps, probe_burst)
        self._object_file = object_file
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="x0d-xdp")
        self._cpus = bpf.possible_cpus()
        self._program_fds: dict[bool, int] = {}
        self._refused_programs: dict[bool, KernelRefused] = {}
        self._map_fds: dict[str, int] = {}

    # ---- opening ----

    async def open(self) -> None:
        """Load the program with its pinned maps and write its configuration.

        Raises:
            NotSupported: no bpf(2), no libbpf, no bpf filesystem, or the object is not built.
            KernelRefused: the kernel loads neither variant of the program.
        """
        await self._in_worker(self._open)

    def _open(self) -> None:
        self._libbpf = Libbpf()
        self._elf = read_object(self._object_file)
        require_bpf()
        self._directory = pins.prepare_directory(self._bpffs_dir)
        self._map_fds = self._open_pinned_maps()
        try:
            self._program(frags=True)
        except KernelRefused as refusal:  # below 5.18
            log.info(telemetry.XDP_FRAGS_REFUSED, errno=refusal.errno)
            self._program(frags=False)
        bpf.update(self._map_fds["x0d_config"], bytes(4), layout.encode_config(self._config))
        self._attacher = XdpAttacher(self._directory, self._program, allow_skb_mode=self._allow_skb_mode)

    def _open_pinned_maps(self) -> dict[str, int]:
        """Pinned maps that can be used again; others are unpinned."""
        maps_dir = self._directory / pins.MAPS_DIR
        opened = {name: fd for name in layout.MAPS if (fd := bpf.open_pin(maps_dir / name)) is not None}
        misfits = [name for name, fd in opened.items() if layout.MapShape(*bpf.map_shape(fd)) != layout.MAPS[name]]
        version = layout.LAYOUT_VERSION
        if "x0d_config" in opened and "x0d_config" not in misfits:
            value = bpf.lookup(opened["x0d_config"], bytes(4), layout.CONFIG.size) or bytes(layout.CONFIG.size)
            # 0: made, and its daemon killed before it wrote anything.
            version = layout.decode_config(value).layout_version or version
        if not misfits and version == layout.LAYOUT_VERSION:
            return opened
        log.warning(
            telemetry.DATAPLANE_MAPS_REMADE, pinned_version=version, version=layout.LAYOUT_VERSION, misfits=misfits
        )
        for name, fd in opened.items():
            (maps_dir / name).unlink()
            os.close(fd)
        return {}

    def _load(self, *, frags: bool) -> None:
        """Load a variant with the maps there are; pin those that it made."""
        loaded = self._libbpf.load(self._elf, PROGRAMS[frags], self._map_fds)
        for name, fd in loaded.map_fds.items():
            if name in self._map_fds:
                os.close(fd)
            else:
                self._map_fds[name] = fd
                bpf.pin(fd, self._directory / pins.MAPS_DIR / name)
        self._program_fds[frags] = loaded.fd

    def _program(self, frags: bool) -> int:
        """Descriptor of a variant; a refusal is remembered, the kernel will not change its mind."""
        if frags in self._refused_programs:
            raise self._refused_programs[frags]
        if frags not in self._program_fds:
            try:
                self._load(frags=frags)
            except KernelRefused as refusal:
                self._refused_programs[frags] = refusal
                raise
        return self._program_fds[frags]

    def close(self) -> None:
        """Let go of every descriptor; what is pinned goes on."""
        self._worker.shutdown(wait=True)
        for fd in (*self._program_fds.values(), *self._map_fds.values()):
            os.close(fd)
        self._program_fds.clear()
        self._map_fds.clear()

    # ---- attachments ----

    async def attach(self, interface: str, ifindex: int) -> Attachment:
        """Adopt or attach; see ``ports.DataPlane``."""
        return await self._in_worker(lambda: self._attacher.attach(interface, ifindex))

    async def detach(self, ifindex: int) -> None:
        """Take our program off an interface and forget what it counted there."""
        await self._in_worker(lambda: self._forget(ifindex))

    async def collect(self, ifindexes: frozenset[int]) -> None:
        """Unpin and forget what belongs to interfaces that no longer exist."""
        await self._in_worker(lambda: self._collect(ifindexes))

    def attached_ifindexes(self) -> frozenset[int]:
        """Interfaces with pins of ours, attached by this or an earlier life of the daemon."""
        return frozenset(ifindex for ifindex, _hook in pins.hooks(self._directory))

    def detach_all(self) -> None:
        """Detach from every interface of this network namespace and drop the maps; blocks some milliseconds."""
        pins.remove_namespace(self._bpffs_dir / str(pins.netns_inode()))

    def _collect(self, ifindexes: frozenset[int]) -> None:
        known = self.attached_ifindexes() | {ifindex for ifindex, _ in self.links()}
        for ifindex in known | {counter.ifindex for counter in self.packet_counters()}:
            if ifindex not in ifindexes:
                self._forget(ifindex)

    def _forget(self, ifindex: int) -> None:
        """All keys start with the interface's index."""
        pins.remove_hook(self._directory / f"{ifindex}{pins.HOOK_SUFFIX}")
        for name in ("x0d_links", "x0d_locals", "x0d_buckets", "x0d_counters", "x0d_probe_events"):
            for key, _value in list(self._entries(name)):
                if struct.unpack_from("=I", key) == (ifindex,):
                    bpf.delete(self._map_fds[name], key)

    # ---- neighbours ----

    def put_link(self, ifindex: int, neighbour: Address, local: Address) -> None:
        """Let XDP answer and accept this neighbour's probes; the record of an adopted link stays.

        Raises:
            KernelRefused: E2BIG at ``layout.LINKS_MAX`` neighbours.
        """
        links, key = self._map_fds["x0d_links"], layout.encode_link_key(ifindex, neighbour)
        value = bpf.lookup(links, key, layout.LINK.size, bpf.MAP_LOCK)
        bpf.update(self._map_fds["x0d_locals"], layout.encode_link_key(ifindex, local), layout.LOCAL.pack(1))
        if value is None:
            bpf.update(links, key, layout.encode_link(local, ProbeRecord()), bpf.MAP_NOEXIST)
            return
        former, record = layout.decode_link(value)
        if former != local:
            # Counts of the microseconds between reading and writing are lost; an address changes rarely.
            bpf.update(links, key, layout.encode_link(local, record), bpf.MAP_EXIST | bpf.MAP_LOCK)
            self._drop_unused_local(ifindex, former)

    def delete_link(self, ifindex: int, neighbour: Address) -> None:
        """Forget a neighbour; nothing happens if it is not there."""
        links, key = self._map_fds["x0d_links"], layout.encode_link_key(ifindex, neighbour)
        value = bpf.lookup(links, key, layout.LINK.size, bpf.MAP_LOCK)
        if value is not None and bpf.delete(links, key):
            self._drop_unused_local(ifindex, layout.decode_link(value)[0])

    def links(self) -> Mapping[tuple[int, Address], Address]:
        """Own address by interface and neighbour, of all records there are, adopted ones among them."""
        return {
            layout.decode_link_key(key): layout.decode_link(value)[0]
            for key, value in self._entries("x0d_links", bpf.MAP_LOCK)
        }

    def _drop_unused_local(self, ifindex: int, local: Address) -> None:
        if (ifindex, local) not in {(at, own) for (at, _neighbour), own in self.links().items()}:
            bpf.delete(self._map_fds["x0d_locals"], layout.encode_link_key(ifindex, local))

    # ---- reading ----

    def probe_record(self, ifindex: int, neighbour: Address) -> ProbeRecord | None:
        """Read the kernel's record; its prober's half is zero until this life's first reply."""
        key = layout.encode_link_key(ifindex, neighbour)
        value = bpf.lookup(self._map_fds["x0d_links"], key, layout.LINK.size, bpf.MAP_LOCK)
        if value is None:
            return None
        record = layout.decode_link(value)[1]
        if record.session == self._config.session:
            return record
        return ProbeRecord(record.peer_session, record.requests_received, record.request_last_at_ns)

    def packet_counters(self) -> Sequence[PacketCounter]:
        """Sum over the CPUs, by interface, class and verdict."""
        found = []
        for key, value in self._entries("x0d_counters"):
            ifindex, protocol_class, verdict = layout.COUNTER_KEY.unpack(key)
            packets, size = map(sum, zip(*layout.COUNTER.iter_unpack(value), strict=True))
            names = layout.CLASSES[protocol_class], layout.VERDICTS[verdict]
            found.append(PacketCounter(ifindex, *names, packets, size))
        return found

    def probe_counters(self) -> Sequence[ProbeCounter]:
        """Sum over the CPUs, by interface and outcome."""
        found = []
        for key, value in self._entries("x0d_probe_events"):
            ifindex, event = layout.PROBE_EVENT_KEY.unpack(key)
            packets = sum(count for (count,) in layout.COUNT.iter_unpack(value))
            found.append(ProbeCounter(ifindex, layout.PROBE_EVENTS[event], packets))
        return found

    def _entries(self, name: str, flags: int = bpf.MAP_ANY) -> list[tuple[bytes, bytes]]:
        shape = layout.MAPS[name]
        cpus = self._cpus if name in layout.PER_CPU_MAPS else 1
        return list(bpf.entries(self._map_fds[name], shape.key_size, shape.value_size * cpus, flags))

    async def _in_worker(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)


def require_bpf() -> None:
    """Try the smallest program there is.

    Raises:
        NotSupported: this kernel has no bpf(2), or this process may not use it.
    """
    try:
        program_fd = bpf.load_instructions(bpf.XDP_PROGRAM, bpf.RETURN_PASS)
    except KernelRefused as refusal:
        if refusal.errno == errno.ENOSYS:
            raise NotSupported("bpf(2)", "this kernel is built without it, or the container forbids it") from refusal
        if refusal.errno in {errno.EPERM, errno.EACCES}:
            raise NotSupported("bpf(2)", f"the kernel answers {refusal}; {_CAPABILITIES}") from refusal
        raise
    os.close(program_fd)
