"""The tracepoint programs: loaded by what the configuration names, read in one pass, gone with the daemon.

The steady ones (drops, TCP, sockets, run queue) are one object, which CO-RE fits to the running kernel.  The system
calls' object is loaded for each measurement and unloaded after it: it slows every system call of the machine, and its
tables take 168 KB per CPU.  What it has counted is added up here.

Loading takes some 70 ms and reading about one; both are done in one worker thread.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from x0d.errors import Busy, InvalidInput, KernelRefused, NotSupported
from x0d.kernel import bpf, bpf_maps, maps, objects, reasons, trace_attach, trace_layout, trace_syscalls
from x0d.kernel.libbpf import Libbpf, read_object
from x0d.kernel.refusals import reason_beside_errno, with_rest_in_force
from x0d.kernel.trace_attach import Attached, Refusal
from x0d.kernel.trace_reading import TraceReader
from x0d.ports import MapStatus, ObjectStatus, ProgramStatus, TraceSample, Upgraded

PROGRAMS: Final = {
    "drops": ("x0d_t_drop",),
    "tcp": ("x0d_t_retransmit", "x0d_t_reset_out", "x0d_t_reset_in"),
    "sockets": ("x0d_t_state",),
    "runqueue": ("x0d_t_wakeup", "x0d_t_wakeup_new", "x0d_t_switch"),
}
"""Programs by their name in the configuration."""
SYSCALL_PROGRAMS: Final = ("x0d_t_sys_exit", "x0d_t_sys_enter")
"""The exit first: whatever is begun is then also ended."""

OBJECTS_DIR: Final = Path(__file__).parent / "objects"
STEADY_FILE: Final = "trace.bpf.o"
SYSCALLS_FILE: Final = "trace_syscalls.bpf.o"
OBJECT_NAME: Final = "trace"
SAMPLE_EVERY_MAX: Final = 1_000_000

_SWITCH: Final = "x0d_t_switch"
_WAKEUPS: Final = ("x0d_t_wakeup", "x0d_t_wakeup_new")
_S: Final = 1_000_000_000
T = TypeVar("T")


@dataclass(slots=True)
class _Part:
    """One object, and what of it is in the kernel."""

    file: Path
    wanted: tuple[str, ...]
    attached: Attached = field(default_factory=Attached)
    object_status: ObjectStatus | None = None
    map_statuses: tuple[MapStatus, ...] = ()
    program_ids: dict[str, int] = field(default_factory=dict)
    sha256: str = ""
    """Of the file when it was last read to be loaded, or at ``open``; empty if it was not there."""

    def digest(self) -> str:
        """SHA-256 of the file as it is now; empty if it cannot be read."""
        try:
            return hashlib.sha256(self.file.read_bytes()).hexdigest()
        except OSError:
            return ""

    def close(self) -> None:
        """Take it out of the kernel; refusals stay to be told."""
        self.attached.close()
        self.map_statuses, self.program_ids = (), {}


class KernelTracer:
    """``ports.Tracer`` on the kernel."""

    def __init__(self, names: Sequence[str], objects_dir: Path | None, netns_inode: int | None) -> None:
        """Settings only, without effect.

        Args:
            names: Keys of ``PROGRAMS`` to be loaded.
            objects_dir: Where the compiled objects are; None: in the package.
            netns_inode: Network namespace whose packets and sockets count; None: all.  Run queue and system calls
                are the machine's.
        """
        directory = objects_dir or OBJECTS_DIR
        wanted = tuple(program for name in names for program in PROGRAMS[name])
        self._netns_inode = netns_inode
        self._steady = _Part(directory / STEADY_FILE, wanted)
        self._syscalls = _Part(directory / SYSCALLS_FILE, SYSCALL_PROGRAMS)
        self._until_ns = 0
        self._reader = TraceReader()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="x0d-trace")

    # ---- the steady programs ----

    async def open(self) -> None:
        """Load what the configuration names, unless it is; what is refused is told by ``programs``."""
        await self._in_worker(self._open)

    def _open(self) -> None:
        if not self._syscalls.sha256:
            self._syscalls.sha256 = self._syscalls.digest()
        if not self._steady.wanted or self._steady.attached.program_fds:
            return
        libbpf = self._load(self._steady, trace_layout.CONFIG_MAP, trace_layout.encode_config(self._netns_inode))
        attached = self._steady.attached
        if _SWITCH in attached.refusals:  # without it nothing would empty the wakeups' map
            for program in _WAKEUPS:
                if program in attached.link_fds:
                    attached.drop(program)
                    attached.refusals[program] = NotSupported(program, f"of no use without {_SWITCH}")
        self._describe(self._steady)
        if libbpf is not None and "x0d_t_drop" in attached.link_fds:
            self._reader.reason_names = reasons.read_names(libbpf)

    # ---- upgrade ----

    async def check_objects(self) -> None:
        """Look into the objects as they are on disk now; see ``ports.Tracer``."""
        await self._in_worker(self._check_objects)

    def _check_objects(self) -> None:
        for part in (self._steady, self._syscalls):
            if not part.wanted or (not part.sha256 and not part.file.exists()):
                continue  # nothing of it is in force
            try:
                _inspect(part)
            except (InvalidInput, NotSupported) as fault:
                raise with_rest_in_force(fault) from fault

    async def upgrade(self) -> Upgraded:
        """Load the steady programs anew if their object is another; see ``ports.Tracer``."""
        return await self._in_worker(self._upgrade)

    def _upgrade(self) -> Upgraded:
        started_s = time.perf_counter()
        changed = [part for part in (self._steady, self._syscalls) if part.wanted and part.digest() != part.sha256]
        if self._steady in changed:
            self._steady.close()
            self._open()
        if self._syscalls in changed:
            self._syscalls.sha256 = self._syscalls.digest()
        replaced = tuple(self._steady.attached.program_fds) if self._steady in changed else ()
        took_ms = (time.perf_counter() - started_s) * 1000
        return Upgraded(replaced, took_ms, tuple(str(part.file) for part in changed))

    # ---- status ----

    def programs(self) -> Sequence[ProgramStatus]:
        """Every program of both objects."""
        return [
            *(
                self._program_status(self._steady, program, is_wanted=program in self._steady.wanted)
                for group in PROGRAMS.values()
                for program in group
            ),
            *(
                self._program_status(self._syscalls, program, is_wanted=bool(self._until_ns))
                for program in reversed(SYSCALL_PROGRAMS)
            ),
        ]

    def maps(self) -> Sequence[MapStatus]:
        """Maps of the loaded ones."""
        return [*self._steady.map_statuses, *self._syscalls.map_statuses]

    def objects(self) -> Sequence[ObjectStatus]:
        """The objects that programs have been loaded from."""
        return [part.object_status for part in (self._steady, self._syscalls) if part.object_status]

    # ---- reading ----

    async def read(self) -> TraceSample:
        """One pass over all maps."""
        return await self._in_worker(self._read)

    def _read(self) -> TraceSample:
        return self._reader.read(self._steady.attached.map_fds, self._syscalls.attached.map_fds)

    # ---- system calls ----

    async def start_syscalls(self, duration_s: float, sample_every: int) -> None:
        """Measure one system call in ``sample_every`` on each CPU, for so long; the kernel part stops by itself.

        Raises:
            Busy: a measurement is under way.
            InvalidInput: no duration, or no such sampling.
            KernelRefused, NotSupported: it cannot be loaded here.
        """
        if duration_s <= 0 or not 1 <= sample_every <= SAMPLE_EVERY_MAX:
            reason = f"a measurement takes more than 0 s and one call in 1 to {SAMPLE_EVERY_MAX:,}"
            raise InvalidInput(reason)
        await self._in_worker(lambda: self._start_syscalls(duration_s, sample_every))

    def _start_syscalls(self, duration_s: float, sample_every: int) -> None:
        if time.monotonic_ns() < self._until_ns:
            raise Busy("a measurement of the system calls is under way; try again when it has ended")
        self._stop_syscalls()
        never_return = [n for n, name in self._reader.syscall_names.items() if name in trace_syscalls.NEVER_RETURNING]
        idle = trace_layout.encode_timebox(0, sample_every, never_return)
        self._load(self._syscalls, trace_layout.TIMEBOX_MAP, idle)
        refusals = self._syscalls.attached.refusals
        if refusals:
            self._syscalls.close()
            raise next(iter(refusals.values()))
        self._describe(self._syscalls)
        # Only now, so that loading takes nothing from the time.
        self._until_ns = time.monotonic_ns() + round(duration_s * _S)
        box = trace_layout.encode_timebox(self._until_ns, sample_every, never_return)
        bpf_maps.update(self._syscalls.attached.map_fds[trace_layout.TIMEBOX_MAP], bytes(4), box)

    async def stop_syscalls(self) -> None:
        """End the measurement; nothing happens if there is none."""
        await self._in_worker(self._stop_syscalls)

    def _stop_syscalls(self) -> None:
        self._reader.keep_syscalls(self._syscalls.attached.map_fds)
        self._syscalls.close()
        self._until_ns = 0

    async def unload(self) -> None:
        """Take every program out of the kernel; ``open`` loads them again, and they count from 0."""
        await self._in_worker(self._unload)

    def _unload(self) -> None:
        self._stop_syscalls()
        self._steady.close()

    def close(self) -> None:
        """Take every program out of the kernel and end; nothing happens the second time."""
        self._worker.shutdown(wait=True)
        self._syscalls.close()
        self._steady.close()
        self._until_ns = 0

    # ---- loading ----

    def _load(self, part: _Part, config_map: str, config: bytes) -> Libbpf | None:
        """Load and attach what is wanted of an object; refusals are in ``part.attached``, and nothing is raised."""
        part.attached = Attached()
        part.sha256 = part.digest()
        try:
            libbpf = Libbpf()
            elf, info = _inspect(part)
        except (NotSupported, InvalidInput) as error:
            part.attached.refusals = dict.fromkeys(part.wanted, error)
            return None
        part.attached = trace_attach.load(libbpf, elf, info, part.wanted)
        if config_map in part.attached.map_fds:
            bpf_maps.update(part.attached.map_fds[config_map], bytes(4), config)
        trace_attach.attach(part.attached, info)
        part.object_status = ObjectStatus(
            path=str(part.file),
            sha256=info.sha256,
            license=info.license,
            layout_version=info.layout_version,
            has_btf=info.has_btf,
            loaded_unix_ms=time.time_ns() // 1_000_000,
        )
        return libbpf

    @staticmethod
    def _describe(part: _Part) -> None:
        """Note ids and sizes once: a descriptor may be closed by the worker while the loop asks."""
        part.program_ids = {name: bpf.program_id(fd) for name, fd in part.attached.program_fds.items()}
        part.map_statuses = tuple(maps.describe(name, fd) for name, fd in sorted(part.attached.map_fds.items()))

    @staticmethod
    def _program_status(part: _Part, program: str, *, is_wanted: bool) -> ProgramStatus:
        refusal: Refusal | None = part.attached.refusals.get(program)
        kind = "tracepoint"
        if refusal is not None:
            if not isinstance(refusal, KernelRefused):
                return ProgramStatus(program, OBJECT_NAME, kind, "refused", str(refusal))
            reason = reason_beside_errno(program, refusal)
            return ProgramStatus(program, OBJECT_NAME, kind, "refused", reason, refusal.errno, refusal.log_tail)
        program_id = part.program_ids.get(program, 0)
        if program_id:
            return ProgramStatus(program, OBJECT_NAME, kind, "loaded", program_id=program_id)
        reason = "" if is_wanted else "loaded for a measurement" if program in SYSCALL_PROGRAMS else "not in ebpf.trace"
        return ProgramStatus(program, OBJECT_NAME, kind, "off", reason)

    async def _in_worker(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)


def _inspect(part: _Part) -> tuple[bytes, objects.ObjectInfo]:
    """Bytes of the part's file and what is in it.

    Raises:
        NotSupported: it is missing.
        InvalidInput: it cannot be loaded here, or lacks a wanted program.
    """
    elf = read_object(part.file)
    info = objects.inspect(elf, str(part.file))
    present = {function for _section, function in info.programs}
    if missing := [program for program in part.wanted if program not in present]:
        reason = f"{part.file}: it lacks the program {missing[0]}"
        raise InvalidInput(reason)
    return elf, info
