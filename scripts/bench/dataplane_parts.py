"""Which part of the pass path costs what: the programs with stages left out, lists empty or full, in turns.

A line's cost is what it adds to the line named ``over``; both were measured in the same rounds.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path

from bench.dataplane_bpf import XDP_PASS, load_empty_program
from bench.dataplane_effort import Effort
from bench.dataplane_lists import DenyLists, Filter, frame
from bench.dataplane_peer import XdpFilter
from bench.dataplane_table import Row
from bench.dataplane_timing import Case, one_source, take_turns
from bench.dataplane_world import add_veth
from kernel.xdp_stages import CONFIG, LO, XdpStages, new_stages
from kernel.xdp_values import Deny, Limit, Network
from x0d.kernel.clock import tick_ns
from x0d.policy.model import PackedPrefix

NEVER_BITES = Limit(interval_ns=100, tolerance_ns=100_000_000)
QUIET = replace(CONFIG, talkers=False, tick_ns=tick_ns())
TALKERS = replace(QUIET, talkers=True)
SIZES = {"x0d_deny_hits": 32_768, "x0d_sources": 65_536, "x0d_events": 4096}


@dataclass(frozen=True, slots=True)
class Part:
    """A line."""

    what: str
    case: Case
    over: Case | None

    def row(self) -> Row:
        """The line with its figures: the whole path up to here, and what this part adds."""
        if self.over is None:
            return Row(f"{self.what}: whole", self.case.rounds, digits=1)
        added = [own - other for own, other in zip(self.case.rounds, self.over.rounds, strict=True)]
        return Row(f"{self.what}: adds", added, digits=1)


class Variants:
    """The programs in many settings, each on maps of its own."""

    def __init__(self, stack: ExitStack, lists: DenyLists, repeat: int) -> None:
        """Nothing is loaded yet."""
        self._stack = stack
        self._lists = lists
        self._repeat = repeat
        self.cases: list[Case] = []

    def load(self, *stages: str, talkers: bool = False, limit: bool = False, frags: bool = True) -> XdpStages:
        """Root and these stages."""
        programs = self._stack.enter_context(new_stages(stages, frags=frags, sizes=SIZES))
        programs.configure(TALKERS if talkers else QUIET)
        if limit:
            programs.limit({ip_network("0.0.0.0/0"): (0, NEVER_BITES)})
        return programs

    def deny(self, *, exact: bool, nets: bool) -> XdpStages:
        """Root and deny stage with one list or both."""
        programs = self.load("deny")
        chosen = sorted((self._lists.exact if exact else frozenset()) | (self._lists.nets if nets else frozenset()))
        programs.deny({_network(prefix): Deny(slot) for slot, prefix in enumerate(chosen)})
        return programs

    def case(self, programs: XdpStages, source: bytes) -> Case:
        """One source that passes."""
        made = one_source("", programs.root_fd, frame(source), LO, XDP_PASS, self._repeat)
        self.cases.append(made)
        return made


def measure(_directory: Path, chance: random.Random, effort: Effort) -> list[Row]:
    """Load all variants, measure in turns, and return the table's lines."""
    lists = DenyLists.draw(chance, 4)
    clear = lists.free_source(chance, 4, in_filter=False)
    alone = Filter(lists.exact), Filter(lists.nets)
    unclear = next(source for source in _sources(lists, chance) if all(source in each for each in alone))
    with ExitStack() as stack:
        variants = Variants(stack, lists, effort.repeat)
        floor = one_source("floor", load_empty_program(), frame(clear), LO, XDP_PASS, effort.repeat)
        add_veth("partpeer0", "partpeer1")
        peer = one_source("peer", XdpFilter("partpeer0").program_fd, frame(clear), LO, XDP_PASS, effort.repeat)
        every = variants.case(variants.load("deny", "limit", "probe", talkers=True, limit=True), clear)
        parts = [Part("floor", floor, None), *_parts(variants, floor, clear, unclear)]
        take_turns([floor, peer, *variants.cases], effort.rounds, effort.slices)
        whole = Row("every stage, lists empty: whole", every.rounds, peer.rounds, digits=1)
        return [*(part.row() for part in parts), whole]


def _parts(variants: Variants, floor: Case, clear: bytes, unclear: bytes) -> Sequence[Part]:
    root = variants.case(variants.load(), clear)
    plain = variants.case(variants.load(frags=False), clear)
    source6 = variants.case(variants.load(), bytes.fromhex("20010db8" + "00" * 11 + "07"))
    limit_only = variants.case(variants.load("limit", limit=True), clear)
    talkers_only = variants.case(variants.load("limit", talkers=True), clear)
    both = variants.case(variants.load("limit", talkers=True, limit=True), clear)
    filtered = variants.case(variants.deny(exact=True, nets=True), clear)
    exact = variants.case(variants.deny(exact=True, nets=False), unclear)
    nets = variants.case(variants.deny(exact=False, nets=True), unclear)
    whole_deny = variants.case(variants.deny(exact=True, nets=True), unclear)
    return [
        Part("root: look at the packet and count it", root, floor),
        Part("root without frags", plain, floor),
        Part("root, IPv6", source6, floor),
        Part("stage deny: tail call and filter, source cleared", filtered, root),
        Part("stage deny, only 10,000 addresses, source not cleared", exact, root),
        Part("stage deny, only 10,000 CIDRs, source not cleared", nets, root),
        Part("stage deny, both, source not cleared", whole_deny, root),
        Part("stage limit: tail call and talkers", talkers_only, root),
        Part("stage limit: tail call and limit", limit_only, root),
        Part("stage limit: talkers and limit", both, root),
        Part("a limit beside talkers (clock, compare and exchange)", both, talkers_only),
    ]


def _sources(lists: DenyLists, chance: random.Random) -> Iterator[bytes]:
    while True:
        yield lists.free_source(chance, 4, in_filter=True)


def _network(prefix: PackedPrefix) -> Network:
    return ip_network((prefix.address, prefix.length))
