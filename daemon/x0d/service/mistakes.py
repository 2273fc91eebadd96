"""Mistakes of configuration that only the mesh can see: a name or an address given twice, a neighbour named wrongly.

x0d cannot mend them; it says so, as alerts, until they have not been seen for a while.
"""

from collections.abc import Iterable, Mapping

from x0d.errors import WrongSender
from x0d.mesh.model import LinkStateRecord, Prefix
from x0d.mesh.node import LinkPort, LinkView
from x0d.ports import Clock
from x0d.service.alerts import Alerts

ADDRESS_ALERT = "duplicate_address"
NAME_ALERT = "duplicate_name"
NEIGHBOUR_ALERT = "neighbour_name"
UNHEARD_ALERT = "not_in_step"
DISPUTES_TOLERATED = 3  # within RECENT_NS; a restart with a clock that went back makes one
RECENT_NS = 30_000_000_000
UNHEARD_LOOKS = 5  # looks in a row, two seconds apart, that found a link out of step


class Mistakes:
    """Raises and clears the alerts."""

    def __init__(self, clock: Clock, alerts: Alerts) -> None:
        self._clock = clock
        self._alerts = alerts
        self._disputes: list[int] = []
        self._misnamed: dict[str, int] = {}
        self._unheard: dict[str, int] = {}

    def name_disputed(self) -> None:
        """Somebody floods newer records under our name; again and again it is a second node."""
        now_ns = self._clock.monotonic_ns()
        self._disputes = [at_ns for at_ns in self._disputes if now_ns - at_ns < RECENT_NS] + [now_ns]
        if len(self._disputes) >= DISPUTES_TOLERATED:
            text = "another node of the mesh has this node's name: give each node a name of its own"
            self._alerts.raise_alert(NAME_ALERT, text)

    def misnamed(self, port: LinkPort, wrong: WrongSender) -> None:
        """A neighbour calls itself by another name than the configuration gives it."""
        name = f"{NEIGHBOUR_ALERT} {port.interface} {port.neighbour_address}"
        self._misnamed[name] = self._clock.monotonic_ns()
        text = (
            f"it calls itself {wrong.sender}, [[mesh.neighbours]] here says {wrong.expected}: one of the two is wrong, "
            "and nothing is routed over the link until they agree"
        )
        self._alerts.raise_alert(name, text)

    def look_again(self, links: Mapping[LinkPort, LinkView]) -> None:
        """End what has not been seen for ``RECENT_NS``; look for neighbours that do not take us in.

        ``links``: this node's links, as the mesh sees them.  Called every two seconds.
        """
        before_ns = self._clock.monotonic_ns() - RECENT_NS
        if self._disputes and self._disputes[-1] < before_ns:
            self._disputes = []
            self._alerts.clear(NAME_ALERT)
        for name in [name for name, at_ns in self._misnamed.items() if at_ns < before_ns]:
            del self._misnamed[name]
            self._alerts.clear(name)
        unheard = {
            f"{UNHEARD_ALERT} {port.interface} {port.neighbour_address}": port.neighbour
            for port, view in links.items()
            if view.control_alive and not view.in_step
        }
        for name in self._unheard.keys() - unheard.keys():
            self._alerts.clear(name)
        self._unheard = {name: self._unheard.get(name, 0) + 1 for name in unheard}
        for name, looks in self._unheard.items():
            if looks >= UNHEARD_LOOKS:
                text = f"{unheard[name]} is heard and takes nothing from here: does it know this node by another name?"
                self._alerts.raise_alert(name, text)

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
