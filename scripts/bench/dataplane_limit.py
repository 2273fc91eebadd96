"""How exactly a rate is kept when one source's packets come in on two CPUs at once.

Two threads, each pinned to a CPU, run the same packet for a while, far above the limit.  What the limit lets through
is held against what it promises: rate x time + burst.
"""

import os
import random
import threading
import time
from pathlib import Path

from bench.dataplane_bpf import TestRun
from bench.dataplane_effort import Effort
from bench.dataplane_lists import frame
from bench.dataplane_ours import Ours
from bench.dataplane_table import Row, Target
from x0d.policy.model import PackedPrefix
from x0d.ports.policy import LimitRate

RATE_PPS = 10_000
BURSTS = (100, 2_000)
"""The shorter one is kept by the exact clock, the longer one by the coarse one."""
SECONDS = 1.0
PACKETS = 5_000
"""A test run; short enough that the threads end together."""
TOLERANCE = 0.1


def measure(_directory: Path, _chance: random.Random, effort: Effort) -> list[Row]:
    """Each burst, as many times as there are rounds."""
    rows = []
    cpus = sorted(os.sched_getaffinity(0))[:2]
    with Ours("limit") as ours:
        for burst in BURSTS:
            shares = [_share(ours, burst, cpus, at) for at in range(effort.rounds)]
            target = Target(1 + TOLERANCE, least=1 - TOLERANCE)
            rows.append(
                Row(
                    f"limit {RATE_PPS:,} pps, burst {burst:,}, one source on {len(cpus)} CPUs: admitted / promised",
                    shares,
                    target=target,
                    unit="",
                    digits=3,
                )
            )
    return rows


def _share(ours: Ours, burst: int, cpus: list[int], number: int) -> float:
    """Admitted / (rate x time + burst), for a source that was never seen before."""
    source = bytes((198, 18, burst % 251, number))
    ours.limit({PackedPrefix(source, 32): LimitRate(RATE_PPS, burst)})
    before = ours.received()
    together = threading.Barrier(len(cpus))
    times: list[tuple[float, float]] = []
    threads = [threading.Thread(target=_send, args=(ours, source, cpu, together, times)) for cpu in cpus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    admitted = ours.received().get("pass", 0) - before.get("pass", 0)
    elapsed_s = max(end for _begin, end in times) - min(begin for begin, _end in times)
    return admitted / (RATE_PPS * elapsed_s + burst)


def _send(ours: Ours, source: bytes, cpu: int, together: threading.Barrier, times: list[tuple[float, float]]) -> None:
    os.sched_setaffinity(0, {cpu})  # of this thread
    test_run = TestRun(ours.program_fd, frame(source), ours.ifindex)
    together.wait()
    begun = time.perf_counter()
    while time.perf_counter() < begun + SECONDS:
        test_run.run(PACKETS)
    times.append((begun, time.perf_counter()))
