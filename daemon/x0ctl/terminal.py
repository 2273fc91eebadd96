"""What a command owes the terminal that it draws on: to leave it as it was, however it ends."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

EXIT_TERMINATED: Final = 128 + signal.SIGTERM


@contextmanager
def restored_on_sigterm() -> Iterator[None]:
    """Make SIGTERM an exception meanwhile, as Ctrl-C is: what draws inside puts cursor and screen back."""
    former = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(EXIT_TERMINATED)
