"""Programs of the benchmark that run beside it: each takes orders as JSON lines and answers each with one.

A child ends when its input does, so none outlives the benchmark, whatever ends that.
"""

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
import uvloop

from lab.machine import LabError, inside

Order = dict[str, Any]
"""``do`` names it; the rest is the program's."""
TICKS = os.sysconf("SC_CLK_TCK")
END_S = 5.0


class Child:
    """One of them, while it runs."""

    def __init__(self, program: str, process: "subprocess.Popen[str]") -> None:
        """Refer to it."""
        self._program = program
        self._process = process

    @property
    def pid(self) -> int:
        """``nsenter`` becomes the program, under the same pid."""
        return self._process.pid

    def ask(self, do: str, **order: object) -> Order:
        """Give an order and wait for its answer.

        Raises:
            LabError: the child has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise LabError(f"{self._program} has ended at {do!r}, exit status {self._process.wait()}")
        answer: Order = json.loads(line)
        return answer


@contextmanager
def child(program: str, *arguments: str, namespace: str = "") -> Iterator[Child]:
    """Run ``bench.PROGRAM`` for the length of a block."""
    command = [sys.executable, "-m", f"bench.{program}", *arguments]
    process = subprocess.Popen(
        inside(namespace, command) if namespace else command,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "GRPC_VERBOSITY": "NONE"},  # as the daemon has it: gRPC tells of each failed handshake
    )  # fmt: skip
    try:
        yield Child(program, process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.close()
            process.wait(END_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()
        process.stdout.close()


def cpu_s(pid: int) -> float:
    """User and system time of a process, all its threads.  Raises LabError if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        raise LabError(f"process {pid} ended while it was measured") from None
    return (int(fields[11]) + int(fields[12])) / TICKS


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent do not exceed; infinite for none at all."""
    known = sorted(values)
    return known[min(len(known) - 1, int(len(known) * percent / 100))] if known else float("inf")


async def obey(answer: Callable[[Order], Awaitable[Order]]) -> None:
    """Answer orders until the input ends (in a child)."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await answer(json.loads(line))), flush=True)


def run_child(main: Awaitable[None]) -> None:
    """Run a child's main coroutine as the daemon runs: under uvloop.  Its log is no answer, and errors alone."""
    errors_only = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=errors_only, logger_factory=structlog.PrintLoggerFactory(sys.stderr))

    async def whole() -> None:
        await main

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())
