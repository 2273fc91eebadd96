"""``scripts/bench/identity``: what identities cost, beside native gRPC TLS, and what rotations and strangers can do.

Sections: ``calls`` (unary calls, large messages, new connections), ``parts`` (verification, datagrams, descriptors),
``rotation`` (both ends, under load), ``datagrams`` and ``handshakes`` (1,000 hostile ones a second at a running
daemon in a lab).  Nothing is left, whatever ends it.
"""

import argparse
import datetime as dt
import importlib
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.dataplane_table import Row, unmet, unreached
from bench.figures import table
from bench.identity_effort import Effort
from bench.machine_load import Pressure, describe_machine
from bench.session import run_command, say

Section = Callable[[Path, random.Random, Effort], list[Row]]
SECTIONS = {
    "calls": "bench.identity_calls",
    "parts": "bench.identity_verification",
    "rotation": "bench.identity_rotation",
    "datagrams": "bench.identity_datagrams",
    "handshakes": "bench.identity_handshakes",
}
HEAD = ("", "x0d", "native gRPC TLS", "ratio", "target", "met")
EPILOG = """figures:
  Medians of the runs with (least-most); a ratio is the median of the ratios within each run.  Client and server are
  processes of their own, under uvloop, on loopback; native gRPC TLS has the same handlers, messages, certificates and
  client authentication, and checks a DNS name in the place of a SPIFFE ID, and no roles.
  Hostile callers are in a neighbour's namespace; the daemon's extra CPU is /proc/PID/stat with them less the same span
  without them, in turns, in percent of a core.

examples:
  scripts/bench/identity                      everything: about ten minutes
  scripts/bench/identity --only calls --runs 15
  scripts/bench/identity --quick              to see that it works
"""


def main(argv: Sequence[str]) -> int:
    """Measure and print the table; 0 every promise kept, 1 not (or it failed), 130 interrupted."""
    asked = _parser().parse_args(argv)
    return run_command(lambda: _run(asked))


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    about = "Measure mTLS with SPIFFE IDs beside native gRPC TLS, rotations, and hostile callers.  Needs root."
    parser = argparse.ArgumentParser("identity", description=about, epilog=EPILOG, formatter_class=raw)
    parser.add_argument(
        "--only", default=",".join(SECTIONS), metavar="NAMES", help="of %(default)s (default: all of them)"
    )
    parser.add_argument("--runs", type=int, default=7, metavar="N", help="turns of each comparison (default: 7)")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of each hostile turn (default: 5)")
    parser.add_argument("--rate", type=int, default=1_000, metavar="N", help="hostile ones a second (default: 1000)")
    parser.add_argument("--quick", action="store_true", help="short turns, few of them: to see that it works")
    parser.add_argument("--json", metavar="FILE", help="write every turn's figures there too")
    parser.add_argument("--seed", type=int, default=None, help="of order and payloads (default: random, printed)")
    return parser


def _run(asked: argparse.Namespace) -> int:
    names = asked.only.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        sys.stderr.write(f"identity: no section {unknown[0]!r}; there are {' '.join(SECTIONS)}\n")
        return 2
    if asked.runs < 1 or asked.seconds <= 0 or asked.rate < 1:
        sys.stderr.write("identity: --runs, --seconds and --rate are more than nothing\n")
        return 2
    seed = random.randrange(1 << 32) if asked.seed is None else asked.seed
    effort = Effort.quick() if asked.quick else Effort(asked.runs, asked.seconds, asked.rate)
    say(f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC, {describe_machine()}, seed {seed}")
    found: dict[str, list[Row]] = {}
    for name in names:
        module = importlib.import_module(SECTIONS[name])
        section: Section = module.measure
        say(f"measuring: {name}")
        pressure = Pressure()
        with tempfile.TemporaryDirectory(prefix="x0d-bench-") as directory:
            found[name] = section(Path(directory), random.Random(seed), effort)
        say(f"\n{table(getattr(module, 'HEAD', HEAD), [row.cells() for row in found[name]])}\n")
        say(f"{name}: {describe_machine()}, CPU pressure meanwhile {pressure.percent():.0f} %")
    if asked.json:
        Path(asked.json).write_text(json.dumps(_plain(found, seed), indent=1) + "\n")
    if asked.quick:
        say("short turns, few of them: these figures show that it works, and no more")
    rows = [row for section_rows in found.values() for row in section_rows]
    missed = unmet(rows)
    for about, lines in (("not kept", missed), ("aimed for and not reached", unreached(rows))):
        if lines:
            say(f"{about}: {'; '.join(lines)}")
    return 1 if missed else 0


def _plain(found: dict[str, list[Row]], seed: int) -> dict[str, object]:
    """For a file: every turn's figures by section."""
    sections = {
        name: [
            {
                "what": row.what,
                "unit": row.unit,
                "median": statistics.median(row.ours) if row.ours else None,
                "x0d": list(row.ours),
                "native": list(row.theirs),
                "ratios": row.ratios(),
            }
            for row in rows
        ]
        for name, rows in found.items()
    }
    return {"machine": describe_machine(), "seed": seed, "sections": sections}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
