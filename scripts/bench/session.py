"""The life of a benchmark: its labs have names of their own, and go whatever happens.

The first Ctrl-C (or SIGTERM, SIGHUP) ends the measurement; the lab and the daemons in it are removed, which a second
one does not interrupt.  A benchmark killed with SIGKILL leaves its lab; ``scripts/lab down --name NAME`` removes it.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from bench.stacks import Stack
from lab.machine import LabError
from lab.network import Lab, Options

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@contextmanager
def stack_running(stack: Stack, topology: str, timeout_s: float = 60.0) -> Iterator[Lab]:
    """A fresh lab with this stack on every node, converged; both end with the block.

    Raises:
        LabError: the lab cannot be made, or the stack does not converge in ``timeout_s``.
    """
    lab = Lab.create(f"bench{os.getpid()}", Options(topology))
    try:
        stack.start(lab)
        stack.wait_converged(lab, timeout_s)
        yield lab
    finally:
        _set_interrupts(signal.SIG_IGN)
        try:
            stack.stop(lab)
        finally:
            lab.remove()
            _set_interrupts(_interrupt)


def run_command(command: Callable[[], int]) -> int:
    """Run a benchmark to its end, to an interrupt (exit status 130) or to an error (1)."""
    _set_interrupts(_interrupt)
    if os.geteuid() != 0:
        sys.stderr.write("bench: needs root: it makes network namespaces\n")
        return 1
    try:
        return command()
    except KeyboardInterrupt:
        say("\nstopped; the lab is removed")
        return 130
    except LabError as err:
        sys.stderr.write(f"bench: {err}\n")
        return 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    _set_interrupts(signal.SIG_IGN)
    raise KeyboardInterrupt


def _set_interrupts(handler: "Callable[[int, FrameType | None], None] | signal.Handlers") -> None:
    for number in INTERRUPTS:
        signal.signal(number, handler)
