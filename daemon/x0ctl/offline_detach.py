"""``x0ctl ebpf detach --all`` without a daemon: ``x0d --detach-all`` run by this user."""

import subprocess

import click

from x0ctl.failure import EXIT_FAILED
from x0ctl.offline_doctor import find_x0d


def run(config: str) -> int:
    """Run it with our stdout; 0 when nothing is left in the kernel, else 1."""
    program = find_x0d()
    click.echo(f"x0d does not answer; running {program} --detach-all --config {config}", err=True)
    finished = subprocess.run([program, "--detach-all", "--config", config], check=False)  # noqa: S603 - our own program
    return 0 if finished.returncode == 0 else EXIT_FAILED
