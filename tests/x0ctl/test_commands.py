"""x0ctl as a process against a real server: what it prints and how it exits."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.control import DAEMON, STRANGER_GID, Lab, run, running, until, x0ctl, x0ctl_as
from fakes.terminal import on_a_terminal
from fakes.views import incident
from x0d.errors import ConfigInvalid, ConfigProblem, StorageFailed
from x0d.mapek.model import Cause, Evidence, IncidentState, Role

COMMANDS = (
    ("status",),
    ("link", "list"),
    ("mesh", "nodes"),
    ("mesh", "routes"),
    ("incident", "list"),
    ("incident", "show", "n1-n2.5c1e:3"),
    ("ebpf", "stats"),
    ("ebpf", "list"),
    ("ebpf", "upgrade"),
    ("ebpf", "attach", "--all"),
    ("ebpf", "detach", "eth1"),
    ("deny", "add", "192.0.2.1", "2001:db8::/32", "--for", "1h30m", "--comment", "scan"),
    ("deny", "list"),
    ("limit", "add", "0.0.0.0/0", "--rate", "100"),
    ("limit", "list"),
    ("top", "--once", "--interval", "200ms"),
    ("reload",),
    ("identity", "show"),
    ("identity", "check"),
    ("identity", "descriptors"),
    ("audit", "list"),
)


GROUPS = ("audit", "deny", "ebpf", "identity", "incident", "limit", "link", "mesh", "watch")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_table_and_json(command: tuple[str, ...]) -> None:
    """Each command prints lines for people and, with -o json, an object; both exit 0."""

    async def scene() -> None:
        async with running() as lab:
            table = await x0ctl(lab, *command)
            as_json = await x0ctl(lab, "-o", "json", *command)
            assert (0, "") == (table.code, table.err)
            assert (0, "") == (as_json.code, as_json.err)
            assert table.out.strip()
            assert isinstance(json.loads(as_json.out), dict)

    run(scene())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_output_after_the_command(command: tuple[str, ...]) -> None:
    """-o is taken after the command as before it."""

    async def scene() -> None:
        async with running() as lab:
            after = await x0ctl(lab, *command, "-o", "json")
            assert (0, "") == (after.code, after.err)
            assert isinstance(json.loads(after.out), dict)

    run(scene())


def test_json_is_the_protos_mapping() -> None:
    """JSON has the proto's own field names and default values."""

    async def scene() -> dict[str, object]:
        async with running() as lab:
            reply: dict[str, object] = json.loads((await x0ctl(lab, "-o", "json", "status")).out)
            return reply

    reply = run(scene())
    assert "1700000000000" == reply["started_at_unix_ms"]
    assert "" == reply["starting_step"]
    assert ["knowledge store cannot be written"] == reply["alerts"]


def test_status_tells_of_refusals_that_matter() -> None:
    """That a network card runs no programs itself is no news; another refused mode is. JSON tells both."""

    async def scene() -> tuple[str, str]:
        async with running() as lab:
            return (await x0ctl(lab, "status")).out, (await x0ctl(lab, "-o", "json", "status")).out

    table, as_json = run(scene())
    assert "adopted; native refused: EOPNOTSUPP\n" in table
    assert "hardware" not in table
    assert ["hardware", "native"] == [each["mode"] for each in json.loads(as_json)["interfaces"][0]["refused_modes"]]


def test_piped_tables_cut_nothing() -> None:
    """A piped table holds every id and explanation whole, in one line."""
    long = incident(9, padding=" and" * 300)

    async def scene() -> str:
        async with running() as lab:
            lab.incidents.publish(long)
            return (await x0ctl(lab, "incident", "list")).out

    line = next(line for line in run(scene()).splitlines() if line.startswith("n1-n2.5c1e:9 "))
    assert line.rstrip().endswith(long.explanation)


def test_timeline() -> None:
    """Incident show tells the steps with ms since the fault, evidence, actions and packets lost."""

    async def scene() -> list[str]:
        async with running() as lab:
            out = (await x0ctl(lab, "incident", "show", "n1-n2.5c1e:3")).out
            return [" ".join(line.split()) for line in out.splitlines()]

    lines = run(scene())
    expected = [
        "packets lost at most 42 (it counts from up to one probe interval before the fault)",
        "Timeline, ms since the last sign that the link worked",
        "151.5 detect took 151.5 ms 3 probes",
        "153.0 act took 1.2 ms 1 nexthop change",
        "what nexthop 1 via fe80::3",
    ]
    assert expected == [line for line in lines if line in expected]
    assert any("probes_unanswered: last reply 152 ms ago" in line for line in lines)


@pytest.mark.parametrize(
    ("role", "kind", "said"),
    [
        (Role.OBSERVER, "peer_reported", "the first report of it reached this node"),
        (Role.END, "peer_reported", "the last sign that the link worked"),
        (Role.END, "carrier_lost", "the last sign that the link worked"),
        (Role.END, "loss", "the link was last without a loss"),
        (Role.END, "control_silent", "the last sign of the daemon at the other end"),
        (Role.END, "announced_stop", "the last sign of the daemon at the other end"),
    ],
)
def test_timeline_names_what_it_counts_from(role: Role, kind: str, said: str) -> None:
    """The times of an incident are said to count from what they do count from."""

    async def scene() -> str:
        async with running() as lab:
            told = Evidence(1_700_000_000_000, kind, "")
            lab.incidents.publish(replace(incident(9), role=role, evidence=(told,), packets_lost=0))
            return (await x0ctl(lab, "incident", "show", "n1-n2.5c1e:9")).out

    lines = [" ".join(line.split()) for line in run(scene()).splitlines()]
    assert f"Timeline, ms since {said}" in lines
    assert "packets lost 0" in lines


def test_control_characters_stay_out_of_the_terminal() -> None:
    """What another node says cannot steer the terminal."""

    async def scene() -> str:
        async with running() as lab:
            lab.incidents.publish(incident(9, padding="\x1b[2Jgone\r"))
            return (await x0ctl(lab, "incident", "list")).out + (
                await x0ctl(lab, "incident", "show", "n1-n2.5c1e:9")
            ).out

    out = run(scene())
    assert "\x1b" not in out
    assert "?[2Jgone?" in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("incident", "show", "n9-n8.0000:1"), 1, "x0ctl incident list"),
        (("--endpoint", "dns:///host:9470", "status"), 2, "needs --server-id"),
        (("--endpoint", "dns:///host:9470", "--server-id", "n2", "status"), 2, "no SPIFFE ID"),
        (("--endpoint", "dns:///host:0", "status"), 2, "not an endpoint"),
        (("--endpoint", "dns:///a/b", "status"), 2, "not an endpoint"),
        (("--endpoint", "host", "status"), 2, "not an endpoint"),
        (("bogus",), 2, "No such command"),
        (("incident", "list", "--limit", "0"), 2, "limit"),
        (("-o", "yaml", "status"), 2, "yaml"),
        (("--endpoint", "unix:///nonexistent/x0d.sock", "status"), 3, "systemctl status x0d"),
    ],
    ids=[
        "unknown id",
        "nobody named",
        "bad id",
        "bad port",
        "bad host",
        "bad endpoint",
        "bad command",
        "bad limit",
        "bad output",
        "unreachable",
    ],
)
def test_exit_codes(arguments: tuple[str, ...], code: int, said: str) -> None:
    """Each way to fail has its exit code, and says on stderr what to do next."""

    async def scene() -> None:
        async with running() as lab:
            finished = await x0ctl(lab, *arguments)
            assert (code, "") == (finished.code, finished.out), finished
            assert said in finished.err

    run(scene())


def test_stale_socket_is_unreachable() -> None:
    """A socket nobody listens on is unreachable."""
    with tempfile.TemporaryDirectory(prefix="x0dt-") as directory:
        path = f"{directory}/x0d.sock"
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(path)
        finished = run(x0ctl(f"unix://{path}", "status"))
    assert 3 == finished.code
    assert "refused" in finished.err


def test_silent_server_is_unreachable() -> None:
    """A server that never answers is given up after --timeout."""
    with tempfile.TemporaryDirectory(prefix="x0dt-") as directory, socket.socket(socket.AF_UNIX) as silent:
        path = f"{directory}/x0d.sock"
        silent.bind(path)
        silent.listen()
        finished = run(x0ctl(f"unix://{path}", "--timeout", "0.5", "status"))
    assert 3 == finished.code, finished
    assert "0.5 s" in finished.err


def test_starting_is_refused_as_retryable() -> None:
    """While x0d starts, the operator is told the step and to try again."""

    async def scene() -> None:
        async with running(ready=False) as lab:
            lab.server.set_starting("load the data plane")
            finished = await x0ctl(lab, "link", "list")
            assert 1 == finished.code
            assert "starting: load the data plane" in finished.err
            assert "try again" in finished.err
            assert 0 == (await x0ctl(lab, "status")).code

    run(scene())


def test_invalid_configuration() -> None:
    """A reload of a bad file prints each error and that nothing was changed."""

    async def scene() -> None:
        async with running() as lab:
            lab.node.fails = ConfigInvalid("x.toml", (ConfigProblem("mesh.up", "no"), ConfigProblem("log.level", "no")))
            finished = await x0ctl(lab, "reload")
            assert 1 == finished.code
            assert "x.toml: mesh.up: no\nx.toml: log.level: no" in finished.err
            assert "nothing was changed" in finished.err

    run(scene())


def test_failed_storage_is_not_unreachable() -> None:
    """A daemon that answers that its disk is full was reached: exit 1."""

    async def scene() -> None:
        async with running() as lab:
            lab.incidents.fails = StorageFailed("knowledge.db: disk full")
            finished = await x0ctl(lab, "incident", "list")
            assert 1 == finished.code
            assert "disk full" in finished.err

    run(scene())


@pytest.mark.kernel
def test_stranger() -> None:
    """A stranger is told which role is missing, and to be root, join the group or have it bound: exit 4."""

    async def scene() -> None:
        async with running() as lab:
            finished = await x0ctl_as(lab, "status", gid=STRANGER_GID)
            assert 4 == finished.code
            assert "needs the role viewer or operator or admin" in finished.err
            assert "run as root, for reading join group x0d, or have an [[identity.bindings]]" in finished.err

    run(scene())


@pytest.mark.kernel
def test_closed_directory() -> None:
    """A socket below a directory that is closed to the caller is not a matter of roles: exit 4."""

    async def scene() -> None:
        async with running() as lab:
            lab.runtime_dir.chmod(0o700)
            finished = await x0ctl_as(lab, "status", gid=STRANGER_GID)
            assert 4 == finished.code
            assert "a directory above it is closed to you" in finished.err
            assert "[[identity.bindings]]" not in finished.err

    run(scene())


async def start_watch(lab: Lab, *options: str) -> asyncio.subprocess.Process:
    """Start ``watch incidents`` and wait until the server has it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "x0ctl", *options, "watch", "incidents"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "X0CTL_ENDPOINT": lab.endpoint, "PYTHONPATH": str(DAEMON)},
    )
    await until(lambda: lab.incidents.subscribers)
    return process


def test_watch_until_ctrl_c() -> None:
    """A watch prints one object a line as it happens, and ends with 130 and no complaint on Ctrl-C."""

    async def scene() -> None:
        async with running() as lab:
            process = await start_watch(lab, "-o", "json")
            assert process.stdout is not None
            first = json.loads(await process.stdout.readline())
            lab.incidents.publish(incident(5))
            second = json.loads(await process.stdout.readline())
            assert ["n1-n2.5c1e:4", "n1-n2.5c1e:5"] == [first["incident"]["id"], second["incident"]["id"]]
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
            assert (130, b"", b"\n") == (process.returncode, out, err)
            await until(lambda: not lab.incidents.subscribers)

    run(scene())


def test_watch_tells_nothing_twice() -> None:
    """A change that a line does not show prints no line; the next one that it shows does."""

    async def scene() -> None:
        async with running() as lab:
            process = await start_watch(lab)
            assert process.stdout is not None
            lines = [await process.stdout.readline()]
            opened = incident(4, IncidentState.OPEN)
            lab.incidents.publish(replace(opened, evidence=()))
            lab.incidents.publish(incident(5))
            lab.incidents.publish(opened)
            lab.incidents.publish(incident(4))
            lines += [await process.stdout.readline() for _ in range(2)]
            process.send_signal(signal.SIGINT)
            rest, _ = await process.communicate()
            told = [(line.split()[2], line.split()[3]) for line in lines]
            expected = [(b"n1-n2.5c1e:4", b"open"), (b"n1-n2.5c1e:5", b"closed"), (b"n1-n2.5c1e:4", b"closed")]
            assert (expected, b"") == (told, rest)

    run(scene())


@pytest.mark.parametrize("columns", [60, 80, 100, 140, 200])
def test_terminals_break_no_value(columns: int) -> None:
    """On a terminal of any width ids, causes, states and times stay whole, and no line is wider than it."""
    long = replace(incident(9, padding=" and so on" * 20), cause=Cause.CONTROL_PLANE_GONE)
    whole = (str(long.id), "closed", "control_plane_gone", "2023-11-1", ".000")

    async def scene() -> None:
        async with running() as lab:
            lab.incidents.publish(long)
            lines = await asyncio.to_thread(on_a_terminal, lab.endpoint, columns, "incident", "list")
            assert [] == [line for line in lines if len(line.rstrip()) > columns]
            text = "\n".join(lines)
            assert [] == [value for value in whole if value not in text]
            assert 20 == len(re.findall(r"\bon\b", text))
            links = "\n".join(await asyncio.to_thread(on_a_terminal, lab.endpoint, columns, "link", "list"))
            assert [] == [value for value in ("n1-n2.5c1e", "eth1", "up", "1 min 1 s") if value not in links]

    run(scene())


def test_watch_of_a_daemon_that_stops() -> None:
    """A watch ends as unreachable when the daemon stops."""

    async def scene() -> None:
        async with running() as lab:
            process = await start_watch(lab)
            await lab.server.stop(0.0)
            _, err = await process.communicate()
            assert 3 == process.returncode
            assert b"systemctl status x0d" in err

    run(scene())


def test_doctor_of_the_daemon() -> None:
    """Doctor prints the daemon's checks and exits 1 when one failed."""

    async def scene() -> None:
        async with running() as lab:
            finished = await x0ctl(lab, "doctor")
            assert 1 == finished.code
            assert "The running x0d: kernel 6.18.0, uid 0, capabilities: cap_bpf" in finished.out

    run(scene())


@pytest.mark.parametrize(("ends", "code"), [(0, 0), (70, 1)])
def test_doctor_without_daemon(tmp_path: Path, ends: int, code: int) -> None:
    """Without a daemon, the x0d next to x0ctl is asked, and it is said for whom the answer holds."""
    program = tmp_path / "x0d"
    program.write_text(f'#!/bin/sh\necho "asked $*"\nexit {ends}\n')
    program.chmod(0o755)
    client = tmp_path / "x0ctl"
    client.write_text("import sys\nfrom x0ctl.__main__ import main\nsys.exit(main())\n")
    command = [sys.executable, str(client), "--endpoint", "unix:///nonexistent/x0d.sock", "-o", "json", "doctor"]
    environment = {**os.environ, "PYTHONPATH": str(DAEMON)}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (code, "asked --doctor -o json\n") == (finished.returncode, finished.stdout)
    assert f"uid {os.geteuid()}" in finished.stderr


@pytest.mark.parametrize("group", [(), *((name,) for name in GROUPS), ("ebpf", "trace")], ids=" ".join)
def test_help_is_whole(group: tuple[str, ...]) -> None:
    """What a command does is said in the list of its group without being cut."""
    shown = run(x0ctl("unix:///nonexistent", *group, "--help"))
    commands = shown.out.partition("Commands:\n")[2].splitlines()
    assert commands
    assert [] == [line for line in commands if line.endswith("...")]


def test_timeout_is_not_for_streams() -> None:
    """The help of --timeout says what it does not limit."""
    assert "streams (watch, top, trace" in " ".join(run(x0ctl("unix:///nonexistent", "--help")).out.split())


def test_help_is_quick() -> None:
    """--help and usage errors import neither gRPC nor rich nor what TLS needs."""
    code = (
        "import sys; from x0ctl.__main__ import main; main(['--help']); main(['bogus']);"
        "sys.exit(bool({'grpc', 'rich', 'google.protobuf', 'cryptography', 'OpenSSL', 'asyncio'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(DAEMON)}
    finished = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert 0 == finished.returncode, finished.stderr
