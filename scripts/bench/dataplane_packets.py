"""What a packet costs: x0d's root program and stages beside xdp-filter, path by path.

Data planes of ours are loaded beside each other, with no entry in any list, with a limit for every source that never
bites, and with full lists beside that limit, and two instances of xdp-filter likewise; so all of them are measured in
turns.  Ours count, track every source, and have the reflector; what the peer does with all features is to look at the
Ethernet and IP addresses and the ports, and to count.
"""

import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.dataplane_bpf import XDP_DROP, XDP_PASS, load_empty_program
from bench.dataplane_effort import Effort
from bench.dataplane_lists import DenyLists, frame, share_in_filter
from bench.dataplane_ours import NEVER_BITES, Ours
from bench.dataplane_peer import XdpFilter
from bench.dataplane_table import Row, Target
from bench.dataplane_timing import Case, Shuffler, one_source, take_turns
from bench.dataplane_world import add_veth
from x0d.policy.model import PackedPrefix, PrefixKey
from x0d.ports.policy import LimitRate

SOURCES = 4_096
"""Of the cases with many sources: all fit in the table of sources."""
NEW_SOURCES = 65_536
"""More than the table of sources holds in the case of sources that are always new."""
SMALL_TABLE = 16_384
LIMITED = PackedPrefix(bytes((198, 51, 100, 0)), 24)
SIZES = {4: "IPv4", 16: "IPv6"}


class Bench:
    """Every program that is compared, loaded."""

    def __init__(self, stack: ExitStack, directory: Path, chance: random.Random, repeat: int) -> None:
        """Load all of them; they end with ``stack``."""
        self.chance = chance
        self.repeat = repeat
        self.cases: list[Case] = []
        self.lists = {size: DenyLists.draw(chance, size) for size in SIZES}
        self.empty_program = load_empty_program()
        self.shuffler = Shuffler(directory)
        self.idle = stack.enter_context(Ours("idle"))
        self.bare = stack.enter_context(Ours("bare"))
        self.full = stack.enter_context(Ours("full"))
        self.churn = stack.enter_context(Ours("churn", sources_max=SMALL_TABLE))
        for plane in (self.bare, self.full, self.churn):
            plane.limit(NEVER_BITES)
        lists: list[dict[PrefixKey, int]] = [dict.fromkeys(each.exact | each.nets, 0) for each in self.lists.values()]
        self.full.deny(*lists)
        self.full.limit({**NEVER_BITES, LIMITED: LimitRate(1, 1)})
        self.peer_index = add_veth("peer0", "peer1")
        self.peer_bare = XdpFilter("peer0")
        add_veth("peerfull0", "peerfull1")
        self.peer_full = XdpFilter("peerfull0")
        for each in self.lists.values():
            self.peer_full.fill([prefix.address for prefix in sorted(each.exact)])

    def one(self, name: str, program: "Ours | XdpFilter | None", source: bytes, verdict: int = XDP_PASS) -> Case:
        """A case of one source."""
        fd, index = self._program(program)
        return self._add(one_source(name, fd, frame(source), index, verdict, self.repeat))

    def many(
        self, name: str, program: "Ours | XdpFilter | None", sources: Sequence[bytes], verdict: int = XDP_PASS
    ) -> Case:
        """A case of many sources."""
        fd, index = self._program(program)
        return self._add(self.shuffler.many_sources(name, fd, frame(sources[0]), sources, index, verdict, self.repeat))

    def _program(self, program: "Ours | XdpFilter | None") -> tuple[int, int]:
        if isinstance(program, Ours):
            return program.program_fd, program.ifindex
        return (program.program_fd if program else self.empty_program), self.peer_index

    def _add(self, case: Case) -> Case:
        self.cases.append(case)
        return case


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table before it is measured."""

    what: str
    ours: Case | None = None
    theirs: Case | None = None
    target: Target | None = None
    shuffling: tuple[Case, Case] | None = None
    """Of many sources: an empty program behind the shuffler, and without it; the difference is taken off."""

    def row(self) -> Row:
        """The line with its figures."""
        return Row(self.what, self._figures(self.ours), self._figures(self.theirs), self.target)

    def _figures(self, case: Case | None) -> Sequence[float]:
        if case is None:
            return ()
        if self.shuffling is None:
            return case.rounds
        with_shuffler, without = self.shuffling
        return case.less((with_shuffler, -1), (without, 1))


def measure(directory: Path, chance: random.Random, effort: Effort) -> list[Row]:
    """Load, measure in turns, and return the table's lines."""
    with ExitStack() as stack:
        bench = Bench(stack, directory, chance, effort.repeat)
        floor = bench.one("floor", None, bytes((203, 0, 113, 1)))
        lines = [Line("floor: an empty program", floor, floor)]
        for size in SIZES:
            lines += _pass_lines(bench, size)
        for size in SIZES:
            lines += _drop_lines(bench, size)
        for size in SIZES:
            lines += _cold_lines(bench, size, floor)
        take_turns(bench.cases, effort.rounds, effort.slices)
        limited = sum(plane.received().get("limit", 0) for plane in (bench.bare, bench.churn))
        assert limited == 0, "the limit that never bites has bitten"
        return [line.row() for line in lines]


def _pass_lines(bench: Bench, size: int) -> list[Line]:
    """One source, in the caches: one that the filter clears, and one that it does not."""
    family, lists, chance = SIZES[size], bench.lists[size], bench.chance
    source = lists.free_source(chance, size, in_filter=False)
    bare = bench.one(f"{family} bare", bench.peer_bare, source)
    full = bench.one(f"{family} full", bench.peer_full, source)
    idle = bench.one(f"{family} pass, no entry", bench.idle, source)
    ours = bench.one(f"{family} pass, one limit", bench.bare, source)
    lines = [
        Line(f"{family} pass, every stage on, all lists empty", idle, bare, Target(1.0, of_ratio=True)),
        Line(f"{family} pass, deny-list empty, one limit for every source", ours, bare, Target(1.0, of_ratio=True)),
        Line(f"{family} pass, the same; xdp-filter with 10,000 addresses", ours, full),
    ]
    aim = Target(1.4, of_ratio=True, is_aim=True)
    best = bench.one("pass, full, best", bench.full, source)
    worst = bench.one("pass, full, worst", bench.full, lists.free_source(chance, size, in_filter=True))
    return [
        *lines,
        Line(f"{family} pass, 10,000 + 10,000 loaded, cleared by the filter (best)", best, bare, aim),
        Line(f"{family} pass, 10,000 + 10,000 loaded, not cleared (worst)", worst, bare, aim),
    ]


def _drop_lines(bench: Bench, size: int) -> list[Line]:
    """One denied source, in the caches."""
    family, lists, chance = SIZES[size], bench.lists[size], bench.chance
    [exact], [net] = lists.denied_exactly(chance, 1), lists.denied_by_net(chance, 1)
    limits = (65, 130) if size == 4 else (None, None)
    by_address, by_net = (Target(limit) if limit else None for limit in limits)
    peer = bench.one(f"{family} peer denies", bench.peer_full, exact, XDP_DROP)
    lines = [
        Line(
            f"{family} deny by one of 10,000 addresses",
            bench.one(f"{family} deny exact", bench.full, exact, XDP_DROP),
            peer,
            by_address,
        ),
        Line(
            f"{family} deny by one of 10,000 CIDRs",
            bench.one(f"{family} deny net", bench.full, net, XDP_DROP),
            target=by_net,
        ),
    ]
    if size == 4:
        limited = LIMITED.address[:3] + b"\x07"
        lines.append(Line("IPv4 drop by a limit", bench.one("limit", bench.full, limited, XDP_DROP)))
    return lines


def _cold_lines(bench: Bench, size: int, floor: Case) -> list[Line]:
    """Many sources in turn."""
    family, lists, chance = SIZES[size], bench.lists[size], bench.chance
    some, new = lists.free_sources(chance, size, SOURCES), lists.free_sources(chance, size, NEW_SOURCES)
    shuffling = bench.many(f"{family} shuffler", None, some), floor
    peer = bench.many(f"{family} bare", bench.peer_bare, some)
    full_peer = bench.many(f"{family} full", bench.peer_full, some)
    passed = f"{family}, {SOURCES:,} random sources: pass"
    share = f"; {100 * share_in_filter(some, lists):.0f} % not cleared"
    by_address, by_net = lists.denied_exactly(chance, SOURCES), lists.denied_by_net(chance, SOURCES)
    return [
        Line(f"{passed}, lists empty", bench.many("empty", bench.bare, some), peer, shuffling=shuffling),
        Line(
            f"{passed}, 10,000 + 10,000 loaded (average{share})",
            bench.many("loaded", bench.full, some),
            peer,
            Target(1.4, of_ratio=True, is_aim=True),
            shuffling,
        ),
        Line(
            f"{family}, random denied addresses",
            bench.many("exact", bench.full, by_address, XDP_DROP),
            bench.many("peer exact", bench.peer_full, by_address, XDP_DROP),
            shuffling=shuffling,
        ),
        Line(
            f"{family}, random addresses in denied CIDRs",
            bench.many("net", bench.full, by_net, XDP_DROP),
            shuffling=shuffling,
        ),
        Line(
            f"{passed}; xdp-filter with 10,000 addresses", bench.many("e", bench.bare, some), full_peer, None, shuffling
        ),
        Line(
            f"{family}, every source new to a full table of {SMALL_TABLE:,}: pass",
            bench.many("churn", bench.churn, new),
            bench.many("peer churn", bench.peer_bare, new),
            shuffling=shuffling,
        ),
    ]
