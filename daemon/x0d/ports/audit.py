"""The audit: every call that changes something leaves a record, or is refused."""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    import asyncio


@dataclass(slots=True)
class Change:
    """What a servicer tells of the change that it makes; it may leave both empty."""

    before: str = ""
    after: str = ""
    under_way: "asyncio.Future[Any] | None" = None
    """The change itself, where it goes on although its caller has left; the record waits for its end."""


CHANGE: Final[ContextVar[Change]] = ContextVar("x0d_change")
"""Of the call that is being served; set by the gate for calls that change something."""


def tell_change(*, before: str = "", after: str = "") -> None:
    """Tell the audit what held before and after; nothing happens outside an audited call."""
    change = CHANGE.get(None)
    if change is not None:
        change.before = before or change.before
        change.after = after or change.after


def outlives_its_caller(task: "asyncio.Future[Any]") -> None:
    """Tell the audit that the change ends with ``task``, whoever waits for it; nothing happens outside such a call."""
    change = CHANGE.get(None)
    if change is not None:
        change.under_way = task


@dataclass(frozen=True, slots=True)
class AuditRecord:
    id: int
    at_unix_ms: int
    who: str
    address: str
    method: str
    what: str
    before: str
    after: str
    outcome: str
    """``begun``, ``done`` or ``failed``."""
    detail: str
    took_ms: float


class Auditor(Protocol):
    """Writes records, to disk and to the journal."""

    async def begin(self, who: str, address: str, method: str, what: str) -> int:
        """Write that a call begins; its number.

        Raises:
            StorageFailed: it could not be written; the call must be refused.
        """

    async def end(self, number: int, change: Change, outcome: str, detail: str) -> None:
        """Write how it ended; what cannot be written any more raises an alert, for the change is made."""


class AuditStore(Protocol):
    """Records on disk; each method raises StorageFailed."""

    async def insert(self, record: AuditRecord) -> int:
        """Write a record, whose ``id`` is not looked at; the number it got."""

    async def finish(self, number: int, *, before: str, after: str, outcome: str, detail: str, took_ms: float) -> None:
        """Complete a record."""

    async def latest(self, limit: int) -> Sequence[AuditRecord]:
        """Newest first."""
