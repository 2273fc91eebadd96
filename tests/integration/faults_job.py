"""Run inside the other kernel by ``test_kernel61.py``: one line for each thing seen in a lab of three nodes."""

import os
import re
import subprocess
import sys

from lab.network import Lab, Options

TARGET = "10.255.0.3"


def pinged(lab: Lab, *options: str) -> str:
    """What ping on n1 says of n3."""
    command = lab.command("n1", ["ping", *options, TARGET])
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def received(lab: Lab) -> str:
    """How many of two pings were answered."""
    found = re.search(r"(\d+) received", pinged(lab, "-c2", "-i0.2", "-W2", "-q"))
    return found[0] if found else "ping said nothing"


def main() -> None:
    """Print kernel, then pings: before a cut, during it, after it, and with a delay of 200 ms a way."""
    say = sys.stdout.write
    say(f"{os.uname().release}\n")
    with Lab.create("faults", Options("line:3", static_routes=True)) as lab:
        say(f"whole: {received(lab)}\n")
        lab.cut("n1-n2")
        say(f"cut: {received(lab)}\n")
        lab.heal("n2-n1")
        say(f"healed: {received(lab)}\n")
        lab.delay("n2-n3", 200)
        took = re.search(r"time=(\d+)", pinged(lab, "-c1", "-W5"))
        say(f"delayed: {'400 ms and more' if took and int(took[1]) >= 400 else 'not'}\n")


if __name__ == "__main__":
    main()
