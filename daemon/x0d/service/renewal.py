"""A joined node's certificate: asked for anew at half of its life, again and again until the issuer answers.

Half of what was before it when it was made, that is: certificates begin some time before their making.  From then to
the end the issuer may be away without harm; ``outage_hurts_unix_s`` says when that ends.  Each answer brings the
cluster's roots along, which is how a new root reaches this node long before anything is signed by it.

What is said of failures is judged at each tick, by the clock of that instant, also while an answer is awaited: a wall
clock that jumps and comes back leaves neither an alert nor an old failure behind.
"""

import asyncio
import random
from datetime import UTC, datetime
from typing import Final

import structlog

from x0d import telemetry
from x0d.errors import IdentityRefused, InvalidInput, PeerUnreachable, StorageFailed
from x0d.identity.lifetime import look, renewal_at
from x0d.ports import Clock
from x0d.ports.issuer import HeldIdentity, RenewalChannel
from x0d.service.alerts import Alerts

TICK_S: Final = 0.5
"""The wall clock is looked at so often: it may be set at any time."""
BACKOFF_S_MIN: Final = 1.0
BACKOFF_S_MAX: Final = 60.0
BACKOFF_LIFE_MAX: Final = 0.02
"""Of the certificate's life: a short one is tried for more often."""
ALERT: Final = "svid_renewal"

log = structlog.get_logger()


class Renewal:
    """Keeps one joined identity fresh."""

    def __init__(
        self, identity: HeldIdentity, channel: RenewalChannel, clock: Clock, rng: random.Random, alerts: Alerts
    ) -> None:
        self._identity = identity
        self._channel = channel
        self._clock = clock
        self._rng = rng
        self._alerts = alerts
        self._chance = rng.random()
        self._failures = 0
        self._retry_at_ns = 0
        self.last_error = ""
        """Why the last attempt failed; empty when it did not."""

    @property
    def endpoint(self) -> str:
        """Where renewals go."""
        return self._identity.renewal_endpoint

    @property
    def due_unix_s(self) -> float:
        """When the certificate is asked for anew."""
        identity = self._identity
        return renewal_at(identity.issued_unix_s, identity.not_after_unix_s, self._chance)

    @property
    def outage_hurts_unix_s(self) -> float:
        """From when on the issuer's absence hurts: this node's certificate has expired then."""
        return self._identity.not_after_unix_s

    async def run(self) -> None:
        """Renew for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._renew_when_due(), name="renewals")
            tasks.create_task(self._look(), name="look at renewals")

    async def _renew_when_due(self) -> None:
        while True:
            if self._is_due() and self._clock.monotonic_ns() >= self._retry_at_ns:
                await self.renew()
            await asyncio.sleep(TICK_S)

    async def _look(self) -> None:
        while True:
            self._judge()
            await asyncio.sleep(TICK_S)

    def _is_due(self) -> bool:
        return self._clock.unix_ms() / 1e3 >= self.due_unix_s

    def _judge(self) -> None:
        """Bring what is said in step with this instant."""
        if not self._is_due():
            self._failures, self._retry_at_ns, self.last_error = 0, 0, ""
        end_unix_s = self.outage_hurts_unix_s
        seen = look(self._identity.not_before_unix_s, end_unix_s, self._clock.unix_ms() / 1e3)
        if not (self.last_error and seen.late):
            self._alerts.clear(ALERT)
            return
        end = datetime.fromtimestamp(end_unix_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        hint = f"its certificate expires at {end}" if seen.usable else f"it has expired at {end}: join again"
        self._alerts.raise_alert(ALERT, f"the issuer at {self.endpoint} does not renew this node, {hint}")

    async def renew(self) -> bool:
        """Try once, now; whether there is a new certificate."""
        try:
            grant = await self._channel.renew(self._identity.request())
            await asyncio.to_thread(self._identity.accept, grant)
        except (PeerUnreachable, IdentityRefused, InvalidInput, StorageFailed) as error:
            self._note_failure(str(error))
            return False
        self._failures, self._retry_at_ns, self.last_error = 0, 0, ""
        self._chance = self._rng.random()
        self._judge()
        self._identity.announce()
        log.info(telemetry.SVID_RENEWED, not_after_unix_s=self._identity.not_after_unix_s)
        return True

    def _note_failure(self, error: str) -> None:
        self._failures += 1
        life_s = self._identity.not_after_unix_s - self._identity.not_before_unix_s
        longest_s = max(BACKOFF_S_MIN, min(BACKOFF_S_MAX, life_s * BACKOFF_LIFE_MAX))
        wait_s = min(longest_s, BACKOFF_S_MIN * 2.0 ** min(self._failures - 1, 10)) * self._rng.uniform(0.75, 1.25)
        self._retry_at_ns = self._clock.monotonic_ns() + round(wait_s * 1e9)
        if error != self.last_error:
            log.warning(telemetry.SVID_RENEWAL_FAILED, error=error, endpoint=self.endpoint)
        self.last_error = error
