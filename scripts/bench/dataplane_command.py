"""``scripts/bench/dataplane``: what x0d's data plane costs, beside Debian's xdp-filter with all features.

Sections: ``packets`` (nanoseconds a packet), ``reading`` (lists and a scrape), ``replacing`` (a deny-list of 100,000),
``swaps`` (stages and whole upgrades while packets flow), ``limit`` (how exactly a rate is kept by two CPUs).  All of
it happens in namespaces of this process, with a bpf filesystem of its own; nothing is left, whatever ends it.
"""

import argparse
import datetime as dt
import importlib
import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.dataplane_effort import Effort
from bench.dataplane_table import Row, render, unmet, unreached
from bench.dataplane_world import own_world
from bench.machine_load import Pressure, Scheduling, describe_machine
from bench.session import run_command, say

Section = Callable[[Path, random.Random, Effort], list[Row]]
SECTIONS = {
    "packets": "bench.dataplane_packets",
    "reading": "bench.dataplane_reading",
    "replacing": "bench.dataplane_replacing",
    "swaps": "bench.dataplane_swaps",
    "limit": "bench.dataplane_limit",
    "parts": "bench.dataplane_parts",
}
"""Module by name; imported when it is asked for, so that one section needs no more than its own part of x0d."""
BY_DEFAULT = ("packets", "reading", "replacing", "swaps", "limit")
EPILOG = """figures:
  Sections: packets, nanoseconds a packet; reading, lists and a scrape; replacing, a deny-list of 100,000; swaps,
  stages and whole upgrades while packets flow; limit, how exactly two CPUs keep a rate; parts, what each stage of
  the pass path adds.
  One source is a frame run again and again, everything in the caches; many sources is a frame with the next source
  of a list each time.  Figures are medians of the rounds with (least-most), the empty program's time included; a
  ratio is the median of the ratios within each round, because the machine's speed changes between rounds.

examples:
  scripts/bench/dataplane                     everything but --parts: about three minutes
  scripts/bench/dataplane --only packets --runs 31
  scripts/bench/dataplane --parts --quick     which part of the pass path costs what
"""


def main(argv: Sequence[str]) -> int:
    """Measure and print the table; 0 every promise kept, 1 not (or it failed), 130 interrupted."""
    asked = _parser().parse_args(argv)
    return run_command(lambda: _run(asked))


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    about = "Measure the data plane by BPF_PROG_TEST_RUN, x0d and xdp-filter in turns.  Needs root."
    parser = argparse.ArgumentParser("dataplane", description=about, epilog=EPILOG, formatter_class=raw)
    parser.add_argument(
        "--only", default=",".join(BY_DEFAULT), metavar="NAMES", help=f"of {', '.join(SECTIONS)} (default: %(default)s)"
    )
    parser.add_argument("--parts", action="store_true", help="the same as --only parts")
    parser.add_argument(
        "--runs", type=_whole_number, default=9, metavar="N", help="rounds of each section (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="short rounds, few of them: to see that it works")
    parser.add_argument(
        "--sched",
        default="other",
        help="how all that is measured is scheduled: other, nice:N, or fifo:PRIORITY, which keeps other work on this "
        "machine out of the figures, and everything else waiting (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=None, help="of lists and sources (default: random, printed)")
    return parser


def _whole_number(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds; 1 and more are")
    return int(text)


def _run(asked: argparse.Namespace) -> int:
    names = ["parts"] if asked.parts else asked.only.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        sys.stderr.write(f"dataplane: no section {unknown[0]!r}; there are {' '.join(SECTIONS)}\n")
        return 2
    seed = random.randrange(1 << 32) if asked.seed is None else asked.seed
    effort = Effort.quick() if asked.quick else Effort(rounds=asked.runs)
    Scheduling.parse(asked.sched).apply([os.getpid()])
    say(f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC, {describe_machine()}, seed {seed}, {asked.sched}")
    pressure, rows = Pressure(), []
    with own_world() as directory:
        for name in names:
            say(f"measuring: {name}")
            section: Section = importlib.import_module(SECTIONS[name]).measure
            rows += section(directory, random.Random(seed), effort)
    say(f"\n{render(rows)}\n\n{describe_machine()}, CPU pressure meanwhile {pressure.percent():.0f} %")
    if asked.quick:
        say("short rounds, few of them: these figures show that it works, and no more")
    missed = unmet(rows)
    for about, found in (("not kept", missed), ("aimed for and not reached", unreached(rows))):
        if found:
            say(f"{about}: {'; '.join(found)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
