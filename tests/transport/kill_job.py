"""An issuer that is killed between spending a token and making its certificate; a program of ``test_join_kill``."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from transport.issuer_world import issuer_world
from x0d.spiffe.authority import Authority


def killed(*_: object) -> NoReturn:
    """Stand for the certificate that is never made."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


async def main(directory: Path) -> None:
    """Make a token, tell it, and wait for the end."""
    async with issuer_world(directory) as world:
        token, spare = await world.token(), await world.token("n3")
        Authority.issue_for_request = killed  # type: ignore[assignment,method-assign]  # what the kill comes before
        print(token.encode(), spare.encode(), world.authority.root_sha256.hex(), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
