"""How long reading takes: 10,000 tracked sources, 10,000 entries' hits, and a scrape of a running daemon.

The daemon has 64 interfaces, each of which has counted packets of six classes; its metrics keep their default caps.
"""

import random
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.dataplane_bpf import TestRun
from bench.dataplane_daemon import running_daemon
from bench.dataplane_effort import Effort
from bench.dataplane_lists import ENTRIES, DenyLists, frame, random_address
from bench.dataplane_ours import Ours
from bench.dataplane_table import Row, Target
from bench.dataplane_world import add_veth

INTERFACES = 64
READING_MS, SCRAPE_MS = 10.0, 30.0
ROUNDS = 5
"""Readings a round."""


def measure(directory: Path, chance: random.Random, effort: Effort) -> list[Row]:
    """Sources, hits, counters, scrape."""
    readings = effort.rounds * ROUNDS
    with Ours("reading") as ours:
        for _ in range(ENTRIES):
            TestRun(ours.program_fd, frame(random_address(chance, 4)), ours.ifindex).run(1)
        lists = DenyLists.draw(chance, 4, nets=0)
        ours.deny(dict.fromkeys(lists.exact, 0))
        tracked = len(ours.wait(ours.policy.sources))
        rows = [
            *_rows(f"{tracked:,} tracked sources read", ours, ours.policy.sources, readings),
            *_rows(f"hits of {ENTRIES:,} entries read", ours, ours.policy.deny_hits, readings),
        ]
    return [*rows, *_scrapes(directory, readings)]


def _rows(what: str, ours: Ours, read: Callable[[], Awaitable[object]], count: int) -> list[Row]:
    """Milliseconds of each reading, elapsed and of CPU: on a busy machine they differ."""

    async def each() -> tuple[list[float], list[float]]:
        elapsed, busy = [], []
        for _ in range(count):
            begun, used = time.perf_counter(), time.process_time()
            await read()
            elapsed.append(1e3 * (time.perf_counter() - begun))
            busy.append(1e3 * (time.process_time() - used))
        return elapsed, busy

    elapsed, busy = ours.wait(each)
    return [
        Row(what, elapsed, target=Target(READING_MS), unit="ms", digits=1),
        Row("  of that, CPU used", busy, unit="ms", digits=1),
    ]


def _scrapes(directory: Path, count: int) -> list[Row]:
    names = [f"s{number}" for number in range(INTERFACES)]
    for one, other in zip(names[::2], names[1::2], strict=True):
        add_veth(one, other)
    took, series = [], 0
    with running_daemon(directory, names) as daemon:
        for name in names:
            _send_each_kind(name)
        for _ in range(count):
            begun = time.perf_counter()
            content = daemon.scrape()
            took.append(1e3 * (time.perf_counter() - begun))
            series = sum(not line.startswith(b"#") for line in content.splitlines())
    what = f"scrape over HTTP, {INTERFACES} interfaces, {series:,} series"
    return [Row(what, took, target=Target(SCRAPE_MS), unit="ms", digits=1)]


def _send_each_kind(name: str) -> None:
    """A frame of several protocol classes out of an interface, so that its peer has counted them."""
    plain = frame(bytes((203, 0, 113, 9)))
    kinds = [plain, frame(bytes.fromhex("20010db8" + "00" * 11 + "09"))]
    kinds += [plain[:23] + bytes([protocol]) + plain[24:] for protocol in (1, 6, 47)]
    kinds += [plain[:12] + ethertype + plain[14:] for ethertype in (b"\x08\x06", b"\x88\xcc")]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((name, 0))
        for content in kinds:
            raw.send(content)
