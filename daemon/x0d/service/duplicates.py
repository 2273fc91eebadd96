"""Two nodes with one name or one stable address: mistakes of configuration that only the mesh can see.

Both draw each other's traffic and outbid each other's records.  x0d cannot mend them; it says so, as an alert.
"""

from collections.abc import Iterable

from x0d.mesh.model import LinkStateRecord, Prefix
from x0d.ports import Clock
from x0d.service.alerts import Alerts

ADDRESS_ALERT = "duplicate_address"
NAME_ALERT = "duplicate_name"
DISPUTES_TOLERATED = 3  # within DISPUTE_NS; a restart with a clock that went back makes one
DISPUTE_NS = 30_000_000_000


class Duplicates:
    """Raises and clears the two alerts."""

    def __init__(self, clock: Clock, alerts: Alerts) -> None:
        self._clock = clock
        self._alerts = alerts
        self._disputes: list[int] = []

    def name_disputed(self) -> None:
        """Somebody floods newer records under our name; again and again it is a second node."""
        now_ns = self._clock.monotonic_ns()
        self._disputes = [at_ns for at_ns in self._disputes if now_ns - at_ns < DISPUTE_NS] + [now_ns]
        if len(self._disputes) >= DISPUTES_TOLERATED:
            text = "another node of the mesh has this node's name: give each node a name of its own"
            self._alerts.raise_alert(NAME_ALERT, text)

    def look_at_names(self) -> None:
        """End the alert once nobody has disputed our name for ``DISPUTE_NS``."""
        if self._disputes and self._clock.monotonic_ns() - self._disputes[-1] > DISPUTE_NS:
            self._disputes = []
            self._alerts.clear(NAME_ALERT)

    def look_at_addresses(self, records: Iterable[LinkStateRecord]) -> None:
        """Compare the stable addresses, which are what a node announces first."""
        owners: dict[Prefix, list[str]] = {}
        for record in records:
            for prefix in record.prefixes[:1]:
                owners.setdefault(prefix, []).append(record.origin)
        twice = [f"{' and '.join(sorted(names))} both have {prefix}" for prefix, names in owners.items() if names[1:]]
        if twice:
            self._alerts.raise_alert(ADDRESS_ALERT, f"{'; '.join(sorted(twice))}: give each node an address of its own")
        else:
            self._alerts.clear(ADDRESS_ALERT)
