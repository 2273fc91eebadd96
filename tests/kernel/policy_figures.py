"""Prints how long the policy plane's calls take: ``python -m kernel.policy_figures`` with daemon and tests on the path.

Wall-clock and processor milliseconds of this process, kernel included; the median of the repetitions.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from itertools import cycle

from kernel.policy_maps import policy_maps
from x0d.kernel import bpf
from x0d.kernel.layout_policy import SOURCE
from x0d.kernel.policy import KernelPolicy
from x0d.policy.model import PackedPrefix, PrefixKey, mask

REPETITIONS = 5
Entries = dict[PrefixKey, int]


def random_list(seed: int, count: int) -> Entries:
    """Half exact addresses, half prefixes of 12 to 31 bits."""
    rng, entries = random.Random(seed), Entries()
    while len(entries) < count:
        length = 32 if len(entries) < count // 2 else rng.randrange(12, 32)
        entries[PackedPrefix(mask(rng.randbytes(4), length), length)] = 0
    return entries


async def _time(name: str, call: Callable[[], Awaitable[object]]) -> None:
    walls, processors = [], []
    for _ in range(REPETITIONS):
        wall, processor = time.perf_counter(), time.process_time()
        await call()
        walls.append(1000 * (time.perf_counter() - wall))
        processors.append(1000 * (time.process_time() - processor))
    print(f"{name:45} {statistics.median(walls):9.2f} ms {statistics.median(processors):9.2f} ms CPU")


async def _main() -> None:
    with policy_maps(131_072, sources_max=16384) as maps:
        plane = KernelPolicy(lambda: maps.fds, lambda: maps.directory, 131_072)
        await plane.open()
        await plane.replace_deny(random_list(1, 10_000))
        await _time("read 10,000 entries' hits", plane.deny_hits)
        for number in range(10_000):
            key = bytes(10) + b"\xff\xff" + number.to_bytes(4)
            bpf.update(maps.fds["x0d_sources"], key, SOURCE.pack(0, 0, number, number, 0))
        await _time("read 10,000 sources", plane.sources)
        lists = cycle([random_list(2, 100_000), random_list(3, 100_000)])
        await _time("replace 100,000 entries by 100,000 others", lambda: plane.replace_deny(next(lists)))
        address = PackedPrefix(b"\1\2\3\4", 32)
        expiries = cycle([0, 1])
        await plane.put_deny({address: 2})
        await _time("put one entry beside 100,000", lambda: plane.put_deny({address: next(expiries)}))
        await _time("adopt 100,000 entries", plane.open)
        await plane.close()


if __name__ == "__main__":
    asyncio.run(_main())
