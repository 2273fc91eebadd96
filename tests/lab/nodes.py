"""One node's x0d in a lab: its configuration file, its process, and its record of both.

Files of node n1 in the lab directory: ``n1/x0d.toml``, ``n1/state/``, ``n1/run/`` (with the control socket),
``n1.log`` (what x0d printed, JSON lines) and ``n1/process`` (pid and start time of its latest life).
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from lab.machine import LabError, Process, inside, wait_until
from lab.topology import Topology

STOP_S = 5.0
LOG_LINES = 15
TRUST_DOMAIN = "lab.x0d.test"
ROOT = Path(__file__).resolve().parents[2]


def config_text(
    topology: Topology, node: str, directory: Path, bpffs: Path, overrides: dict[str, dict[str, object]]
) -> str:
    """Configuration of a node: static neighbours, fast probes, automatic healing.

    Args:
        topology: the lab's.
        node: whose configuration.
        directory: the node's, for state and control socket.
        bpffs: where it pins.
        overrides: section to key to value, set over the lab's choice.
    """
    links = list(topology.links_of(node))
    sections: dict[str, dict[str, object]] = {
        "node": {
            "name": node,
            "address": f"{topology.address(node)}/32",
            "state_dir": str(directory / "state"),
            "runtime_dir": str(directory / "run"),
            "bpffs_dir": str(bpffs),
            "production": False,
        },
        "identity": {"mode": "dev", "trust_domain": TRUST_DOMAIN, "issuer": node == topology.nodes[0]},
        "listen": {"metrics_address": "127.0.0.1", "metrics_port": 9475},
        "mesh": {
            "interfaces": [link.interface(node) for link in links],
            "probe_interval_ms": 50,
            "probe_miss_limit": 3,
        },
        "healing": {"mode": "auto"},
        "log": {"level": "info", "format": "json"},
    }
    for section, values in overrides.items():
        sections.setdefault(section, {}).update(values)
    text = "".join(
        f"[{section}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()) + "\n"
        for section, values in sections.items()
    )
    for link in links:
        there = link.other(node)
        entry = {"node": there, "interface": link.interface(node), "address": link.address(there), "cost": link.cost}
        text += (
            "[[mesh.neighbours]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items()) + "\n"
        )
    return text


class NodeDaemon:
    """The x0d of one node; any process that knows the lab directory may start, signal and end it."""

    def __init__(self, node: str, namespace: str, lab_directory: Path) -> None:
        """Refer to the daemon; nothing is started."""
        self.node = node
        self.namespace = namespace
        self.directory = lab_directory / node
        self.config = self.directory / "x0d.toml"
        self.log = lab_directory / f"{node}.log"
        self.socket = self.directory / "run" / "x0d.sock"
        self._record = self.directory / "process"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> Process | None:
        """Its latest life, if that still runs."""
        if self._child is not None and self._child.poll() is not None:  # also reaps it
            self._child = None
        try:
            pid, started = self._record.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        process = Process(int(pid), int(started))
        return process if process.alive else None

    def prepare(self, config: str) -> None:
        """Make its directories and its configuration file."""
        for path in (self.directory, self.directory / "state", self.directory / "run"):
            path.mkdir(mode=0o700, exist_ok=True)
        self.config.write_text(config)

    def start(self) -> Process:
        """Start it in its namespace; it outlives this process.

        Raises:
            LabError: it runs already.
        """
        if self.process:
            raise LabError(f"x0d of {self.node} runs already (pid {self.process.pid})")
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "daemon")}
        environment.pop("NOTIFY_SOCKET", None)
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                inside(self.namespace, [sys.executable, "-m", "x0d", "--config", str(self.config)]),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment, cwd="/",
            )  # fmt: skip
        process = Process.of(self._child.pid)
        if process is None:
            raise LabError(f"x0d of {self.node} ended at once:\n{self.log_tail()}")
        partial = self._record.with_suffix(".new")
        partial.write_text(f"{process.pid} {process.started}\n")
        partial.rename(self._record)
        return process

    def signal(self, number: int) -> None:
        """Send a signal to it.

        Raises:
            LabError: it does not run.
        """
        process = self.process
        if process is None or not process.signal(number):
            raise LabError(f"x0d of {self.node} does not run")

    def kill(self) -> None:
        """SIGKILL, and wait for its end.

        Raises:
            LabError: it does not run, or does not end.
        """
        process = self.process
        self.signal(signal.SIGKILL)
        if process and not wait_until(lambda: self.process is None, STOP_S, 0.002):
            raise LabError(f"x0d of {self.node} (pid {process.pid}) does not end")

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not end it; nothing if it does not run."""
        process = self.process
        if process is None:
            return
        process.signal(signal.SIGCONT)
        process.signal(signal.SIGTERM)
        if not wait_until(lambda: self.process is None, STOP_S):
            process.signal(signal.SIGKILL)
            wait_until(lambda: self.process is None, STOP_S)

    def log_tail(self) -> str:
        """The last lines it printed."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(lines[-LOG_LINES:]) or "(nothing printed)"
