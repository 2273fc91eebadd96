"""Deny-list and limits as packets meet them: the policy plane on the real programs, by BPF_PROG_TEST_RUN."""

import asyncio
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Self

import pytest

from kernel.plane_world import SETTINGS
from kernel.xdp_packets import Packet
from kernel.xdp_stages import XdpStages, new_stages
from kernel.xdp_world import new_world
from x0d.errors import NotSupported
from x0d.kernel import bpf
from x0d.kernel.dataplane import XdpDataPlane
from x0d.kernel.policy import KernelPolicy
from x0d.mesh.model import Address
from x0d.policy.model import PackedPrefix, PrefixKey, parse_prefix
from x0d.ports.policy import LimitRate, Source

pytestmark = pytest.mark.kernel

DROP, PASS = 1, 2
ENTRIES_MAX = 16384
SIZES = {"x0d_deny_hits": ENTRIES_MAX, "x0d_sources": 1024, "x0d_events": 4096}
X4, X6 = ip_address("192.0.2.77"), ip_address("2001:db8::77")
HERE4, HERE6 = ip_address("10.0.0.1"), ip_address("fe80::1")
S_NS = 10**9

Scenario = Callable[[KernelPolicy, XdpStages], Awaitable[None]]


def _frame(source: Address) -> bytes:
    return Packet(source, HERE4 if source.version == 4 else HERE6, b"x" * 20, destination_port=53).encode()


@contextmanager
def _bpffs() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="x0dt-bpf-"))
    subprocess.run(["mount", "-t", "bpf", "x0dt-bpf", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)
        directory.rmdir()


def _play(scenario: Scenario) -> None:
    """Run a scenario on fresh programs and an open plane."""

    async def whole(stages: XdpStages, directory: Path) -> None:
        plane = KernelPolicy(lambda: stages.fds, lambda: directory, ENTRIES_MAX)
        await plane.open()
        try:
            await scenario(plane, stages)
        finally:
            await plane.close()

    with _bpffs() as directory, new_stages(sizes=SIZES) as stages:
        asyncio.run(whole(stages, directory))


class Flood:
    """Shows the same frames to the programs until it is stopped, and counts the verdicts."""

    def __init__(self, root_fd: int, *frames: bytes) -> None:
        self.verdicts: dict[int, int] = {}
        self._root_fd = root_fd
        self._frames = frames
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            for frame in self._frames:
                verdict = bpf.run_on_packet(self._root_fd, frame).verdict
                self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1


def test_no_packet_sees_half_a_list(seed: int) -> None:
    """Two lists deny X in four ways, by other kinds of entries each; X never passes while they take turns."""
    rng = random.Random(seed)

    def filler(first: int) -> dict[PrefixKey, int]:
        return {PackedPrefix(bytes([first]) + rng.randbytes(3), 32): 0 for _ in range(3000)}

    one = {**filler(20), parse_prefix("192.0.2.77"): 0, parse_prefix("2001:db8::/32"): 0}
    other = {**filler(30), parse_prefix("192.0.0.0/10"): 0, parse_prefix("2001:db8::77"): 0}

    async def scenario(plane: KernelPolicy, stages: XdpStages) -> None:
        await plane.replace_deny(one)
        with Flood(stages.root_fd, _frame(X4), _frame(X6)) as flood:
            for _ in range(10):
                await plane.replace_deny(other)
                await plane.replace_deny(one)
        print(flood.verdicts)
        assert {DROP} == set(flood.verdicts)
        assert flood.verdicts[DROP] > 100

    _play(scenario)


def test_single_entries_hold_at_once_and_end_at_once() -> None:
    """Each of the four kinds: put, dropped and counted; deleted, passed."""

    async def scenario(plane: KernelPolicy, stages: XdpStages) -> None:
        for text, source in (
            ("192.0.2.77", X4),
            ("192.0.2.0/25", X4),
            ("128.0.0.0/1", X4),
            ("2001:db8::77", X6),
            ("::/0", X6),
        ):
            prefix = parse_prefix(text)
            assert PASS == stages.run(_frame(source)).verdict
            await plane.put_deny({prefix: 0})
            assert DROP == stages.run(_frame(source)).verdict
            assert {prefix: 1} == await plane.deny_hits()
            await plane.delete_deny([prefix])
            assert PASS == stages.run(_frame(source)).verdict

    _play(scenario)


def test_a_broader_entry_holds_behind_an_expired_one() -> None:
    """Put and deleted around expired entries, the broader one decides, whichever came first."""

    async def scenario(plane: KernelPolicy, stages: XdpStages) -> None:
        past, future = time.monotonic_ns() - S_NS, time.monotonic_ns() + 1000 * S_NS
        narrow, wide, host = parse_prefix("192.0.2.0/24"), parse_prefix("192.0.0.0/16"), parse_prefix("192.0.2.77")
        await plane.put_deny({narrow: past, host: past})
        assert PASS == stages.run(_frame(X4)).verdict
        await plane.put_deny({wide: 0})
        assert DROP == stages.run(_frame(X4)).verdict
        await plane.put_deny({wide: past})
        assert PASS == stages.run(_frame(X4)).verdict
        await plane.put_deny({wide: future})
        assert DROP == stages.run(_frame(X4)).verdict
        await plane.delete_deny([wide])
        assert PASS == stages.run(_frame(X4)).verdict
        await plane.replace_deny({narrow: past, wide: future, host: past})
        assert DROP == stages.run(_frame(X4)).verdict

    _play(scenario)


def test_a_source_is_held_to_the_limit_in_force() -> None:
    """Ten packets of a burst pass; the rest is counted by limit and source; a lifted limit lets all pass."""

    async def scenario(plane: KernelPolicy, stages: XdpStages) -> None:
        wide, narrow = parse_prefix("192.0.0.0/16"), parse_prefix("192.0.2.0/24")
        frame = _frame(X4)
        await plane.replace_limits({wide: LimitRate(1, 10)})
        verdicts = [stages.run(frame).verdict for _ in range(15)]
        assert [PASS] * 10 + [DROP] * 5 == verdicts
        assert {wide: 5} == await plane.limit_hits()
        assert [Source(X4.packed, 15, 15 * len(frame), 5)] == await plane.sources()
        await plane.replace_limits({wide: LimitRate(1, 10), narrow: LimitRate(1, 1000, time.monotonic_ns() - S_NS)})
        assert DROP == stages.run(frame).verdict  # the narrower one has expired
        assert {wide: 6, narrow: 0} == await plane.limit_hits()
        await plane.replace_limits({})
        assert PASS == stages.run(frame).verdict

    _play(scenario)


def test_the_lists_outlive_the_daemon(tmp_path: Path) -> None:
    """On a real plane: put, closed, opened by the next daemon, and still in force; gone after detach-all."""
    host, net = parse_prefix("192.0.2.77"), parse_prefix("2001:db8::/32")
    with new_world(tmp_path) as world:

        async def life(expected: dict[PrefixKey, int], put: dict[PrefixKey, int], *, is_last: bool) -> None:
            plane = XdpDataPlane(world.bpffs_dir, SETTINGS)
            await plane.open()
            policy = KernelPolicy(lambda: plane.map_fds, lambda: plane.maps_dir, SETTINGS.deny_entries_max)
            await policy.open()
            assert expected == await policy.deny()
            assert expected.keys() == (await policy.limits()).keys()
            await policy.put_deny(put)
            await policy.replace_limits({PackedPrefix(*prefix): LimitRate(1000, 10) for prefix in {**expected, **put}})
            if is_last:
                await plane.detach_all()
                with pytest.raises(NotSupported, match="no data plane"):
                    await policy.open()
                await plane.open()
                await policy.open()
                assert {} == await policy.deny()
            await policy.close()
            plane.close()

        world.wait(lambda: life({}, {host: 0}, is_last=False))
        world.wait(lambda: life({host: 0}, {net: 0}, is_last=False))
        world.wait(lambda: life({host: 0, net: 0}, {}, is_last=True))
