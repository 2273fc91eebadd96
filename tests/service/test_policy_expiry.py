"""What expires: cleared away in time, across restarts and whatever the wall clock does; on virtual time."""

import asyncio
from collections.abc import Awaitable, Callable

from fakes.clock import passes, run_virtual, until
from service.policies import REFUSAL, World
from x0d.policy.model import parse_prefix
from x0d.service.policy_state import FORCE_ALERT, STORE_ALERT

HOUR_MS = 3_600_000
SECOND_NS = 1_000_000_000


def play(scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run a scenario on virtual time beside the service's task."""
    world = World()

    async def run() -> None:
        await world.service.start()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(world.service.run())
            await scenario(world)
            task.cancel()

    run_virtual(world.clock, run())


def test_expired_entries_are_cleared_away() -> None:
    """Entries and limits are gone from kernel, disk and list within a second of their time, and no other is."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1", for_s=60)
        await world.deny("10.1.0.2", for_s=5)
        await world.deny("10.1.0.3")
        await world.limit("10.2.0.0/16", for_s=7)
        await passes(4.9)
        await world.holds_everywhere("10.1.0.1", "10.1.0.2", "10.1.0.3")
        await passes(0.2)
        await world.holds_everywhere("10.1.0.1", "10.1.0.3")
        assert 1 == world.service.limit_count
        await passes(2.0)
        assert (0, {}, {}) == (world.service.limit_count, world.plane.rates, world.store.limits)
        await passes(53.0)
        await world.holds_everywhere("10.1.0.3")

    play(scenario)


def test_those_that_expire_together_go_together() -> None:
    """Entries that expire within a second cost two transactions, not one each; none is listed after its time."""

    async def scenario(world: World) -> None:
        for number in range(20):
            await world.deny(f"10.1.0.{number}", for_s=5)
            await passes(0.02)
        writes = world.store.writes
        await passes(5.0)
        assert [] == await world.listed()
        await until(lambda: world.service.deny_count == 0)
        assert writes + 2 == world.store.writes

    play(scenario)


def test_changed_expiry_counts() -> None:
    """An entry added again expires by its last duration, or never; one added later may be due earlier."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1", "10.1.0.2", for_s=5)
        await world.deny("10.1.0.1", for_s=20)
        await world.deny("10.1.0.2")
        await world.deny("10.1.0.3", for_s=2)
        await passes(3)
        await world.holds_everywhere("10.1.0.1", "10.1.0.2")
        await passes(15)
        await world.holds_everywhere("10.1.0.1", "10.1.0.2")
        await passes(5)
        await world.holds_everywhere("10.1.0.2")

    play(scenario)


def test_expiry_goes_on_while_the_daemon_is_down() -> None:
    """What expired while no daemon ran is not put in force again; the rest runs out in its time."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1", for_s=5)
        await world.deny("10.1.0.2", for_s=100)
        before = dict(world.plane.entries)
        world.clock.now_ns += 50 * SECOND_NS
        world.store.broken = ""
        await world.restart()
        await world.holds_everywhere("10.1.0.2")
        assert before[parse_prefix("10.1.0.2")] == world.plane.entries[parse_prefix("10.1.0.2")]

    play(scenario)


def test_reboot_keeps_the_wall_clock_expiry() -> None:
    """After a reboot the kernel is empty and its clock begins anew; entries end at the same wall-clock instant."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1", for_s=100)
        await world.limit("10.2.0.0/16", rate_pps=5, for_s=100)
        world.plane.entries.clear()
        world.plane.rates.clear()
        world.clock.now_ns -= 3000 * SECOND_NS
        world.clock.step_ms = 3_000_000 + 40_000
        await world.restart()
        due_ns = world.clock.now_ns + 60 * SECOND_NS
        assert [due_ns] == list(world.plane.entries.values())
        assert [due_ns] == [rate.expires_at_ns for rate in world.plane.rates.values()]

    play(scenario)


def test_stepped_wall_clock_lengthens_nothing() -> None:
    """A wall clock set back an hour, and a restart after it, leave what runs in the kernel as it is."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1", for_s=5)
        before = dict(world.plane.entries)
        world.clock.step_ms = -HOUR_MS
        await world.restart()
        assert before == world.plane.entries
        await world.deny("10.1.0.2", for_s=5)
        task = asyncio.ensure_future(world.service.run())
        await passes(6.5)
        task.cancel()
        await world.holds_everywhere()

    play(scenario)


def test_clock_that_is_set_after_the_start_ends_entries() -> None:
    """Entries of the file that were timed by a wall clock an hour back end at their instant once it is set right."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1", for_s=600)
        await world.limit("10.2.0.0/16", for_s=600)
        world.plane.entries.clear()
        world.plane.rates.clear()
        world.clock.step_ms = -HOUR_MS
        await world.restart()
        task = asyncio.ensure_future(world.service.run())
        await passes(300)
        world.clock.step_ms = 0
        await passes(299)
        await world.holds_everywhere("10.1.0.1")
        assert world.clock.unix_ms() + 1000 == (await world.service.list_deny(None))[0].entry.expires_unix_ms
        assert 1 == len(await world.service.list_limits())
        await passes(12)
        task.cancel()
        await world.holds_everywhere()
        assert ({}, {}, []) == (world.plane.rates, world.store.limits, await world.service.list_limits())

    play(scenario)


def test_entries_added_by_a_wrong_clock_have_their_time() -> None:
    """What was added or loaded while the wall clock was an hour back ends after its duration, and that is shown."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.9")
        world.clock.step_ms = -HOUR_MS
        await world.load("10.1.0.1 for=10m\n10.1.0.3\n")
        await world.deny("10.1.0.2", for_s=600)
        await passes(5)
        await world.limit("10.2.0.0/16", for_s=600)
        world.clock.step_ms = 0
        world.store.broken = "disk full"
        await passes(12)
        assert (STORE_ALERT,) == world.alerts.names()
        world.store.broken = ""
        await passes(12)
        until_ms = world.clock.unix_ms() + 571_000
        rows = await world.service.list_deny(None)
        shown = [row.entry.expires_unix_ms for row in rows] + [
            row.limit.expires_unix_ms for row in await world.service.list_limits()
        ]
        assert [until_ms, until_ms, 0, until_ms + 5_000] == shown
        assert {row.entry for row in rows} == set(world.store.deny.values())
        assert shown[-1:] == [limit.expires_unix_ms for limit in world.store.limits.values()]
        await passes(566)
        await world.holds_everywhere("10.1.0.1", "10.1.0.2", "10.1.0.3")
        await passes(7)
        await world.holds_everywhere("10.1.0.3")
        assert () == world.alerts.names()

    play(scenario)


def test_entry_added_again_has_its_new_time_alone() -> None:
    """What was read from the file and then changed is timed from the change, whatever the wall clock does."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1", for_s=600)
        await world.restart()
        await world.deny("10.1.0.1", for_s=600)
        task = asyncio.ensure_future(world.service.run())
        world.clock.step_ms = HOUR_MS
        await passes(590)
        await world.holds_everywhere("10.1.0.1")
        await passes(12)
        task.cancel()
        await world.holds_everywhere()

    play(scenario)


def test_clock_that_was_slewed_is_no_reason_to_touch_the_kernel() -> None:
    """At a restart, an expiry that differs by less than a second stays as the kernel has it."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1", for_s=500)
        world.plane.calls.clear()
        world.clock.step_ms = 300
        await world.restart()
        assert [] == world.plane.calls

    play(scenario)


def test_trouble_is_an_alert_until_it_is_over() -> None:
    """A store or a kernel that refuses to clear away is an alert and tried again; nothing is listed meanwhile."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1", for_s=5)
        world.store.broken = "disk full"
        await passes(6)
        assert (STORE_ALERT,) == world.alerts.names()
        assert [] == await world.listed()
        world.store.broken = ""
        await passes(12)
        assert () == world.alerts.names()
        await world.deny("10.1.0.2", for_s=5)
        world.plane.refusal = REFUSAL
        await passes(6)
        assert (FORCE_ALERT,) == world.alerts.names()
        world.plane.refusal = None
        await passes(12)
        assert () == world.alerts.names()
        await world.holds_everywhere()

    play(scenario)


def test_store_that_could_not_be_put_back_is_mended() -> None:
    """A change that the kernel refused, and the store then kept, is taken out of the store once it writes again."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1")
        await world.limit("10.2.0.0/16")
        world.plane.refusal = REFUSAL
        for change in (world.deny("10.1.0.2"), world.limit("10.3.0.0/16")):
            world.store.broken_after = 1
            try:
                await change
            except type(REFUSAL):
                world.store.broken = ""
        assert (STORE_ALERT,) == world.alerts.names()
        await passes(12)
        assert () == world.alerts.names()
        await world.holds_everywhere("10.1.0.1")
        assert world.plane.rates.keys() == world.store.limits.keys()

    play(scenario)
