"""The stacks that x0d is measured beside, from Debian's packages, run by hand in the nodes' namespaces.

FRR runs zebra, ospfd and bfdd with OSPF point-to-point links of the lab's costs and BFD at x0d's timers (50 ms, three
missing).  Its ``-N`` option keeps the sockets of each node apart; configuration and sockets lie where FRR, which gives
up root, can read them: ``/etc/frr/NAMESPACE`` and ``/run/frr/NAMESPACE``, both removed when it stops.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from bench.machine_load import Scheduling
from bench.stacks import Spawned, Stack, X0d
from lab.machine import LabError
from lab.network import Lab

INTERVAL_MS = 50
MISS_LIMIT = 3
FRR_PROGRAMS = Path("/usr/lib/frr")
BABEL_COST_SHARE = 0.96
"""Babel's usual cost of a wired link is 96 where x0d's is 100."""


class Frr(Spawned):
    """FRR: OSPF for routes, BFD for failures."""

    name = "frr"
    settle_s = 7.0
    """By default OSPF takes no new link state sooner than 5 s after the last of the same origin."""

    def __init__(self, scheduling: Scheduling) -> None:
        """Refer to FRR.

        Raises:
            LabError: it is not installed.
        """
        super().__init__(scheduling)
        if not all((FRR_PROGRAMS / program).exists() for program in ("zebra", "ospfd", "bfdd")):
            raise LabError("FRR is missing: apt-get install frr (Debian), or measure x0d alone with --only x0d")

    def commands(self, lab: Lab, node: str) -> dict[str, Sequence[str]]:
        """Zebra first: the others connect to it."""
        space = lab.namespace(node)
        for directory in _frr_directories(space):
            directory.mkdir(parents=True, exist_ok=True)
            shutil.chown(directory, "frr", "frr")
        files = _frr_directories(space)[0]
        for program, text in (("zebra", ""), ("ospfd", _ospf(lab, node)), ("bfdd", _bfd())):
            (files / f"{program}.conf").write_text(f"hostname {node}\nlog file {files}/{program}.log warnings\n{text}")
        return {
            program: [str(FRR_PROGRAMS / program), "-N", space, "-f", f"{files}/{program}.conf", "-P", "0"]
            for program in ("zebra", "bfdd", "ospfd")
        }

    def stop(self, lab: Lab) -> None:
        """End the daemons and remove their directories."""
        super().stop(lab)
        for node in lab.topology.nodes:
            for directory in _frr_directories(lab.namespace(node)):
                shutil.rmtree(directory, ignore_errors=True)


def _frr_directories(space: str) -> tuple[Path, Path]:
    return Path("/etc/frr") / space, Path("/run/frr") / space


def _ospf(lab: Lab, node: str) -> str:
    lines = []
    for link in lab.topology.links_of(node):
        lines += [
            f"interface {link.interface(node)}",
            " ip ospf area 0",
            " ip ospf network point-to-point",
            f" ip ospf cost {link.cost}",
            " ip ospf hello-interval 1",
            " ip ospf dead-interval 4",
            " ip ospf bfd",
            " ip ospf bfd profile fast",
        ]
    lines += ["interface lo", " ip ospf area 0", "router ospf", f" ospf router-id {lab.topology.address(node)}"]
    return "\n".join(lines) + "\n"


def _bfd() -> str:
    timers = f"  detect-multiplier {MISS_LIMIT}\n  transmit-interval {INTERVAL_MS}\n  receive-interval {INTERVAL_MS}\n"
    return f"bfd\n profile fast\n{timers}"


class Babeld(Spawned):
    """babeld with a hello every 50 ms, carrier watched."""

    name = "babeld"

    def __init__(self, scheduling: Scheduling) -> None:
        """Refer to babeld.

        Raises:
            LabError: it is not installed.
        """
        super().__init__(scheduling)
        if not shutil.which("babeld"):
            raise LabError("babeld is missing: apt-get install babeld (Debian), or leave it out of --only")

    def commands(self, lab: Lab, node: str) -> dict[str, Sequence[str]]:
        """One process."""
        directory = lab.directory / node
        lines = [
            "link-detect true",
            "random-id true",
            "redistribute local ip 10.255.0.0/16 allow",
            "redistribute local deny",
        ]
        for link in lab.topology.links_of(node):
            cost = round(link.cost * BABEL_COST_SHARE)
            timers = f"hello-interval {INTERVAL_MS / 1e3} update-interval 1"
            lines.append(f"interface {link.interface(node)} type wired rxcost {cost} {timers}")
        file = directory / "babeld.conf"
        file.write_text("\n".join(lines) + "\n")
        return {
            "babeld": ["babeld", "-c", str(file), "-I", f"{directory}/babeld.pid", "-S", f"{directory}/babeld.state"]
        }


STACKS: dict[str, type[Stack]] = {"x0d": X0d, "frr": Frr, "babeld": Babeld}


def make_stacks(names: Sequence[str], scheduling: Scheduling) -> list[Stack]:
    """The stacks of these names, in this order.

    Raises:
        LabError: one is not known, or not installed; with the package that has it.
    """
    unknown = [name for name in names if name not in STACKS]
    if unknown:
        raise LabError(f"no stack {unknown[0]!r}; there are {' '.join(STACKS)}")
    return [STACKS[name](scheduling) for name in names]
