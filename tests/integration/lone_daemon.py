"""One daemon in a network namespace of its own, joined by veth to a neighbour's: for starts, refusals and changes.

The neighbour's namespace has the other ends, and a second daemon where a test starts one.  ``run`` is for lives
that end by themselves, ``living`` for those that the test ends.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc

from integration.mesh_lab import expect
from kernel.namespaces import Namespace, namespace, run, veth
from lab.control import NodeClient
from lab.machine import wait_until
from lab.nodes import ROOT, TRUST_DOMAIN
from x0d.identity.spiffe_id import TrustDomain, node_id
from x0d.ports.issuer import Admission, Grant
from x0d.spiffe import joined
from x0d.spiffe.authority import Authority
from x0d.v1 import mesh_pb2, node_pb2

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "daemon")}
ENVIRONMENT.pop("NOTIFY_SOCKET", None)
END_S = 20.0
ROOT_TTL_S, SVID_TTL_S = 31_536_000, 86_400
Sections = dict[str, dict[str, object]]


class Life:
    """A daemon that runs."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, socket: Path) -> None:
        self.process = process
        self.log = log
        self.socket = socket

    def channel(self) -> grpc.Channel:
        """A channel to its control socket, to be closed."""
        return grpc.insecure_channel(f"unix://{self.socket}")

    def status(self) -> node_pb2.GetStatusResponse:
        """How it is doing."""
        with self.channel() as channel:
            return NodeClient(channel).status()

    def interface(self, name: str) -> node_pb2.InterfaceStatus:
        """How an interface stands."""
        return next(each for each in self.status().interfaces if each.name == name)

    def link(self, neighbour: str) -> mesh_pb2.Link:
        """How a link stands."""
        with self.channel() as channel:
            return next(each for each in NodeClient(channel).links() if each.neighbour == neighbour)

    def events(self, name: str) -> list[dict[str, object]]:
        """Lines of its log with this event."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def wait_running(self) -> None:
        """Wait until it is ready."""

        def running() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return self.status().phase == "running"

        expect("the daemon to run", running, END_S)

    def x0ctl(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run x0ctl against it."""
        command = [sys.executable, "-m", "x0ctl", "--endpoint", f"unix://{self.socket}", *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=ENVIRONMENT, timeout=END_S)


class LoneDaemon:
    """Directories, configuration and lives of the daemon of one node."""

    def __init__(self, name: str, place: Namespace, directory: Path, bpffs: Path) -> None:
        self.name = name
        self.place = place
        self.directory = directory / name
        self.state = self.directory / "state"
        self.config = self.directory / "x0d.toml"
        self.bpffs = bpffs / name
        for path in (self.directory, self.state):
            path.mkdir()
        self.write()

    def write(self, changes: Sections | None = None, neighbours: Sequence[tuple[str, str, str]] = ()) -> None:
        """Write the configuration: a valid one, with ``changes`` by section and key."""
        sections: Sections = {
            "node": {
                "name": self.name,
                "address": f"10.255.9.{self.name[1:]}/32",
                "state_dir": str(self.state),
                "runtime_dir": str(self.directory / "run"),
                "bpffs_dir": str(self.bpffs),
                "production": False,
            },
            "identity": {"trust_domain": TRUST_DOMAIN, "issuer": not joined.read(self.state / joined.DIRECTORY)},
            "mesh": {"interfaces": ["e1"], "up_hold_ms": 100, "hello_interval_ms": 200},
            "log": {"format": "json"},
        }
        for section, keys in (changes or {}).items():
            sections.setdefault(section, {}).update(keys)
        text = "".join(
            f"[{section}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
            for section, keys in sections.items()
        )
        for node, interface, address in neighbours:
            text += f'[[mesh.neighbours]]\nnode = "{node}"\ninterface = "{interface}"\naddress = "{address}"\n'
        self.config.write_text(text)

    def command(self, *options: str, prefix: Sequence[str] = ()) -> list[str]:
        """The command that runs x0d in its namespace, behind ``prefix``."""
        enter = ["nsenter", f"--net={self.place.path}", "--"]
        return [*enter, *prefix, sys.executable, "-m", "x0d", "--config", str(self.config), *options]

    def run(self, *options: str, prefix: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
        """Run it to its own end."""
        command = self.command(*options, prefix=prefix)
        return subprocess.run(command, check=False, capture_output=True, text=True, env=ENVIRONMENT, timeout=END_S)

    @contextmanager
    def living(self, *, prefix: Sequence[str] = (), wait: bool = True) -> Iterator[Life]:
        """Start it; end it by SIGTERM when the block is left, which must end it with exit code 0."""
        log = self.directory / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(self.command(prefix=prefix), stdout=output, stderr=output, env=ENVIRONMENT)
        life = Life(process, log, self.directory / "run" / "x0d.sock")
        try:
            if wait:
                life.wait_running()
            yield life
        finally:
            process.send_signal(signal.SIGTERM)
            if not wait_until(lambda: process.poll() is not None, END_S):
                process.kill()
                process.wait()
        assert process.returncode == 0, f"exit {process.returncode} at SIGTERM:\n{log.read_text()}"


def admit(newcomer: LoneDaemon, issuer: LoneDaemon) -> None:
    """Let a node be one of the issuer's, as ``x0d --join`` would, with neither of them running."""
    trust_domain = TrustDomain(TRUST_DOMAIN)
    directory = issuer.state / joined.DIRECTORY
    authority = Authority.open(directory, trust_domain, ROOT_TTL_S, SVID_TTL_S, time.time)
    spiffe_id = node_id(trust_domain, newcomer.name)
    requested = joined.KeyRequest.make()
    grant = Grant(authority.issue_for_request(spiffe_id, requested.csr_der).chain_ders, authority.bundle(), {})
    admission = Admission(grant, "192.0.2.1:9471", node_id(trust_domain, issuer.name))
    joined.save(newcomer.state / joined.DIRECTORY, joined.take(spiffe_id, requested.key, admission, time.time()))
    newcomer.write()


class Pair:
    """Two nodes joined by ``e1`` (10.9.1.0/31); n1 has ``e2`` to the same neighbour, without address, and issues."""

    def __init__(self, one: Namespace, two: Namespace, directory: Path, bpffs: Path) -> None:
        self.n1 = LoneDaemon("n1", one, directory, bpffs)
        self.n2 = LoneDaemon("n2", two, directory, bpffs)
        admit(self.n2, self.n1)
        self.join()
        veth(one, two, ("e2", "f2"), (21, 22))

    def join(self, indexes: tuple[int, int] = (11, 12)) -> None:
        """Make the link e1, with addresses."""
        veth(self.n1.place, self.n2.place, ("e1", "e1"), indexes)
        self.n1.place.ip("addr add 10.9.1.0/31 dev e1")
        self.n2.place.ip("addr add 10.9.1.1/31 dev e1")

    def write(self, changes: Sections | None = None) -> None:
        """Make each the neighbour of the other."""
        self.n1.write(changes, [("n2", "e1", "10.9.1.1")])
        self.n2.write(changes, [("n1", "e1", "10.9.1.0")])


@contextmanager
def new_pair(directory: Path) -> Iterator[Pair]:
    """Make namespaces, interfaces and a bpf filesystem; remove them at the end."""
    bpffs = directory / "bpf"
    bpffs.mkdir()
    with namespace("one") as one, namespace("two") as two:
        run("mount", "-t", "bpf", "x0dt-bpf", str(bpffs))
        try:
            yield Pair(one, two, directory, bpffs)
        finally:
            run("umount", "-l", str(bpffs))


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """Put a small file system over a state directory; what is kept of the node's identity is carried over."""
    with tempfile.TemporaryDirectory() as aside:
        identity = shutil.copytree(path / joined.DIRECTORY, Path(aside) / joined.DIRECTORY)
        run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "x0dt-disk", str(path))
        shutil.copytree(identity, path / joined.DIRECTORY)
    try:
        yield
    finally:
        run("umount", "-l", str(path))


def fill(path: Path) -> Path:
    """Use up what is left of a small file system; remove the returned file to give it back."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (4096, 1):
            while shutil.disk_usage(path).free >= size:
                try:
                    file.write(b"\0" * size)
                except OSError:
                    break
    return filler
