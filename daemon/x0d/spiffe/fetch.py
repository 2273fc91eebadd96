"""An SVID for a moment: what x0ctl asks the Workload API once, as any other workload does."""

import asyncio
import time
from pathlib import Path

from x0d.errors import IdentityRefused, InvalidInput, NoIdentity
from x0d.identity.spiffe_id import TrustDomain
from x0d.spiffe.snapshot import Snapshot
from x0d.spiffe.stream import workload_stream
from x0d.spiffe.validation import Expectation, validate
from x0d.spiffe.workload_api import SvidUpdate


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
        async with asyncio.timeout(timeout_s), workload_stream(socket) as read:
            data = await read()
    except TimeoutError as failure:
        raise NoIdentity(f"the Workload API at {socket} has not answered within {timeout_s:g} s") from failure
    # Whoever runs the command trusts the socket that they name: development's trust domains are theirs to use.
    expected = Expectation(federation=federation, dev_allowed=True)
    try:
        accepted = validate(SvidUpdate.decode(data), expected, time.time())
    except (IdentityRefused, InvalidInput) as refusal:
        raise NoIdentity(f"the Workload API at {socket} gave an identity that cannot be used: {refusal}") from refusal
    return Snapshot(1, accepted.svid, accepted.bundles)
