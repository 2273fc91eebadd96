"""What is in the kernel while the data plane is open: maps, programs and attachments of one namespace.

Everything here blocks, from microseconds to some hundred milliseconds, and runs in the one worker
thread of ``dataplane``, where the order of things is given by the order of calls.
"""

import errno
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from x0d import telemetry
from x0d.errors import InvalidInput, KernelRefused, NotSupported
from x0d.kernel import bpf, layout, pins
from x0d.kernel.attachment import XdpAttacher
from x0d.kernel.clock import tick_ns
from x0d.kernel.counters import InterfaceCounters, RetiredCounters
from x0d.kernel.former import find_former
from x0d.kernel.held_links import HeldLinks
from x0d.kernel.libbpf import Libbpf
from x0d.kernel.maps import LATER, STAGES, PinnedMaps
from x0d.kernel.neighbours import NeighbourTable
from x0d.kernel.pipeline import (
    ROOT,
    Pipeline,
    Program,
    ProgramLoader,
    Renewal,
    array_pin,
    describe_program,
    load_pipeline,
    load_renewal,
    program_name,
    refused_status,
)
from x0d.kernel.plane_object import PlaneObject, read_plane_object
from x0d.kernel.refusals import with_rest_in_force
from x0d.ports import Attachment, ObjectStatus, ProgramStatus, Upgraded

OBJECT_FILE = Path(__file__).parent / "objects" / "xdp.bpf.o"

NOWHERE = "x0d's programs are on no interface; x0ctl ebpf list tells why"
"""What ``shortfall`` says of every stage then."""
_CAPABILITIES = "x0d needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PlaneSettings:
    """What of the configuration the XDP programs are loaded and set up with."""

    allow_skb_mode: bool
    probe_port: int
    probe_rate_pps: int
    """Probes answered or accepted per interface and second."""
    probe_burst: int
    """Depth of the bucket, probes."""
    session: int
    """The prober's: 64 bits, random and new at each start of the daemon, never 0."""
    deny_entries_max: int = layout.DENY_DEFAULT
    sources_max: int = layout.SOURCES_DEFAULT
    """Source addresses tracked at a time."""
    talkers: bool = True
    """Count every source, not only those that a limit holds for."""
    event_buffer_bytes: int = layout.EVENT_BYTES_DEFAULT
    """A power of two and whole pages."""
    objects_dir: Path | None = None
    """Directory of ``xdp.bpf.o``; None: that of the installation."""

    @property
    def object_file(self) -> Path:
        """The compiled programs."""
        return OBJECT_FILE if self.objects_dir is None else self.objects_dir / OBJECT_FILE.name


class LoadedPlane:
    """Programs, maps and attachments; made by loading them, ended by ``close``."""

    def __init__(self, bpffs_dir: Path, settings: PlaneSettings) -> None:
        """Load with what is pinned; errors as in ``XdpDataPlane.open``."""
        self._settings = settings
        self._libbpf = Libbpf()
        self._object = read_plane_object(settings.object_file)
        require_bpf()
        self.directory = pins.prepare_directory(bpffs_dir)
        shapes = layout.map_shapes(settings.deny_entries_max, settings.sources_max, settings.event_buffer_bytes)
        self.maps = PinnedMaps(self.directory, shapes)
        self._held = HeldLinks()
        self._pipelines: dict[bool, Pipeline] = {}
        self._refused: dict[bool, KernelRefused] = {}
        try:
            self._open()
        except BaseException:  # whatever ends the opening leaves no descriptor; it goes on
            self.close()
            raise

    def _open(self) -> None:
        self.maps.open()
        try:
            self.pipeline(frags=True)
        except KernelRefused as refusal:  # below 5.18
            log.info(telemetry.XDP_FRAGS_REFUSED, errno=refusal.errno)
            self.pipeline(frags=False)
        self.maps.configure(self._config())
        self.attacher = XdpAttacher(
            self.directory,
            lambda frags: self.pipeline(frags=frags),
            self._held,
            allow_skb_mode=self._settings.allow_skb_mode,
            maps_are_continued=self.maps.are_continued,
        )
        self.retired = RetiredCounters(self.directory)
        self.counters = InterfaceCounters(self.maps.fds, self.retired)
        self.neighbours = NeighbourTable(self.maps.fds, self._settings.session)

    @property
    def object_status(self) -> ObjectStatus:
        """Of the object that was read last."""
        return self._object.status

    def close(self) -> None:
        """Let go of every descriptor; what is pinned goes on."""
        self._held.close()
        for pipeline in self._pipelines.values():
            pipeline.close()
        self._pipelines.clear()
        self.maps.close()

    # ---- programs ----

    def pipeline(self, *, frags: bool) -> Pipeline:
        """Programs of a variant; a refusal is remembered, the kernel will not change its mind.

        Raises:
            KernelRefused: the root is refused, and no earlier life's is attached.
        """
        if frags in self._refused:
            raise self._refused[frags]
        if frags not in self._pipelines:
            self._pipelines[frags] = pipeline = self._load_or_keep(frags=frags)
            self._pin_array(pipeline)
            for part, reason in pipeline.refused.items():
                name = program_name(part, frags=frags)
                log.warning(telemetry.PROGRAM_REFUSED, program=name, error=str(reason), log_tail=reason.log_tail)
        return self._pipelines[frags]

    def _load_or_keep(self, *, frags: bool) -> Pipeline:
        """Load a variant, or find one of an earlier life that has what is refused."""
        try:
            loaded = load_pipeline(self._loader(self._object), frags=frags)
        except KernelRefused as refusal:
            former = self._find_former(frags=frags)
            if former is None or self.maps.missing() - LATER:
                self._refused[frags] = refusal
                raise
            former.refused[ROOT] = refusal
            return former
        former = self._find_former(frags=frags) if loaded.refused else None
        if former is None:
            return loaded
        if former.stages.keys() <= loaded.stages.keys():
            former.close()
            return loaded
        former.refused.update(loaded.refused)
        loaded.close()
        return former

    def _find_former(self, *, frags: bool) -> Pipeline | None:
        return find_former(self.directory, frags=frags) if self.maps.are_continued else None

    def shortfall(self, stage: str) -> str:
        """Why a stage does nothing somewhere; see ``ports.DataPlane``."""
        variants = [frags for frags in (True, False) if self.attacher.attached(frags=frags)]
        if not variants:
            return NOWHERE
        return next((text for frags in variants if (text := self._pipelines[frags].shortfall(stage))), "")

    def programs(self) -> list[ProgramStatus]:
        """Every program of the object, of both variants."""
        found = []
        for frags in (True, False):
            if frags in self._pipelines:
                found += self._pipelines[frags].statuses()
                continue
            refusal = self._refused.get(frags)
            other = "" if frags else "the variant with multi-buffer frames serves"
            found.append(refused_status(ROOT, refusal, frags=frags, reason=other))
            reason = "its root program is refused" if refusal else other
            found += [refused_status(stage, None, frags=frags, reason=reason) for stage in layout.STAGES]
        return found

    def upgrade(self) -> Upgraded:
        """Read the object again and put it in force; errors as in ``ports.DataPlane.upgrade``."""
        try:
            return self._upgrade()
        except (InvalidInput, KernelRefused, NotSupported) as error:
            raise with_rest_in_force(error) from error

    def _upgrade(self) -> Upgraded:
        started_s = time.perf_counter()
        self.attacher.verify()  # one that has lost its pins could not be changed over
        found = read_plane_object(self._settings.object_file)
        renewals: list[Renewal] = []
        try:
            for pipeline in self._pipelines.values():
                renewals.append(load_renewal(self._loader(found), pipeline))  # noqa: PERF401  undone when one fails
            self._put_in_force(renewals)
        except (InvalidInput, KernelRefused):
            for renewal in renewals:
                renewal.discard()
            raise
        names = tuple(name for renewal in renewals for name in renewal.names())
        for renewal in renewals:
            settled = renewal.settle()
            self._pipelines[settled.frags] = settled
            self._pin_array(settled)
        changed = (found.status.path,) if found.status.sha256 != self.object_status.sha256 else ()
        self._object = found
        self._refused.clear()
        return Upgraded(names, (time.perf_counter() - started_s) * 1000, changed)

    def _put_in_force(self, renewals: Sequence[Renewal]) -> None:
        """Swap slots and attachments; a refusal of any puts back all that was done."""
        replaced: list[tuple[int, Pipeline]] = []
        try:
            for renewal in renewals:
                renewal.swap_stages()
                if renewal.whole is None:
                    continue
                for ifindex in self.attacher.attached(frags=renewal.former.frags):
                    self.attacher.replace(ifindex, renewal.whole)
                    replaced.append((ifindex, renewal.former))
        except KernelRefused:
            for ifindex, former in reversed(replaced):
                self.attacher.replace(ifindex, former)
            for renewal in renewals:
                renewal.revert_stages()
            raise

    def _loader(self, plane_object: PlaneObject) -> ProgramLoader:
        def load(name: str, array_fd: int | None) -> tuple[Program, int]:
            plane_object.require(name)
            shared = dict(self.maps.fds)
            if array_fd is not None:
                shared[STAGES] = array_fd
            try:
                loaded = self._libbpf.load(plane_object.elf, name, shared, self.maps.sizes)
            except InvalidInput as fault:  # of what only libbpf looks into
                reason = f"{self._settings.object_file}: {fault}"
                raise InvalidInput(reason) from fault
            made = dict(loaded.map_fds)
            own_array_fd = made.pop(STAGES)
            try:
                self.maps.adopt(made, self._config())
                program = describe_program(name, loaded.fd)
            except BaseException:  # as above
                os.close(loaded.fd)
                os.close(own_array_fd)
                raise
            if array_fd is None:
                return program, own_array_fd
            os.close(own_array_fd)
            return program, array_fd

        return load

    def _pin_array(self, pipeline: Pipeline) -> None:
        pins.replace_pin(pipeline.array_fd, self.maps.directory / array_pin(frags=pipeline.frags))

    def _config(self) -> layout.DataPlaneConfig:
        settings = self._settings
        return layout.DataPlaneConfig(
            settings.session,
            settings.probe_port,
            settings.probe_rate_pps,
            settings.probe_burst,
            talkers=settings.talkers,
            tick_ns=tick_ns(),
        )

    # ---- attachments ----

    def attach(self, interface: str, ifindex: int) -> Attachment:
        """Adopt or attach; see ``ports.DataPlane``."""
        is_new = self.counters.make(ifindex)
        try:
            return self.attacher.attach(interface, ifindex)
        except KernelRefused:
            if is_new and ifindex not in self.attached_ifindexes():
                self.counters.forget(ifindex)
            raise

    def attached_ifindexes(self) -> frozenset[int]:
        """Interfaces with an attachment of this life or of an earlier one, by its pins."""
        return frozenset(ifindex for ifindex, _hook in pins.hooks(self.directory)) | self._adopted()

    def has_unadopted(self) -> bool:
        """Whether programs of an earlier life still run somewhere."""
        return not self.attached_ifindexes() <= self._adopted()

    def _adopted(self) -> set[int]:
        return {*self.attacher.attached(frags=True), *self.attacher.attached(frags=False)}

    def collect(self, ifindexes: frozenset[int]) -> None:
        """Forget what belongs to other interfaces."""
        known = self.attached_ifindexes() | {ifindex for ifindex, _ in self.neighbours.links()}
        for ifindex in known | self.counters.ifindexes():
            if ifindex not in ifindexes:
                self.forget(ifindex)

    def forget(self, ifindex: int) -> None:
        """Take our program off an interface and drop what it has counted and known there."""
        self.attacher.detach(ifindex)
        self.neighbours.forget(ifindex)
        self.counters.forget(ifindex)

    def map_fds(self) -> Mapping[str, int]:
        """Descriptors of the shared maps."""
        return self.maps.fds


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
