"""``scripts/demo``: makes the lab, has the story told, and removes the lab whatever happens, unless told to keep it."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

from lab import network
from lab.machine import LabError
from lab.network import Lab, Options
from lab.nodes import ROOT
from lab.story import Story, StoryError
from lab.teller import Teller

TOPOLOGY = "ring:4+1-3"
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXISTS = 4  # exit status: the lab is there already, and is not ours to remove


def hints(lab: Lab) -> str:
    """Commands to try in a lab that is kept."""
    return f"""The lab is still up. Things to try:
  scripts/lab status --name {lab.name}
  scripts/lab ctl --name {lab.name} n2 status
  scripts/lab ctl --name {lab.name} n2 link list
  scripts/lab ctl --name {lab.name} n1 mesh routes
  scripts/lab ctl --name {lab.name} n2 incident list
  scripts/lab ctl --name {lab.name} n2 watch incidents      (and in another terminal:)
  scripts/lab fault --name {lab.name} cut n2-n3
  scripts/lab fault --name {lab.name} heal n2-n3
  scripts/lab ctl --name {lab.name} n3 top
  scripts/lab ctl --name {lab.name} n3 ebpf list
  scripts/lab ctl --name {lab.name} n3 deny add 198.51.100.0/24 --for 10m
  scripts/lab ctl --name {lab.name} n3 watch events
  scripts/lab exec --name {lab.name} n2 curl -s http://127.0.0.1:9475/metrics
  .venv/bin/x0ctl --endpoint unix://{lab.daemons["n2"].socket} -o json incident list
When done: scripts/lab down --name {lab.name}"""


def main(argv: Sequence[str]) -> int:
    """Tell the story; 0 if it held, 1 if not, 2 wrong usage, 4 if there is a lab of that name already."""
    parser = argparse.ArgumentParser("demo", description="A mesh of four routers heals itself, before your eyes.")
    parser.add_argument("--keep", action="store_true", help="leave the lab running and say what to try in it")
    parser.add_argument("--name", default="demo", help="name of the lab (default: %(default)s)")
    parser.add_argument("--no-color", action="store_true", help="plain text, as it is without a terminal")
    parser.add_argument("--slowness", type=float, default=1.0, metavar="FACTOR",
                        help="stretch every time: for emulated machines (default: %(default)g)")  # fmt: skip
    asked = parser.parse_args(argv)
    teller = Teller(sys.stdout.isatty() and not asked.no_color and "NO_COLOR" not in os.environ)
    for number in INTERRUPTS:
        signal.signal(number, _interrupt)
    try:
        if network.directory_of(asked.name).exists():
            teller.failed(
                f"there is a lab {asked.name!r} already; remove it with: scripts/lab down --name {asked.name}"
            )
            return EXISTS
        return _tell(asked, teller)
    except KeyboardInterrupt:
        teller.line("\nstopped; the lab is removed")
        return 130
    except LabError as err:
        teller.failed(str(err))
        return 1


def _tell(asked: argparse.Namespace, teller: Teller) -> int:
    begun = time.monotonic()
    lab = Lab.create(asked.name, Options(TOPOLOGY, config=_slow_config(asked.slowness)))
    kept = False
    try:
        Story(lab, teller, asked.slowness).tell()
        teller.heading(f"The story held; it took {time.monotonic() - begun:.0f} s")
        kept = asked.keep
    except (StoryError, LabError) as err:
        teller.failed(str(err))
        for node, daemon in lab.daemons.items():
            teller.line(f"-- the end of {node}.log")
            teller.indented(daemon.log_tail())
        return 1
    finally:
        if kept:
            teller.line(hints(lab))
        else:
            _ignore_interrupts()  # a second Ctrl-C does not end the cleaning up
            lab.remove()
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    _ignore_interrupts()
    raise KeyboardInterrupt


def _ignore_interrupts() -> None:
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)


def _slow_config(slowness: float) -> dict[str, dict[str, object]]:
    """Timers of daemons that share an emulated processor; none for a slowness of 1."""
    if slowness == 1:
        return {}
    return {"mesh": {"probe_interval_ms": round(50 * slowness), "hello_interval_ms": round(500 * slowness)}}


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main(sys.argv[1:]))
