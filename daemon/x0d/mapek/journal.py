"""What the loop asks for, in order, and the instant of the event it answers.

Requests to perform and to read back come before records to save, and a record is given out once, as
it stands when the requests are taken.  A record can be held: a link's death is not saved before its
reroute is told of, so that no disk ever stands between a fault and its reroute.
"""

from dataclasses import dataclass

from x0d.mapek.case import Case
from x0d.mapek.events import Perform, Request, Save, Verify
from x0d.mapek.model import Incident, IncidentId


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant on both clocks."""

    now_ns: int
    """CLOCK_MONOTONIC."""
    unix_ms: int

    def wall_ms(self, at_ns: int) -> int:
        """Wall-clock milliseconds of an earlier monotonic instant."""
        return self.unix_ms - (self.now_ns - at_ns) // 1_000_000


class Journal:
    """Requests that were not taken yet."""

    def __init__(self) -> None:
        self._requests: list[Request] = []
        self._unsaved: dict[IncidentId, Incident] = {}

    def request(self, request: Perform | Verify) -> None:
        """Ask for something to be done."""
        self._requests.append(request)

    def write(self, case: Case, incident: Incident) -> None:
        """Replace the case's record; an unchanged one is not saved again."""
        if incident is case.incident:
            return
        case.incident = incident
        if case.held_until_ns is None:
            self._unsaved[incident.id] = incident

    def release(self, case: Case) -> None:
        """End the hold of a record and let it be saved."""
        if case.held_until_ns is not None:
            case.held_until_ns = None
            self._unsaved[case.incident.id] = case.incident

    def take(self) -> tuple[Request, ...]:
        """Hand out and forget what has gathered: performs and read-backs first, then records."""
        taken = (*self._requests, *(Save(incident) for incident in self._unsaved.values()))
        self._requests.clear()
        self._unsaved.clear()
        return taken
