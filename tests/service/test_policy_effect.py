"""What keeps a list from its effect, and what it must not have as one: told with the answer, or by an alert."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fakes.clock import passes, run_virtual
from fakes.interfaces import FakeInterfaces
from service.nodes import interface
from service.policies import NEIGHBOUR, World
from x0d.policy.guard import Protected
from x0d.policy.model import parse_prefix
from x0d.service.policy_addresses import LocalAddresses
from x0d.service.policy_state import COVER_ALERT

NEWCOMER = Protected(parse_prefix("10.7.0.2"), "neighbour n7", overlap=False)


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


@pytest.mark.parametrize("stage", ["deny", "limit"])
def test_change_without_effect_comes_with_a_warning(stage: str) -> None:
    """A change of a list whose stage does nothing is made, and its answer says why it has no effect."""

    async def scenario(world: World) -> None:
        world.shortfall = {stage: "the stage is refused by the kernel: EACCES"}
        told = ("kept, but it does not hold everywhere now: the stage is refused by the kernel: EACCES",)
        expected = {"deny": (told, told, ()), "limit": ((), (), told)}[stage]
        _, denied = await world.deny("10.1.0.1")
        loaded = await world.load("10.1.0.2")
        _, limited = await world.limit("10.2.0.0/16")
        assert expected == (denied, loaded.warnings, limited)
        await world.holds_everywhere("10.1.0.2")
        world.shortfall = {}
        assert () == (await world.deny("10.1.0.3"))[1]

    play(scenario)


def test_changes_while_all_is_detached_hold_afterwards() -> None:
    """With a suspended plane changes are stored, hits are none, and all is in force once it is open."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1", "10.1.0.2")
        world.plane.drop(parse_prefix("10.1.0.1"), 5)
        await world.plane.suspend()
        await world.deny("10.1.0.3", for_s=60)
        await world.deny("10.1.0.4", for_s=5)
        await world.service.remove_deny([parse_prefix("10.1.0.2")])
        await world.limit("10.2.0.0/16")
        await passes(7)
        assert ["10.1.0.1", "10.1.0.3"] == await world.listed() == world.on_disk()
        assert [0, 0] == [row.hits for row in await world.service.list_deny(None)]
        assert ([], {}) == (world.in_kernel(), world.plane.rates)
        world.plane.suspended = False
        await world.service.restore()
        await world.holds_everywhere("10.1.0.1", "10.1.0.3")
        assert 1 == len(world.plane.rates)
        await world.plane.suspend()
        await world.load("10.1.0.9")
        world.plane.suspended = False
        await world.service.restore()
        await world.holds_everywhere("10.1.0.9")

    play(scenario)


def test_what_is_protected_later_is_held_against_the_lists() -> None:
    """A neighbour that comes after an entry that covers it is an alert until it or the entry goes."""

    async def scenario(world: World) -> None:
        await world.deny("10.7.0.0/16", "10.7.0.2")
        await world.limit("10.7.0.0/24")
        await passes(2)
        assert () == world.alerts.names()
        world.protected = [NEIGHBOUR, NEWCOMER]
        world.service.protected_changed()
        await passes(2)
        told = (
            "lists_cover_protected: deny: 10.7.0.0/16 covers 10.7.0.2, neighbour n7; 10.7.0.2 covers 10.7.0.2,"
            " neighbour n7; limit: 10.7.0.0/24 covers 10.7.0.2, neighbour n7;"
            " x0ctl deny remove and x0ctl limit remove takes an entry away"
        )
        assert (told,) == world.alerts.texts()
        await world.service.remove_deny([parse_prefix("10.7.0.0/16"), parse_prefix("10.7.0.2")])
        await passes(2)
        assert "deny" not in world.alerts.texts()[0]
        await world.service.remove_limits([parse_prefix("10.7.0.0/24")])
        await passes(2)
        assert () == world.alerts.names()

    play(scenario)


def test_forced_entry_is_an_alert_until_it_ends() -> None:
    """An entry that was forced against the guard is shown as long as it holds."""

    async def scenario(world: World) -> None:
        await passes(2)
        await world.deny("10.0.0.0/8", for_s=30, force=True)
        await passes(2)
        assert (COVER_ALERT,) == world.alerts.names()
        await passes(30)
        assert () == world.alerts.names()
        await world.load("192.168.7.7", force=True)
        await passes(2)
        assert "192.168.7.7 lies in 192.168.0.0/16" in world.alerts.texts()[0]
        await world.load("10.1.0.1")
        await passes(2)
        assert () == world.alerts.names()
        await world.limit("10.0.0.0/8", for_s=30, force=True)
        await passes(2)
        assert (COVER_ALERT,) == world.alerts.names()
        await world.service.remove_limits([parse_prefix("10.0.0.0/8")])
        await world.load("10.1.0.1")
        await passes(2)
        assert () == world.alerts.names()

    play(scenario)


def test_lists_of_an_earlier_life_are_judged() -> None:
    """At a start the lists are held against what is protected by then, without anybody asking."""

    async def scenario(world: World) -> None:
        await world.deny("10.0.0.0/8", force=True)
        await passes(2)
        world.alerts.clear(COVER_ALERT)
        await world.restart()
        task = asyncio.ensure_future(world.service.run())
        await passes(1)
        task.cancel()
        assert (COVER_ALERT,) == world.alerts.names()

    play(scenario)


def test_addresses_of_all_interfaces_are_known() -> None:
    """The addresses of every interface are known from the start and followed; those of the loopback are left out."""
    changes = []
    source = FakeInterfaces(interface("lo", 1, "127.0.0.1/8", "10.255.0.1/32"), interface("eth0", 2, "10.1.0.1/24"))
    addresses = LocalAddresses(lambda: changes.append(1))

    def known() -> dict[str, str]:
        return {str(prefix): name for prefix, name in addresses.known().items()}

    asyncio.run(addresses.start(source))
    assert {"10.255.0.1": "lo", "10.1.0.1": "eth0"} == known()
    changes.clear()
    source.put(interface("wg0", 3, "fe80::1/64"))
    source.put(interface("eth0", 2, "10.1.0.1/24"))
    assert ({"10.255.0.1": "lo", "10.1.0.1": "eth0", "fe80::1": "wg0"}, [1]) == (known(), changes)
    source.remove(2)
    assert ({"10.255.0.1": "lo", "fe80::1": "wg0"}, [1, 1]) == (known(), changes)
