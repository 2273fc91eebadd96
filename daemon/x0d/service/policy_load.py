"""A whole deny-list on its way in: read slice by slice, then put in force at once.

Reading a line takes some microseconds, a message may have ten thousands of them, and probes wait
meanwhile; so the event loop gets its turn after every slice.
"""

import asyncio
from collections.abc import Awaitable, Callable

from x0d.errors import InvalidInput, TooMany
from x0d.policy.denyfile import DenyFileReader
from x0d.service.views_policy import Loaded

SLICE_CHARACTERS = 16 << 10
"""About a thousand lines, 2 to 6 ms."""


class ReadingLoad:
    """``views_policy.DenyLoad``; ``put_in_force`` is given the complete file, ``ended`` is called once."""

    def __init__(
        self,
        reader: DenyFileReader,
        entries_max: int,
        put_in_force: Callable[[DenyFileReader], Awaitable[Loaded]],
        ended: Callable[[], None],
    ) -> None:
        self._reader = reader
        self._entries_max = entries_max
        self._put_in_force = put_in_force
        self._ended = ended
        self._over = False

    @property
    def lines(self) -> int:
        """Lines read so far."""
        return self._reader.lines

    @property
    def entries(self) -> int:
        """Different prefixes among them."""
        return self._reader.entries

    async def feed(self, text: str) -> None:
        """Read a piece of the file; faulty lines are told of by ``finish``.

        Raises:
            TooMany: the file has more entries than the configuration allows.
            InvalidInput: the load is over.
        """
        for start in range(0, len(text), SLICE_CHARACTERS):
            if self._over:
                raise InvalidInput("the load is over")
            self._reader.feed(text[start : start + SLICE_CHARACTERS])
            check_room(self._reader.entries, self._entries_max)
            await asyncio.sleep(0)

    async def finish(self) -> Loaded:
        """Check the list and put it in force, or change nothing; see ``views_policy.DenyLoad`` for what it raises."""
        if self._over:
            raise InvalidInput("the load is over")
        try:
            return await self._put_in_force(self._reader)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Forget what was read; nothing happens if the load is over."""
        if not self._over:
            self._over = True
            self._ended()


def check_room(entries: int, entries_max: int) -> None:
    """Raise TooMany if the list would have more entries than it may."""
    if entries > entries_max:
        raise TooMany(f"the deny-list may have {entries_max:,} entries; raise ebpf.deny_entries_max for more")
