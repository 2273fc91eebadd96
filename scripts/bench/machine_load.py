"""How loaded the machine is, and how the processes under test are scheduled.

A figure taken on a busy machine says little without the load beside it.  ``pressure`` is the kernel's own account
(PSI): the share of time in which some runnable task waited for a CPU.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.machine import LabError

APPARATUS_PRIORITY = 20  # SCHED_FIFO: who sends, receives and breaks things must not be late
FORMS = "fifo:PRIORITY (1 to 15), nice:N (-20 to 19) or other"


@dataclass(frozen=True, slots=True)
class Scheduling:
    """How the daemons under test are scheduled."""

    text: str
    """As given: ``other``, ``nice:-10`` or ``fifo:5``."""
    priority: int = 0
    """SCHED_FIFO priority; 0 means SCHED_OTHER."""
    nice: int = 0
    """Of SCHED_OTHER."""

    @classmethod
    def parse(cls, text: str) -> "Scheduling":
        """Parse ``other``, ``nice:N`` or ``fifo:N``.

        Raises:
            LabError: the text is neither.
        """
        kind, _, number = text.partition(":")
        if text == "other":
            return cls(text)
        if kind == "nice" and number.removeprefix("-").isdecimal() and -20 <= int(number) <= 19:
            return cls(text, nice=int(number))
        if kind == "fifo" and number.isdecimal() and 1 <= int(number) <= 15:
            return cls(text, priority=int(number))
        raise LabError(f"{text!r} is no scheduling: {FORMS}")

    def apply(self, pids: Iterable[int]) -> None:
        """Schedule every thread of these processes so; threads that they start later inherit it."""
        for pid in pids:
            for thread in _threads(pid):
                try:
                    if self.priority:
                        os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(self.priority))
                    elif self.nice:
                        os.setpriority(os.PRIO_PROCESS, thread, self.nice)
                except ProcessLookupError:
                    continue  # a thread that has ended meanwhile
                except PermissionError as err:
                    raise LabError(f"this machine allows no --sched {self.text}: {err}") from None


class Pressure:
    """Measures the CPU pressure from its making on."""

    def __init__(self) -> None:
        """Begin to measure."""
        self._total_us = _pressure_us()
        self._begun_s = time.monotonic()

    def percent(self) -> float:
        """Share of the time since then in which some task waited for a CPU, 0 to 100."""
        span_us = max(1.0, (time.monotonic() - self._begun_s) * 1e6)
        return min(100.0, 100 * (_pressure_us() - self._total_us) / span_us)


def keep_apparatus_punctual(namespaces: Iterable[str], program: str) -> None:
    """Schedule this process, and those of these namespaces that run ``program``, ahead of all others.

    A late sender or a late fault would be booked as the stack's fault.  Children of this process are ordinary again.
    """
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(APPARATUS_PRIORITY))
    inodes = {Path(f"/run/netns/{name}").stat().st_ino for name in namespaces}
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and _runs(process, inodes, program):
            Scheduling("apparatus", APPARATUS_PRIORITY).apply([int(process.name)])


def describe_machine() -> str:
    """Processors, kernel and load, in one line."""
    one, five, _ = os.getloadavg()
    return f"{os.cpu_count()} CPUs, Linux {os.uname().release}, load {one:.1f} (5 minutes: {five:.1f})"


def _pressure_us() -> int:
    """Microseconds of CPU pressure since boot; 0 where the kernel does not account for it."""
    try:
        some = Path("/proc/pressure/cpu").read_text().splitlines()[0]
    except OSError:
        return 0
    return int(some.partition("total=")[2])


def _runs(process: Path, inodes: set[int], program: str) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        return program.encode() in words and (process / "ns/net").stat().st_ino in inodes
    except OSError:
        return False  # it has ended meanwhile


def _threads(pid: int) -> list[int]:
    """Threads of a process; none if it has ended."""
    try:
        return [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []
