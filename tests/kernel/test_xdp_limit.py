"""The limit stage: rates, bursts, which limit holds, and what is tracked of sources."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_network

import pytest

from kernel.xdp_frames import SOURCE4, SOURCE6, TRANSPORT, UDP, ipv4, ipv6
from kernel.xdp_stages import CONFIG, SIZES, XdpStages, new_stages
from kernel.xdp_values import LIMIT_TICKS_MIN, Limit, Network, Source
from x0d.kernel.clock import tick_ns
from x0d.kernel.layout import DataPlaneConfig
from x0d.mesh.model import Address

pytestmark = pytest.mark.kernel

DROP, PASS = 1, 2
TICK_NS = tick_ns()
SECOND_NS, HOUR_NS, DAY_NS = 1_000_000_000, 3_600_000_000_000, 86_400_000_000_000
UDP4, UDP6 = ipv4(UDP, TRANSPORT[UDP]), ipv6(UDP, TRANSPORT[UDP])
ALL4, ALL6 = ip_network("0.0.0.0/0"), ip_network("::/0")
FRAMES: dict[str, tuple[bytes, Address, Network]] = {
    "ipv4": (UDP4, SOURCE4, ALL4),
    "ipv6": (UDP6, SOURCE6, ALL6),
}
FLOOD_PACKETS = 1_500_000
"""Of each CPU, in one call: a call of more than one packet waits for grace periods around its packets."""


@dataclass(frozen=True)
class Flood:
    """What was sent from two CPUs at once."""

    sent: int
    inside_s: float
    """The longer of both runs, without what it was interrupted for."""
    outside_s: float
    """From before the first packet until after the last."""


def limit(rate_pps: float, burst: int, expires_at_ns: int = 0, fallback: int = 0) -> Limit:
    """As the daemon makes it of packets a second."""
    interval_ns = round(SECOND_NS / rate_pps)
    return Limit(interval_ns, interval_ns * burst, expires_at_ns, fallback)


HOURLY = 1 / 3600
"""A rate at which no token comes back during a test."""
TICKING = replace(CONFIG, tick_ns=TICK_NS)
SHORT, LONG = Limit(TICK_NS, 2 * TICK_NS), Limit(TICK_NS, 40 * TICK_NS)
"""One kept by the exact clock, one by jiffies, in a configuration that tells the tick."""


@pytest.fixture(scope="module", params=[True, False], ids=["frags", "plain"])
def variant(request: pytest.FixtureRequest) -> Iterator[XdpStages]:
    """Load both variants."""
    with new_stages(frags=request.param) as loaded:
        yield loaded


@pytest.fixture
def stages(variant: XdpStages) -> XdpStages:
    """Begin without limits and sources, in both variants."""
    variant.reset()
    return variant


def verdicts(stages: XdpStages, frame: bytes, count: int) -> list[int]:
    """Show a frame so many times."""
    return [stages.run(frame).verdict for _ in range(count)]


def known(stages: XdpStages, address: Address) -> Source:
    """What is tracked of a source that is."""
    source = stages.source(address)
    assert source is not None
    return source


@pytest.mark.parametrize("family", FRAMES)
@pytest.mark.parametrize("burst", [1, 3, 10])
def test_burst(stages: XdpStages, family: str, burst: int) -> None:
    """A new source may send its burst at once and no packet more; each one is counted for the source."""
    frame, address, everybody = FRAMES[family]
    stages.limit({everybody: (2, limit(HOURLY, burst))})
    assert [PASS] * burst + [DROP] * 4 == verdicts(stages, frame, burst + 4)
    cells = {("udp", "pass"): (burst, burst * len(frame)), ("udp", "limit"): (4, 4 * len(frame))}
    assert cells == stages.counters().packets
    source = known(stages, address)
    assert (burst + 4, (burst + 4) * len(frame), 4) == (source.packets, source.bytes, source.limited)
    assert (4, 0) == (stages.limit_hits(2), stages.limit_hits(0))


@pytest.mark.parametrize(("elapsed", "admitted"), [(0.5, 0), (1.5, 1), (3.5, 3), (100, 5)])
@pytest.mark.parametrize("rate_pps", [HOURLY, 1, 5])
def test_refill(stages: XdpStages, rate_pps: float, elapsed: float, admitted: int) -> None:
    """Each interval that passes gives one packet back, up to the burst."""
    chosen = limit(rate_pps, 5)
    stages.limit({ALL4: (0, chosen)})
    stages.run(UDP4)
    # As if the burst had been used up `elapsed` intervals ago.
    due_at_ns = time.monotonic_ns() + round(chosen.tolerance_ns - elapsed * chosen.interval_ns)
    stages.put_source(SOURCE4, replace(known(stages, SOURCE4), due_at_ns=max(due_at_ns, 0)))
    assert [PASS] * admitted + [DROP] * 2 == verdicts(stages, UDP4, admitted + 2)


def test_sources_have_each_their_own_burst(stages: XdpStages) -> None:
    """One source over its rate takes nothing from another."""
    stages.limit({ALL4: (0, limit(HOURLY, 2))})
    assert [PASS, PASS, DROP] == verdicts(stages, UDP4, 3)
    other = ipv4(UDP, TRANSPORT[UDP], source=IPv4Address("198.51.100.8"))
    assert [PASS, PASS, DROP] == verdicts(stages, other, 3)


def test_limits_are_by_family(stages: XdpStages) -> None:
    """A limit for all of IPv4 holds for no IPv6 source, and the other way round."""
    stages.limit({ALL4: (0, limit(HOURLY, 1))})
    assert [PASS] * 3 == verdicts(stages, UDP6, 3)
    stages.reset()
    stages.limit({ALL6: (0, limit(HOURLY, 1))})
    assert [PASS] * 3 == verdicts(stages, UDP4, 3)


NESTED: dict[Network, tuple[int, Limit]] = {
    ALL4: (0, limit(HOURLY, 1)),
    ip_network("198.51.0.0/16"): (1, limit(HOURLY, 2)),
    ip_network("198.51.100.0/24"): (2, limit(HOURLY, 3)),
    ip_network("198.51.100.7/32"): (3, limit(HOURLY, 4)),
}


@pytest.mark.parametrize(
    ("source", "burst"), [("198.51.100.7", 4), ("198.51.100.8", 3), ("198.51.99.7", 2), ("203.0.113.1", 1)]
)
def test_longest_prefix(stages: XdpStages, source: str, burst: int) -> None:
    """Of nested limits the longest prefix holds, alone."""
    stages.limit(NESTED)
    frame = ipv4(UDP, TRANSPORT[UDP], source=IPv4Address(source))
    assert [PASS] * burst + [DROP] == verdicts(stages, frame, burst + 1)
    assert [int(index == burst - 1) for index in range(4)] == [stages.limit_hits(index) for index in range(4)]


@pytest.mark.parametrize(
    ("expired", "burst"), [([], 4), ([3], 3), ([3, 2], 2), ([3, 2, 1], 1), ([3, 2, 1, 0], None), ([2, 1], 4)]
)
def test_expired_limit_falls_back(stages: XdpStages, expired: list[int], burst: int | None) -> None:
    """Once a limit has expired the next broader one holds; when all have, nothing does."""
    stages.limit(
        {
            network: (index, replace(chosen, expires_at_ns=1 if index in expired else HOUR_NS << 10, fallback=index))
            for network, (index, chosen) in NESTED.items()
        }
    )
    expected = [PASS] * 8 if burst is None else [PASS] * burst + [DROP] * (8 - burst)
    assert expected == verdicts(stages, UDP4, 8)
    assert (0 if burst is None else burst) == known(stages, SOURCE4).limit


def test_limit_is_looked_up_once_in_a_generation(stages: XdpStages) -> None:
    """A source keeps its limit until the generation changes, and is then asked about again."""
    stages.limit({ip_network("198.51.100.0/24"): (4, limit(1000, 100))})
    stages.run(UDP4)
    first = known(stages, SOURCE4)
    assert first.limit == 5
    moved = replace(first, limit=0)
    stages.put_source(SOURCE4, moved)
    stages.run(UDP4)
    assert (first.limit_generation, 0) == (known(stages, SOURCE4).limit_generation, known(stages, SOURCE4).limit)
    stages.new_generation()
    stages.run(UDP4)
    assert (first.limit_generation + 1, 5) == (known(stages, SOURCE4).limit_generation, known(stages, SOURCE4).limit)


def test_schedule_of_a_former_limit_does_not_lock_out(stages: XdpStages) -> None:
    """A source far ahead of a slow limit's schedule is held back by a fast one no longer than that allows."""
    stages.limit({ALL4: (0, limit(HOURLY, 100))})
    verdicts(stages, UDP4, 101)
    fast = limit(100, 10)
    stages.limit({ALL4: (0, fast)})
    stages.run(UDP4)
    assert known(stages, SOURCE4).due_at_ns <= time.monotonic_ns() + fast.tolerance_ns


@pytest.mark.parametrize(("ticks", "apart"), [(LIMIT_TICKS_MIN - 1, False), (LIMIT_TICKS_MIN, True)])
def test_clock_of_a_schedule(stages: XdpStages, ticks: int, apart: bool) -> None:
    """By jiffies, which began weeks ahead of CLOCK_MONOTONIC, where the tolerance is long beside a tick."""
    stages.configure(TICKING)
    stages.limit({ALL4: (0, Limit(TICK_NS, TICK_NS * ticks))})
    stages.run(UDP4)
    assert apart == (known(stages, SOURCE4).due_at_ns > time.monotonic_ns() + DAY_NS)


def test_no_clock_but_the_exact_one_without_a_known_tick(stages: XdpStages) -> None:
    """Where the daemon could not tell the length of a jiffy, every schedule is kept by CLOCK_MONOTONIC."""
    stages.limit({ALL4: (0, LONG)})
    stages.run(UDP4)
    assert known(stages, SOURCE4).due_at_ns <= time.monotonic_ns() + LONG.tolerance_ns


def test_jiffies_keep_clock(stages: XdpStages) -> None:
    """The cheap clock runs as CLOCK_MONOTONIC does, but for a few ticks."""
    stages.configure(TICKING)
    stages.limit({ALL4: (0, LONG)})
    readings = []
    for _ in range(2):
        wait_until(time.monotonic_ns() + 60 * TICK_NS)
        stages.put_source(SOURCE4, replace(known_or_new(stages), due_at_ns=0))
        before_ns = time.monotonic_ns()
        stages.run(UDP4)
        readings.append((before_ns, time.monotonic_ns(), known(stages, SOURCE4).due_at_ns))
    (first_before, first_after, first), (second_before, second_after, second) = readings
    # The CPU whose timer moves jiffies may be away from a virtual machine: after five ticks another takes over.
    late = 10 * TICK_NS
    assert second_before - first_after - late <= second - first <= second_after - first_before + late


@pytest.mark.parametrize("chosen", ["short", "long"])
def test_limit_of_another_clock_does_not_lock_out(stages: XdpStages, chosen: str) -> None:
    """A source whose limit changes to one kept by the other clock goes on within that one's tolerance."""
    former, new = (LONG, SHORT) if chosen == "short" else (SHORT, LONG)
    stages.configure(TICKING)
    stages.limit({ALL4: (0, former)})
    stages.run(UDP4)
    stages.limit({ALL4: (1, new)})
    assert admitted_within(stages, 2 * new.interval_ns)
    assert [1] == [known(stages, SOURCE4).limit - 1]


def test_schedule_left_behind_by_another_clock_is_put_right(stages: XdpStages) -> None:
    """A packet under way while the limits changed may leave jiffies in a schedule by CLOCK_MONOTONIC: no lock-out."""
    stages.configure(TICKING)
    stages.limit({ALL4: (0, SHORT)})
    stages.run(UDP4)
    stages.put_source(SOURCE4, replace(known(stages, SOURCE4), due_at_ns=time.monotonic_ns() + 200 * DAY_NS))
    assert DROP == stages.run(UDP4).verdict
    assert known(stages, SOURCE4).due_at_ns <= time.monotonic_ns() + SHORT.tolerance_ns
    assert admitted_within(stages, 2 * SHORT.interval_ns)


def test_limit_by_jiffies_expires_by_the_exact_clock(stages: XdpStages) -> None:
    """Expiry is an instant of CLOCK_MONOTONIC, whatever clock the schedule is kept by."""
    stages.configure(TICKING)
    hourly = limit(HOURLY, 1)
    stages.limit({ALL4: (0, replace(hourly, expires_at_ns=time.monotonic_ns() + HOUR_NS))})
    assert [PASS, DROP, DROP] == verdicts(stages, UDP4, 3)
    stages.limit({ALL4: (0, replace(hourly, expires_at_ns=time.monotonic_ns() - 1))})
    assert [PASS] * 3 == verdicts(stages, UDP4, 3)


def known_or_new(stages: XdpStages) -> Source:
    """What is tracked of the source, made by a packet where there is nothing yet."""
    if stages.source(SOURCE4) is None:
        stages.run(UDP4)
    return known(stages, SOURCE4)


def wait_until(instant_ns: int) -> None:
    """Return after that instant of CLOCK_MONOTONIC."""
    time.sleep(max(0, instant_ns - time.monotonic_ns()) / SECOND_NS)  # tidy: the kernel's clock is under test


def admitted_within(stages: XdpStages, wait_ns: int) -> bool:
    """Whether a packet passes at once or after that time."""
    if stages.run(UDP4).verdict == PASS:
        return True
    wait_until(time.monotonic_ns() + wait_ns)
    return stages.run(UDP4).verdict == PASS


def test_talkers(stages: XdpStages) -> None:
    """Without any limit every source is counted."""
    verdicts(stages, UDP4, 3)
    verdicts(stages, UDP6, 2)
    four, six = known(stages, SOURCE4), known(stages, SOURCE6)
    assert (3, 3 * len(UDP4), 0, 0) == (four.packets, four.bytes, four.limited, four.limit)
    assert (2, 2 * len(UDP6), 0, 0) == (six.packets, six.bytes, six.limited, six.limit)


def test_talkers_off(stages: XdpStages) -> None:
    """Without talkers only sources under a limit are tracked."""
    stages.configure(replace(CONFIG, talkers=False))
    verdicts(stages, UDP4, 2)
    assert not stages.sources()
    stages.limit({ip_network("198.51.100.0/24"): (0, limit(HOURLY, 1))})
    assert [PASS, DROP] == verdicts(stages, UDP4, 2)
    assert [PASS] * 3 == verdicts(stages, UDP6, 3)
    assert {SOURCE4} == stages.sources()


def test_packets_without_a_source_pass(stages: XdpStages) -> None:
    """What is not IP has no source to limit."""
    stages.limit({ALL4: (0, limit(HOURLY, 1)), ALL6: (1, limit(HOURLY, 1))})
    for frame in (UDP4[:30], UDP4[:12] + b"\x08\x06" + UDP4[14:], UDP6[:12] + b"\x88\xcc" + UDP6[14:]):
        assert [PASS] * 3 == verdicts(stages, frame, 3)
    assert not stages.sources()


def test_sources_are_bounded() -> None:
    """At the ceiling a new source makes room by driving out old ones; the busiest stays."""
    ceiling = 512
    with new_stages(sizes={**SIZES, "x0d_sources": ceiling}) as stages:
        stages.limit({ALL4: (0, limit(HOURLY, 2))})
        for host in range(4 * ceiling):
            source = IPv4Address(0x0B000000 + host)
            assert stages.run(ipv4(UDP, TRANSPORT[UDP], source=source)).verdict == PASS
            stages.run(UDP4)
        tracked = stages.sources()
        assert len(tracked) <= ceiling
        assert SOURCE4 in tracked
        assert 4 * ceiling - 2 == known(stages, SOURCE4).limited


@pytest.mark.parametrize(
    ("config", "rate_pps", "burst"),
    [
        (CONFIG, 1000, 90),
        (CONFIG, 20_000, 1800),
        (CONFIG, 300_000, 27_000),
        (TICKING, 20_000, 4000),
        (TICKING, 300_000, 30_000),
    ],
    ids=["slow", "medium", "fast", "jiffies", "jiffies, fast"],
)
def test_rate_holds_over_all_cpus(config: DataPlaneConfig, rate_pps: int, burst: int) -> None:
    """A flood from two CPUs gets through at the rate, within a tenth, and with the burst once.

    The burst spans 90 ms or more: on a busy machine the flood itself pauses, and what a bucket cannot
    hold meanwhile is rightly lost.
    """
    with new_stages() as stages:
        stages.configure(config)
        stages.limit({ALL4: (0, limit(rate_pps, burst))})
        flooded = flood(stages, UDP4)
        admitted, refused = check_flood(stages, flooded.sent)
        assert refused > 0
        assert 0.9 * (rate_pps * flooded.inside_s + burst) <= admitted
        assert admitted <= 1.1 * (rate_pps * flooded.outside_s + burst)


@pytest.mark.parametrize(("rate_pps", "burst"), [(1000, 1), (5000, 10), (300_000, 300)])
def test_small_burst_never_lets_more_through(rate_pps: int, burst: int) -> None:
    """However two CPUs get in each other's way, no more passes than rate and burst allow."""
    with new_stages() as stages:
        stages.limit({ALL4: (0, limit(rate_pps, burst))})
        flooded = flood(stages, UDP4)
        admitted, _refused = check_flood(stages, flooded.sent)
        assert 0 < admitted <= rate_pps * flooded.outside_s + burst + 2


def test_no_packet_is_lost_to_the_schedule() -> None:
    """Two CPUs that admit packets of one source at once move its schedule on by each of them."""
    interval_ns = 1_000_000
    with new_stages() as stages:
        stages.limit({ALL4: (0, Limit(interval_ns, interval_ns * 100_000_000))})
        stages.run(UDP4)
        # Far enough ahead that time does not catch up with it meanwhile.
        first_ns = time.monotonic_ns() + HOUR_NS
        stages.put_source(SOURCE4, replace(known(stages, SOURCE4), due_at_ns=first_ns))
        sent = flood(stages, UDP4).sent
        source = known(stages, SOURCE4)
        assert first_ns + sent * interval_ns == source.due_at_ns
        assert (sent + 1, (sent + 1) * len(UDP4), 0) == (source.packets, source.bytes, source.limited)


def check_flood(stages: XdpStages, sent: int) -> tuple[int, int]:
    """Packets admitted and refused; they add up, and the source's record says the same."""
    packets = stages.counters().packets
    admitted, refused = packets["udp", "pass"][0], packets["udp", "limit"][0]
    source = known(stages, SOURCE4)
    assert (sent, sent, refused) == (admitted + refused, source.packets, source.limited)
    return admitted, refused


def flood(stages: XdpStages, frame: bytes) -> Flood:
    """Send ``FLOOD_PACKETS`` from each of two CPUs at once."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    spent_ns = [0] * len(cpus)

    def send(number: int) -> None:
        os.sched_setaffinity(0, {cpus[number]})  # of this thread
        spent_ns[number] = stages.run(frame, repeat=FLOOD_PACKETS).duration_ns * FLOOD_PACKETS

    threads = [threading.Thread(target=send, args=(number,)) for number in range(len(cpus))]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed_s = time.monotonic() - started
    return Flood(FLOOD_PACKETS * len(cpus), max(spent_ns) / SECOND_NS, elapsed_s)


def test_limited_source_still_has_its_class(stages: XdpStages) -> None:
    """Only the source counts: tagged and cut packets use up the same burst."""
    stages.limit({ip_network("198.51.100.0/24"): (0, limit(HOURLY, 3))})
    tagged, cut = ipv4(UDP, TRANSPORT[UDP], tags=(0x8100,)), UDP4[:36]
    assert [PASS, PASS, PASS, DROP] == [stages.run(frame).verdict for frame in (UDP4, tagged, cut, cut)]
    assert (1, len(cut)) == stages.counters().packets["malformed", "limit"]
