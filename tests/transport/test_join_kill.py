"""A daemon killed between spending a token and making its certificate has lost the token and nothing else."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from transport.issuer_world import N2, TD, issuer_world, play, short_directory, until
from x0d.errors import PeerUnreachable, TokenRefused
from x0d.identity.spiffe_id import node_id
from x0d.identity.token import JoinToken
from x0d.spiffe.joined import KeyRequest, take
from x0d.transport.join_client import join

JOB = Path(__file__).with_name("kill_job.py")
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def doomed_issuer(directory: Path, temporary: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """An issuer in a process of its own, and the line that it has told."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'daemon'}:{ROOT / 'tests'}", "TMPDIR": str(temporary)}
    job = subprocess.Popen([sys.executable, JOB, directory], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert job.stdout is not None
        # its log goes to standard output as well: the told line is the one with tokens
        yield job, next(line for line in job.stdout if line.startswith("x0d1-")).split()
    finally:
        job.kill()
        job.wait()
        if job.stdout is not None:
            job.stdout.close()


def test_a_kill_before_the_certificate_costs_the_token_only(tmp_path: Path) -> None:
    """The next life knows the token as spent, has the same root, and lets the others in."""
    with short_directory() as private, doomed_issuer(tmp_path, private) as (job, told):
        token, spare = JoinToken.parse(told[0]), JoinToken.parse(told[1])
        with pytest.raises(PeerUnreachable):
            asyncio.run(join(token, KeyRequest.make().csr_der, (), private, time.time))
        assert -signal.SIGKILL == job.wait(10)

    async def next_life() -> None:
        async with issuer_world(tmp_path) as world:
            await until(lambda: world.listener.is_open)
            endpoint = f"127.0.0.1:{world.listener.bound_port}"
            with pytest.raises(TokenRefused, match="is spent"):
                await world.join(replace(token, endpoint=endpoint))
            request = KeyRequest.make()
            admission = await world.join(replace(spare, endpoint=endpoint), request)
            assert node_id(TD, "n3") == take(node_id(TD, "n3"), request.key, admission, time.time()).svid.spiffe_id
            assert told[2] == world.authority.root_sha256.hex()
            again = await world.token()
            await world.join(again)
            assert N2 == again.spiffe_id

    play(next_life)
