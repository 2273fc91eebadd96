"""What is shown of the counters: names, rates between two readings, the busiest first."""

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from fakes.clock import FakeClock
from fakes.policy import FakePolicyPlane
from fakes.policy_store import FakePolicyStore
from fakes.tracing import FakeTracer
from service.nodes import FakeMesh
from x0d.ports import PacketCounter, PlaneSample, Source
from x0d.service.alerts import Alerts
from x0d.service.counting import Counting, TopReader
from x0d.service.policy import PolicyService
from x0d.service.sampling import HELD_NS, PlaneReadings
from x0d.service.tracing import TracingService

S = 1_000_000_000


def source(address: str, packets: int, size: int = 0, limited: int = 0) -> Source:
    return Source(ip_address(address).packed, packets, size, limited)


class World:
    """Counting on fakes; interface to-n2 of node n1 has index 100."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.node = FakeMesh(self.clock, (("n1", "n2"),)).nodes["n1"]
        self.lists = FakePolicyPlane()
        self.tracer = FakeTracer(self.clock)
        self.packets: list[PacketCounter] = []
        self.reads = 0
        policy = PolicyService(
            plane=self.lists,
            store=FakePolicyStore(),
            clock=self.clock,
            alerts=Alerts(),
            protected=lambda: (),
            shortfall=lambda _: "",
            deny_entries_max=1000,
        )
        self.node.plane.sample = self.sample  # type: ignore[method-assign]
        self.readings = PlaneReadings(self.node.plane, self.clock)
        self.counting = Counting(
            readings=self.readings,
            tracing=TracingService(self.tracer, self.clock),
            policy=policy,
            policy_plane=self.lists,
            interfaces=self.node.interfaces,
            clock=self.clock,
        )

    def sample(self) -> PlaneSample:
        """Stand in for the plane's counters, which only packets could move."""
        self.reads += 1
        return PlaneSample(self.clock.monotonic_ns(), tuple(self.packets), (), 0, 0)


def play(world: World, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario with the interfaces attached."""

    async def main() -> None:
        await world.node.interfaces.start()
        await scenario()

    asyncio.run(main())


def test_first_reading_has_no_rates_and_the_second_is_the_difference() -> None:
    """Packets per second are counted between two calls of one watcher, by interface and by verdict."""
    world = World()

    async def scenario() -> None:
        world.packets = [PacketCounter(100, "udp", "pass", 1000, 64_000), PacketCounter(100, "udp", "deny", 5, 500)]
        top = TopReader(world.counting)
        first = await top.next(10)
        assert (0.0, [0.0], [1000, 5]) == (
            first.interval_s,
            [row.packets_per_s for row in first.interfaces],
            [row.packets for row in first.verdicts],
        )
        world.clock.advance(2.0)
        world.packets = [PacketCounter(100, "udp", "pass", 1200, 84_000), PacketCounter(100, "udp", "deny", 45, 4500)]
        second = await top.next(10)
        (row,) = second.interfaces
        assert ("to-n2", "native", 120.0, 96_000.0, 20.0) == (
            row.interface,
            row.mode,
            row.packets_per_s,
            row.bits_per_s,
            row.dropped_per_s,
        )
        assert [("pass", 100.0), ("deny", 20.0)] == [(row.verdict, row.packets_per_s) for row in second.verdicts]

    play(world, scenario)


def test_equally_busy_rows_keep_their_places() -> None:
    """Talkers, verdicts and interfaces whose rates differ by a little are in the order of their names."""
    world = World()

    async def scenario() -> None:
        top = TopReader(world.counting)
        seen = []
        for tick in range(4):
            more = tick % 2
            world.lists.tracked = [
                source("192.0.2.1", 1000 * tick + more, 0, 0),
                source("192.0.2.2", 1000 * tick + 5000 - more, 0, 0),
                source("192.0.2.9", 10 * tick),
            ]
            world.packets = [
                PacketCounter(100, "udp", "pass", 1000 * tick + more, 0),
                PacketCounter(101, "udp", "drop", 1000 * tick + 5000 - more, 0),
            ]
            shown = await top.next(10)
            seen.append(
                (
                    [row.source for row in shown.talkers],
                    [row.verdict for row in shown.verdicts],
                    [row.interface for row in shown.interfaces if row.packets_per_s],
                )
            )
            world.clock.advance(1.0)
        expected = (["192.0.2.1", "192.0.2.2", "192.0.2.9"], ["drop", "pass"], ["#101", "to-n2"])
        assert [expected] * 3 == seen[1:]

    play(world, scenario)


def test_talkers_are_those_that_send_now() -> None:
    """Sources are ranked by what they sent since the last call, a new one by all that it sent; rates follow."""
    world = World()

    async def scenario() -> None:
        world.lists.tracked = [source("192.0.2.1", 10_000), source("192.0.2.2", 10)]
        top = TopReader(world.counting)
        assert ["192.0.2.1", "192.0.2.2"] == [row.source for row in (await top.next(10)).talkers]
        world.clock.advance(1.0)
        world.lists.tracked = [
            source("192.0.2.1", 10_001),
            source("192.0.2.2", 110, 12_500, 40),
            source("2001:db8::7", 60),
        ]
        second = await top.next(2)
        assert [("192.0.2.2", 100.0, 40.0), ("2001:db8::7", 60.0, 0.0)] == [
            (row.source, row.packets_per_s, row.limited_per_s) for row in second.talkers
        ]
        assert (3, 100_000.0) == (second.sources_tracked, second.talkers[0].bits_per_s)

    play(world, scenario)


def test_source_that_was_forgotten_meanwhile_has_no_negative_rate() -> None:
    """A source whose count began anew shows 0, not less."""
    world = World()

    async def scenario() -> None:
        world.lists.tracked = [source("192.0.2.1", 500)]
        top = TopReader(world.counting)
        await top.next(10)
        world.clock.advance(1.0)
        world.lists.tracked = [source("192.0.2.1", 3)]
        assert [0.0] == [row.packets_per_s for row in (await top.next(10)).talkers]

    play(world, scenario)


def test_drops_by_reason() -> None:
    """The kernel's reasons are shown with their rate, the busiest first, at most ten."""
    world = World()

    async def scenario() -> None:
        world.tracer.drops = {"no_socket": 5}
        top = TopReader(world.counting)
        await top.next(10)
        world.clock.advance(1.0)
        world.tracer.drops = {"no_socket": 25} | {f"reason_{n}": n for n in range(1, 15)}
        drops = (await top.next(10)).drops
        assert (10, "no_socket", 20.0, 25) == (len(drops), drops[0].reason, drops[0].packets_per_s, drops[0].packets)

    play(world, scenario)


def test_one_pass_serves_all_who_ask_at_once() -> None:
    """Within some milliseconds the counters are read once, whoever asks; later they are read again."""
    world = World()

    async def scenario() -> None:
        await world.counting.stats()
        await world.counting.stats()
        await TopReader(world.counting).next(1)
        assert 1 == world.reads
        world.clock.advance(2 * HELD_NS / S)
        await world.counting.stats()
        assert 2 == world.reads

    play(world, scenario)


def test_stats_name_everything() -> None:
    """Interfaces, drop reasons, peers and states come by name; what is 0 is left out."""
    world = World()

    async def scenario() -> None:
        world.packets = [PacketCounter(100, "tcp", "pass", 3, 200), PacketCounter(100, "tcp", "drop", 0, 0)]
        world.packets.append(PacketCounter(77, "udp", "pass", 1, 60))
        world.tracer.retransmits = {"192.0.2.0/24": 2, "other": 9}
        world.tracer.socket_states = {("ipv4", "syn_sent", "established"): 4}
        stats = await world.counting.stats()
        assert [("to-n2", "pass", 3), ("#77", "pass", 1)] == [
            (row.interface, row.verdict, row.packets) for row in stats.counters
        ]
        assert [("other", 9), ("192.0.2.0/24", 2)] == [(row.prefix, row.count) for row in stats.tcp_retransmits]
        assert [("ipv4", "syn_sent", "established", 4)] == [
            (row.family, row.from_state, row.to_state, row.count) for row in stats.socket_states
        ]
        assert stats.run_queue_latency is None

    play(world, scenario)
