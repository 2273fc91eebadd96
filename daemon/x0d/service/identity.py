"""Our own identity, looked at once a second: does it hold, is it renewed in time, does the Workload API answer.

While there is no SVID that may be shown, health says NOT_SERVING and alerts say why and what to do.  Each look judges
by the clock of that instant alone (``identity.lifetime``): a wall clock that jumps and comes back changes the answer
for one look.  Renewing is the issuer's or the SPIRE agent's work; to notice that it is not done is ours.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from x0d.identity.lifetime import Look, Validity, look
from x0d.identity.model import Reason
from x0d.identity.roles import Binding
from x0d.identity.spiffe_id import SpiffeId
from x0d.ports import Clock, SvidSource, SvidStatus
from x0d.service.alerts import Alerts

LOOK_S: Final = 1.0
MISSING_GRACE_S: Final = 10.0
"""After the start: an agent or issuer that starts with us is no alert."""
WORKLOAD_LOST_S: Final = 120.0
"""Without the Workload API, before that is an alert: what we have goes on, and an agent may restart."""
CLASSICAL_S: Final = 600.0
"""How long the refusal of a classical peer stays an alert after the last one."""

MISSING_ALERT, EXPIRED_ALERT, EARLY_ALERT = "svid_missing", "svid_expired", "svid_not_yet_valid"
NOT_RENEWED_ALERT = "svid_not_renewed"
WORKLOAD_ALERT, REJECTED_ALERT, CLASSICAL_ALERT = "workload_api", "svid_update_rejected", "not_post_quantum"


CHECK_TRIES: Final = "x0ctl identity check tries what it rests on"


@dataclass(frozen=True, slots=True)
class IdentityFacts:
    """What the configuration says of identity."""

    own_id: SpiffeId
    source: str
    """``issuer``, ``joined`` or ``spire``."""
    workload_socket: str
    require_pq: bool
    bindings: tuple[Binding, ...]
    """Every role, built-in ones first."""
    neighbours: tuple[tuple[str, str], ...]
    """Configured ones: node and interface."""

    @property
    def remedy(self) -> str:
        """Where to look when an SVID that holds is not renewed."""
        return {
            "issuer": "this node issues them itself: journalctl -u x0d says what failed",
            "joined": "is the node with identity.issuer = true up and reachable?",
            "spire": f"does SPIRE's agent serve {self.workload_socket}, and has it an entry for {self.own_id}?",
        }[self.source]

    @property
    def remedy_of_none(self) -> str:
        """What brings a valid SVID where there is none; one that holds is what a joined node renews with."""
        if self.source != "joined":
            return self.remedy
        return (
            "only a valid identity is renewed, so this node joins again: "
            f"x0ctl identity token --for {self.own_id} on the issuer, x0d --join TOKEN here while x0d is stopped"
        )

    @property
    def remedy_of_workload_api(self) -> str:
        """Where to look when the Workload API does not answer."""
        if self.source == "spire":
            return self.remedy
        return "x0d serves it itself on this node: journalctl -u x0d says what failed"


class IdentityService:
    """Keeps health and alerts in step with our own SVID."""

    def __init__(
        self,
        *,
        facts: Callable[[], IdentityFacts],
        source: SvidSource,
        clock: Clock,
        alerts: Alerts,
        set_serving: Callable[[bool], None],
    ) -> None:
        """``facts`` is asked at each look: a reload changes them; ``set_serving`` is told what health is to say."""
        self._facts = facts
        self._source = source
        self._clock = clock
        self._alerts = alerts
        self._set_serving = set_serving
        self._started_ns = clock.monotonic_ns()
        self._serving: bool | None = None
        self._rejected = 0
        self._updates = 0
        self._classical_at_ns: int | None = None
        source.subscribe(self.look)

    def judge(self) -> tuple[SvidStatus, Look]:
        """Our SVID, and what it is good for now."""
        status = self._source.status()
        return status, look(status.not_before_unix_s, status.not_after_unix_s, self._clock.unix_ms() / 1e3)

    def look(self) -> None:
        """Bring health and alerts in step with this instant."""
        status, seen = self.judge()
        if seen.usable is not self._serving:
            self._serving = seen.usable
            self._set_serving(seen.usable)
        self._look_at_svid(status, seen)
        self._look_at_workload_api(status)
        self._look_at_updates(status)
        classical_ns = self._classical_at_ns
        if classical_ns is not None and self._clock.monotonic_ns() - classical_ns > CLASSICAL_S * 1e9:
            self._classical_at_ns = None
            self._alerts.clear(CLASSICAL_ALERT)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def refused(self, reason: str, detail: str) -> None:
        """Note a refusal by one of our servers or connectors; a classical key exchange is worth an alert."""
        if reason != Reason.NOT_POST_QUANTUM:
            return
        if self._classical_at_ns is None:
            text = f"refused, for its key exchange is not post-quantum: {detail}; update what runs there"
            self._alerts.raise_alert(CLASSICAL_ALERT, f"{text}, or set identity.require_pq = false")
        self._classical_at_ns = self._clock.monotonic_ns()

    def _look_at_svid(self, status: SvidStatus, seen: Look) -> None:
        facts = self._facts()
        waiting = (self._clock.monotonic_ns() - self._started_ns) / 1e9 < MISSING_GRACE_S
        ends = instant(status.not_after_unix_s)
        begins, none = instant(status.not_before_unix_s), facts.remedy_of_none
        came = status.last_error or "none has come"
        late = f"less than a third of this node's identity is left, it ends at {ends} and was not renewed"
        texts = {
            MISSING_ALERT: (
                seen.validity is Validity.MISSING and not waiting,
                f"this node has no identity; no neighbour is dialled: {came}; {none}",
            ),
            EXPIRED_ALERT: (
                seen.validity is Validity.EXPIRED,
                f"this node's identity was valid until {ends}; {none}",
            ),
            EARLY_ALERT: (
                seen.validity is Validity.NOT_YET_VALID,
                f"this node's identity is valid from {begins} on: is the clock right? If it is: {none}",
            ),
            NOT_RENEWED_ALERT: (
                seen.usable and seen.late,
                f"{late}; {facts.remedy}; {CHECK_TRIES}",
            ),
        }
        for name, (holds, text) in texts.items():
            self._tell(name, text if holds else "")

    def _look_at_workload_api(self, status: SvidStatus) -> None:
        gone_s = (self._clock.monotonic_ns() - status.connected_changed_at_ns) / 1e9
        lost = not status.connected and gone_s > WORKLOAD_LOST_S
        facts = self._facts()
        said = f"{facts.workload_socket} has not answered for two minutes: {status.last_error}; "
        said += facts.remedy_of_workload_api
        self._tell(WORKLOAD_ALERT, said if lost else "")

    def _look_at_updates(self, status: SvidStatus) -> None:
        """A refused update leaves the last good one in force; the next good one ends the alert."""
        rejected = sum(status.rejected.values())
        if rejected > self._rejected:
            text = f"an update of the Workload API was refused, what was before holds: {status.last_error}"
            self._tell(REJECTED_ALERT, f"{text}; {CHECK_TRIES}")
        elif status.updates > self._updates:
            self._tell(REJECTED_ALERT, "")
        self._rejected, self._updates = rejected, status.updates

    def _tell(self, name: str, text: str) -> None:
        if text:
            self._alerts.raise_alert(name, text)
        else:
            self._alerts.clear(name)


def instant(unix_s: float) -> str:
    """UTC to the second, such as ``2026-11-21 19:20:48Z``; what no calendar holds is given as its number."""
    try:
        return datetime.fromtimestamp(unix_s, tz=UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{unix_s:.0f} s after 1970"
