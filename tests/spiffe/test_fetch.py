"""One SVID for one command: the first good answer, or a sentence that says what to do."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from fakes.agent import serving, update_of
from fakes.authority import CA
from fakes.watching import LOCAL, LOOPS, N1, PARTNER, run
from x0d.errors import NoIdentity
from x0d.spiffe.fetch import fetch_once
from x0d.spiffe.workload_api import SvidUpdate

pytestmark = pytest.mark.parametrize("loop", LOOPS)


def test_first_answer_is_taken(loop: str, tmp_path: Path) -> None:
    """The first SVID and its bundle are a snapshot; foreign bundles are in it where they are asked for."""

    async def scene() -> None:
        root, partner = CA(start_unix_s=time.time()), CA("partner.example")
        async with serving(tmp_path / "a.sock") as agent:
            agent.push(update_of(root.issue(), root, federated={"spiffe://partner.example": partner.der}))
            plain = await fetch_once(agent.path, 10)
            assert (N1, frozenset({LOCAL})) == (plain.svid.spiffe_id, plain.bundles.trust_domains)
            federated = await fetch_once(agent.path, 10, frozenset({PARTNER}))
            assert (partner.der,) == federated.bundles.authorities(PARTNER)

    run(loop, scene())


def test_every_failure_says_what_to_do(loop: str, tmp_path: Path) -> None:
    """No socket, silence, a refusal, garbage and an expired SVID each end in a sentence, within the time."""

    async def refusal(path: Path, timeout_s: float = 10.0) -> str:
        with pytest.raises(NoIdentity) as refused:
            await fetch_once(path, timeout_s)
        return str(refused.value)

    async def scene() -> None:
        path = tmp_path / "a.sock"
        assert f"{path} cannot be reached; is it running? (No such file or directory)" in await refusal(path)
        async with serving(path) as agent:
            assert "has not answered within 0.1 s" in await refusal(path, 0.1)
            agent.push(b"\xff")
            assert "cannot be used: 1 bytes are no X509SVIDResponse" in await refusal(path)
            agent.push(SvidUpdate(()))
            assert "cannot be used: the update holds no SVID" in await refusal(path)
            root = CA(start_unix_s=time.time())
            agent.push(update_of(root.issue(ttl_s=-1, not_before_s=-60), root))
            assert "certificate has expired" in await refusal(path)
            agent.deny = True
            assert "has no identity for this process: register it" in await refusal(path)

    run(loop, scene())


def test_a_socket_that_hangs_up_refuses_us(loop: str, tmp_path: Path) -> None:
    """Who closes connections unheard, as x0d does to whom it has no identity for, is told as refusing this uid."""

    async def scene() -> None:
        path = tmp_path / "a.sock"

        def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with await asyncio.start_unix_server(hang_up, path):
            with pytest.raises(NoIdentity, match=f"{path} refuses uid {os.geteuid()}: it closes the connection"):
                await fetch_once(path, 10)

    run(loop, scene())
