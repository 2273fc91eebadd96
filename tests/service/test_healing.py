"""The healing service: actions wait for no disk, and what could not be stored is neither lost nor hidden."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address

import pytest

from fakes.clock import FakeClock, passes, run_virtual, until
from fakes.store import FakeStore
from x0d.actions import Action, Outcome, SetLinkCost
from x0d.errors import StorageFailed
from x0d.mapek.events import LinkRecovered, LinkSymptom, RoutesMoved
from x0d.mapek.loop import Loop
from x0d.mapek.model import Cause, Incident, IncidentId, IncidentState, Role
from x0d.mesh.model import LinkKey, LinkState
from x0d.service import healing as service
from x0d.service.alerts import Alerts
from x0d.service.execute import Executor
from x0d.service.healing import HealingService
from x0d.telemetry import Telemetry

LINK = LinkKey.between("n1", ip_address("10.0.0.1"), "n2", ip_address("10.0.0.2"))


class RecordingExecutor(Executor):
    """Notes what it is asked to perform; ``error`` is what it answers."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.performed: list[Action] = []
        self.error = ""

    async def perform(self, action: Action) -> Outcome:
        self.performed.append(action)
        now_ns = self.clock.now_ns
        return Outcome(action, done=not self.error, error=self.error, started_at_ns=now_ns, ended_at_ns=now_ns)


class World:
    """The service with its surroundings."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FakeStore()
        self.alerts = Alerts()
        self.counted = Telemetry()
        self.executor = RecordingExecutor(self.clock)
        self.holds = True
        self.verified: list[LinkKey] = []
        self.loop = Loop("n1", "auto", 1000, 5 * 10**9)
        self.loop.set_link_costs({LINK: 100})
        self.healing = HealingService(
            loop=self.loop,
            store=self.store,
            executor=self.executor,
            verify=self._verify,
            clock=self.clock,
            counted=self.counted,
            alerts=self.alerts,
        )

    async def _verify(self, link: LinkKey) -> tuple[bool, str]:
        self.verified.append(link)
        return self.holds, "as read"

    def degrade(self, generation: int = 1) -> None:
        """Tell of a lossy link."""
        now_ns = self.clock.now_ns
        state = LinkState.DEGRADED
        self.healing.feed(LinkSymptom(LINK, "n2", generation, state, "loss", "20 %", now_ns - 10**9, now_ns, 5))

    def move(self, generation: int = 1) -> None:
        """Tell of the reroute that follows."""
        now_ns = self.clock.now_ns
        done = Outcome(SetLinkCost(LINK, 1), done=True, error="", started_at_ns=now_ns, ended_at_ns=now_ns)
        moved = RoutesMoved(((LINK, generation),), now_ns, done, (), (), 0, observed_only=False)
        self.healing.feed(moved)

    def recover(self, generation: int = 1) -> None:
        """Tell that the link is clean."""
        self.healing.feed(LinkRecovered(LINK, generation, self.clock.now_ns, "clean"))

    async def incident(self, generation: int = 1) -> Incident:
        """The incident as the service knows it."""
        found = await self.healing.load(f"{LINK}:{generation}")
        assert found is not None
        return found


def play(scenario: Callable[[World], Awaitable[None]]) -> World:
    """Run a scenario beside the service's tasks."""

    async def main(world: World) -> None:
        async with asyncio.TaskGroup() as group:
            healing = world.healing
            tasks = [group.create_task(task) for task in (healing.run(), healing.run_ticks(), healing.run_store())]
            await scenario(world)
            for task in tasks:
                task.cancel()

    world = World()
    run_virtual(world.clock, main(world))
    return world


def test_requests_are_performed_and_their_ends_told() -> None:
    """A remedy is performed, its reroute read back, the incident closed, and the remedy undone after the recovery."""

    async def scenario(world: World) -> None:
        world.degrade()
        await until(lambda: bool(world.executor.performed))
        assert [SetLinkCost(LINK, 1100)] == world.executor.performed
        await passes(0.001)
        world.move()
        await until(lambda: world.verified == [LINK])
        await passes(0.001)
        assert IncidentState.CLOSED is (await world.incident()).state
        world.recover()
        await until(lambda: len(world.executor.performed) == 2)
        assert SetLinkCost(LINK, 100) == world.executor.performed[1]
        await passes(0.001)
        assert ["done", "done", "undone"] == [action.outcome for action in (await world.incident()).actions]

    play(scenario)


def test_failed_action_escalates() -> None:
    """A refused remedy is recorded with its reason, and the incident escalated."""

    async def scenario(world: World) -> None:
        world.executor.error = "no such link"
        world.degrade()
        await passes(0.01)
        incident = await world.incident()
        assert (IncidentState.ESCALATED, "no such link") == (incident.state, incident.actions[0].error)
        assert (incident,) == world.healing.open_incidents()

    play(scenario)


def test_read_back_that_does_not_hold_is_repeated() -> None:
    """What is not verified yet is asked for again with the ticks, and escalated when its time is up."""

    async def scenario(world: World) -> None:
        world.holds = False
        world.degrade()
        await passes(0.001)
        world.move()
        await until(lambda: len(world.verified) >= 3, 2)
        await passes(6)
        assert IncidentState.ESCALATED is (await world.incident()).state

    play(scenario)


@pytest.mark.parametrize("trouble", ["full", "stuck"])
def test_store_in_trouble_delays_no_action(trouble: str) -> None:
    """A full or hanging disk: the remedy is performed at once, the incident shown from memory and written later."""

    async def scenario(world: World) -> None:
        if trouble == "full":
            world.store.broken = "database or disk is full"
        else:
            world.store.free.clear()
        fed_ns = world.clock.now_ns
        world.degrade()
        await until(lambda: bool(world.executor.performed), 0.1)
        assert world.clock.now_ns - fed_ns <= 2_000_000
        await passes(1)
        incident = await world.incident()
        if trouble == "full":
            assert ("knowledge_store: incidents are not stored: database or disk is full",) == world.alerts.texts()
            assert [incident] == list(await world.healing.list(10, open_only=False))
            failures = world.counted.registry.get_sample_value("x0d_knowledge_failures_total")
            assert failures is not None
            assert failures >= 1
        assert {} == world.store.saved
        world.store.broken = ""
        world.store.free.set()
        await until(lambda: bool(world.store.saved), service.STORE_RETRY_S + 1)
        await passes(0.01)
        assert {str(incident.id): await world.incident()} == world.store.saved
        assert () == world.alerts.names()

    play(scenario)


def test_only_the_latest_state_is_written() -> None:
    """States of an incident that follow each other while the disk is slow are written as one."""

    async def scenario(world: World) -> None:
        world.store.free.clear()
        for _ in range(5):
            world.degrade()
            await passes(0.01)
        world.recover()
        await passes(0.5)
        world.store.free.set()
        await passes(0.5)
        assert world.store.saves <= 2
        assert await world.incident() == world.store.saved[f"{LINK}:1"]

    play(scenario)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory keeps the latest incidents; older ones come from the disk, and of an unwritable flood the latest stay."""
    monkeypatch.setattr(service, "RECENT_MAX", 10)

    async def scenario(world: World) -> None:
        for generation in range(1, 26):
            world.degrade(generation)
            await passes(0.01)
        assert 10 == len(world.healing._recent)
        assert 25 == (await world.incident(25)).id.generation
        assert 1 == (await world.incident(1)).id.generation, "from the disk"
        listed = await world.healing.list(20, open_only=False)
        assert list(range(25, 5, -1)) == [incident.id.generation for incident in listed]
        world.store.broken = "read-only"
        for generation in range(26, 60):
            world.degrade(generation)
            await passes(0.01)
        assert 10 == len(world.healing._unsaved)
        assert 10 == len(await world.healing.list(100, open_only=False))

    play(scenario)


def test_list_merges_memory_and_disk() -> None:
    """Incidents of an earlier life come from the disk; where both know one, memory has the later state."""

    async def scenario(world: World) -> None:
        old = Incident(IncidentId("n1-n9.0000", 3), Cause.LINK_DEAD, "", IncidentState.ESCALATED, Role.END, "auto", 5)
        closed = replace(old, id=IncidentId("n1-n9.0000", 2), state=IncidentState.CLOSED, closed_at_unix_ms=9)
        world.store.saved = {str(old.id): old, str(closed.id): closed}
        world.degrade()
        await passes(0.1)
        new = await world.incident()
        world.store.saved[str(new.id)] = replace(new, explanation="as it was")
        assert [new, old, closed] == list(await world.healing.list(10, open_only=False))
        assert [new, old] == list(await world.healing.list(10, open_only=True))
        assert [new] == list(await world.healing.list(1, open_only=False))
        assert old == await world.healing.load(str(old.id))
        assert await world.healing.load("n1-n9.0000:7") is None

    play(scenario)


def test_list_fails_only_without_anything_to_show() -> None:
    """A broken disk is an error where memory is empty, and no error where it is not."""

    async def scenario(world: World) -> None:
        world.store.broken = "gone"
        with pytest.raises(StorageFailed):
            await world.healing.list(10, open_only=False)
        world.degrade()
        assert 1 == len(await world.healing.list(10, open_only=False))

    play(scenario)


def test_watchers_see_each_change_until_they_leave() -> None:
    """A watcher is called with every state of every incident, and may leave while it is being called."""

    async def scenario(world: World) -> None:
        seen: list[IncidentState] = []
        brief: list[Incident] = []

        def once(incident: Incident) -> None:
            brief.append(incident)
            leave_brief()

        leave_brief = world.healing.watch(once)
        leave = world.healing.watch(lambda incident: seen.append(incident.state))
        world.degrade()
        await passes(0.01)
        world.move()
        await passes(0.01)
        assert (seen[0], IncidentState.CLOSED) == (brief[0].state, seen[-1])
        assert 1 == len(brief)
        count = len(seen)
        leave()
        world.degrade(2)
        assert count == len(seen)

    play(scenario)


def test_steps_and_incidents_are_counted_once() -> None:
    """Each incident counts under its cause and each step under its name, however often the record is published."""

    async def scenario(world: World) -> None:
        world.degrade()
        await passes(0.01)
        world.move()
        await passes(0.01)
        world.recover()
        await passes(0.01)

    counted = play(scenario).counted.registry.get_sample_value
    assert 1.0 == counted("x0d_incidents_total", {"cause": "link_degraded"})
    for step in ("detect", "decide", "act", "verify"):
        assert 1.0 == counted("x0d_heal_step_seconds_count", {"step": step})


@pytest.mark.parametrize("stuck", [False, True])
def test_stop_writes_what_it_can_in_time(stuck: bool) -> None:
    """At the stop what is unwritten is written, and a disk that hangs holds nothing up for longer than the limit."""
    world = World()

    async def main() -> None:
        world.degrade()
        if stuck:
            world.store.free.clear()
        began_ns = world.clock.now_ns
        with suppress(asyncio.CancelledError):
            await world.healing.flush(0.5)
        assert (0 if stuck else 1) == len(world.store.saved)
        assert world.clock.now_ns - began_ns <= 501_000_000

    run_virtual(world.clock, main())
