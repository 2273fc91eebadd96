"""Waiting for what the kernel or another process does, where nothing tells that it is done."""

import time
from collections.abc import Callable

PATIENCE_S = 5.0
PAUSE_S = 0.0005


def wait_until(is_so: Callable[[], bool], within_s: float = PATIENCE_S) -> bool:
    """Ask again and again, leaving the processor to others in between; returns the last answer."""
    deadline_s = time.monotonic() + within_s
    while not (answer := is_so()) and time.monotonic() < deadline_s:
        time.sleep(PAUSE_S)  # tidy: counters in maps, pins and records of another process wake nobody
    return answer
