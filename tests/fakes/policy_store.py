"""Deny-list and limits in memory, in trouble and hanging on demand.

Not modelled: damaged rows, what survives a power cut.  ``tests/contract/test_policy_store.py`` holds it
and the file to one contract.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from x0d.errors import StorageFailed
from x0d.policy.model import DenyEntry, Limit, PackedPrefix, PrefixKey, Terms


class FakePolicyStore:
    """``ports.PolicyStore``; ``broken`` is what every call fails with; calls wait while ``free`` is not set.

    ``broken_after`` breaks it after so many more writes.
    """

    def __init__(self) -> None:
        self.deny: dict[PrefixKey, DenyEntry] = {}
        self.limits: dict[PrefixKey, Limit] = {}
        self.writes = 0
        self.broken = ""
        self.broken_after: int | None = None
        self.free = asyncio.Event()
        self.free.set()

    async def load(self) -> tuple[Sequence[DenyEntry], Sequence[Limit]]:
        await self._answer()
        return list(self.deny.values()), list(self.limits.values())

    async def replace_deny(self, entries: Mapping[PrefixKey, Terms]) -> None:
        def replace() -> None:
            self.deny = {prefix: DenyEntry(PackedPrefix(*prefix), *terms) for prefix, terms in entries.items()}

        await self._write(replace)

    async def save_deny(self, entries: Collection[DenyEntry]) -> None:
        await self._write(lambda: self.deny.update((entry.prefix, entry) for entry in entries))

    async def delete_deny(self, prefixes: Collection[PrefixKey]) -> None:
        await self._write(lambda: [self.deny.pop(prefix, None) for prefix in prefixes])

    async def save_limit(self, limit: Limit) -> None:
        await self._write(lambda: self.limits.update({limit.prefix: limit}))

    async def delete_limits(self, prefixes: Collection[PrefixKey]) -> None:
        await self._write(lambda: [self.limits.pop(prefix, None) for prefix in prefixes])

    async def _write(self, change: Callable[[], object]) -> None:
        await self._answer()
        change()
        self.writes += 1
        if self.broken_after is not None:
            self.broken_after -= 1
            if self.broken_after == 0:
                self.broken, self.broken_after = "broke down", None

    async def _answer(self) -> None:
        await self.free.wait()
        if self.broken:
            raise StorageFailed(self.broken)
