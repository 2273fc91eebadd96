"""Limits: added, changed and removed as a whole, held against the guard, in force again after a restart."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from service.policies import REFUSAL, World, texts
from x0d.errors import InvalidInput, KernelRefused, NotThere, StorageFailed, TooMany, WouldLockOut
from x0d.policy.model import BURST_MAX, LIMITS_MAX, RATE_PPS_MAX, parse_prefix
from x0d.ports import LimitRate
from x0d.service.views_policy import Removed

NET = parse_prefix("10.1.0.0/16")


def play(scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run a scenario in the first life of a daemon."""

    async def run() -> None:
        world = World()
        await world.service.start()
        await scenario(world)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("rate_pps", "burst", "expected"),
    [(1000, 0, 100), (5, 0, 10), (RATE_PPS_MAX, 0, 1_000_000), (1000, 7, 7)],
)
def test_burst_is_a_tenth_of_a_second_by_default(rate_pps: int, burst: int, expected: int) -> None:
    """A burst that is not given is a tenth of a second's packets, at least 10."""

    async def scenario(world: World) -> None:
        limit, warnings = await world.limit("10.1.0.0/16", rate_pps, burst)
        assert (expected, ()) == (limit.burst, warnings)
        assert {NET: LimitRate(rate_pps, expected)} == world.plane.rates
        assert {NET: limit} == world.store.limits

    play(scenario)


def test_limits_are_changed_and_removed() -> None:
    """A limit added again is changed; hits are listed; removing one leaves the others."""

    async def scenario(world: World) -> None:
        await world.limit("10.1.0.0/16", 10)
        await world.limit("::/0", 20)
        await world.limit("10.1.0.0/16", 30)
        world.plane.limited[NET] = 4
        rows = await world.service.list_limits()
        assert [("10.1.0.0/16", 30, 4), ("::/0", 20, 0)] == [
            (str(row.limit.prefix), row.limit.rate_pps, row.hits) for row in rows
        ]
        missing = parse_prefix("10.9.9.9")
        assert Removed(1, (missing,)) == await world.service.remove_limits([NET, missing])
        assert ["::/0"] == texts(world.plane.rates) == texts(world.store.limits)
        with pytest.raises(NotThere, match=r"10\.1\.0\.0/16"):
            await world.service.remove_limits([NET])
        assert 1 == world.service.limit_count

    play(scenario)


def test_guard_holds_for_limits() -> None:
    """A limit that covers a neighbour is refused; forced, it holds and comes with the warning."""

    async def scenario(world: World) -> None:
        with pytest.raises(WouldLockOut):
            await world.limit("10.0.0.0/8")
        assert {} == world.plane.rates
        _, warnings = await world.limit("10.0.0.0/8", force=True)
        assert ("10.0.0.0/8 covers 10.0.0.2, neighbour n2",) == warnings
        assert (1, 1) == (world.service.guard.refused, world.service.guard.forced)

    play(scenario)


@pytest.mark.parametrize(("rate_pps", "burst"), [(0, 1), (RATE_PPS_MAX + 1, 1), (1, -1), (1, BURST_MAX + 1)])
def test_rates_out_of_range_are_refused(rate_pps: int, burst: int) -> None:
    """A rate or a burst out of range is InvalidInput."""

    async def scenario(world: World) -> None:
        with pytest.raises(InvalidInput):
            await world.limit("10.1.0.0/16", rate_pps, burst)

    play(scenario)


def test_limits_are_bounded() -> None:
    """One more than LIMITS_MAX is refused; one that is there can still be changed."""

    async def scenario(world: World) -> None:
        for number in range(LIMITS_MAX):
            await world.limit(f"10.{number // 256 + 1}.{number % 256}.0/24")
        with pytest.raises(TooMany):
            await world.limit("10.99.0.0/24")
        await world.limit("10.1.0.0/24", 7)
        assert LIMITS_MAX == world.service.limit_count == len(world.plane.rates)

    play(scenario)


def test_refusals_change_nothing() -> None:
    """A store that refuses keeps the kernel as it is; a kernel that refuses has the store put back."""

    async def scenario(world: World) -> None:
        await world.limit("10.1.0.0/16", 10)
        kernel, disk = dict(world.plane.rates), dict(world.store.limits)
        world.store.broken = "disk full"
        with pytest.raises(StorageFailed):
            await world.limit("10.1.0.0/16", 20)
        world.store.broken, world.plane.refusal = "", REFUSAL
        with pytest.raises(KernelRefused):
            await world.limit("10.1.0.0/16", 20)
        with pytest.raises(KernelRefused):
            await world.limit("10.2.0.0/16", 20)
        with pytest.raises(KernelRefused):
            await world.service.remove_limits([NET])
        assert (kernel, disk) == (world.plane.rates, world.store.limits)
        assert [10] == [row.limit.rate_pps for row in await world.service.list_limits()]

    play(scenario)


def test_restart_touches_only_what_differs() -> None:
    """After a restart the same limits are left alone; one that the killed daemon had only stored is put in force."""

    async def scenario(world: World) -> None:
        limit, _ = await world.limit("10.1.0.0/16", 10, for_s=60)
        world.plane.calls.clear()
        await world.restart()
        assert [] == world.plane.calls
        world.plane.rates.clear()
        await world.restart()
        assert ["replace_limits"] == world.plane.calls
        assert [NET] == list(world.plane.rates)
        world.store.limits.clear()
        await world.restart(store_is_new=True)
        assert limit.rate_pps == world.store.limits[NET].rate_pps
        assert limit.expires_unix_ms == world.store.limits[NET].expires_unix_ms

    play(scenario)
