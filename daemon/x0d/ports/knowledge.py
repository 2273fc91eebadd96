"""Incidents on disk."""

from collections.abc import Sequence
from typing import Protocol

from x0d.mapek.model import Incident


class KnowledgeStore(Protocol):
    """Incidents on disk."""

    async def save(self, incident: Incident) -> None:
        """Insert or replace.

        Raises:
            StorageFailed: the disk is full, read-only or failing.
        """

    async def load(self, incident_id: str) -> Incident | None:
        """One incident, whole; None if unknown.  Raises StorageFailed."""

    async def list(self, limit: int, *, open_only: bool) -> Sequence[Incident]:
        """Newest first.  Raises StorageFailed."""
