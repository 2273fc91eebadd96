"""x0ctl deny and limit against a real server."""

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from fakes.control import DAEMON, Lab, run, running, until, x0ctl
from fakes.terminal import COLOURS, on_a_terminal, show
from x0d.errors import TooMany, WouldLockOut
from x0d.policy.model import DenyEntry, PackedPrefix, parse_prefix


def deny_entries(*texts: str) -> dict[PackedPrefix, DenyEntry]:
    """A list without expiries."""
    return {parse_prefix(text): DenyEntry(parse_prefix(text)) for text in texts}


def test_add_tells_what_is_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """Added entries are told with their end, what was forced is told, and the SSH client goes along."""
    monkeypatch.setenv("SSH_CONNECTION", "198.51.100.7 1 198.51.100.1 22")

    async def scene() -> None:
        async with running() as lab:
            done = await x0ctl(lab, "deny", "add", "192.0.2.1", "192.0.2.9/24", "--comment", "scan", "--force")
            expected = [
                "denied  192.0.2.1  for ever",
                "denied  192.0.2.0/24  for ever",
            ]
            assert (0, expected) == (done.code, done.out.splitlines())
            assert "x0ctl: warning: 10.0.0.1 covers neighbour n2\n" == done.err
            asked = {"duration_s": 0, "comment": "scan", "force": True, "caller_addresses": ("198.51.100.7",)}
            assert [asked] == lab.policy.asked
            limited = await x0ctl(lab, "limit", "add", "::/0", "--rate", "5", "--for", "1d", "--force")
            assert "x0ctl: warning: 10.0.0.1 covers neighbour n2\n" == limited.err
            assert (86_400, ("198.51.100.7",)) == (
                lab.policy.asked[1]["duration_s"],
                lab.policy.asked[1]["caller_addresses"],
            )

    run(scene())


def test_removal_names_what_was_not_there() -> None:
    """Of entries and limits to be removed, those that were not there are named; exit 0 if there was one."""

    async def scene() -> None:
        async with running() as lab:
            lab.policy.deny = deny_entries("192.0.2.1", "192.0.2.2")
            some = await x0ctl(lab, "deny", "remove", "192.0.2.1", "192.0.2.9", "2001:db8::/32")
            assert (0, "removed 1; not there: 192.0.2.9, 2001:db8::/32\n") == (some.code, some.out)
            whole = await x0ctl(lab, "deny", "remove", "192.0.2.2")
            assert (0, "removed 1\n") == (whole.code, whole.out)
            await x0ctl(lab, "limit", "add", "::/0", "--rate", "5")
            limits = await x0ctl(lab, "limit", "remove", "::/0", "10.0.0.0/8")
            assert (0, "removed 1; not there: 10.0.0.0/8\n") == (limits.code, limits.out)

    run(scene())


@pytest.mark.parametrize(
    "command",
    [
        ("deny", "add", "10.0.0.0/8"),
        ("limit", "add", "10.0.0.0/8", "--rate", "1"),
        ("deny", "load", "/dev/null"),
    ],
    ids=" ".join,
)
def test_lock_out_is_refused_with_its_sentence(command: tuple[str, ...]) -> None:
    """What would lock the operator out exits 1 and says why, a line each, and what does it all the same."""
    error = WouldLockOut(("10.0.0.0/8 covers 10.0.0.7, where you are connected from", "and 3 more"))
    expected = (
        "x0ctl: refused, it would lock you out:\n  10.0.0.0/8 covers 10.0.0.7, where you are connected from\n"
        "  and 3 more\n  --force does it all the same\n"
    )

    async def scene() -> None:
        async with running() as lab:
            lab.policy.fails = error
            done = await x0ctl(lab, *command)
            assert (1, "", expected) == (done.code, done.out, done.err)

    run(scene())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("deny", "add"), 2, "PREFIX"),
        (("deny", "add", "x"), 1, "'x' is neither an IP address nor a prefix"),
        (("deny", "add", "::1", "--for", "10"), 2, "write such as 90s, 10m, 1h30m, 7d or 2w"),
        (("deny", "add", "::1", "--for", "0s"), 2, "1 second to 10 years"),
        (("deny", "add", "::1", "--for", "999999999w"), 2, "1 second to 10 years"),
        (("deny", "remove", "192.0.2.1"), 1, "none of these is in the list"),
        (("deny", "list", "bogus"), 1, "'bogus' is neither"),
        (("deny", "load", "/nonexistent/deny.txt"), 1, "/nonexistent/deny.txt: No such file or directory"),
        (("limit", "add", "::/0"), 2, "--rate"),
        (("limit", "add", "::/0", "--rate", "0"), 2, "--rate"),
        (("limit", "remove", "::/0"), 1, "none of these is in the list"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], code: int, said: str) -> None:
    """A mistake is told in words, with its exit code, and nothing is changed."""

    async def scene() -> None:
        async with running() as lab:
            done = await x0ctl(lab, *arguments)
            assert (code, "") == (done.code, done.out), done
            assert said in done.err
            assert [] == lab.policy.asked

    run(scene())


def test_long_lists_are_printed_whole() -> None:
    """A list of several messages is printed line by line under one header; JSON gives an object a message."""

    async def scene() -> None:
        async with running() as lab:
            lab.policy.deny = deny_entries(*(f"10.0.{number >> 8}.{number & 255}" for number in range(4_001)))
            lines = (await x0ctl(lab, "deny", "list")).out.splitlines()
            assert (4_002, "PREFIX", "10.0.0.0") == (len(lines), lines[0].split()[0], lines[1].split()[0])
            assert ["10.0.15.160", "-", "3"] == lines[-1].split()
            objects = [json.loads(line) for line in (await x0ctl(lab, "-o", "json", "deny", "list")).out.splitlines()]
            assert [500] * 8 + [1] == [len(each["entries"]) for each in objects]

    run(scene())


@pytest.mark.parametrize("form", ["10.7.{}.{}", "2001:db8:1111:2222:3333:4444:{:x}:{:x}"], ids=["ipv4", "ipv6"])
def test_long_lists_fit_the_terminal(form: str) -> None:
    """On a terminal no line of a long list is wider than it, and no comment is cut."""

    async def scene() -> list[str]:
        async with running() as lab:
            for number in range(2_500):
                prefix = parse_prefix(form.format(number >> 8, number & 255))
                lab.policy.deny[prefix] = DenyEntry(prefix, 1_700_000_000_000, "port scan" if number else "many " * 30)
            return await asyncio.to_thread(on_a_terminal, lab.endpoint, 80, "deny", "list")

    lines = run(scene())
    assert [] == [line for line in lines if len(line) > 80]
    assert 2_499 == sum(line.endswith("  port scan") for line in lines)
    assert 30 == "\n".join(lines).count("many")


def test_comments_cannot_steer_the_terminal() -> None:
    """Control characters that got into a comment are not printed."""

    async def scene() -> str:
        async with running() as lab:
            prefix = parse_prefix("192.0.2.1")
            lab.policy.deny = {prefix: DenyEntry(prefix, 0, "\x1b[2Jgone")}
            return (await x0ctl(lab, "deny", "list")).out

    out = run(scene())
    assert "\x1b" not in out
    assert "?[2Jgone" in out


def load_in_lab(path: Path, content: str, *options: str, output: str = "table") -> tuple[Lab, int, str, str]:
    """Load a file over a list of one entry."""
    path.write_text(content)

    async def scene() -> tuple[Lab, int, str, str]:
        async with running() as lab:
            lab.policy.deny = deny_entries("203.0.113.9")
            done = await x0ctl(lab, "-o", output, "deny", "load", str(path), *options)
            return lab, done.code, done.out, done.err

    return run(scene())


def test_load(tmp_path: Path) -> None:
    """A file of many parts replaces the list and tells what has changed; nothing else is printed to a pipe."""
    content = "".join(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}\n" for number in range(70_000))
    lab, code, out, err = load_in_lab(tmp_path / "deny.txt", content)
    assert (0, "") == (code, err)
    expected = "in force: 70000 entries of 70000 lines in 1 ms; 70000 added, 1 removed, 0 duplicates\n"
    assert expected == out
    assert 70_000 == len(lab.policy.deny)


def test_dry_run(tmp_path: Path) -> None:
    """--dry-run says what would change, and changes nothing."""
    lab, code, out, _ = load_in_lab(tmp_path / "deny.txt", "192.0.2.1\n", "--dry-run")
    assert 0 == code
    assert out.startswith("checked, nothing was changed: 1 entries")
    assert ["203.0.113.9"] == [str(prefix) for prefix in lab.policy.deny]


def test_load_as_json(tmp_path: Path) -> None:
    """JSON gives each answer as a line."""
    _, _, out, _ = load_in_lab(tmp_path / "deny.txt", "192.0.2.1\n", output="json")
    assert ["reading", "building", "done"] == [json.loads(line)["phase"] for line in out.splitlines()]


def test_load_of_wrong_lines(tmp_path: Path) -> None:
    """Wrong lines are named, a line each, exit 1, and the old list stays."""
    lab, code, out, err = load_in_lab(tmp_path / "deny.txt", "192.0.2.1\nbogus; no\n10.0.0.1.2\n")
    assert (1, "") == (code, out)
    expected = ["x0ctl: line 2: 'bogus; no'", "line 3: '10.0.0.1.2'"]
    assert expected == [line.partition(" is neither")[0] for line in err.splitlines()]
    assert ["203.0.113.9"] == [str(prefix) for prefix in lab.policy.deny]


def test_binary_file_is_not_sent(tmp_path: Path) -> None:
    """A file that is no text does not reach the daemon."""
    lab, code, _, err = load_in_lab(tmp_path / "deny.txt", "192.0.2.1\n\0\n")
    assert 1 == code
    assert "line 2 has a NUL byte: this is no text\n  nothing was sent" in err
    assert [] == lab.policy.asked


def test_load_refused_midway(tmp_path: Path) -> None:
    """A list that is too long is told as such, although more of it was on its way."""
    path = tmp_path / "deny.txt"
    path.write_text("192.0.2.1 # and so on\n" * 100_000)

    async def scene() -> None:
        async with running() as lab:
            lab.policy.fails = TooMany("the deny-list may have 1,024 entries; raise ebpf.deny_entries_max for more")
            done = await x0ctl(lab, "deny", "load", str(path))
            assert 1 == done.code
            assert "raise ebpf.deny_entries_max" in done.err

    run(scene())


def test_load_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal a bar shows how far it is, and is gone at the end."""
    path = tmp_path / "deny.txt"
    path.write_text("192.0.2.1\n" * 100_000)

    async def scene() -> None:
        async with running() as lab:
            shown = await asyncio.to_thread(show, lab.endpoint, 100, "deny", "load", str(path))
            assert 0 == shown.code, shown
            assert "reading" in shown.text
            assert ["0%", "52%", "100%"] == list(dict.fromkeys(re.findall(r"\d+%", shown.text)))
            assert "in force: 1 entries of 100000 lines" in shown.text.splitlines()[-1]

    run(scene())


def test_load_on_a_terminal_that_takes_lines_only(tmp_path: Path) -> None:
    """A terminal that cannot be drawn on gets the result and nothing else."""
    path = tmp_path / "deny.txt"
    path.write_text("192.0.2.1\n")

    async def scene() -> None:
        async with running() as lab:
            shown = await asyncio.to_thread(show, lab.endpoint, 100, "deny", "load", str(path), term="dumb")
            assert [
                "in force: 1 entries of 1 lines in 1 ms; 1 added, 0 removed, 0 duplicates"
            ] == shown.text.splitlines()

    run(scene())


def test_waiting_for_the_kernel_has_no_share(tmp_path: Path) -> None:
    """While a list is put in force nobody knows how long it takes: the terminal shows the time, and no 100 %."""
    path = tmp_path / "deny.txt"
    path.write_text("192.0.2.1\n")

    async def scene() -> None:
        async with running() as lab:
            kernel, loop = asyncio.Event(), asyncio.get_running_loop()

            async def hold() -> None:
                await kernel.wait()

            def go_on(_client: int) -> None:
                loop.call_soon_threadsafe(kernel.set)

            lab.policy.before = hold
            seen = ("putting in force", go_on)
            shown = await asyncio.to_thread(show, lab.endpoint, 100, "deny", "load", str(path), at=seen)
            assert 0 == shown.code, shown
            waiting = COLOURS.sub("", shown.text).partition("putting in force")[2]
            assert "0:00:0" in waiting
            assert "%" not in waiting

    run(scene())


def test_ctrl_c_ends_a_load(tmp_path: Path) -> None:
    """Ctrl-C ends the client at once with 130, also while the daemon is busy with the list."""
    path = tmp_path / "deny.txt"
    path.write_text("192.0.2.1\n")

    async def scene() -> None:
        async with running() as lab:
            busy, kernel = asyncio.Event(), asyncio.Event()

            async def hold() -> None:
                busy.set()
                await kernel.wait()

            lab.policy.before = hold
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "x0ctl", "deny", "load", str(path)),
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "X0CTL_ENDPOINT": lab.endpoint, "PYTHONPATH": str(DAEMON)},
            )
            await busy.wait()
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
            assert (130, b"\n") == (process.returncode, err)
            kernel.set()
            await until(lambda: lab.policy.loading is None)

    run(scene())
