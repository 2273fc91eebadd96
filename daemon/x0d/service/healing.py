"""Runs the healing loop: feeds events, performs what it asks for, stores and publishes incidents.

Routes do not wait for any of this: they are moved by ``service/mesh.py`` before the loop hears of it.
Storing has a task of its own, so a slow or full disk delays neither an action nor an answer; what could
not be stored is kept (bounded), shown, and tried again, and an alert says so.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog

from x0d import telemetry
from x0d.errors import StorageFailed
from x0d.mapek.events import ActionEnded, Event, Perform, Request, Save, Verified, Verify
from x0d.mapek.loop import Loop
from x0d.mapek.model import Incident
from x0d.mesh.model import LinkKey
from x0d.ports import Clock, KnowledgeStore
from x0d.service.alerts import Alerts
from x0d.service.execute import Executor

RECENT_MAX = 1000  # incidents kept in memory, the oldest go first; disk has the rest
TICK_S = 0.25
STORE_RETRY_S = 5.0
STORE_ALERT = "knowledge_store"

log = structlog.get_logger()

Verifier = Callable[[LinkKey], Awaitable[tuple[bool, str]]]
Watcher = Callable[[Incident], None]


class HealingService:
    """One MAPE-K loop and its surroundings."""

    def __init__(
        self,
        *,
        loop: Loop,
        store: KnowledgeStore,
        executor: Executor,
        verify: Verifier,
        clock: Clock,
        counted: telemetry.Telemetry,
        alerts: Alerts,
    ) -> None:
        self.loop = loop
        self._store = store
        self._executor = executor
        self._verify = verify
        self._clock = clock
        self._counted = counted
        self._alerts = alerts
        self._requests: asyncio.Queue[Perform | Verify] = asyncio.Queue()
        self._unsaved: OrderedDict[str, Incident] = OrderedDict()
        self._recent: OrderedDict[str, Incident] = OrderedDict()
        self._to_store = asyncio.Event()
        self._watchers: list[Watcher] = []

    # ---- in ----

    def feed(self, event: Event) -> None:
        """Let the loop see an event; what it asks for is performed by ``run``."""
        self.loop.step(event, self._clock.monotonic_ns(), self._clock.unix_ms())
        self._drain()

    def _drain(self) -> None:
        requests: Sequence[Request] = self.loop.ready()
        for request in requests:
            if isinstance(request, Save):
                self._publish(request.incident)
            else:
                self._requests.put_nowait(request)

    def _publish(self, incident: Incident) -> None:
        key = str(incident.id)
        before = self._recent.pop(key, None)
        if before is None:
            self._counted.incidents.labels(incident.cause.value).inc()
        for step in incident.steps[len(before.steps) if before else 0 :]:
            self._counted.heal_step.labels(step.name).observe(step.duration_ms / 1e3)
        self._recent[key] = incident
        while len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)
        self._unsaved[key] = incident
        while len(self._unsaved) > RECENT_MAX:
            self._unsaved.popitem(last=False)
        self._to_store.set()
        log.info(
            telemetry.INCIDENT_CHANGED,
            incident=key,
            cause=incident.cause.value,
            state=incident.state.value,
            role=incident.role.value,
            explanation=incident.explanation,
            steps={step.name: round(step.duration_ms, 1) for step in incident.steps},
            packets_lost=incident.packets_lost,
        )
        for watcher in tuple(self._watchers):
            watcher(incident)

    # ---- tasks ----

    async def run(self) -> None:
        """Perform and verify, one after the other."""
        while True:
            request = await self._requests.get()
            if isinstance(request, Perform):
                outcome = await self._executor.perform(request.planned.action)
                if not outcome.done:
                    log.error(telemetry.ACTION_FAILED, incident=str(request.incident), error=outcome.error)
                self.feed(ActionEnded(request.incident, request.planned, outcome))
            else:
                holds, detail = await self._verify(request.link)
                self.feed(Verified(request.incident, holds, detail, self._clock.monotonic_ns()))

    async def run_ticks(self) -> None:
        """Let the loop see time pass."""
        while True:
            await asyncio.sleep(TICK_S)
            self.loop.tick(self._clock.monotonic_ns(), self._clock.unix_ms())
            self._drain()

    async def run_store(self) -> None:
        """Write what changed; the latest state of an incident replaces earlier ones still unwritten."""
        while True:
            await self._to_store.wait()
            self._to_store.clear()
            while self._unsaved:
                if not await self._store_next():
                    await asyncio.sleep(STORE_RETRY_S)

    async def _store_next(self) -> bool:
        key, incident = next(iter(self._unsaved.items()))
        try:
            await self._store.save(incident)
        except StorageFailed as failure:
            self._counted.knowledge_failures.inc()
            self._alerts.raise_alert(STORE_ALERT, f"incidents are not stored: {failure}")
            return False
        self._alerts.clear(STORE_ALERT)
        if self._unsaved.get(key) is incident:
            del self._unsaved[key]
        return True

    async def flush(self, limit_s: float) -> None:
        """Write what is still unwritten, for at most ``limit_s`` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self._unsaved and await self._store_next():
                    pass

    # ---- out ----

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call ``watcher`` with each incident that changes; the result ends that."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def open_incidents(self) -> tuple[Incident, ...]:
        """Those not ended."""
        return tuple(self.loop.open_incidents)

    async def list(self, limit: int, *, open_only: bool) -> Sequence[Incident]:
        """Newest first; what is not stored yet included.  Raises StorageFailed only without any in memory."""
        found = {str(incident.id): incident for incident in self._recent.values()}
        try:
            stored = await self._store.list(limit, open_only=open_only)
        except StorageFailed:
            if not found:
                raise
            stored = ()
        for incident in stored:
            found.setdefault(str(incident.id), incident)
        kept = [incident for incident in found.values() if not open_only or incident.closed_at_unix_ms is None]
        return sorted(kept, key=lambda incident: incident.opened_at_unix_ms, reverse=True)[:limit]

    async def load(self, incident_id: str) -> Incident | None:
        """One incident, whole; None if unknown."""
        return self._recent.get(incident_id) or await self._store.load(incident_id)
