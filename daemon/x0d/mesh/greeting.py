"""HELLOs to the neighbours: when one leaves, and how long silence is nothing.

A HELLO leaves every ``hello_interval_s`` (less up to a tenth, by chance, so that neighbours do not fall
into step), and at once where something waits for it: a link that came up, a database that caught up, a
neighbour that asks.  Never two within 5 ms on one link.
"""

import random

from x0d.mesh.adjacency import Detected, LinkFacts
from x0d.mesh.codec import Hello, encode
from x0d.mesh.events import MeshTimers
from x0d.mesh.exchange import Exchange

HELLO_GAP_S = 0.005
JITTER = 0.1


class Greeting:
    """Sends this node's HELLOs."""

    def __init__(self, name: str, timers: MeshTimers, exchange: Exchange, rng: random.Random) -> None:
        self._name = name
        self._timers = timers
        self._exchange = exchange
        self._rng = rng

    def greet(self, now_s: float, facts: LinkFacts, incarnation: int, *, solicit: bool) -> None:
        """Send a HELLO, or put it off where one has just left; none where the link is not up."""
        if facts.detected is not Detected.UP:
            return
        if now_s - facts.hello_sent_s < HELLO_GAP_S:
            facts.hello_due_s = min(facts.hello_due_s, facts.hello_sent_s + HELLO_GAP_S)
            facts.solicit_next = facts.solicit_next or solicit
            return
        facts.hello_sent_s = now_s
        facts.hello_due_s = now_s + self._timers.hello_interval_s * (1 - JITTER * self._rng.random())
        facts.solicit_next = False
        database = self._exchange.database
        hello = Hello(
            self._name, incarnation, facts.heard_incarnation, database.digest, database.current_count, solicit
        )
        self._exchange.send(facts.port.key, encode(hello))

    def deadline_s(self, facts: LinkFacts, awake_at_s: float) -> float:
        """When the neighbour's silence means something (more); we listen since ``awake_at_s``."""
        if facts.gone_since_s is not None:
            return float("inf") if facts.stale else facts.gone_since_s + self._timers.stale_max_s
        heard_at_s = facts.up_at_s if facts.heard_at_s is None else facts.heard_at_s
        return max(heard_at_s, facts.up_at_s, awake_at_s) + self._timers.silence_s
