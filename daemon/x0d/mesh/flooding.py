"""Reliable flooding: which record is still owed to which neighbour, and when it is sent again.

A record that is owed goes out at once, then again after 50 ms, 100, 200 ... up to 1 s, until the neighbour
acknowledges it (or a newer one), shows that it has it, or the link is closed.  A newer record takes the
older one's place, so what is owed is bounded by the nodes known, not by time.  At most 64 records
leave on a link at a time; the rest follows 5 ms later.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from x0d.mesh.model import LinkKey

RECORDS_PER_TURN_MAX = 64
TURN_S = 0.005


@dataclass(slots=True)
class Owed:
    """One record owed to one neighbour."""

    number: tuple[int, int]
    due_s: float
    wait_s: float


class Flooding:
    """What is owed, by link and origin."""

    def __init__(self, wait_s: float, wait_max_s: float) -> None:
        """``wait_s``: before the first repetition; it doubles up to ``wait_max_s``."""
        self._wait_s = wait_s
        self._wait_max_s = wait_max_s
        self._links: dict[LinkKey, dict[str, Owed]] = {}
        self._turn_at_s: dict[LinkKey, float] = {}

    def open(self, key: LinkKey) -> None:
        """Flood on this link from now on."""
        self._links.setdefault(key, {})

    def close(self, key: LinkKey) -> None:
        """Owe this neighbour nothing any more."""
        self._links.pop(key, None)
        self._turn_at_s.pop(key, None)

    def opened(self, key: LinkKey) -> bool:
        """Whether the link is flooded on."""
        return key in self._links

    def owes(self, key: LinkKey) -> bool:
        """Whether something is owed to the neighbour."""
        return bool(self._links.get(key))

    def owe(self, now_s: float, key: LinkKey, origin: str, number: tuple[int, int]) -> None:
        """Owe a record to one neighbour; nothing happens where the link is not open."""
        if key in self._links:
            self._links[key][origin] = Owed(number, now_s, self._wait_s)

    def flood(self, now_s: float, origin: str, number: tuple[int, int], *, but: LinkKey | None) -> None:
        """Owe a record to all neighbours but one."""
        for key in self._links:
            if key != but:
                self.owe(now_s, key, origin, number)

    def has(self, key: LinkKey, origin: str, number: tuple[int, int]) -> bool:
        """Note that the neighbour has this record; True when with it nothing is owed any more."""
        owed = self._links.get(key, {})
        if origin in owed and owed[origin].number <= number:
            del owed[origin]
            return not owed
        return False

    def hasten(self, now_s: float, key: LinkKey) -> None:
        """Let all that is owed on a link be due now, and wait as briefly as at first."""
        for item in self._links.get(key, {}).values():
            item.due_s, item.wait_s = now_s, self._wait_s

    def forget(self, origins: Iterable[str]) -> None:
        """Owe nobody the records of these origins."""
        for origin in origins:
            for owed in self._links.values():
                owed.pop(origin, None)

    def due(self, now_s: float) -> list[tuple[LinkKey, str]]:
        """Records to send now, each link within its turn; they are owed again after their wait."""
        out: list[tuple[LinkKey, str]] = []
        for key, owed in self._links.items():
            if now_s < self._turn_at_s.get(key, now_s):
                continue
            sent = 0
            for origin, item in owed.items():
                if item.due_s > now_s:
                    continue
                if sent == RECORDS_PER_TURN_MAX:
                    self._turn_at_s[key] = now_s + TURN_S
                    break
                item.due_s = now_s + item.wait_s
                item.wait_s = min(2 * item.wait_s, self._wait_max_s)
                out.append((key, origin))
                sent += 1
        return out

    @property
    def next_due_s(self) -> float | None:
        """When ``due`` has something next; None: nothing is owed."""
        dues = [
            max(min(item.due_s for item in owed.values()), self._turn_at_s.get(key, 0.0))
            for key, owed in self._links.items()
            if owed
        ]
        return min(dues, default=None)
