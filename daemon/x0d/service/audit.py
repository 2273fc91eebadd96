"""The audit: before a call changes something, a record is on disk and a line in the log; else the call is refused.

A record is begun before the change and completed after it.  One that says ``begun`` and has no later line in the log is
of a call during which the daemon ended: such records of an earlier life are left as they are, for nobody knows more.

The lines go to the log's stream, which systemd hands to the journal, so that whoever can change the knowledge file
cannot change what was done.  They pass whatever log level is configured.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from x0d import telemetry
from x0d.errors import StorageFailed
from x0d.ports import AuditRecord, AuditStore, Change, Clock
from x0d.service.alerts import Alerts
from x0d.telemetry import Telemetry

BEGUN: Final = "begun"
DONE: Final = "done"
FAILED: Final = "failed"
ALERT: Final = "audit"
NAME_CHARACTERS_MAX: Final = 2_100
"""Of a caller: a SPIFFE ID has 2,048 at most."""
TEXT_CHARACTERS_MAX: Final = 2_000
"""Of what held before, of what holds after, and of the reason for a failure."""
WHAT_CHARACTERS_MAX: Final = 2_048
CANCELLED: Final = "cancelled"
"""The gate's word for a call whose caller has left, or whose time was over."""

LEFT: Final = "its caller had left"

log = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
"""Not the level that is configured: no setting turns the audit off."""


@dataclass(frozen=True, slots=True)
class _Begun:
    record: AuditRecord
    at_ns: int


class Audit:
    """Satisfies ``ports.Auditor``."""

    def __init__(self, store: AuditStore, clock: Clock, alerts: Alerts, counted: Telemetry) -> None:
        self._store = store
        self._clock = clock
        self._alerts = alerts
        self._counted = counted
        self._begun: dict[int, _Begun] = {}
        self._writing: set[asyncio.Task[Any]] = set()

    async def begin(self, who: str, address: str, method: str, what: str) -> int:
        """Write that a call begins, to disk and to the log; its number.

        Raises:
            StorageFailed: one of the two could not be written; the call must be refused.
        """
        record = AuditRecord(
            id=0,
            at_unix_ms=self._clock.unix_ms(),
            who=_cut(who, NAME_CHARACTERS_MAX),
            address=_cut(address, TEXT_CHARACTERS_MAX),
            method=_cut(method, TEXT_CHARACTERS_MAX),
            what=_cut(what, WHAT_CHARACTERS_MAX),
            before="",
            after="",
            outcome=BEGUN,
            detail="",
            took_ms=0.0,
        )
        writing = self._start(self._begin(record))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            writing.add_done_callback(self._give_up)
            raise

    async def end(self, number: int, change: Change, outcome: str, detail: str) -> None:
        """Write how it ended; what cannot be written any more raises an alert, for the change is made.

        A change that goes on although its caller has left ends its record when it has ended itself.
        """
        if change.under_way is not None and detail == CANCELLED:
            self._start(self._end_later(number, change, change.under_way))
        else:
            await self._end(number, change, outcome, detail)

    async def settle(self) -> None:
        """Wait for what is being written or goes on; called before the store is closed."""
        while self._writing:
            await asyncio.wait(self._writing)

    # ---- parts ----

    async def _end_later(self, number: int, change: Change, under_way: "asyncio.Future[Any]") -> None:
        await asyncio.wait([under_way])
        error = asyncio.CancelledError() if under_way.cancelled() else under_way.exception()
        if error is None:
            await self._end(number, change, DONE, LEFT)
        else:
            await self._end(number, change, FAILED, f"{LEFT}: {str(error) or CANCELLED}")

    async def _end(self, number: int, change: Change, outcome: str, detail: str) -> None:
        begun = self._begun.pop(number)
        ended = replace(
            begun.record,
            id=number,
            before=_cut(change.before, TEXT_CHARACTERS_MAX),
            after=_cut(change.after, TEXT_CHARACTERS_MAX),
            outcome=outcome,
            detail=_cut(detail, TEXT_CHARACTERS_MAX),
            took_ms=(self._clock.monotonic_ns() - begun.at_ns) / 1e6,
        )
        try:
            self._tell(ended)
        except StorageFailed as failure:
            self._fail(f"the log has no end of record {number}: {failure}")
        try:
            await self._store.finish(
                number,
                before=ended.before,
                after=ended.after,
                outcome=ended.outcome,
                detail=ended.detail,
                took_ms=ended.took_ms,
            )
        except StorageFailed as failure:
            self._fail(f"record {number} says {BEGUN} though its call has ended ({outcome}): {failure}")

    async def _begin(self, record: AuditRecord) -> int:
        try:
            number = await self._store.insert(record)
        except StorageFailed as failure:
            self._fail(f"calls that change something are refused while no record of them can be written: {failure}")
            raise
        begun = _Begun(replace(record, id=number), self._clock.monotonic_ns())
        try:
            self._tell(begun.record)
        except StorageFailed as failure:
            self._fail(str(failure))
            await self._refuse(begun, str(failure))
            raise
        self._begun[number] = begun
        with suppress(OSError, ValueError):
            self._alerts.clear(ALERT)
        return number

    async def _refuse(self, begun: _Begun, detail: str) -> None:
        """Complete the record of a call that did not come to pass."""
        took_ms = (self._clock.monotonic_ns() - begun.at_ns) / 1e6
        try:
            await self._store.finish(
                begun.record.id, before="", after="", outcome=FAILED, detail=detail, took_ms=took_ms
            )
        except StorageFailed as failure:
            self._fail(str(failure))

    def _give_up(self, writing: "asyncio.Task[int]") -> None:
        """Complete the record of a call whose caller left before it was written."""
        if not writing.cancelled() and writing.exception() is None:
            self._start(self.end(writing.result(), Change(), FAILED, CANCELLED))

    def _start(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.get_running_loop().create_task(work)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return task

    def _tell(self, record: AuditRecord) -> None:
        """Write a line.  Raises StorageFailed."""
        try:
            log.info(
                telemetry.AUDIT, record=record.id, who=record.who, address=record.address, method=record.method,
                what=record.what, before=record.before, after=record.after, outcome=record.outcome,
                detail=record.detail, took_ms=round(record.took_ms, 3),
            )  # fmt: skip
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            raise StorageFailed(f"the log cannot be written: {error}") from error

    def _fail(self, text: str) -> None:
        self._counted.audit_failures.inc()
        with suppress(OSError, ValueError):  # it stands; that it could not be logged is what it may be about
            self._alerts.raise_alert(ALERT, text)


def _cut(text: str, characters_max: int) -> str:
    """Shorten, and replace what is no Unicode character, which no file takes."""
    shown = text[:characters_max].encode(errors="replace").decode()
    return shown if len(text) <= characters_max else f"{shown[:-3]}..."
