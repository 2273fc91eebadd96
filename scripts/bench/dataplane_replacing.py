"""A deny-list of 100,000 entries replaced as a whole: in the kernel, and through a running daemon by x0ctl.

Half of the entries are addresses, half prefixes; each replacement brings entirely different ones.
"""

import random
import time
from ipaddress import ip_address
from pathlib import Path

from bench.dataplane_daemon import running_daemon
from bench.dataplane_effort import Effort
from bench.dataplane_lists import DenyLists
from bench.dataplane_ours import Ours
from bench.dataplane_table import Row, Target
from bench.dataplane_world import add_veth
from x0d.policy.model import PrefixKey

ENTRIES = 100_000
TARGET_MS = 1000.0
ROUNDS_MAX = 7
REST_S = 1.0
"""The daemon frees what the old list had."""


def measure(directory: Path, chance: random.Random, effort: Effort) -> list[Row]:
    """Kernel part, then the whole way."""
    rounds = min(effort.rounds, ROUNDS_MAX)
    lists = [_entries(chance) for _ in range(2)]
    took, busy = [], []
    with Ours("replace") as ours:
        for number in range(rounds):
            begun, used = time.perf_counter(), time.process_time()
            ours.deny(lists[number % 2])
            took.append(1e3 * (time.perf_counter() - begun))
            busy.append(1e3 * (time.process_time() - used))
            ours.wait(ours.policy.deny_hits)  # has its turn once what the old list had is freed
    rows = [
        Row(f"{ENTRIES:,} deny entries replaced, kernel part", took, target=Target(TARGET_MS), unit="ms"),
        Row("  of that, CPU used", busy, unit="ms"),
    ]
    add_veth("load0", "load1")
    files = []
    for number, entries in enumerate(lists):
        files.append(directory / f"deny{number}.txt")
        files[-1].write_text("".join(f"{ip_address(address)}/{length}\n" for address, length in entries))
    took = []
    with running_daemon(directory, ["load0"]) as daemon:
        for number in range(rounds):
            begun = time.perf_counter()
            daemon.x0ctl("--timeout", "60", "deny", "load", str(files[number % 2]))
            took.append(1e3 * (time.perf_counter() - begun))
            time.sleep(REST_S)
    what = f"{ENTRIES:,} deny entries: x0ctl deny load, from its start to its end"
    return [*rows, Row(what, took, target=Target(TARGET_MS), unit="ms")]


def _entries(chance: random.Random) -> dict[PrefixKey, int]:
    lists = DenyLists.draw(chance, 4, ENTRIES // 2, ENTRIES // 2)
    return dict.fromkeys(lists.exact | lists.nets, 0)
