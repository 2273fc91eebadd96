"""``scripts/bench/failover``: how long traffic fails after a link breaks, for x0d and its peers on one mesh.

Stacks take turns, a block of trials each in a fresh lab, so that a machine that grows busier treats all alike.
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from bench.figures import SPREAD_HEAD, Spread, ratio, table
from bench.machine_load import Scheduling, describe_machine
from bench.peers import STACKS, make_stacks
from bench.session import run_command, say, stack_running
from bench.stacks import Stack
from bench.trial import FAULTS, Trial, run_trial

BLOCK = 5
EPILOG = """faults:
  silent    every packet on the link vanishes; carrier stays
  carrier   both ends lose carrier, as with a pulled cable

The outage is read from a stream of one packet a millisecond.  Its sender and receiver run with real-time priority;
the stacks run as --sched says.  Ctrl-C removes everything; after a SIGKILL, `scripts/lab down --name benchPID` does.

examples:
  scripts/bench/failover                           x0d and FRR, both faults, 20 trials each: about 20 minutes
  scripts/bench/failover --only x0d --trials 5 --faults silent
  scripts/bench/failover --sched fifo:5 --out trials.jsonl
"""


def main(argv: Sequence[str]) -> int:
    """Run the trials and print the table; 0 done, 1 failed, 130 interrupted."""
    asked = _parser().parse_args(argv)
    return run_command(lambda: _run(asked))


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    about = "Measure the outage after a link breaks: x0d beside FRR (OSPF and BFD, 50 ms x 3).  Needs root."
    parser = argparse.ArgumentParser("failover", description=about, epilog=EPILOG, formatter_class=raw)
    parser.add_argument("--topology", default="ring:4+1-3", help="ring:N[+A-B...] or grid:RxC (default: %(default)s)")
    parser.add_argument("--faults", default=",".join(FAULTS), help="comma-separated (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="of each fault (default: %(default)s)")
    parser.add_argument(
        "--only", default="x0d,frr", metavar="STACKS", help=f"of {', '.join(STACKS)} (default: %(default)s)"
    )
    parser.add_argument(
        "--sched",
        default="other",
        help="how the stacks are scheduled: other (nice 0), nice:N, or fifo:PRIORITY, which keeps other work on this "
        "machine out of the figures (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=None, help="of the faults' moments (default: random, printed)")
    parser.add_argument("--out", type=Path, default=None, metavar="FILE", help="append a JSON line a trial")
    return parser


def _run(asked: argparse.Namespace) -> int:
    faults = asked.faults.split(",")
    if unknown := [fault for fault in faults if fault not in FAULTS]:
        sys.stderr.write(f"failover: no fault {unknown[0]!r}; there are {' '.join(FAULTS)}\n")
        return 2
    stacks = make_stacks(asked.only.split(","), Scheduling.parse(asked.sched))
    seed = random.randrange(1 << 32) if asked.seed is None else asked.seed
    say(f"{asked.topology}, {asked.trials} trials of each fault, scheduling {asked.sched}, seed {seed}")
    say(describe_machine())
    chance = random.Random(seed)
    trials: list[Trial] = []
    with ExitStack() as files:
        out = files.enter_context(asked.out.open("a")) if asked.out else None
        try:
            for first in range(0, asked.trials, BLOCK):
                numbers = range(first, min(first + BLOCK, asked.trials))
                for stack in stacks:
                    _run_block(stack, asked.topology, faults, numbers, chance, trials, out)
        finally:
            if trials:
                say("\n" + report(trials, faults, [stack.name for stack in stacks]))
    say(describe_machine())
    return 0


def _run_block(
    stack: Stack,
    topology: str,
    faults: Sequence[str],
    numbers: range,
    chance: random.Random,
    trials: list[Trial],
    out: TextIO | None,
) -> None:
    """A few trials of each fault in a lab of their own; each is added to ``trials`` once it is done."""
    with stack_running(stack, topology) as lab:
        for fault in faults:
            for number in numbers:
                trial = run_trial(lab, stack, fault, number, chance)
                trials.append(trial)
                outage = "not recovered" if trial.outage_ms is None else f"{trial.outage_ms:6.0f} ms"
                say(
                    f"{stack.name:<7} {fault:<8} {number + 1:>3}  outage {outage}  {trial.lost:>5} lost  {trial.link}"
                    f"  CPU pressure {trial.pressure_percent:.0f} %"
                )
                if out:
                    out.write(json.dumps(trial.as_json()) + "\n")
                    out.flush()


def report(trials: Sequence[Trial], faults: Sequence[str], names: Sequence[str]) -> str:
    """The tables: outages by fault and stack, and x0d's own account of its time."""
    rows = []
    for fault in faults:
        for name in names:
            chosen = [trial for trial in trials if (trial.stack, trial.fault) == (name, fault)]
            spread = Spread.of(_outages(chosen))
            if spread:
                lost = statistics.median(trial.lost for trial in chosen)
                pressure = statistics.median(trial.pressure_percent for trial in chosen)
                rows.append([fault, name, *spread.cells(), f"{lost:.0f}", f"{pressure:.0f} %"])
    text = "Outage in ms\n\n" + table(["fault", "stack", *SPREAD_HEAD, "packets lost", "CPU pressure"], rows)
    for fault in faults:
        ours, theirs = (
            Spread.of(_outages(trial for trial in trials if (trial.stack, trial.fault) == (name, fault)))
            for name in ("x0d", "frr")
        )
        if ours and theirs:
            medians, worsts = ratio(ours.median, theirs.median), ratio(ours.most, theirs.most)
            text += f"\n\n{fault}: x0d / FRR = {medians} (medians), {worsts} (worst)"
    steps = _step_rows(trials, faults)
    if steps:
        text += "\n\nWhere x0d's time goes, by its own incidents, in ms\n\n"
        text += table(["fault", "role", "step", *SPREAD_HEAD], steps)
    return text


def _outages(trials: Iterable[Trial]) -> list[float]:
    """A traffic that never recovered counts as an endless outage."""
    return [float("inf") if trial.outage_ms is None else trial.outage_ms for trial in trials]


def _step_rows(trials: Sequence[Trial], faults: Sequence[str]) -> list[list[str]]:
    rows = []
    for fault in faults:
        steps = [step for trial in trials if trial.fault == fault for step in trial.steps]
        for role in ("end", "observer"):
            for name in ("detect", "decide", "act", "verify"):
                durations = [
                    float(str(step["duration_ms"]))
                    for step in steps
                    if (step["role"], step["step"]) == (role, name) and step["duration_ms"]
                ]
                spread = Spread.of(durations)
                if spread:
                    rows.append([fault, role, name, *spread.cells(1)])
    return rows


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
