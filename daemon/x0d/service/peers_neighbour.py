"""What is known of one neighbour's daemon, and when it is dialled for a new key.

Pure: time and chance are arguments.  A key is *wanted* when there is none that may be used, when our SVID was renewed,
when the key has grown old or has sealed much, or when a neighbour that should be heard is silent.  Who wants one dials
at once; a failure puts the next try off by 0.2 s, then twice as long each time up to 5 s, each with some chance.  A
*hint*, such as a datagram under a boot id that is not known, HELLOs that stay away, or a call of a node that is no
neighbour of ours, cuts that short, but to one dial a second at most, whoever sends them, and to none while the
neighbour is heard, so that strangers cost nothing then.  An agreement answers every
hint that came before it; one that the neighbour has dialled for ends our own wish for a key only once something is
heard, since its answer may have been lost.
"""

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from x0d.errors import IdentityRefused, RefusedByPeer
from x0d.identity.agreement import PeerKey
from x0d.identity.budget import Budget
from x0d.identity.model import Proof, Reason
from x0d.identity.seal import KEYS_MAX
from x0d.identity.spiffe_id import SpiffeId
from x0d.mesh.model import LinkKey
from x0d.service.sealed import SealedLink

RETRY_S, RETRY_MAX_S = 0.2, 5.0
JITTER: Final = 0.25
"""Of every pause: so much shorter or longer, by chance, so that two ends do not dial in step for ever."""
HINT_PAUSE_S: Final = 1.0
"""Between two dials, however many hints come; and since the neighbour was heard: while it is, they are strangers'."""
KEY_LIFE_S: Final = 3600.0
"""At most; at one end it ends earlier than at the other, by chance, so that one of them dials."""
KEY_DATAGRAMS_MAX: Final = 2**40
SILENT_S, SILENT_MAX_S = 3.0, 60.0
"""Without a word under the key for this long a new one is agreed on; twice as long each time that it changes nothing.

Such a neighbour has another key, or none, and cannot dial us; or it has nothing to say."""
PROOFS_HELD: Final = 2 * KEYS_MAX
"""Certificates that are looked at again: those under all keys that a seal may still hold."""
ANSWERS_PER_S, ANSWERS_BURST = 5.0, 20.0
"""Agreements that one neighbour may ask for."""

AUTHENTICATED, WAITING, REFUSED = "authenticated", "waiting", "refused"
OURS: Final = frozenset({Reason.NO_OWN_SVID, Reason.OWN_SVID_EXPIRED, Reason.TIMEOUT, Reason.FOREIGN_PROCESS})
"""Reasons why a dial failed that say nothing of the neighbour's identity."""
PASSING: Final = frozenset({Reason.EXPIRED, Reason.NOT_YET_VALID})
"""Reasons that a look at the clock gives, and the next look may take back."""


@dataclass(frozen=True, slots=True)
class Held:
    """A key that the seals may hold, and what its peer had proved."""

    key: PeerKey
    proof: Proof


@dataclass(slots=True)
class Neighbour:
    """One node that this one has links to."""

    node: str
    spiffe_id: SpiffeId
    rng: random.Random
    links: dict[LinkKey, SealedLink] = field(default_factory=dict)
    held: deque[Held] = field(default_factory=lambda: deque(maxlen=PROOFS_HELD))
    """Oldest first; empty: no key."""
    boot_id: int = 0
    """Of the life that the keys were agreed with; 0: none."""
    suspended: str = ""
    """Why the keys are not used for now; empty: they are."""
    agreed_at_s: float = float("-inf")
    heard_at_s: float = float("-inf")
    """Last datagram that was opened."""
    refusal: IdentityRefused | None = None
    """Why whoever answers is not taken for the neighbour; None: nobody was refused since the last agreement."""
    denial: RefusedByPeer | None = None
    """Why the neighbour, who is the one meant, does not take us; None: it has not said so since the last agreement."""
    failure: str = ""
    """Why the last dial brought no key; empty: it did, or there was none."""
    failures: int = 0
    """Dials in a row that brought no key."""
    told: tuple[str, ...] = ()
    """What was logged last."""
    shown: str = ""
    """What its links show as wrong with it."""
    is_dialling: bool = False
    answers: Budget = field(default_factory=lambda: Budget(ANSWERS_PER_S, ANSWERS_BURST))
    _wanted: bool = True
    _hinted: bool = False
    _dialled_at_s: float = float("-inf")
    _retry_at_s: float = float("-inf")
    _silent_s: float = SILENT_S
    _answered: bool = False
    """The last key was agreed on by the neighbour's dial, and nothing was heard since: it may lack it."""
    _renew_at_s: float = float("inf")
    _turns: int = 0

    @property
    def usable(self) -> bool:
        """Whether datagrams pass."""
        return bool(self.held) and not self.suspended

    @property
    def state(self) -> str:
        """``authenticated``, ``waiting`` or ``refused``."""
        if self.usable:
            return AUTHENTICATED
        return REFUSED if self.refusal is not None or self.suspended else WAITING

    @property
    def reason(self) -> str:
        """Why there is no key, or none newer; empty when all is well."""
        if self.refusal is not None:
            return f"{self.refusal.reason}: {self.refusal}"
        return self.suspended or self.failure

    # ---- when to dial ----

    def want(self) -> None:
        """Agree on a new key as soon as the back-off allows."""
        self._wanted = True

    def hint(self) -> bool:
        """Agree on a new key a second after the last dial and the last word; False: that was so already."""
        is_news, self._hinted = not self._hinted, True
        return is_news

    def link_put(self) -> None:
        """A link without a key has come."""
        self._wanted = True
        self._retry_at_s = float("-inf")

    def due_s(self) -> float:
        """When to dial; infinity: not before something happens."""
        if self.is_dialling or not self.links:
            return float("inf")
        last_s = max(self._dialled_at_s, self.agreed_at_s, self.heard_at_s)
        hint_s = last_s + HINT_PAUSE_S if self._hinted else float("inf")
        if self._wanted or not self.usable:
            return min(hint_s, self._retry_at_s)
        silent_s = max(self.agreed_at_s, self.heard_at_s) + self._silent_s
        return min(hint_s, silent_s, self._renew_at_s)

    def dial(self, now_s: float) -> SealedLink:
        """Begin to dial; the link whose address is tried, another one after each failure."""
        assert self.links
        assert not self.is_dialling
        self.is_dialling = True
        self._dialled_at_s = now_s
        if self.usable and not self._wanted and not self._hinted and now_s < self._renew_at_s:
            self._silent_s = min(2 * self._silent_s, SILENT_MAX_S)
        self._hinted, self._wanted = False, True
        return list(self.links.values())[self._turns % len(self.links)]

    # ---- what came of it ----

    def failed(self, now_s: float, error: Exception) -> None:
        """A dial has brought no key."""
        self._turns += 1
        self.failures += 1
        pause_s = min(RETRY_S * 2 ** min(self.failures - 1, 10), RETRY_MAX_S)
        self._retry_at_s = now_s + pause_s * self.rng.uniform(1 - JITTER, 1 + JITTER)
        known = self.refusal.reason if self.refusal else ""
        if isinstance(error, IdentityRefused) and error.reason not in {*OURS, known}:
            self.judged(error)  # of one reason the first text stays: with a time in it each try would be news
        if isinstance(error, RefusedByPeer):
            self.refusal, self.denial = None, error  # we have taken it for who it is before it was asked
        self.failure = str(error)

    def agreed(self, now_s: float, boot_id: int, key: PeerKey, proof: Proof, *, initiated: bool) -> None:
        """Take a key on all links."""
        if boot_id != self.boot_id:
            self.held.clear()  # the seals have forgotten them too
        self.boot_id = boot_id
        self.held.append(Held(key, proof))
        self.agreed_at_s = now_s
        self._renew_at_s = now_s + KEY_LIFE_S * self.rng.uniform(1 - JITTER, 1)
        self.suspend("")
        self.refusal = self.denial = None
        self._hinted = False
        self._answered = not initiated
        if initiated:
            self._settle()
        for link in self.links.values():
            link.install(self.spiffe_id, boot_id, key, initiated=initiated)

    def heard(self, now_s: float) -> None:
        """A datagram was opened."""
        self.heard_at_s = now_s
        self._silent_s = SILENT_S
        if self._answered:
            self._answered = False
            self._settle()

    def _settle(self) -> None:
        """The neighbour is known to have the key."""
        self.failure, self.failures = "", 0
        self._wanted = False
        self._retry_at_s = float("-inf")

    def drop(self) -> None:
        """Forget every key, and want another."""
        self.held.clear()
        self.boot_id = 0
        self.suspend("")
        self.want()
        for link in self.links.values():
            link.drop()

    def judged(self, refusal: IdentityRefused) -> None:
        """Take whoever answers, or what the neighbour has proved, for somebody who is not trusted."""
        self.refusal, self.denial = refusal, None

    def suspend(self, reason: str) -> None:
        """Use no key until told otherwise; an empty reason: use them again."""
        self.suspended = reason
        for link in self.links.values():
            link.suspended = bool(reason)
