"""The deny-list's service: all of a change or nothing of it, on disk and in the kernel, and nobody locked out."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from service.policies import REFUSAL, World
from x0d.errors import InvalidInput, KernelRefused, NotThere, StorageFailed, TooMany, WouldLockOut
from x0d.policy.durations import DURATION_S_MAX
from x0d.policy.model import DenyEntry, Terms, parse_prefix
from x0d.service.policy_state import FORCE_ALERT, LOST_ALERT, STORE_ALERT
from x0d.service.views_policy import Removed

HOUR_MS = 3_600_000


def play(scenario: Callable[[World], Awaitable[None]], deny_entries_max: int = 1000) -> World:
    """Run a scenario in the first life of a daemon."""

    async def run() -> World:
        world = World(deny_entries_max)
        await world.service.start()
        await scenario(world)
        return world

    return asyncio.run(run())


def test_entries_are_added_changed_and_removed() -> None:
    """An entry is on disk, in the kernel and listed with its hits; adding it again changes its terms alone."""

    async def scenario(world: World) -> None:
        entries, warnings = await world.deny("203.0.113.9", "198.51.100.7/24", "203.0.113.9", comment="one\ttwo")
        assert ["203.0.113.9", "198.51.100.0/24"] == [str(entry.prefix) for entry in entries]
        assert () == warnings
        assert "one two" == entries[0].comment
        await world.holds_everywhere("203.0.113.9", "198.51.100.0/24")
        world.plane.drop(parse_prefix("203.0.113.9"), 5)
        await world.deny("203.0.113.9", for_s=3600, comment="again")
        row = (await world.service.list_deny(parse_prefix("203.0.113.9")))[0]
        expires_unix_ms = world.clock.unix_ms() + HOUR_MS
        assert (5, "again", expires_unix_ms) == (row.hits, row.entry.comment, row.entry.expires_unix_ms)
        assert world.clock.now_ns + HOUR_MS * 1_000_000 == world.plane.entries[row.entry.prefix]
        assert row.entry == world.store.deny[row.entry.prefix]
        assert 2 == world.service.deny_count
        missing = parse_prefix("10.9.9.9")
        assert Removed(1, (missing,)) == await world.service.remove_deny([missing, row.entry.prefix, missing])
        await world.holds_everywhere("198.51.100.0/24")

    play(scenario)


def test_list_is_in_order_and_matched() -> None:
    """The list is by address, IPv4 first; a match finds the entries that cover it and those inside it."""

    async def scenario(world: World) -> None:
        await world.deny(
            "2001:db8::/32", "198.51.100.9", "198.51.0.0/16", "198.51.100.0/24", "203.0.113.1", "2001:db8::1"
        )
        in_order = [
            *("198.51.0.0/16", "198.51.100.0/24", "198.51.100.9", "203.0.113.1", "2001:db8::/32", "2001:db8::1"),
        ]
        assert in_order == await world.listed()
        assert ["198.51.0.0/16", "198.51.100.0/24"] == await world.listed("198.51.100.1")
        assert ["198.51.0.0/16", "198.51.100.0/24", "198.51.100.9"] == await world.listed("198.51.100.0/25")
        assert ["2001:db8::/32", "2001:db8::1"] == await world.listed("2000::/8")
        assert [] == await world.listed("10.0.0.1")

    play(scenario)


@pytest.mark.parametrize(
    ("entry", "callers", "reason"),
    [
        ("10.0.0.2", (), "10.0.0.2 covers 10.0.0.2, neighbour n2"),
        ("10.0.0.0/8", (), "10.0.0.0/8 covers 10.0.0.2, neighbour n2"),
        ("192.168.7.0/24", (), "192.168.7.0/24 lies in 192.168.0.0/16, management network"),
        ("203.0.113.0/24", ("203.0.113.5",), "203.0.113.0/24 covers 203.0.113.5, the address that you call from"),
        ("203.0.113.0/24", ("::ffff:203.0.113.5",), "covers 203.0.113.5, the address that you call from"),
        ("fe80::/10", ("fe80::5%eth0",), "fe80::/10 covers fe80::5, the address that you call from"),
    ],
)
def test_lock_out_is_refused_and_can_be_forced(entry: str, callers: tuple[str, ...], reason: str) -> None:
    """An entry that would lock out changes nothing and is told of; forced, it holds and comes with the warning."""

    async def scenario(world: World) -> None:
        with pytest.raises(WouldLockOut) as refused:
            await world.deny("198.51.100.1", entry, callers=callers)
        assert reason in str(refused.value)
        await world.holds_everywhere()
        _, warnings = await world.deny(entry, callers=callers, force=True)
        assert 1 == len(warnings)
        assert reason in warnings[0]
        await world.holds_everywhere(entry)
        assert (1, 1) == (world.service.guard.refused, world.service.guard.forced)

    play(scenario)


def test_bad_calls_change_nothing() -> None:
    """Callers that are no addresses, or too many, durations out of range and a list that is full are refused."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1", "10.1.0.2")
        with pytest.raises(InvalidInput, match="no address of a caller"):
            await world.deny("10.1.0.3", callers=["n2"])
        with pytest.raises(InvalidInput, match="17 addresses"):
            await world.deny("10.1.0.3", callers=["10.9.9.9"] * 17)
        for duration_s in (-1, DURATION_S_MAX + 1):
            with pytest.raises(InvalidInput, match="duration"):
                await world.deny("10.1.0.3", for_s=duration_s)
        with pytest.raises(TooMany, match="deny_entries_max"):
            await world.deny("10.1.0.3", "10.1.0.4")
        with pytest.raises(NotThere, match=r"10\.1\.0\.9, 10\.1\.0\.8"):
            await world.service.remove_deny([parse_prefix("10.1.0.9"), parse_prefix("10.1.0.8")])
        await world.deny("10.1.0.1", "10.1.0.3")
        await world.holds_everywhere("10.1.0.1", "10.1.0.2", "10.1.0.3")

    play(scenario, deny_entries_max=3)


def test_refusing_store_keeps_the_kernel_as_it_is() -> None:
    """When the disk refuses, nothing has changed in the kernel."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1")
        calls = list(world.plane.calls)
        world.store.broken = "disk full"
        with pytest.raises(StorageFailed):
            await world.deny("10.1.0.1", "10.1.0.2", for_s=5)
        with pytest.raises(StorageFailed):
            await world.service.remove_deny([parse_prefix("10.1.0.1")])
        with pytest.raises(StorageFailed):
            await world.load("10.1.0.3\n")
        assert calls == world.plane.calls
        told = ("policy_store: a change was refused: disk full; is the disk of node.state_dir full or read-only?",)
        assert told == world.alerts.texts()
        world.store.broken = ""
        await world.holds_everywhere("10.1.0.1")
        await world.deny("10.1.0.2")
        assert () == world.alerts.names()

    play(scenario)


def test_refusing_kernel_puts_the_store_back() -> None:
    """When the kernel refuses, the store holds what it held, terms included."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1", comment="first")
        before = dict(world.store.deny)
        world.plane.refusal = REFUSAL
        with pytest.raises(KernelRefused):
            await world.deny("10.1.0.1", "10.1.0.2", for_s=5)
        with pytest.raises(KernelRefused):
            await world.service.remove_deny([parse_prefix("10.1.0.1")])
        with pytest.raises(KernelRefused):
            await world.load("10.1.0.3\n")
        assert before == world.store.deny
        await world.holds_everywhere("10.1.0.1")
        world.plane.refusal = None
        await world.deny("10.1.0.2")
        await world.holds_everywhere("10.1.0.1", "10.1.0.2")

    play(scenario)


def test_forgotten_call_waits_for_the_one_before() -> None:
    """Two changes at once are made one after the other."""

    async def scenario(world: World) -> None:
        world.store.free.clear()
        first = asyncio.ensure_future(world.deny("10.1.0.1"))
        second = asyncio.ensure_future(world.service.remove_deny([parse_prefix("10.1.0.1")]))
        await asyncio.sleep(0)
        world.store.free.set()
        await first
        assert Removed(1, ()) == await second
        await world.holds_everywhere()

    play(scenario)


def test_start_puts_in_force_what_the_store_holds() -> None:
    """After a kill between store and kernel, the next start ends the change; what was in force keeps its hits."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1", "10.1.0.2", "10.1.0.3")
        world.plane.drop(parse_prefix("10.1.0.1"), 7)
        await world.store.delete_deny([parse_prefix("10.1.0.2")])  # as far as the killed daemon came
        world.plane.calls.clear()
        await world.restart()
        assert ["delete_deny"] == world.plane.calls
        await world.holds_everywhere("10.1.0.1", "10.1.0.3")
        await world.store.replace_deny({parse_prefix("10.1.0.1"): Terms()})
        await world.store.save_deny([DenyEntry(parse_prefix("10.1.0.9"))])
        await world.restart()
        assert ["delete_deny", "replace_deny"] == world.plane.calls
        await world.holds_everywhere("10.1.0.1", "10.1.0.9")
        assert 7 == (await world.service.list_deny(None))[0].hits
        await world.restart()
        assert ["delete_deny", "replace_deny"] == world.plane.calls

    play(scenario)


def test_lost_store_is_written_from_the_kernel() -> None:
    """When the store's file was unreadable, what the kernel holds stays in force and is written down."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1", for_s=3600)
        await world.deny("10.1.0.2")
        expected = {prefix: entry.expires_unix_ms for prefix, entry in world.store.deny.items()}
        world.store.deny.clear()
        await world.restart(store_is_new=True)
        await world.holds_everywhere("10.1.0.1", "10.1.0.2")
        assert expected == {prefix: entry.expires_unix_ms for prefix, entry in world.store.deny.items()}
        assert (LOST_ALERT,) == world.alerts.names()
        assert "2 deny-list entries and 0 limits" in world.alerts.texts()[0]

    play(scenario)


def test_first_start_is_no_loss() -> None:
    """A store that is new while the kernel holds nothing is no reason for an alert."""

    async def scenario(world: World) -> None:
        await world.restart(store_is_new=True)
        assert () == world.alerts.names()

    play(scenario)


def test_plane_opened_anew_gets_everything_back() -> None:
    """After the kernel has lost everything, restore puts it in force again; a refusal is an alert until it works."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1", for_s=60)
        before = dict(world.plane.entries)
        world.plane.entries.clear()
        world.plane.refusal = REFUSAL
        await world.service.restore()
        assert (FORCE_ALERT,) == world.alerts.names()
        world.plane.refusal = None
        await world.service.restore()
        assert () == world.alerts.names()
        assert before == world.plane.entries

    play(scenario)


def test_start_goes_on_without_the_kernel() -> None:
    """A kernel that refuses the list at the start is an alert; the list is still known and can be changed on disk."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1")
        world.plane.entries.clear()
        world.plane.refusal = REFUSAL
        await world.restart()
        assert (FORCE_ALERT,) == world.alerts.names()
        assert ["10.1.0.1"] == await world.listed()

    play(scenario)


def test_store_that_cannot_be_put_back_is_told_of() -> None:
    """When both the kernel and then the store refuse, the call fails with the kernel's reason and an alert holds."""

    async def scenario(world: World) -> None:
        world.plane.refusal = REFUSAL
        world.store.broken_after = 1
        with pytest.raises(KernelRefused):
            await world.deny("10.1.0.1")
        assert (STORE_ALERT,) == world.alerts.names()
        assert [] == await world.listed()

    play(scenario)
