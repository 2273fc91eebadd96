"""``scripts/lab``: the lab from the command line."""

import argparse
import os
import signal
import sys
import tomllib
from collections.abc import Sequence

from lab import network, topology, traffic
from lab.machine import LabError
from lab.network import FaultStamp, Lab, Options
from lab.nodes import ROOT

NUMBER_MAX = 60_000  # of bytes or ms
FAULTS = """faults:
  cut A-B              silent cut: carrier stays, every packet vanishes, both ways
  oneway A-B           the same, only from A to B
  loss A-B PERCENT     lose so many packets, both ways
  bigdrop A-B BYTES    lose only frames of at least so many bytes
  carrier A-B down|up  take carrier from both ends, or give it back
  delay A-B MS         delay each packet, both ways (needs the kernel's netem)
  heal A-B             end every fault of the link
  kill NODE            SIGKILL the node's daemon
  stop NODE, cont NODE SIGSTOP, SIGCONT
  start NODE           start the node's daemon again, and wait until it answers
"""
EXAMPLES = """examples:
  scripts/lab up ring:4+1-3            four routers in a ring with a chord, an x0d on each
  scripts/lab fault cut n2-n3          links are named after their ends
  scripts/lab ctl n2 incident list     x0ctl of a node
  scripts/lab exec n1 ping 10.255.0.3  node i has the address 10.255.0.i
  scripts/lab down
"""


def main(argv: Sequence[str]) -> int:
    """Run one command; 0 done, 1 failed, 2 wrong usage (or the status of what ``exec`` and ``ctl`` ran)."""
    asked = _parser().parse_args(argv)
    try:
        return int(asked.do(asked) or 0)
    except (LabError, topology.TopologyError) as err:
        sys.stderr.write(f"lab: {err}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    about = "Routers in network namespaces, wires between them, and faults on the wires.  Needs root."
    parser = argparse.ArgumentParser("lab", description=about, epilog=EXAMPLES, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--name", default="default", help="which lab (several can be up; default: %(default)s)")

    up = commands.add_parser("up", parents=[common], help="make a lab and wait until it has settled")
    up.add_argument(
        "topology", nargs="?", default="ring:4+1-3", help="line:N, ring:N[+A-B...] or grid:RxC (default: %(default)s)"
    )
    up.add_argument(
        "--no-daemons", action="store_true", help="the network alone; `fault start NODE` starts an x0d later"
    )
    up.add_argument("--static-routes", action="store_true", help="install shortest paths by hand (with --no-daemons)")
    up.add_argument("--ipv6", action="store_true", help="only IPv6 link-local addresses between neighbours")
    up.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="a key of every x0d.toml, value as in TOML",
    )
    up.add_argument("--timeout", type=float, default=30.0, metavar="S", help="give up after (default: %(default)s)")
    up.set_defaults(do=_up)

    down = commands.add_parser("down", parents=[common], help="remove a lab, also a half-made one")
    down.add_argument("--all", action="store_true", help="every lab")
    down.set_defaults(do=_down)

    status = commands.add_parser("status", parents=[common], help="nodes, daemons, links and faults")
    status.set_defaults(do=_status)

    execute = commands.add_parser("exec", parents=[common], help="run a command on a node")
    execute.add_argument("node")
    execute.add_argument("command", nargs=argparse.REMAINDER)
    execute.set_defaults(do=_exec)

    ctl = commands.add_parser("ctl", parents=[common], help="run x0ctl against a node's daemon")
    ctl.add_argument("node")
    ctl.add_argument("command", nargs=argparse.REMAINDER)
    ctl.set_defaults(do=_ctl)

    fault = commands.add_parser(
        "fault", parents=[common], help="make or end a fault", epilog=FAULTS, formatter_class=raw
    )
    fault.add_argument("kind", choices=_FAULT_KINDS, metavar="FAULT")
    fault.add_argument("where", help="A-B or NODE")
    fault.add_argument("value", nargs="?", help="percent, bytes, ms, up or down")
    fault.set_defaults(do=_fault)

    stream = commands.add_parser("traffic", parents=[common], help="send numbered packets and count the lost ones")
    stream.add_argument("source")
    stream.add_argument("target")
    stream.add_argument("--seconds", type=float, default=5.0, help="how long, one packet a ms (default: %(default)s)")
    stream.set_defaults(do=_traffic)
    return parser


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _overrides(settings: Sequence[str]) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for setting in settings:
        try:
            parsed = tomllib.loads(setting)
        except tomllib.TOMLDecodeError as err:
            raise LabError(f"--set {setting}: {err}; write SECTION.KEY=VALUE, strings in quotes") from None
        for section, values in parsed.items():
            if not isinstance(values, dict):
                raise LabError(f"--set {setting}: a section and a key are wanted, such as mesh.probe_interval_ms=10")
            found.setdefault(section, {}).update(values)
    return found


def _up(asked: argparse.Namespace) -> None:
    options = Options(asked.topology, asked.ipv6, asked.static_routes, _overrides(asked.set))
    lab = Lab.create(asked.name, options)
    try:
        if not asked.no_daemons:
            _start_all(lab, asked.timeout)
    except BaseException:
        lab.remove()
        raise
    _say(topology.draw(lab.topology, {}))
    size = f"{len(lab.topology.nodes)} nodes, {len(lab.topology.links)} links"
    _say(f"lab {lab.name} is up: {size}, files in {lab.directory}")
    lab.close()


def _start_all(lab: Lab, timeout_s: float) -> None:
    from lab import control, identities  # noqa: PLC0415 - a lab without daemons needs neither grpc nor the generated code

    identities.start_all(lab)
    took_s = control.wait_settled(lab, timeout_s)
    _say(f"all daemons run, all links are up and all routes are in after {took_s:.1f} s")


def _down(asked: argparse.Namespace) -> None:
    names = network.labs() if asked.all else [asked.name]
    for name in names:
        _say(f"lab {name}: removed" if network.remove(name) else f"lab {name}: there is none")


def _status(asked: argparse.Namespace) -> None:
    lab = Lab.open(asked.name)
    faults = lab.faults()
    _say(topology.draw(lab.topology, faults))
    for node, daemon in lab.daemons.items():
        process = daemon.process
        state = f"x0d runs, pid {process.pid}" if process else "no daemon"
        _say(f"{node}  {lab.topology.address(node):<12} {lab.namespace(node)}  {state}")
    for link in lab.topology.links:
        counts = [lab.wires.count(link, node) for node in link.ends]
        both = f"{link.a}->{link.b} {counts[0].packets}, {link.b}->{link.a} {counts[1].packets} packets"
        _say(f"{link.name:<8} cost {link.cost:<4} {both}, dropped {counts[0].dropped} and {counts[1].dropped}; "
             f"{faults.get(link.name, 'no fault')}")  # fmt: skip
    lab.close()


def _exec(asked: argparse.Namespace) -> None:
    lab = Lab.open(asked.name)
    command = asked.command[1:] if asked.command[:1] == ["--"] else asked.command
    command = lab.command(asked.node, command or [os.environ.get("SHELL", "/bin/sh")])
    os.execvp(command[0], command)  # noqa: S606 - this is what the user asked for, argument by argument


def _ctl(asked: argparse.Namespace) -> None:
    from lab import control  # noqa: PLC0415 - see _start_all

    command = control.x0ctl_command(Lab.open(asked.name), asked.node, *asked.command)
    os.execvpe(command[0], command, {**os.environ, "PYTHONPATH": str(ROOT / "daemon")})  # noqa: S606 - see _exec


def _number(asked: argparse.Namespace, unit: str) -> float:
    try:
        number = float(asked.value)
    except (TypeError, ValueError):
        raise LabError(f"{asked.kind} {asked.where} needs a number of {unit}") from None
    if not 0 <= number <= NUMBER_MAX:
        raise LabError(f"{asked.kind} {asked.where} {asked.value}: from 0 to {NUMBER_MAX} {unit} are allowed")
    return number


def _percent(asked: argparse.Namespace) -> float:
    percent = _number(asked, "percent")
    if percent > 100:
        raise LabError(f"{percent} is no percentage")
    return percent / 100


def _carrier(lab: Lab, asked: argparse.Namespace) -> FaultStamp:
    if asked.value not in ("up", "down"):
        raise LabError(f"carrier {asked.where} needs `up` or `down`")
    return lab.carrier(asked.where, up=asked.value == "up")


def _start(lab: Lab, asked: argparse.Namespace) -> None:
    from lab import control, identities  # noqa: PLC0415 - see _start_all

    if asked.where != identities.issuer_of(lab.topology.nodes) and not identities.is_joined(lab, asked.where):
        identities.join(lab, asked.where)
    lab.start(asked.where)
    control.wait_answers(lab, asked.where)


_FAULT_KINDS = {
    "cut": lambda lab, asked: lab.cut(asked.where),
    "oneway": lambda lab, asked: lab.oneway(asked.where),
    "loss": lambda lab, asked: lab.loss(asked.where, _percent(asked)),
    "bigdrop": lambda lab, asked: lab.loss(asked.where, 1.0, length_min=int(_number(asked, "bytes"))),
    "carrier": _carrier,
    "delay": lambda lab, asked: lab.delay(asked.where, _number(asked, "ms")),
    "heal": lambda lab, asked: lab.heal(asked.where),
    "kill": lambda lab, asked: lab.kill(asked.where),
    "stop": lambda lab, asked: lab.signal(asked.where, signal.SIGSTOP),
    "cont": lambda lab, asked: lab.signal(asked.where, signal.SIGCONT),
    "start": _start,
}


def _fault(asked: argparse.Namespace) -> None:
    lab = Lab.open(asked.name)
    _FAULT_KINDS[asked.kind](lab, asked)
    lab.close()


def _traffic(asked: argparse.Namespace) -> int:
    lab = Lab.open(asked.name)
    with traffic.Stream(lab, asked.source, asked.target, asked.seconds) as stream:
        stream.wait_end()
        report = stream.report()
    _say(report.sentence())
    return 1 if report.lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
