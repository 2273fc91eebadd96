"""A running x0d in the benchmark's namespace: started from a configuration, asked by x0ctl, ended."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.dataplane_world import BPFFS
from lab.machine import LabError
from lab.nodes import ROOT

START_S = 30.0
STOP_S = 10.0
METRICS_PORT = 9475
LOG_LINES = 12


class RunningDaemon:
    """Refers to it while it runs."""

    def __init__(self, socket: Path) -> None:
        """``socket`` is where it answers."""
        self._socket = socket

    def x0ctl(self, *arguments: str) -> str:
        """Run x0ctl against it and return what it printed.

        Raises:
            LabError: it failed.
        """
        command = [sys.executable, "-m", "x0ctl", "--endpoint", f"unix://{self._socket}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
        if done.returncode:
            raise LabError(f"x0ctl {' '.join(arguments)}: {(done.stderr or done.stdout).strip()[-800:]}")
        return done.stdout

    def scrape(self) -> bytes:
        """One scrape over HTTP, as Prometheus makes it."""
        with urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics") as answer:
            content: bytes = answer.read()
        return content


@contextmanager
def running_daemon(directory: Path, interfaces: Sequence[str]) -> Iterator[RunningDaemon]:
    """Start it on these interfaces; it is ready when the block begins, and ended with it.

    Raises:
        LabError: it is not ready in ``START_S``; with the end of its log.
    """
    runtime, log = directory / "run", directory / "x0d.log"
    sections: dict[str, dict[str, object]] = {
        "node": {
            "name": "n1",
            "address": "10.255.9.1/32",
            "state_dir": str(directory / "state"),
            "runtime_dir": str(runtime),
            "bpffs_dir": str(BPFFS / "daemon"),
            "production": False,
        },
        "identity": {"issuer": True},
        "listen": {"metrics_address": "127.0.0.1", "metrics_port": METRICS_PORT},
        "mesh": {"interfaces": list(interfaces)},
        "log": {"format": "json"},
    }
    (directory / "state").mkdir(exist_ok=True)
    config = directory / "x0d.toml"
    config.write_text(
        "".join(
            f"[{section}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
            for section, keys in sections.items()
        )
    )
    command = [sys.executable, "-m", "x0d", "--config", str(config)]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, env=_environment()) as child:
        try:
            daemon = RunningDaemon(runtime / "x0d.sock")
            _wait_ready(daemon, child, log)
            yield daemon
        finally:
            child.terminate()
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()


def _wait_ready(daemon: RunningDaemon, child: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + START_S
    while child.poll() is None and time.monotonic() < end:
        try:
            if json.loads(daemon.x0ctl("-o", "json", "status"))["phase"] == "running":
                return
        except LabError:
            time.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
    raise LabError(f"x0d is not ready; the end of its log:\n{tail}")


def _environment() -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "daemon")}
    environment.pop("NOTIFY_SOCKET", None)
    return environment
