"""Interfaces that wait, come, are refused, renamed and made anew, and what is passed on of it."""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from fakes.clock import FakeClock, passes, run_virtual, until
from fakes.dataplane import FakeDataPlane
from fakes.interfaces import FakeInterfaces
from service.nodes import interface
from x0d.errors import KernelRefused, NotThere
from x0d.ports import Attachment, Interface
from x0d.service.interfaces import DETACHED_REASON, RETRY_BLOCKED_S, VERIFY_S, InterfaceService

ETH0 = interface("eth0", 7, "10.0.0.1/24")


class Listener:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def interface_ready(self, interface: Interface) -> None:
        self.told.append(f"ready {interface.name} #{interface.ifindex} {len(interface.addresses)}")

    def interface_lost(self, name: str, at_ns: int, reason: str, *, blocked: bool) -> None:
        assert at_ns > 0
        self.told.append(f"{'blocked' if blocked else 'lost'} {name}: {reason}")

    def carrier(self, interface: Interface, at_ns: int, *, present: bool) -> None:
        assert at_ns > 0
        self.told.append(f"carrier {interface.name} {present}")

    def take(self) -> list[str]:
        """What was told since the last call."""
        told, self.told = self.told, []
        return told


class SlowPlane(FakeDataPlane):
    """A plane whose attaching can be held up."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock, 1)
        self.may_attach = asyncio.Event()
        self.may_attach.set()
        self.attaching = 0

    async def attach(self, interface: str, ifindex: int) -> Attachment:
        self.attaching += 1
        await self.may_attach.wait()
        return await super().attach(interface, ifindex)


class World:
    """The service on fakes, for eth0."""

    def __init__(self, *existing: Interface) -> None:
        self.clock = FakeClock()
        self.source = FakeInterfaces(*existing)
        self.source.now_ns = self.clock.now_ns
        self.plane = SlowPlane(self.clock)
        self.listener = Listener()
        self.service = InterfaceService(["eth0"], self.source, self.plane, self.clock, self.listener)

    def standing(self) -> tuple[str, str]:
        """State and reason of eth0."""
        status = self.service.statuses()[0]
        return (status.state, status.reason)


def play(world: World, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario beside the service."""

    async def main() -> None:
        await world.service.start()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(world.service.run())
            await scenario()
            task.cancel()

    run_virtual(world.clock, main())


def test_interface_is_waited_for() -> None:
    """One that does not exist waits without an error, and is attached as soon as it comes; others are left alone."""
    world = World()

    async def scenario() -> None:
        assert ("waiting", "does not exist yet") == world.standing()
        world.source.put(interface("eth9", 9))
        world.source.put(ETH0)
        await until(lambda: world.standing() == ("attached", ""), 0.1)
        assert ["ready eth0 #7 1", "carrier eth0 True"] == world.listener.take()
        assert ({7}, "eth0", None) == (
            set(world.plane.attached),
            world.service.name_of(7),
            world.service.name_of(9),
        )

    play(world, scenario)


def test_changes_are_passed_on_at_once() -> None:
    """Carrier, the administrative state and addresses are told in the call that brings them, and only once."""
    world = World(ETH0)

    async def scenario() -> None:
        world.listener.take()
        world.source.put(replace(ETH0, carrier=False))
        world.source.put(replace(ETH0, carrier=False, mtu=9000))
        assert ["carrier eth0 False"] == world.listener.take()
        world.source.put(ETH0)
        world.source.put(replace(ETH0, up=False))
        assert ["carrier eth0 True", "carrier eth0 False"] == world.listener.take()
        world.source.put(interface("eth0", 7, "10.0.0.1/24", "10.0.0.2/24"))
        assert ["ready eth0 #7 2", "carrier eth0 True"] == world.listener.take()
        changed = world.service.statuses()[0].interface
        assert changed is not None
        assert 2 == len(changed.addresses)

    play(world, scenario)


@pytest.mark.parametrize("moved", [True, None])
def test_interface_of_another_namespace(moved: bool | None) -> None:
    """An interface that went to another network namespace is told as that, or as gone where the kernel told nothing."""
    world = World(ETH0)

    async def scenario() -> None:
        world.source.remove(7, moved=moved)
        told = "moved to another network namespace" if moved else "removed or moved to another network namespace"
        assert ("waiting", f"was {told}") == world.standing()

    play(world, scenario)


def test_removal_and_return_under_another_index() -> None:
    """A removed interface is lost at once; made anew it is attached as a new one, and nothing of the old is kept."""
    world = World(ETH0)

    async def scenario() -> None:
        world.listener.take()
        world.source.remove(7)
        assert (["lost eth0: was removed"], ("waiting", "was removed")) == (world.listener.take(), world.standing())
        world.source.put(interface("eth0", 8))
        await until(lambda: world.standing()[0] == "attached")
        assert ["ready eth0 #8 0", "carrier eth0 True"] == world.listener.take()
        assert {8} == set(world.plane.attached)

    play(world, scenario)


def test_renamed_interface_is_another_one() -> None:
    """An interface that takes another name is lost under the old one, and found when it takes it back."""
    world = World(ETH0)

    async def scenario() -> None:
        world.listener.take()
        world.source.put(replace(ETH0, name="wan0"))
        assert ["lost eth0: was renamed to wan0"] == world.listener.take()
        world.source.put(ETH0)
        await until(lambda: world.standing()[0] == "attached")
        assert ["ready eth0 #7 1", "carrier eth0 True"] == world.listener.take()

    play(world, scenario)


def test_nothing_of_ours_stays_under_another_name() -> None:
    """Renamed to a name that is not configured, or swapped with another, an interface loses our program."""
    eth9 = interface("eth9", 9)
    world = World(ETH0, eth9)

    async def scenario() -> None:
        world.source.put(replace(ETH0, name="wan0"))
        await until(lambda: not world.plane.attached, 0.1)
        world.source.put(ETH0)
        await until(lambda: set(world.plane.attached) == {7}, 0.1)
        for renamed in (replace(ETH0, name="tmp0"), replace(eth9, name="eth0"), replace(ETH0, name="eth9")):
            world.source.put(renamed)
        await until(lambda: set(world.plane.attached) == {9}, 0.1)
        assert ("attached", "eth0") == (world.standing()[0], world.service.name_of(9))
        await passes(RETRY_BLOCKED_S)
        assert {9} == set(world.plane.attached)

    play(world, scenario)


def test_program_that_vanished_is_put_back() -> None:
    """An interface that somebody took our program off is told as lost within a second, and attached anew at once."""
    world = World(ETH0)

    async def scenario() -> None:
        world.listener.take()
        await passes(3.5 * VERIFY_S)
        assert ([], 1) == (world.listener.take(), world.plane.attaching)
        world.plane.vanished[7] = "somebody took it"
        await until(lambda: not world.plane.vanished, VERIFY_S)
        assert ["lost eth0: somebody took it", "ready eth0 #7 1", "carrier eth0 True"] == world.listener.take()
        assert ("attached", "") == world.standing()
        world.plane.vanished[7] = "again"
        world.source.put(ETH0)  # a notice of nothing that is shown may be of this
        await until(lambda: not world.plane.vanished, 0.01)
        world.plane.vanished[7] = "once more"
        (taken,) = await world.service.attach(["eth0"])
        assert ("attached", {}) == (taken.state, world.plane.vanished)

    play(world, scenario)


def test_program_in_place_of_ours() -> None:
    """Where somebody else's program took the place of ours, the interface is blocked and names it, until it goes."""
    world = World(ETH0)

    async def scenario() -> None:
        world.listener.take()
        world.plane.vanished[7] = "somebody took it"
        world.plane.foreign.add("eth0")
        await until(lambda: world.standing()[0] == "blocked", VERIFY_S)
        reason = world.standing()[1]
        assert ["lost eth0: somebody took it", f"blocked eth0: {reason}"] == world.listener.take()
        assert "program id 4711" in reason
        world.plane.foreign.clear()
        await until(lambda: world.standing() == ("attached", ""), RETRY_BLOCKED_S)

    play(world, scenario)


def test_removal_is_no_theft() -> None:
    """An interface whose removal is seen first by its lost link, before the notice, is not told as robbed."""
    world = World(ETH0)

    async def scenario() -> None:
        world.listener.take()
        world.plane.vanished[7] = "somebody took it"
        world.source.vanish(7)
        await until(lambda: world.standing()[0] == "waiting", VERIFY_S)
        assert ["lost eth0: was removed or moved to another network namespace"] == world.listener.take()

    play(world, scenario)


def test_refused_interface_is_blocked_and_tried_again() -> None:
    """A foreign program blocks the interface, with the reason, told once; it is taken when that has gone."""
    world = World(ETH0)
    world.plane.foreign.add("eth0")

    async def scenario() -> None:
        state, reason = world.standing()
        assert ("blocked", True) == (state, "program id 4711" in reason)
        assert [f"blocked eth0: {reason}"] == world.listener.take()
        await passes(3.1 * RETRY_BLOCKED_S)
        assert ([], 4) == (world.listener.take(), world.plane.attaching)
        world.plane.foreign.clear()
        world.plane.refusals["eth0"] = KernelRefused("attach XDP to eth0", errno.EOPNOTSUPP)
        await until(lambda: world.standing() == ("blocked", "attach XDP to eth0: EOPNOTSUPP"))
        world.plane.refusals.clear()
        await until(lambda: world.standing() == ("attached", ""))

    play(world, scenario)


@pytest.mark.parametrize("is_removed", [False, True])
def test_what_happens_during_the_attaching_is_not_missed(is_removed: bool) -> None:
    """Addresses, carrier and even the removal that are told while the kernel is attaching are seen right after it."""
    world = World()

    async def scenario() -> None:
        world.plane.may_attach.clear()
        world.source.put(interface("eth0", 7))
        await until(lambda: world.plane.attaching == 1)
        if is_removed:
            world.source.remove(7)
        else:
            world.source.put(interface("eth0", 7, "10.0.0.1/24", carrier=False))
        world.plane.may_attach.set()
        await passes(0.01)
        told, standing = world.listener.take(), world.standing()
        assert ["ready eth0 #7 0", "carrier eth0 True"] == told[:2]
        if is_removed:
            assert (["lost eth0: was removed"], ("waiting", "was removed")) == (told[2:], standing)
        else:
            assert (["ready eth0 #7 1", "carrier eth0 False"], ("attached", "")) == (told[2:], standing)

    play(world, scenario)


def test_interfaces_of_a_reload_and_of_an_earlier_life() -> None:
    """A reload adds interfaces; those that an earlier life was configured for are detached at the start."""
    world = World(ETH0, interface("eth1", 8), interface("eth2", 9))
    world.plane.attached[9] = Attachment("eth2", 9, "native", frags=True, adopted=False, refused=())

    async def scenario() -> None:
        assert {7} == set(world.plane.attached)
        world.service.add(["eth1", "eth0"])
        await until(lambda: world.service.name_of(8) == "eth1", 0.1)
        assert ["eth0", "eth1"] == [status.name for status in world.service.statuses()]

    play(world, scenario)


def test_operator_detaches_and_attaches() -> None:
    """A detached interface is left alone whatever happens to it, is told as lost, and is taken up when asked."""
    world = World(ETH0)

    async def scenario() -> None:
        world.listener.take()
        (left,) = await world.service.detach(["eth0"])
        assert ("detached", {}) == (left.state, world.plane.attached)
        assert [f"blocked eth0: {DETACHED_REASON}"] == world.listener.take()
        world.source.put(replace(ETH0, carrier=False))
        world.source.remove(7)
        world.source.put(interface("eth0", 8))
        await passes(3 * RETRY_BLOCKED_S)
        assert ({}, [], "detached") == (world.plane.attached, world.listener.take(), world.standing()[0])
        (taken,) = await world.service.attach(["eth0"])
        assert ("attached", {8}) == (taken.state, set(world.plane.attached))
        assert ["ready eth0 #8 0", "carrier eth0 True"] == world.listener.take()

    play(world, scenario)


def test_unknown_interface_changes_nothing() -> None:
    """A name that is not configured is refused, with the configured ones, before anything is detached."""
    world = World(ETH0)

    async def scenario() -> None:
        for work in (world.service.detach, world.service.attach):
            with pytest.raises(NotThere, match="eth9; configured: eth0"):
                await work(["eth0", "eth9"])
        assert ("attached", "") == world.standing()

    play(world, scenario)
