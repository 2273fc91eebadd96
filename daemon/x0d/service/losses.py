"""How many packets this node sent into a fault.

Each tick remembers the kernel's transmit counters and what x0d itself has sent; the loss of a fault is
the difference between the moment the routes moved and the last sign that the link worked, less x0d's
own datagrams.
"""

from collections import deque
from collections.abc import Mapping

HISTORY_TICKS_MAX = 400  # 20 s at 50 ms; an older fault is counted from the oldest tick


class SentHistory:
    """Transmit counters over the last ticks."""

    def __init__(self) -> None:
        self._ticks: deque[tuple[int, Mapping[str, int], Mapping[str, int]]] = deque(maxlen=HISTORY_TICKS_MAX)

    def remember(self, now_ns: int, sent: Mapping[str, int], own: Mapping[str, int]) -> None:
        """Note the counters of all interfaces and x0d's own share."""
        self._ticks.append((now_ns, sent, dict(own)))

    def sent_since(self, interface: str, since_ns: int, sent: Mapping[str, int], own: Mapping[str, int]) -> int:
        """Packets of others that left by the interface since an instant; ``sent`` and ``own`` are now's."""
        base = next((tick for tick in reversed(self._ticks) if tick[0] <= since_ns), None)
        base = base or (self._ticks[0] if self._ticks else None)
        if base is None or interface not in base[1] or interface not in sent:
            return 0
        total = sent[interface] - base[1][interface]
        return max(0, total - (own.get(interface, 0) - base[2].get(interface, 0)))
