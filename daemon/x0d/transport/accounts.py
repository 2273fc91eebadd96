"""Names of this host's accounts, looked up in threads: the directory that knows them may be a server that hangs."""

import asyncio
import pwd
from concurrent.futures import ThreadPoolExecutor
from typing import Final

ROOT: Final = "root"

_threads: Final = ThreadPoolExecutor(max_workers=2, thread_name_prefix="accounts")
"""Of their own: look-ups that hang shall not take the threads that the disk needs."""


async def user_name(uid: int, within_s: float) -> str | None:
    """Name of an account; None where the host has none.

    Raises:
        TimeoutError: nobody could say within ``within_s`` seconds.
    """
    if uid == 0:
        return ROOT  # waits for nobody
    async with asyncio.timeout(within_s):
        return await asyncio.get_running_loop().run_in_executor(_threads, _look_up, uid)


def _look_up(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
