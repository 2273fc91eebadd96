"""``x0ctl doctor`` without a daemon: ``x0d --doctor`` run by this user, saying whose answer it is."""

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

from x0ctl.failure import EXIT_FAILED, Failure

_CAPABILITIES: Final = {"cap_net_admin": 12, "cap_net_raw": 13, "cap_sys_admin": 21, "cap_perfmon": 38, "cap_bpf": 39}
"""Those that decide what x0d can do, with their bit numbers."""


def run(output: str) -> int:
    """Run it with our stdout; 0 when it finds nothing wrong, else 1."""
    program = find_x0d()
    click.echo(f"x0d does not answer. This is what {program} --doctor says when run by {identity()};", err=True)
    click.echo("the service may run as another user and with other capabilities.", err=True)
    finished = subprocess.run([program, "--doctor", "-o", output], check=False)  # noqa: S603 - our own program
    return 0 if finished.returncode == 0 else EXIT_FAILED


def find_x0d() -> str:
    """Find the x0d that was installed with this x0ctl, or else the one on PATH.

    Raises:
        Failure: there is none.
    """
    for directory in (Path(sys.argv[0]).absolute().parent, Path(sys.executable).parent):
        candidate = directory / "x0d"
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return str(candidate)
    found = shutil.which("x0d")
    if found is None:
        text = "x0d does not answer, and no x0d program is next to x0ctl or on PATH"
        raise Failure(EXIT_FAILED, text, "install x0d, or start it: systemctl start x0d")
    return found


def identity() -> str:
    """Say who we are, such as ``uid 1000 (anna) with none of x0d's capabilities``."""
    uid = os.geteuid()
    try:
        name = f" ({pwd.getpwuid(uid).pw_name})"
    except KeyError:
        name = ""
    effective = _effective_capabilities()
    held = [capability for capability, bit in _CAPABILITIES.items() if effective >> bit & 1]
    return f"uid {uid}{name} with {', '.join(held) if held else 'none of the capabilities it needs'}"


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
