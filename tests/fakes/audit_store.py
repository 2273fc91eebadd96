"""An audit store in memory that fails and hangs on demand.

Not modelled: the bound on the number of records, what survives a kill or a power cut, damaged rows.
``tests/contract/test_audit_store.py`` holds it and the file to one contract.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from x0d.errors import StorageFailed
from x0d.ports import AuditRecord


class FakeAuditStore:
    """``ports.AuditStore``; ``broken`` is what every call fails with; calls wait while ``free`` is not set."""

    def __init__(self) -> None:
        self.rows: dict[int, AuditRecord] = {}
        self.broken = ""
        self.free = asyncio.Event()
        self.free.set()

    async def insert(self, record: AuditRecord) -> int:
        await self._answer()
        number = len(self.rows) + 1
        self.rows[number] = replace(record, id=number)
        return number

    async def finish(self, number: int, *, before: str, after: str, outcome: str, detail: str, took_ms: float) -> None:
        await self._answer()
        if number not in self.rows:
            raise StorageFailed(f"there is no audit record {number}")
        self.rows[number] = replace(
            self.rows[number], before=before, after=after, outcome=outcome, detail=detail, took_ms=took_ms
        )

    async def latest(self, limit: int) -> Sequence[AuditRecord]:
        await self._answer()
        return [self.rows[number] for number in sorted(self.rows, reverse=True)][:limit]

    async def _answer(self) -> None:
        await self.free.wait()
        if self.broken:
            raise StorageFailed(self.broken)
