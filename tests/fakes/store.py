"""A knowledge store in memory that fails and hangs on demand.

Not modelled: the bound on the number of incidents, damaged records, what survives a power cut.
``tests/contract/test_knowledge_store.py`` holds it and the file to one contract.
"""

import asyncio
from collections.abc import Sequence

from x0d.errors import StorageFailed
from x0d.mapek.model import Incident, IncidentState


class FakeStore:
    """``ports.KnowledgeStore``; ``broken`` is what every call fails with; calls wait while ``free`` is not set."""

    def __init__(self) -> None:
        self.saved: dict[str, Incident] = {}
        self.saves = 0
        self.broken = ""
        self.free = asyncio.Event()
        self.free.set()

    async def save(self, incident: Incident) -> None:
        await self._answer()
        self.saves += 1
        self.saved[str(incident.id)] = incident

    async def load(self, incident_id: str) -> Incident | None:
        await self._answer()
        return self.saved.get(incident_id)

    async def list(self, limit: int, *, open_only: bool) -> Sequence[Incident]:
        await self._answer()
        newest_first = sorted(self.saved.values(), key=lambda incident: incident.opened_at_unix_ms, reverse=True)
        return [one for one in newest_first if not open_only or one.state is not IncidentState.CLOSED][:limit]

    async def _answer(self) -> None:
        await self.free.wait()
        if self.broken:
            raise StorageFailed(self.broken)
