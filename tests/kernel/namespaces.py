"""Network namespaces for tests: made under names of their own, entered by a thread, removed at the end.

``Namespace.call`` runs a function, ``Namespace.run_loop`` a coroutine under uvloop, in a fresh thread that has moved
into the namespace; threads that it starts are born there too.  The test's own thread stays where it is.
"""

import ctypes
import itertools
import os
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvloop

Result = TypeVar("Result")

CLONE_NEWNET = 0x40000000
RUN_NETNS = Path("/run/netns")
_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace with a name under /run/netns."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = RUN_NETNS / name

    def run(self, *command: str) -> str:
        """Run a command in the namespace (the mounts stay the test's own) and return what it printed."""
        return run("nsenter", f"--net={self.path}", *command)

    def ip(self, arguments: str) -> str:
        """Run ``ip`` with these arguments in the namespace."""
        return self.run("ip", *arguments.split())

    def call(self, work: Callable[[], Result]) -> Result:
        """Run the function in a thread inside the namespace; return what it returns, raise what it raises."""
        results: list[Result] = []
        errors: list[BaseException] = []

        def inside() -> None:
            try:
                self._enter()
                results.append(work())
            except BaseException as error:  # noqa: BLE001  carried over to the test's thread
                errors.append(error)

        thread = threading.Thread(target=inside, name=self.name)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def run_loop(self, main: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Run the coroutine under uvloop, as the daemon does, in a thread inside the namespace."""
        return self.call(lambda: uvloop.run(main()))

    def _enter(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            if _libc.setns(descriptor, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns to {self.name}")
        finally:
            os.close(descriptor)


@contextmanager
def namespace(label: str) -> Iterator[Namespace]:
    """Make a namespace with ``lo`` up; remove it, and all that is in it, at the end.  Needs root: mark the test."""
    made = Namespace(f"x0dt-{label}-{os.getpid()}-{next(_numbers)}")
    run("ip", "netns", "add", made.name)
    try:
        made.ip("link set lo up")
        yield made
    finally:
        run("ip", "netns", "del", made.name)


def veth(one: Namespace, other: Namespace, names: tuple[str, str], indexes: tuple[int, int] = (11, 12)) -> None:
    """Join two namespaces by a pair of interfaces, both up.

    The indexes differ because the kernel tells carrier changes of a pair with equal ones up to a second late.
    """
    one.ip(
        f"link add {names[0]} index {indexes[0]} type veth peer name {names[1]} index {indexes[1]} netns {other.name}"
    )
    one.ip(f"link set {names[0]} up")
    other.ip(f"link set {names[1]} up")


def run(*command: str) -> str:
    """Run a command and return its output; a failure shows what it printed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout
