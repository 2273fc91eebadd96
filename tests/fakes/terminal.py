"""A terminal for x0ctl: a pseudo-terminal of a given width, and what was written to it."""

import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from dataclasses import dataclass

from fakes.control import DAEMON

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Shown:
    """A command that ended on a terminal."""

    code: int
    text: str
    """With every escape sequence."""


def press_ctrl_c(pid: int) -> None:
    """What the terminal does of Ctrl-C."""
    os.kill(pid, signal.SIGINT)


def terminate(pid: int) -> None:
    """What systemd and ``kill`` do."""
    os.kill(pid, signal.SIGTERM)


def show(
    endpoint: str,
    columns: int,
    *arguments: str,
    at: tuple[str, Callable[[int], None]] | None = None,
    term: str = "xterm",
) -> Shown:
    """Run x0ctl on a terminal; ``at`` is a text and what to do with its process id once it has written that."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "x0ctl", "--endpoint", endpoint, *arguments]
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    environment = {**kept, "PYTHONPATH": str(DAEMON), "TERM": term}
    with subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        printed = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal open any more
            while some := os.read(ours, 4096):
                printed += some
                if at is not None and at[0].encode() in printed:
                    act, at = at[1], None
                    act(process.pid)
        os.close(ours)
        return Shown(process.wait(10), printed.decode())


def on_a_terminal(endpoint: str, columns: int, *arguments: str) -> list[str]:
    """Lines that x0ctl prints on a terminal of so many columns, without its colours; it must exit 0."""
    shown = show(endpoint, columns, *arguments)
    assert 0 == shown.code, shown
    return COLOURS.sub("", shown.text).splitlines()
