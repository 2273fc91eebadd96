"""What every policy plane promises: the fake that tests use, and the maps of XDP in the kernel."""

import asyncio
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from fakes.policy import FakePolicyPlane
from kernel.policy_maps import PolicyMaps, index_key, policy_maps
from x0d.errors import TooMany
from x0d.kernel import bpf
from x0d.kernel.layout_policy import IPV4_MAPPED, SOURCE
from x0d.kernel.policy import KernelPolicy
from x0d.policy.model import LIMITS_MAX, PackedPrefix, PrefixKey, parse_prefix
from x0d.ports.policy import LimitRate, PolicyPlane, Source

ENTRIES_MAX = 2000
FIRST, SECOND, NET, NET6 = map(parse_prefix, ("192.0.2.1", "192.0.2.2", "198.51.100.0/24", "2001:db8::/32"))
SLOW, FAST = LimitRate(100, 10), LimitRate(9_999_999, 1000, 12345)

Scenario = Callable[[PolicyPlane, "Traffic"], Awaitable[None]]
Play = Callable[[Scenario], None]


class Traffic(Protocol):
    """What packets would have done to the plane."""

    async def deny(self, prefix: PackedPrefix, packets: int) -> None: ...

    async def limit(self, prefix: PackedPrefix, packets: int) -> None: ...

    def track(self, source: Source) -> None: ...

    async def restart(self) -> None:
        """The daemon ends and starts again."""


class FakeTraffic:
    def __init__(self, plane: FakePolicyPlane) -> None:
        self.plane = plane

    async def deny(self, prefix: PackedPrefix, packets: int) -> None:
        self.plane.denied[prefix] = packets

    async def limit(self, prefix: PackedPrefix, packets: int) -> None:
        self.plane.limited[prefix] = packets

    def track(self, source: Source) -> None:
        self.plane.tracked.append(source)

    async def restart(self) -> None:
        """It survives as it is."""


class KernelTraffic:
    """Writes what XDP would write."""

    def __init__(self, maps: PolicyMaps, plane: KernelPolicy) -> None:
        self.maps = maps
        self.plane = plane

    async def deny(self, prefix: PackedPrefix, packets: int) -> None:
        tables = self.plane._tables
        assert tables is not None
        self._count("x0d_deny_hits", tables.deny._slot_of[prefix], packets)

    async def limit(self, prefix: PackedPrefix, packets: int) -> None:
        tables = self.plane._tables
        assert tables is not None
        self._count("x0d_limit_hits", tables.limits._index_of[prefix], packets)

    def track(self, source: Source) -> None:
        key = source.address if len(source.address) == 16 else IPV4_MAPPED + source.address
        bpf.update(self.maps.fds["x0d_sources"], key, SOURCE.pack(1, 2, source.packets, source.bytes, source.limited))

    async def restart(self) -> None:
        await self.plane.open()

    def _count(self, name: str, index: int, packets: int) -> None:
        of_each_cpu = struct.pack("=Q", packets) + bytes(8 * (bpf.possible_cpus() - 1))
        bpf.update(self.maps.fds[name], index_key(index), of_each_cpu)


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.kernel)])
def play(request: pytest.FixtureRequest) -> Iterator[Play]:
    """Run a scenario against a fresh plane."""
    if request.param == "fake":

        def run_fake(scenario: Scenario) -> None:
            fake = FakePolicyPlane(ENTRIES_MAX)
            asyncio.run(_run(scenario, fake, FakeTraffic(fake)))

        yield run_fake
        return
    with policy_maps(ENTRIES_MAX) as maps:

        def run_kernel(scenario: Scenario) -> None:
            async def whole() -> None:
                plane = KernelPolicy(lambda: maps.fds, lambda: maps.directory, ENTRIES_MAX)
                await plane.open()
                try:
                    await scenario(plane, KernelTraffic(maps, plane))
                finally:
                    await plane.close()

            asyncio.run(whole())

        yield run_kernel


async def _run(scenario: Scenario, plane: PolicyPlane, traffic: Traffic) -> None:
    await scenario(plane, traffic)


def test_the_list_in_force_is_what_was_put(play: Play) -> None:
    """Replaced, added to, changed and deleted from, the list reads back as it should be, also after a restart."""

    async def scenario(plane: PolicyPlane, traffic: Traffic) -> None:
        assert {} == await plane.deny()
        await plane.replace_deny({FIRST: 0, NET: 500})
        await plane.put_deny({SECOND: 7, NET: 0, NET6: 9})
        await plane.delete_deny([FIRST, parse_prefix("203.0.113.0/24")])
        assert {SECOND: 7, NET: 0, NET6: 9} == await plane.deny()
        await traffic.restart()
        assert {SECOND: 7, NET: 0, NET6: 9} == await plane.deny()
        await plane.replace_deny({})
        assert {} == await plane.deny()

    play(scenario)


def test_entries_that_stay_keep_their_hits(play: Play) -> None:
    """Hits outlive a replacement and a restart; an entry that goes and comes back begins at none."""

    async def scenario(plane: PolicyPlane, traffic: Traffic) -> None:
        await plane.put_deny({FIRST: 0, NET: 0})
        await traffic.deny(FIRST, 5)
        await traffic.deny(NET, 8)
        await plane.replace_deny({NET: 0, SECOND: 0, NET6: 0})
        assert {NET: 8, SECOND: 0, NET6: 0} == await plane.deny_hits()
        await traffic.restart()
        await plane.put_deny({FIRST: 0, NET: 99})
        assert {NET: 8, SECOND: 0, NET6: 0, FIRST: 0} == await plane.deny_hits()

    play(scenario)


def test_prepared_list_is_not_in_force(play: Play) -> None:
    """What is prepared changes nothing until it is put in force; hits are kept; other changes are as good meanwhile."""

    async def scenario(plane: PolicyPlane, traffic: Traffic) -> None:
        await plane.replace_deny({FIRST: 0, SECOND: 0})
        await traffic.deny(SECOND, 3)
        other: dict[PrefixKey, int] = {SECOND: 0, NET: 5}
        await plane.prepare_deny(other)
        assert {FIRST: 0, SECOND: 3} == await plane.deny_hits()
        await plane.replace_deny(other)
        assert (other, {SECOND: 3, NET: 0}) == (await plane.deny(), await plane.deny_hits())
        last: dict[PrefixKey, int] = {FIRST: 0, SECOND: 0}
        for change in (plane.abandon_deny(), plane.put_deny({NET6: 9}), plane.delete_deny([NET]), traffic.restart()):
            await plane.prepare_deny(last)
            await change
        assert {SECOND: 0, NET6: 9} == await plane.deny()
        await plane.replace_deny(last)
        assert {FIRST: 0, SECOND: 3} == await plane.deny_hits()
        with pytest.raises(TooMany, match="deny_entries_max"):
            await plane.prepare_deny({(struct.pack("!I", number), 32): 0 for number in range(ENTRIES_MAX + 1)})
        assert last == await plane.deny()

    play(scenario)


def test_too_many_entries_are_refused(play: Play) -> None:
    """One above the limit, as a list or added, changes nothing."""

    async def scenario(plane: PolicyPlane, _traffic: Traffic) -> None:
        full = {(struct.pack("!I", number), 32): 0 for number in range(ENTRIES_MAX)}
        await plane.replace_deny(full)
        with pytest.raises(TooMany, match="deny_entries_max"):
            await plane.put_deny({FIRST: 0})
        with pytest.raises(TooMany, match="deny_entries_max"):
            await plane.replace_deny({**full, FIRST: 0})
        assert full == await plane.deny()

    play(scenario)


def test_limits_in_force_are_what_was_put(play: Play) -> None:
    """A replacement puts these in force and no others, each with its very rate, also after a restart."""

    async def scenario(plane: PolicyPlane, traffic: Traffic) -> None:
        assert {} == await plane.limits()
        await plane.replace_limits({NET: SLOW, NET6: FAST})
        await traffic.limit(NET, 4)
        await plane.replace_limits({NET: FAST, FIRST: SLOW})
        assert {NET: FAST, FIRST: SLOW} == await plane.limits()
        assert {NET: 4, FIRST: 0} == await plane.limit_hits()
        await traffic.restart()
        assert {NET: FAST, FIRST: SLOW} == await plane.limits()
        assert {NET: 4, FIRST: 0} == await plane.limit_hits()
        await plane.replace_limits({})
        assert {} == await plane.limits()

    play(scenario)


def test_too_many_limits_are_refused(play: Play) -> None:
    """One above the limit changes nothing, and a full table can be replaced by another."""

    async def scenario(plane: PolicyPlane, _traffic: Traffic) -> None:
        numbers = range(LIMITS_MAX + 1)
        many = {PackedPrefix(struct.pack("!I", number), 32): SLOW for number in numbers}
        with pytest.raises(TooMany):
            await plane.replace_limits(many)
        assert {} == await plane.limits()
        many.popitem()
        await plane.replace_limits(many)
        others = {PackedPrefix(struct.pack("!I", number + 500), 32): FAST for number in range(LIMITS_MAX)}
        await plane.replace_limits(others)
        assert others == await plane.limits()

    play(scenario)


def test_every_tracked_source_is_read(play: Play) -> None:
    """IPv4 and IPv6 sources, each with what it has sent."""

    async def scenario(plane: PolicyPlane, traffic: Traffic) -> None:
        expected = {
            Source(bytes([10, 0, number]) + b"\1", number, 100 * number, number // 2) for number in range(200)
        } | {Source(NET6.address, 7, 700, 3)}
        for source in expected:
            traffic.track(source)
        assert expected == set(await plane.sources())

    play(scenario)


def test_suspended_plane_has_nothing(play: Play) -> None:
    """Once suspended, changes do nothing and are no errors, and nothing is read; twice is as good as once."""

    async def scenario(plane: PolicyPlane, traffic: Traffic) -> None:
        await plane.replace_deny({FIRST: 0, NET: 500})
        await traffic.deny(FIRST, 5)
        await plane.replace_limits({NET: SLOW})
        traffic.track(Source(FIRST.address, 1, 2, 0))
        for _ in range(2):
            await plane.suspend()
            await plane.put_deny({SECOND: 0})
            await plane.delete_deny([FIRST])
            entries: dict[PrefixKey, int] = {NET6: 0}
            await plane.prepare_deny(entries)
            await plane.replace_deny(entries)
            await plane.abandon_deny()
            await plane.replace_limits({FIRST: FAST})
            assert ({}, {}) == (await plane.deny(), await plane.deny_hits())
            assert ({}, {}) == (await plane.limits(), await plane.limit_hits())
            assert [] == list(await plane.sources())

    play(scenario)


def map_descriptors() -> int:
    """How many BPF maps this process holds."""
    links = [descriptor.readlink() for descriptor in Path("/proc/self/fd").iterdir() if descriptor.is_symlink()]
    return sum("bpf-map" in str(link) for link in links)


@pytest.mark.kernel
def test_suspended_plane_holds_no_descriptor() -> None:
    """Suspending closes every descriptor, of a list being built too; opened again it has what is in the maps."""
    with policy_maps(ENTRIES_MAX) as maps:

        async def whole() -> None:
            plane = KernelPolicy(lambda: maps.fds, lambda: maps.directory, ENTRIES_MAX)
            before = map_descriptors()
            await plane.open()
            await plane.replace_deny({FIRST: 0, NET: 500})
            await plane.prepare_deny({SECOND: 0})
            await plane.suspend()
            assert before == map_descriptors()
            await plane.open()
            assert {FIRST: 0, NET: 500} == await plane.deny()
            await plane.close()

        asyncio.run(whole())
