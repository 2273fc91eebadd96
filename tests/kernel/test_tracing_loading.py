"""Each program loads or is refused by itself: what this kernel lacks, what the process may not, what is damaged."""

import asyncio
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kernel.trace_world import CLOSED_PORT, OBJECTS_DIR, REPOSITORY, STEADY, Pair, build, new_pair, tracer, until
from x0d.errors import InvalidInput, KernelRefused, NotSupported
from x0d.kernel import trace_attach
from x0d.kernel.libbpf import Libbpf, LoadedPrograms
from x0d.kernel.tracing import PROGRAMS, STEADY_FILE, SYSCALL_PROGRAMS, SYSCALLS_FILE
from x0d.ports import ProgramStatus

pytestmark = pytest.mark.kernel

REPORT = Path(__file__).with_name("trace_report.py")
ALL = {program for group in PROGRAMS.values() for program in group}


@pytest.fixture(autouse=True)
def _built() -> None:
    build()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two joined namespaces of the test's own."""
    with new_pair() as made:
        yield made


def other_object(directory: Path, before: bytes, after: bytes) -> Path:
    """A directory of objects where programs of one tracepoint are for another, of a name as long."""
    assert len(before) == len(after)
    elf = (OBJECTS_DIR / STEADY_FILE).read_bytes()
    assert before in elf
    (directory / STEADY_FILE).write_bytes(elf.replace(before, after))
    shutil.copy(OBJECTS_DIR / SYSCALLS_FILE, directory)
    return directory


async def statuses(objects_dir: Path, names: tuple[str, ...] = STEADY) -> dict[str, ProgramStatus]:
    """Of a tracer that is gone again."""
    async with tracer(names, objects_dir=objects_dir) as made:
        return {status.name: status for status in made.programs()}


def report(*prefix: str) -> dict[str, Any]:
    """What another process says of itself, started through ``prefix``."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "daemon")}
    command = [*prefix, sys.executable, str(REPORT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def states(answer: dict[str, Any]) -> dict[str, str]:
    return {program["name"]: program["state"] for program in answer["programs"]}


def test_everything_loads_here() -> None:
    """All programs of both objects load on this kernel, and tell where they are from."""

    async def main() -> None:
        async with tracer() as made:
            assert dict.fromkeys(ALL, "loaded") | dict.fromkeys(SYSCALL_PROGRAMS, "off") == {
                status.name: status.state for status in made.programs()
            }
            assert all(status.program_id for status in made.programs() if status.state == "loaded")
            assert [(str(OBJECTS_DIR / STEADY_FILE), "GPL", True)] == [
                (status.path, status.license, status.has_btf) for status in made.objects()
            ]
            assert all(len(status.name) <= 15 and status.memory_bytes > 0 for status in made.maps())

    asyncio.run(main())


def test_what_is_not_wanted_is_off() -> None:
    """Only what the configuration names is loaded, with only its maps."""

    async def main() -> None:
        async with tracer(("sockets",)) as made:
            loaded = [status.name for status in made.programs() if status.state == "loaded"]
            assert ["x0d_t_state"] == loaded
            assert ["x0d_t_config", "x0d_t_states"] == [status.name for status in made.maps()]
        async with tracer(()) as nothing:
            assert {"off"} == {status.state for status in nothing.programs()}
            assert not any((await nothing.read()).drops)

    asyncio.run(main())


def test_missing_tracepoint_leaves_the_others(tmp_path: Path, pair: Pair) -> None:
    """A tracepoint that this kernel lacks: its program is refused and named; the others load and count."""
    objects_dir = other_object(tmp_path, b"tcp_send_reset", b"tcp_bend_reset")

    async def main() -> None:
        async with tracer(("drops", "tcp"), pair.other, objects_dir) as made:
            found = {status.name: status for status in made.programs()}
            refused = found["x0d_t_reset_out"]
            assert "refused" == refused.state
            assert errno.ESRCH == refused.errno
            assert {"x0d_t_drop", "x0d_t_retransmit", "x0d_t_reset_in"} == {
                name for name, status in found.items() if status.state == "loaded"
            }
            assert "x0d_t_rst_out" not in {status.name for status in made.maps()}
            with pair.open_socket(pair.one, 4, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"x", (pair.addresses(4)[1], CLOSED_PORT))
            assert 1 == (await until(made, lambda seen: bool(seen.drops))).drops.get("no_socket")

    asyncio.run(main())


def test_rejected_program_tells_the_verifiers_words(tmp_path: Path) -> None:
    """A program that the verifier refuses shows the end of its log; the others are loaded."""
    objects_dir = other_object(tmp_path, b"inet_sock_set_state", b"hrtimer_expire_exit")
    found = asyncio.run(statuses(objects_dir))
    refused = found["x0d_t_state"]
    assert "refused" == refused.state
    assert errno.EACCES == refused.errno
    assert "hrtimer" in refused.log_tail
    assert ALL - {"x0d_t_state"} == {name for name, status in found.items() if status.state == "loaded"}


def test_wakeups_are_of_no_use_alone(tmp_path: Path) -> None:
    """Without the program that ends the waiting, those that begin it are not left running."""
    found = asyncio.run(statuses(other_object(tmp_path, b"sched_switch", b"sched_twitch")))
    for program in ("x0d_t_switch", "x0d_t_wakeup", "x0d_t_wakeup_new"):
        assert "refused" == found[program].state, program
    assert "x0d_t_switch" in found["x0d_t_wakeup"].reason
    assert "loaded" == found["x0d_t_drop"].state


@pytest.mark.parametrize("content", [None, b"", b"no ELF file at all", b"\x7fELF" + bytes(200)])
def test_unreadable_object_ends_nothing(tmp_path: Path, content: bytes | None) -> None:
    """An object that is missing or damaged: its programs are refused by name of the file, reading gives nothing."""
    if content is not None:
        (tmp_path / STEADY_FILE).write_bytes(content)

    async def main() -> None:
        async with tracer(("drops",), objects_dir=tmp_path) as made:
            status = made.programs()[0]
            assert ("x0d_t_drop", "refused") == (status.name, status.state)
            assert STEADY_FILE in status.reason
            assert [] == list(made.objects())
            assert {} == (await made.read()).drops

    asyncio.run(main())


def test_three_capabilities_suffice() -> None:
    """With the service's capabilities as another user and no memory to lock, everything loads and measures."""
    capabilities = "+bpf,+net_admin,+perfmon"
    answer = report(
        *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps=-all,{capabilities}"),
        *(f"--ambient-caps=-all,{capabilities}", f"--bounding-set=-all,{capabilities}", "prlimit", "--memlock=0"),
    )
    assert dict.fromkeys([*ALL, *SYSCALL_PROGRAMS], "loaded") == states(answer)
    assert answer["calls"] >= 500


def test_without_capabilities_all_is_refused() -> None:
    """A process that may nothing is told which capability it lacks, and goes on."""
    answer = report("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    assert {"refused"} == set(states(answer).values())
    assert all("CAP_BPF" in program["reason"] for program in answer["programs"])
    assert "CAP_BPF" in answer["refused"]


def test_without_btf_raw_tracepoints_work() -> None:
    """Where the kernel shows no BTF its tracepoints are refused with that reason, and system calls are measured."""
    hide = 'mount -t tmpfs none /sys/kernel/btf && exec "$@"'
    answer = report("unshare", "--mount", "--propagation=private", "sh", "-c", hide, "sh")
    assert dict.fromkeys(ALL, "refused") | dict.fromkeys(SYSCALL_PROGRAMS, "loaded") == states(answer)
    assert all("BTF" in p["reason"] for p in answer["programs"] if p["name"] in ALL)
    assert answer["calls"] >= 500


def test_loading_all_parses_btf_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is refused, all programs are loaded in one go."""
    loads: list[int] = []
    together = Libbpf.load_all

    def noted(
        self: Libbpf, elf: bytes, programs: Sequence[str], map_fds: Mapping[str, int], *, skip_maps: Collection[str]
    ) -> LoadedPrograms:
        loads.append(len(programs))
        return together(self, elf, programs, map_fds, skip_maps=skip_maps)

    monkeypatch.setattr(Libbpf, "load_all", noted)
    asyncio.run(statuses(OBJECTS_DIR))
    assert [len(ALL)] == loads


def test_attaching_to_nothing_is_refused() -> None:
    """A raw tracepoint that does not exist is refused with its name."""
    libbpf = Libbpf()
    loaded = libbpf.load((OBJECTS_DIR / SYSCALLS_FILE).read_bytes(), "x0d_t_sys_exit", {})
    attached = trace_attach.Attached({"x0d_t_sys_exit": loaded.fd}, {}, dict(loaded.map_fds))
    try:
        with pytest.raises(KernelRefused, match="sys_bend"):
            trace_attach.open_raw_tracepoint(loaded.fd, "sys_bend")
    finally:
        attached.close()


# ---- upgrades ----


def copied_objects(directory: Path) -> Path:
    """Both objects in a directory of the test's own."""
    for name in (STEADY_FILE, SYSCALLS_FILE):
        shutil.copy(OBJECTS_DIR / name, directory)
    return directory


def test_changed_object_is_loaded_anew(tmp_path: Path, pair: Pair) -> None:
    """Another object replaces the programs, which count from 0; one that is refused takes no other down."""
    objects_dir = copied_objects(tmp_path)

    async def main() -> None:
        async with tracer(("drops", "sockets"), pair.other, objects_dir) as made:
            before = {status.name: status.program_id for status in made.programs()}
            with pair.open_socket(pair.one, 4, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"x", (pair.addresses(4)[1], CLOSED_PORT))
            await until(made, lambda seen: bool(seen.drops))
            other_object(tmp_path, b"inet_sock_set_state", b"hrtimer_expire_exit")
            await made.check_objects()
            upgraded = await made.upgrade()
            assert (("x0d_t_drop",), (str(tmp_path / STEADY_FILE),)) == (upgraded.replaced, upgraded.objects)
            after = {status.name: status for status in made.programs()}
            assert ("loaded", "refused") == (after["x0d_t_drop"].state, after["x0d_t_state"].state)
            assert before["x0d_t_drop"] != after["x0d_t_drop"].program_id
            assert not (await made.read()).drops
            assert () == (await made.upgrade()).replaced

    asyncio.run(main())


def test_changed_object_of_system_calls_waits_for_a_measurement(tmp_path: Path) -> None:
    """Nothing of it is in the kernel between measurements: it is named, and no program is replaced."""
    objects_dir = copied_objects(tmp_path)

    async def main() -> None:
        async with tracer(("sockets",), objects_dir=objects_dir) as made:
            file = objects_dir / SYSCALLS_FILE
            file.write_bytes(file.read_bytes() + bytes(8))
            await made.check_objects()
            upgraded = await made.upgrade()
            assert ((), (str(file),)) == (upgraded.replaced, upgraded.objects)
            assert () == (await made.upgrade()).objects

    asyncio.run(main())


@pytest.mark.parametrize("name", [STEADY_FILE, SYSCALLS_FILE])
def test_unusable_object_is_told_before_an_upgrade(tmp_path: Path, name: str) -> None:
    """A damaged or missing object is refused with its path, and what was loaded is still in force."""
    objects_dir = copied_objects(tmp_path)

    async def main() -> None:
        async with tracer(("sockets",), objects_dir=objects_dir) as made:
            file = objects_dir / name
            file.write_bytes(file.read_bytes()[:700])
            with pytest.raises(InvalidInput, match=f"{file}: .*; what was loaded before is still in force"):
                await made.check_objects()
            file.unlink()
            with pytest.raises(NotSupported, match=f"{file} is missing; reinstall x0d.*still in force"):
                await made.check_objects()
            assert "loaded" in {status.state for status in made.programs()}

    asyncio.run(main())


def test_objects_that_were_never_there_hinder_nothing(tmp_path: Path) -> None:
    """A directory with no trace objects is told by the programs' states, not by each upgrade."""

    async def main() -> None:
        async with tracer(("sockets",), objects_dir=tmp_path) as made:
            await made.check_objects()
            assert () == (await made.upgrade()).objects

    asyncio.run(main())
