"""An SVID for a moment: what x0ctl asks the Workload API once, as any other workload does."""

import asyncio
import os
import time
from pathlib import Path
from typing import Final

from x0d.errors import IdentityRefused, InvalidInput, NoIdentity
from x0d.identity.spiffe_id import TrustDomain
from x0d.spiffe.snapshot import Snapshot
from x0d.spiffe.stream import workload_stream
from x0d.spiffe.validation import Expectation, validate
from x0d.spiffe.workload_api import SvidUpdate

PROBE_S_MAX: Final = 1.0
"""For asking a socket that has given nothing whether it hangs up on us."""


async def fetch_once(socket: Path, timeout_s: float, federation: frozenset[TrustDomain] = frozenset()) -> Snapshot:
    """Take the first answer.

    Args:
        socket: the Workload API's.
        timeout_s: for all of it.
        federation: foreign trust domains whose bundles are used.

    Raises:
        NoIdentity: there is no answer, or none that can be used; says what to do.
    """
    try:
        async with asyncio.timeout(timeout_s):
            data = await _first_answer(socket)
    except TimeoutError as failure:
        raise NoIdentity(f"the Workload API at {socket} has not answered within {timeout_s:g} s") from failure
    # Whoever runs the command trusts the socket that they name: development's trust domains are theirs to use.
    expected = Expectation(federation=federation, dev_allowed=True)
    try:
        accepted = validate(SvidUpdate.decode(data), expected, time.time())
    except (IdentityRefused, InvalidInput) as refusal:
        raise NoIdentity(f"the Workload API at {socket} gave an identity that cannot be used: {refusal}") from refusal
    return Snapshot(1, accepted.svid, accepted.bundles)


async def _first_answer(socket: Path) -> bytes:
    try:
        async with workload_stream(socket) as read:
            return await read()
    except NoIdentity as failure:
        if await _hangs_up(socket):
            text = f"the Workload API at {socket} refuses uid {os.geteuid()}: it closes the connection unheard"
            raise NoIdentity(text) from failure
        raise


async def _hangs_up(socket: Path) -> bool:
    """Whether a connection is closed before anything was said on it.

    That is how an x0d refuses; gRPC tells of it in words that change, and of an agent that ends in the same ones.
    """
    try:
        async with asyncio.timeout(PROBE_S_MAX):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                return not await reader.read(1)
            finally:
                writer.close()
    except ConnectionResetError:
        return True
    except OSError:  # nobody is there; TimeoutError: somebody is, and waits
        return False
