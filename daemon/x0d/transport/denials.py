"""Refusals of callers: counted by reason, logged without a flood, told to whoever raises alerts.

The caller learns nothing of this: over TCP it gets one sentence for everybody who proves nothing, and one for everybody
who may not call.  A hostile client can be refused a thousand times a second, so of each reason one line a second is
written, with the number of those that were left out.
"""

import time
from collections.abc import Callable
from typing import Final

import structlog

from x0d import telemetry
from x0d.errors import IdentityRefused
from x0d.identity.model import Reason

LOG_INTERVAL_S: Final = 1.0
"""Between two lines of one reason."""

log = structlog.get_logger()


class Denials:
    """Where one server's refusals go."""

    def __init__(
        self,
        server: str,
        counted: telemetry.Telemetry | None = None,
        on_refusal: Callable[[str, str], None] | None = None,
    ) -> None:
        """``server`` names it in the log; ``on_refusal`` gets reason and detail of each refusal over TLS."""
        self._server = server
        self._counted = counted
        self._on_refusal = on_refusal
        if counted is not None:
            for reason in Reason:  # every series from the start: one that appears with its first event hides it
                counted.tls_failures.labels("server", reason.value)
        self._logged_at: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def tell(self, refused: IdentityRefused, who: str, method: str) -> None:
        """A call was refused; ``who`` is an ID, a uid, or the address of somebody who has proved nothing."""
        if self._counted is not None:
            self._counted.tls_failures.labels("server", refused.reason).inc()
        if self._on_refusal is not None:
            self._on_refusal(refused.reason, str(refused))
        now_s = time.monotonic()
        if now_s - self._logged_at.get(refused.reason, -LOG_INTERVAL_S) < LOG_INTERVAL_S:
            self._left_out[refused.reason] = self._left_out.get(refused.reason, 0) + 1
            return
        self._logged_at[refused.reason] = now_s
        log.warning(
            telemetry.CALL_DENIED,
            server=self._server,
            reason=refused.reason,
            detail=str(refused),
            who=who,
            method=method[:200],
            left_out=self._left_out.pop(refused.reason, 0),
        )
