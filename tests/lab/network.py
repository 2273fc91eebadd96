"""A lab: nodes in network namespaces, wires between them, faults, and (if wanted) an x0d on each node.

Everything about a lab is in its directory, ``/run/x0d-lab/NAME``, which is written before anything else is made:
another process can set faults in it, and ``down`` removes a lab whose maker died half way.  Namespaces are called
``x0d-NAME-n1`` ... and ``x0d-NAME-wire``.  Removing a namespace removes its interfaces, filters and routes; the
bpffs of the lab is mounted in its directory, and goes with all pins when it is unmounted.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from lab import building, machine, topology, wires
from lab.machine import LabError, Process, batch, inside, run
from lab.nodes import ROOT, NodeDaemon, config_text

NAME_FORM = re.compile(r"[a-z0-9][a-z0-9-]{0,15}")
DIRECTORY = Path(os.environ.get("X0D_LAB_DIR", "/run/x0d-lab"))
END_S = 3.0
LOCK_S = 30.0


@dataclass(frozen=True, slots=True)
class Options:
    """What a lab is asked to be, as stored in ``lab.json``."""

    topology: str
    link_local: bool = False
    """Neighbours have IPv6 link-local addresses only; stable addresses stay IPv4."""
    static_routes: bool = False
    """The lab installs shortest paths itself (for labs without daemons)."""
    config: dict[str, dict[str, object]] = field(default_factory=dict)
    """Section to key to value, over what the lab writes into each x0d.toml."""


@dataclass(frozen=True, slots=True)
class FaultStamp:
    """When a fault was in force."""

    what: str
    at_ns: int
    """CLOCK_MONOTONIC, just before it was made."""
    at_unix_ms: float


class Lab:
    """A lab that exists; ``Lab.create`` makes one and ``Lab.open`` finds one."""

    def __init__(self, name: str, options: Options) -> None:
        """Refer to the lab; use ``create`` or ``open``."""
        self.name = name
        self.options = options
        self.topology = topology.parse(options.topology, link_local=options.link_local)
        self.directory = directory_of(name)
        self.wire_namespace = self.namespace("wire")
        self.daemons = {node: NodeDaemon(node, self.namespace(node), self.directory) for node in self.topology.nodes}
        self._wires: wires.Wires | None = None

    # ---- life ----

    @classmethod
    def create(cls, name: str, options: Options) -> "Lab":
        """Make the network of a lab; daemons are not started.  A failure removes what was made.

        Raises:
            LabError: there is such a lab, the options make no sense, or the machine refuses.
        """
        if os.geteuid() != 0:
            raise LabError("a lab needs root: it makes network namespaces")
        directory = directory_of(name)
        lab = cls(name, options)
        taken = machine.namespaces() & frozenset(lab.all_namespaces)
        if directory.exists() or taken:
            raise LabError(f"the lab {name!r} exists already; remove it with `scripts/lab down --name {name}`")
        directory.mkdir(parents=True, mode=0o700)
        try:
            with machine.locked(directory / "lock", LOCK_S):
                lab._write_record()
                lab._build()
        except BaseException:
            lab.remove()
            raise
        return lab

    @classmethod
    def open(cls, name: str) -> "Lab":
        """Find a lab that is up.

        Raises:
            LabError: there is none of that name.
        """
        record = directory_of(name) / "lab.json"
        try:
            stored = json.loads(record.read_text())
        except FileNotFoundError:
            raise LabError(f"there is no lab {name!r}; make one with `scripts/lab up --name {name}`") from None
        except PermissionError:
            raise LabError("a lab needs root") from None
        return cls(name, Options(**stored))

    def __enter__(self) -> Self:
        """Hand out the lab; leaving the block removes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the lab."""
        self.remove()

    def remove(self) -> None:
        """End the lab's processes, then remove its namespaces and files.  What is gone already is no error.

        Raises:
            LabError: another process is at work on it, or something cannot be removed.
        """
        self.close()
        if self.directory.exists():
            with machine.locked(self.directory / "lock", LOCK_S) as here:
                if here:
                    self._remove()

    def _remove(self) -> None:
        for daemon in self.daemons.values():
            if process := daemon.process:
                process.signal(signal.SIGCONT)
                process.signal(signal.SIGTERM)
        machine.wait_until(lambda: not any(daemon.process for daemon in self.daemons.values()), END_S)
        present = [name for name in self.all_namespaces if name in machine.namespaces()]
        for namespace in present:
            machine.end_processes(namespace, END_S)
        for namespace in present:
            run(["ip", "netns", "del", namespace])
        _remove_directory(self.directory)

    def close(self) -> None:
        """Give the opened maps back; the lab stays."""
        if self._wires is not None:
            self._wires.close()
            self._wires = None

    # ---- parts ----

    @property
    def all_namespaces(self) -> list[str]:
        """Names of the namespaces of this lab."""
        return [self.wire_namespace, *(self.namespace(node) for node in self.topology.nodes)]

    @property
    def wires(self) -> wires.Wires:
        """The maps of the wires."""
        if self._wires is None:
            self._wires = wires.Wires(self.directory / "bpf" / "wire")
        return self._wires

    def namespace(self, node: str) -> str:
        """Name of a node's namespace."""
        return f"x0d-{self.name}-{node}"

    def command(self, node: str, command: Sequence[str]) -> list[str]:
        """The command that runs ``command`` on a node."""
        return inside(self.namespace(self.topology.node(node)), command)

    def run(self, node: str, *command: str) -> str:
        """Run a command on a node and return what it printed.

        Raises:
            LabError: it failed.
        """
        return run(self.command(node, command))

    def popen(self, node: str, command: Sequence[str], **options: object) -> "subprocess.Popen[bytes]":
        """Start a command on a node; ``options`` are Popen's."""
        return subprocess.Popen(self.command(node, command), **options)  # type: ignore[call-overload,no-any-return] # Popen's own keywords

    def path(self, source: str, target: str) -> tuple[str, ...]:
        """Nodes that a packet passes by the kernels' routes; it ends early where there is none, or in a loop."""
        names = {(node, link.interface(node)): link.other(node) for link in self.topology.links for node in link.ends}
        hops = [source]
        while hops[-1] != target:
            asked = self.command(hops[-1], ["ip", "-j", "route", "get", self.topology.address(target)])
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
            if done.returncode:
                break
            there = names.get((hops[-1], json.loads(done.stdout)[0].get("dev")))
            if there is None:
                break
            hops.append(there)
            if there in hops[:-1]:
                break
        return tuple(hops)

    # ---- faults ----

    def cut(self, link: str) -> FaultStamp:
        """Drop every frame, both ways; carrier stays up."""
        return self.loss(link, 1.0)

    def loss(self, link: str, share: float, *, source: str | None = None, length_min: int = 0) -> FaultStamp:
        """Drop a share (0 to 1) of the frames, both ways or from one end, all or only the long ones."""
        wire = self.topology.link(link)
        stamp = _stamp(f"loss {share:.0%} on {wire.name}" + (f" from {source}" if source else ""))
        self.wires.set_loss(wire, share, source=source, length_min=length_min)
        return stamp

    def oneway(self, link: str) -> FaultStamp:
        """Drop what the end named first sends: ``n2-n1`` is from n2 to n1."""
        self.topology.link(link)
        return self.loss(link, 1.0, source=link.split("-", maxsplit=1)[0])

    def carrier(self, link: str, *, up: bool) -> FaultStamp:
        """Take carrier from both ends, as a pulled cable does, or give it back."""
        wire = self.topology.link(link)
        state = "up" if up else "down"
        stamp = _stamp(f"carrier {state} on {wire.name}")
        batch(self.wire_namespace, [f"link set dev {wire.wire_interface(node)} {state}" for node in wire.ends])
        return stamp

    def delay(self, link: str, delay_ms: float) -> FaultStamp:
        """Delay each frame, both ways; 0 ends it.

        Raises:
            LabError: this kernel has no netem.
        """
        wire = self.topology.link(link)
        stamp = _stamp(f"delay {delay_ms} ms on {wire.name}")
        verb = f"netem limit 100000 delay {delay_ms}ms"
        lines = [f"qdisc replace dev {wire.wire_interface(node)} root {verb}" for node in wire.ends]
        try:
            batch(self.wire_namespace, lines, program="tc")
        except LabError as err:
            if "qdisc kind is unknown" in str(err) or "No such file or directory" in str(err):
                kernel = os.uname().release
                raise LabError(f"delay needs the kernel module sch_netem, which {kernel} does not have") from None
            raise
        return stamp

    def heal(self, link: str) -> FaultStamp:
        """End every fault of a link."""
        wire = self.topology.link(link)
        stamp = _stamp(f"heal {wire.name}")
        self.wires.set_loss(wire, 0.0)
        self.carrier(link, up=True)
        for node in wire.ends:
            shown = run(inside(self.wire_namespace, ["tc", "qdisc", "show", "dev", wire.wire_interface(node)]))
            if "netem" in shown:
                batch(self.wire_namespace, [f"qdisc del dev {wire.wire_interface(node)} root"], program="tc")
        return stamp

    def faults(self) -> dict[str, str]:
        """Link name to a few words, for links that have a fault (delays are not listed)."""
        shown = json.loads(run(inside(self.wire_namespace, ["ip", "-j", "link", "show"])))
        up = {each["ifname"] for each in shown if "UP" in each["flags"]}
        found = {}
        for link in self.topology.links:
            shares = {node: self.wires.loss(link, node)[0] for node in link.ends}
            if any(link.wire_interface(node) not in up for node in link.ends):
                found[link.name] = "no carrier"
            elif all(share == 1 for share in shares.values()):
                found[link.name] = "cut"
            elif any(shares.values()):
                found[link.name] = " ".join(
                    f"{node}->{link.other(node)} loses {s:.0%}" for node, s in shares.items() if s
                )
        return found

    def kill(self, node: str) -> FaultStamp:
        """SIGKILL a node's daemon."""
        stamp = _stamp(f"kill {node}")
        self.daemons[self.topology.node(node)].kill()
        return stamp

    def signal(self, node: str, number: int) -> FaultStamp:
        """Send a signal to a node's daemon (SIGSTOP, SIGCONT, ...)."""
        stamp = _stamp(f"{signal.Signals(number).name} {node}")
        self.daemons[self.topology.node(node)].signal(number)
        return stamp

    def start(self, node: str) -> Process:
        """Start a node's daemon; its identity must be there (``lab.identities``)."""
        return self.daemons[self.topology.node(node)].start()

    # ---- building ----

    def _write_record(self) -> None:
        stored = {name: getattr(self.options, name) for name in Options.__slots__}
        partial = self.directory / "lab.json.new"
        partial.write_text(json.dumps(stored, indent=1) + "\n")
        partial.rename(self.directory / "lab.json")

    def _build(self) -> None:
        pins = self.directory / "bpf"
        pins.mkdir()
        run(["mount", "-t", "bpf", "-o", "mode=0700", "bpf", str(pins)])
        batch(None, [f"netns add {name}" for name in self.all_namespaces])
        building.make_links(self.topology, self.namespace)
        (pins / "wire").mkdir()
        wires.load(wires.build(ROOT / ".cache"), pins / "wire")
        for link in self.topology.links:
            self.wires.prepare(link)
        wires.attach(self.wire_namespace, pins / "wire", self.topology.links)
        for node, daemon in self.daemons.items():
            (pins / node).mkdir()
            daemon.prepare(config_text(self.topology, node, daemon.directory, pins / node, self.options.config))
        if self.options.static_routes:
            building.add_static_routes(self.topology, self.namespace)


def directory_of(name: str) -> Path:
    """Directory of the lab of that name.

    Raises:
        LabError: no lab can be called so.
    """
    if not NAME_FORM.fullmatch(name):
        raise LabError(f"{name!r} cannot name a lab: at most 16 lower-case letters, digits and '-'")
    return DIRECTORY / name


def labs() -> list[str]:
    """Names of the labs that are up, or were left half made."""
    return sorted(entry.name for entry in DIRECTORY.iterdir()) if DIRECTORY.is_dir() else []


def remove(name: str) -> bool:
    """Remove a lab, whole or half made; False if there was none.

    Raises:
        LabError: something of it cannot be removed.
    """
    directory = directory_of(name)
    if not directory.exists():
        return False
    if (directory / "lab.json").exists():
        Lab.open(name).remove()
    else:  # its maker died before it had made anything else
        with machine.locked(directory / "lock", LOCK_S):
            _remove_directory(directory)
    return True


def _stamp(what: str) -> FaultStamp:
    return FaultStamp(what, time.monotonic_ns(), time.time_ns() / 1e6)


def _remove_directory(directory: Path) -> None:
    pins = directory / "bpf"
    if pins.is_mount():
        run(["umount", str(pins)])
    if directory.exists():
        shutil.rmtree(directory)
