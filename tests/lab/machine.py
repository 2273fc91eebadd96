"""Commands, namespaces and processes of this machine, as the lab uses them.

Programs run inside a namespace by ``nsenter --net=``: ``ip netns exec`` would mount a fresh /sys and hide what is
mounted below it.  A process is known by its pid and its start time, so that a later one with the same pid is
never mistaken for it.
"""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.02


class LabError(Exception):
    """Something about the lab or this machine that its user has to know; the message says it in a sentence."""


def run(command: Sequence[str], *, stdin: str | None = None) -> str:
    """Run a command and return what it printed.  It inherits the lock of ``locked``, if that is held.

    Raises:
        LabError: the program is missing, or it failed; with the end of its complaint.
    """
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, close_fds=False)
    except FileNotFoundError:
        raise LabError(f"the command {command[0]!r} is missing") from None
    if done.returncode:
        complaint = (done.stderr or done.stdout).strip()[-800:]
        raise LabError(f"{' '.join(command[:8])}: {complaint or f'exit {done.returncode}'}")
    return done.stdout


@contextmanager
def locked(file: Path, timeout_s: float) -> Iterator[bool]:
    """Hold an exclusive lock; commands of ``run`` hold it too, so it is free only when the last of them has ended.

    The value is False if the file was removed while waiting: whoever removed it has done the work.

    Raises:
        LabError: somebody else holds it for longer than ``timeout_s``.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.set_inheritable(descriptor, True)

        def taken() -> bool:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        if not wait_until(taken, timeout_s):
            raise LabError(f"another process is at work on {file.parent}")
        yield os.fstat(descriptor).st_nlink > 0
    finally:
        os.close(descriptor)


def inside(namespace: str, command: Sequence[str]) -> list[str]:
    """The command that runs ``command`` in a namespace; it becomes that command, under the same pid."""
    return ["nsenter", f"--net=/run/netns/{namespace}", "--", *command]


def batch(namespace: str | None, lines: Iterable[str], *, program: str = "ip") -> None:
    """Feed lines to one ``ip -batch`` (or ``tc``), in a namespace or in this one; the first refusal ends it.

    Raises:
        LabError: a line was refused.
    """
    command = [program, "-batch", "-"]
    run(inside(namespace, command) if namespace else command, stdin="".join(f"{line}\n" for line in lines))


def namespaces() -> frozenset[str]:
    """Names of all network namespaces."""
    directory = Path("/run/netns")
    return frozenset(entry.name for entry in directory.iterdir()) if directory.is_dir() else frozenset()


def pids_in(namespace: str) -> list[int]:
    """Processes whose network namespace is this one."""
    return [int(line) for line in run(["ip", "netns", "pids", namespace]).split()]


def write_sysctls(namespace: str, values: dict[str, int]) -> None:
    """Set ``net.*`` sysctls (keys with slashes, below ``net``) of a namespace.

    Raises:
        LabError: the kernel has no such sysctl, or refuses the value.
    """
    script = "".join(f"echo {value} > /proc/sys/net/{key}\n" for key, value in values.items())
    run(inside(namespace, ["sh", "-ec", script]))


@dataclass(frozen=True, slots=True)
class Process:
    """A process that this lab started."""

    pid: int
    started: int
    """Clock ticks after boot, from /proc/PID/stat."""

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """The process that has this pid now; None if there is none or only its remains."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return Process.of(self.pid) == self

    def signal(self, number: int) -> bool:
        """Send a signal; False if the process is gone."""
        if not self.alive:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def wait_until(holds: Callable[[], bool], timeout_s: float, poll_s: float = POLL_S) -> bool:
    """Poll until a condition holds; False if it does not in that time."""
    end = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(poll_s)
    return True


def end_processes(namespace: str, timeout_s: float) -> None:
    """Kill what runs in a namespace (traffic, shells, daemons that would not end), save this process itself.

    Raises:
        LabError: some do not end.
    """

    def rest() -> list[Process]:
        found = (Process.of(pid) for pid in pids_in(namespace) if pid != os.getpid())
        return [process for process in found if process]

    for process in rest():
        process.signal(signal.SIGKILL)
    if not wait_until(lambda: not rest(), timeout_s):
        raise LabError(f"processes {[process.pid for process in rest()]} in {namespace} do not end")
