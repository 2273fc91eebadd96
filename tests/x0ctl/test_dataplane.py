"""x0ctl ebpf, watch and top against a real server."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.control import DAEMON, Lab, run, running, until, x0ctl
from fakes.terminal import COLOURS, Shown, press_ctrl_c, show, terminate
from fakes.views_dataplane import PROGRAMS, packet_event
from x0ctl.show_dataplane import seconds
from x0ctl.top import rate
from x0d.errors import ForeignProgram, NotPermitted, ProgramRejected
from x0d.service.views_dataplane import Map, Program, UpgradeResult

SHOW_CURSOR = "\x1b[?25h"
OWN_SCREEN, LEAVE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"


def words(text: str) -> list[str]:
    """Lines with single spaces."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_list() -> None:
    """The list shows attachments, programs with the verifier's words on the refused one, maps and objects."""

    async def scene() -> str:
        async with running() as lab:
            return (await x0ctl(lab, "ebpf", "list")).out

    out = run(scene())
    expected = [
        "eth1 3 attached native yes adopted",
        "x0d_root xdp root loaded 77",
        "x0d_limit xdp stage refused - EINVAL: rejected",
        "The verifier on x0d_limit",
        "R1 !read_ok?[2J",
        "x0d_config array 1 4096",
        "in all 4,096 bytes",
    ]
    assert expected == [line for line in words(out) if line in expected]
    assert "abababababababab" in out
    assert "\x1b" not in out


FRAGS_SERVE = "the variant with multi-buffer frames serves"


def variant(state: str, ending: str, reason: str = "") -> tuple[Program, ...]:
    """Root and one stage."""
    return tuple(
        Program(f"x0d_{name}{ending}", "xdp", kind, state, reason)
        for name, kind in (("root", "root"), ("deny", "stage"))
    )


@pytest.mark.parametrize("command", ["list", "upgrade"])
def test_a_variant_that_nobody_needs_is_not_shown(command: str) -> None:
    """The plain programs are left out while those for all frames serve; JSON has them, and so has a refused variant."""

    async def scene() -> None:
        async with running() as lab:

            async def shown(*programs: Program) -> list[str]:
                lab.dataplane.loaded = replace(PROGRAMS, programs=programs)
                lab.dataplane.upgraded = UpgradeResult((), programs, 1.0)
                as_json = await x0ctl(lab, "-o", "json", "ebpf", command)
                assert len(programs) == len(json.loads(as_json.out)["programs"])
                rows = [line.split() for line in (await x0ctl(lab, "ebpf", command)).out.splitlines()]
                return [row[0] for row in rows if row and row[0].startswith("x0d_") and row[0] != "x0d_config"]

            serving = variant("loaded", "_frags")
            assert ["x0d_root_frags", "x0d_deny_frags"] == await shown(*serving, *variant("off", "", FRAGS_SERVE))
            assert 4 == len(await shown(*serving, *variant("loaded", "")))
            refused = (replace(variant("refused", "")[0], reason="no"), variant("off", "", "its root is refused")[1])
            assert 4 == len(await shown(*serving, *refused))
            assert 4 == len(await shown(*variant("refused", "_frags"), *variant("off", "")))

    run(scene())


def test_a_ring_buffer_has_bytes() -> None:
    """A ring buffer's size is told in bytes: it has no entries."""

    async def scene() -> str:
        async with running() as lab:
            ring = Map("x0d_events", "ringbuf", 262_144, 270_000)
            lab.dataplane.loaded = replace(PROGRAMS, maps=(ring, *PROGRAMS.maps))
            return (await x0ctl(lab, "ebpf", "list")).out

    rows = {line.split()[0]: line for line in run(scene()).splitlines() if line}
    ring, array = rows["x0d_events"], rows["x0d_config"]
    assert ["x0d_events ringbuf 262,144 bytes 270000", "x0d_config array 1 4096"] == words(f"{ring}\n{array}")
    assert ring.index(" bytes") + len(" bytes") == array.index(" 1 ") + len(" 1")


def test_stats() -> None:
    """Stats shows what XDP counts and what the tracepoints count."""

    async def scene() -> list[str]:
        async with running() as lab:
            return words((await x0ctl(lab, "ebpf", "stats")).out)

    lines = run(scene())
    expected = [
        "eth1 udp pass 10 1400",
        "eth1 answered 7",
        "no_socket 3",
        "192.0.2.0/24 2",
        "other 1",
        "2001:db8::/48 4",
        "ipv4 syn_sent established 9",
        "Wait for a CPU",
        f"< 1 us 3 {'#' * 40}",
        "< any 1 ##############",
        "events: 5 sampled, 1 lost",
    ]
    assert expected == [line for line in lines if line in expected]


def test_upgrade() -> None:
    """An upgrade tells what was replaced and how every program stands."""

    async def scene() -> str:
        async with running() as lab:
            return (await x0ctl(lab, "ebpf", "upgrade")).out

    out = run(scene())
    assert out.startswith("replaced in 3.5 ms: x0d_deny\n")
    assert "x0d_limit" in out


def test_upgrade_without_a_change() -> None:
    """An upgrade that replaced nothing says whether the objects are those in force."""

    async def scene(objects_changed: tuple[str, ...]) -> str:
        async with running() as lab:
            lab.dataplane.upgraded = UpgradeResult((), (), 1.0, objects_changed)
            return (await x0ctl(lab, "ebpf", "upgrade")).out

    assert "nothing has changed: the objects on disk are those in force" == run(scene(())).splitlines()[0]
    assert "trace_syscalls.bpf.o: other objects, and no" in run(scene(("trace_syscalls.bpf.o",))).splitlines()[0]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ProgramRejected("load x0d_deny", 13, "rejected", "0: r1 = r2\x1b[2J\nR2 !read_ok"),
            "load x0d_deny: EACCES: rejected\n0: r1 = r2?[2J\nR2 !read_ok\n  what was loaded before is still in force",
        ),
        (NotPermitted("create map", 1, "CAP_BPF"), "EPERM: CAP_BPF\n  x0d itself lacks the capability"),
        (ForeignProgram("eth1", 16, 7), "program id 7 of somebody else is attached"),
    ],
    ids=["verifier", "capability", "foreign"],
)
def test_refusals_of_the_kernel(error: Exception, said: str) -> None:
    """What the kernel refuses to x0d exits 1, even where the caller may do everything, with the verifier's words."""

    async def scene() -> None:
        async with running() as lab:
            lab.dataplane.fails = error  # type: ignore[assignment]
            done = await x0ctl(lab, "ebpf", "upgrade")
            assert (1, "") == (done.code, done.out)
            assert said in done.err

    run(scene())


@pytest.mark.parametrize("command", ["attach", "detach"])
@pytest.mark.parametrize("named", [(), ("eth1", "--all")], ids=["nothing", "both"])
def test_which_interfaces(command: str, named: tuple[str, ...]) -> None:
    """Either interfaces are named or all are meant: anything else is a usage error."""

    async def scene() -> None:
        async with running() as lab:
            done = await x0ctl(lab, "ebpf", command, *named)
            assert (2, "") == (done.code, done.out)
            assert f"name interfaces, or say --all{', not both' if named else ''}\n" in done.err

    run(scene())


@pytest.mark.parametrize("named", ["eth1", "--all"])
def test_attach_to_what_is_blocked(named: str) -> None:
    """An interface that is blocked after attach is shown as such, and exit 1 tells why."""

    async def scene() -> None:
        async with running() as lab:
            lab.dataplane.blocked = "program id 7 of somebody else is attached"
            done = await x0ctl(lab, "ebpf", "attach", named)
            assert 1 == done.code
            assert "eth1 3 blocked - no program id 7 of somebody else is attached" in words(done.out)
            assert "x0ctl: eth1 is blocked: program id 7 of somebody else is attached\n" == done.err
            as_json = await x0ctl(lab, "-o", "json", "ebpf", "attach", named)
            assert (1, done.err) == (as_json.code, as_json.err)
            assert "blocked" == json.loads(as_json.out)["attachments"][0]["state"]

    run(scene())


def test_detach() -> None:
    """Detach leaves interfaces and says what it means; --all says it before it does it; unknown ones exit 1."""

    async def scene() -> None:
        async with running() as lab:
            one = await x0ctl(lab, "ebpf", "detach", "eth1")
            assert (0, "") == (one.code, one.err)
            assert "eth1 3 detached - no by an operator" in words(one.out)
            assert "no probe is answered on eth1: the links over it go down, traffic is routed around;" in one.out
            assert "x0ctl ebpf attach eth1, or a restart" in one.out
            everything = await x0ctl(lab, "-o", "json", "ebpf", "detach", "--all")
            assert 0 == everything.code
            said = " ".join(everything.err.split())
            assert "every pin and map" in said
            assert "all links go down, the others route around this node, it leaves the mesh." in said
            assert "Nothing is counted, denied or limited until x0ctl ebpf attach --all" in said
            assert "detached" == json.loads(everything.out)["attachments"][0]["state"]
            unknown = await x0ctl(lab, "ebpf", "detach", "eth9")
            assert (1, "x0ctl: eth9 is not in the configuration\n") == (unknown.code, unknown.err)

    run(scene())


@pytest.mark.parametrize(("ends", "code"), [(0, 0), (70, 1)])
def test_detach_without_daemon(tmp_path: Path, ends: int, code: int) -> None:
    """Without a daemon --all runs the x0d next to x0ctl; a single interface is unreachable."""
    program = tmp_path / "x0d"
    program.write_text(f'#!/bin/sh\necho "asked $*"\nexit {ends}\n')
    program.chmod(0o755)
    client = tmp_path / "x0ctl"
    client.write_text("import sys\nfrom x0ctl.__main__ import main\nsys.exit(main())\n")
    command = [sys.executable, str(client), "--endpoint", "unix:///nonexistent/x0d.sock", "ebpf", "detach"]
    environment = {**os.environ, "PYTHONPATH": str(DAEMON)}

    def detach(*arguments: str) -> tuple[int, str]:
        done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    assert (code, "asked --detach-all --config /etc/x0d/x0d.toml\n") == detach("--all")
    assert (code, "asked --detach-all --config a.toml\n") == detach("--all", "--config", "a.toml")
    assert (3, "") == detach("eth1")


def test_trace() -> None:
    """A measurement prints the slowest calls and the histogram at its end; JSON an object for each progress."""

    async def scene() -> None:
        async with running() as lab:
            done = await x0ctl(lab, "ebpf", "trace", "syscalls", "--for", "1m", "--every", "5")
            assert (0, "") == (done.code, done.err)
            assert words(done.out)[0].startswith("1 call in 5 was measured; sorted by total time, at most 20 are shown")
            assert "read 4 6 us 1.5 us < any" in words(done.out)
            assert "All system calls of 1.0 s" in done.out
            assert [(60.0, 5)] == lab.tracing.asked
            as_json = (await x0ctl(lab, "-o", "json", "ebpf", "trace", "syscalls")).out
            assert [False, True] == [json.loads(line)["done"] for line in as_json.splitlines()]
            every = await x0ctl(lab, "ebpf", "trace", "syscalls", "--every", "1")
            assert every.out.startswith("every call was measured; ")
            for wrong in ("6m", "0s", "301s"):
                done = await x0ctl(lab, "ebpf", "trace", "syscalls", "--for", wrong)
                assert (2, "") == (done.code, done.out)
                assert f"'{wrong}': a duration is 1 second to 5 minutes here" in done.err

    run(scene())


def test_ctrl_c_ends_a_trace() -> None:
    """Ctrl-C ends a measurement with 130 and shows what was measured so far."""

    async def scene() -> None:
        async with running() as lab:
            lab.tracing.hold = asyncio.Event()
            command = ("ebpf", "trace", "syscalls", "--for", "5m")
            shown = await asyncio.to_thread(show, lab.endpoint, 100, *command, at=("measuring", press_ctrl_c))
            assert 130 == shown.code
            lines = words(COLOURS.sub("", shown.text))
            assert "read 2 2 us 1 us < 2 us" in lines
            assert "All system calls of 0.5 s" in lines
            await until(lambda: not lab.tracing.running)

    run(scene())


async def start(lab: Lab, *arguments: str) -> asyncio.subprocess.Process:
    """Start x0ctl as a process."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "x0ctl", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "X0CTL_ENDPOINT": lab.endpoint, "PYTHONPATH": str(DAEMON)},
    )


async def interrupt(process: asyncio.subprocess.Process) -> tuple[int | None, bytes]:
    """Ctrl-C; the exit code and what was still printed."""
    process.send_signal(signal.SIGINT)
    out, _ = await process.communicate()
    return process.returncode, out


def test_watch_events() -> None:
    """Events of the wanted verdicts are a line each, until Ctrl-C; losses are told."""

    async def scene() -> None:
        async with running() as lab:
            process = await start(lab, "watch", "events", "--verdict", "deny")
            assert process.stdout is not None
            assert b"one packet in 100 is shown\n" == await process.stdout.readline()
            lab.dataplane.lost = 3
            put = lab.dataplane.subscribers[0]
            put([packet_event("pass"), packet_event("deny", "2001:db8::7"), packet_event("deny", "")])
            lines = [(await process.stdout.readline()).decode().split() for _ in range(3)]
            assert "3 events were lost" == " ".join(lines[0])
            expected = "eth1 deny udp [2001:db8::7]:53 > 198.51.100.1:4000 142 bytes 1 VLAN tags"
            assert expected == " ".join(lines[1][2:])
            assert "eth1 deny udp - 142 bytes 1 VLAN tags" == " ".join(lines[2][2:])
            assert (130, b"") == await interrupt(process)
            await until(lambda: not lab.dataplane.subscribers)

    run(scene())


def test_watch_counters() -> None:
    """Counters are printed once and then only when they change; JSON prints an object each time."""

    async def scene() -> None:
        async with running() as lab:
            process = await start(lab, "-o", "json", "watch", "counters", "--interval", "100ms")
            assert process.stdout is not None
            objects = [json.loads(await process.stdout.readline()) for _ in range(2)]
            assert ["10", "10"] == [each["stats"]["counters"][0]["packets"] for each in objects]
            assert 130 == (await interrupt(process))[0]
            process = await start(lab, "watch", "counters", "--interval", "0.1s")
            assert process.stdout is not None
            line = (await process.stdout.readline()).decode().split()
            assert "eth1 udp pass 10 packets 1400 bytes" == " ".join(line[2:])
            assert (130, b"") == await interrupt(process)

    run(scene())


def test_top_once() -> None:
    """Without a terminal top prints one measurement that has rates; JSON prints it as a line."""

    async def scene() -> None:
        async with running() as lab:
            done = await x0ctl(lab, "top", "--interval", "200ms", "--talkers", "3")
            assert (0, "") == (done.code, done.err)
            lines = words(done.out)
            assert "over 1.0 s deny entries 10000 limits 2 sources tracked 199" in lines[0]
            expected = ["eth1 native 1.50k 2.50M 3.0", "deny 3.2 12", "no_socket 2.0 3", "192.0.2.3 10 8.00k 0 5"]
            assert expected == [line for line in lines if line in expected]
            assert "192.0.2.4" not in done.out
            as_json = await x0ctl(lab, "-o", "json", "top", "--once", "--interval", "200ms")
            assert 1.0 == json.loads(as_json.out)["interval_s"]

    run(scene())


def test_top_as_json_until_ctrl_c() -> None:
    """JSON without --once goes on, an object a line."""

    async def scene() -> None:
        async with running() as lab:
            process = await start(lab, "-o", "json", "top", "--interval", "200ms")
            assert process.stdout is not None
            seen = [json.loads(await process.stdout.readline())["interval_s"] for _ in range(3)]
            assert [0.0, 1.0, 1.0] == seen
            assert 130 == (await interrupt(process))[0]

    run(scene())


def test_top_on_a_terminal() -> None:
    """On a terminal top has a screen of its own, gives the terminal back on Ctrl-C, and exits 130."""

    async def scene() -> None:
        async with running() as lab:
            shown = await asyncio.to_thread(
                show, lab.endpoint, 100, "top", "--interval", "200ms", at=("1.50k", press_ctrl_c)
            )
            assert 130 == shown.code
            assert OWN_SCREEN in shown.text
            left = shown.text.rindex(LEAVE_SCREEN)
            assert SHOW_CURSOR in shown.text[shown.text.rindex("\x1b[?25l") :]
            assert "Traceback" not in shown.text
            assert "" == COLOURS.sub("", shown.text[left:].replace(LEAVE_SCREEN, "").replace(SHOW_CURSOR, "")).strip()
            assert {"INTERFACE", "KERNEL", "TALKER", "192.0.2.1"} <= set(COLOURS.sub("", shown.text).split())

    run(scene())


def test_terminated_top_gives_the_terminal_back() -> None:
    """SIGTERM ends top as it does any program, but the screen and the cursor are as before."""

    async def scene() -> Shown:
        async with running() as lab:
            return await asyncio.to_thread(
                show, lab.endpoint, 100, "top", "--interval", "200ms", at=("1.50k", terminate)
            )

    shown = run(scene())
    assert 128 + signal.SIGTERM == shown.code
    assert shown.text.rindex(OWN_SCREEN) < shown.text.rindex(LEAVE_SCREEN)
    assert shown.text.rindex("\x1b[?25l") < shown.text.rindex(SHOW_CURSOR)
    assert "Traceback" not in shown.text


def test_top_on_a_terminal_that_takes_lines_only() -> None:
    """On a terminal that cannot be drawn on top measures once, as for a pipe."""

    async def scene() -> Shown:
        async with running() as lab:
            command = ("top", "--interval", "200ms", "--talkers", "1")
            return await asyncio.to_thread(show, lab.endpoint, 100, *command, term="dumb")

    shown = run(scene())
    assert 0 == shown.code
    assert "eth1 native 1.50k 2.50M 3.0" in words(shown.text)
    assert "\x1b" not in shown.text


def test_top_of_a_daemon_that_stops() -> None:
    """A daemon that stops ends top as unreachable."""

    async def scene() -> None:
        async with running() as lab:
            process = await start(lab, "-o", "json", "top", "--interval", "60s")
            assert process.stdout is not None
            await process.stdout.readline()
            await lab.server.stop(0.0)
            await process.communicate()
            assert 3 == process.returncode

    run(scene())


def test_small_and_large_numbers() -> None:
    """Rates and durations are short, whatever their size."""
    assert ["0", "0.5", "9.9", "10", "999", "1.00k", "12.30M", "4.00G"] == [
        rate(value) for value in (0, 0.5, 9.9, 10, 999, 1_000, 12.3e6, 4e9)
    ]
    assert ["512 ns", "1.02 us", "16.8 ms", "1.5 s", "any"] == [
        seconds(value) for value in (512e-9, 1.024e-6, 16.777e-3, 1.5, float("inf"))
    ]


@pytest.mark.parametrize("interval", ["50ms", "2m", "1", "x", "99999999999s"])
def test_intervals(interval: str) -> None:
    """An interval that is none, or out of range, is a usage error that says how to write it."""
    done = run(x0ctl("unix:///nonexistent", "top", "--interval", interval))
    assert 2 == done.code
    assert "interval" in done.err
