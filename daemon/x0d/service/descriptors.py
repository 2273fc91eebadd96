"""Signs this node's descriptor, and trades descriptors with the neighbours until both hold the same.

Signed at the start and once a day.  Traded with a neighbour after a key agreement, a moment after something new was
kept, and every ten minutes whatever happened.  A trade goes in rounds: we say which we hold, the neighbour gives those
that we lack and says which it lacks, and those go with our next question.  It ends when nothing moves any more; what is
left then, because a budget was spent, is tried again after a pause that doubles.

A descriptor tells nothing that this node acts on, so a neighbour that has none, or gives nonsense, is no problem of
the mesh's: it is counted, and tried again later.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from x0d.errors import Busy, IdentityRefused, InvalidInput, NoIdentity, PeerUnreachable, StorageFailed
from x0d.identity.budget import Budgets
from x0d.identity.descriptor import AHEAD_MS_MAX, Claim, Verdict, check_message
from x0d.identity.model import Proof
from x0d.identity.spiffe_id import SpiffeId
from x0d.mesh.model import Address, LinkKey
from x0d.ports import Clock, PeerChannel, PeerTarget
from x0d.service.alerts import Alerts
from x0d.service.descriptors_kept import STORE_ALERT, KeptDescriptors
from x0d.service.peers import PeerPlace
from x0d.service.views_identity import Descriptor

SIGN_EVERY_S: Final = 86_400.0
SIGN_RETRY_S: Final = 5.0
"""While there is no SVID to sign with, or the disk is full."""
SIGN_AGAIN_S: Final = 60.0
"""After a newer descriptor of our own ID came from elsewhere: of an earlier life whose state is lost, or of a thief."""
TRADE_EVERY_S: Final = 600.0
SPREAD_S: Final = 1.0
"""From something new to the trades: what comes in a burst goes on together."""
RETRY_S: Final = 10.0
"""After a trade that failed or left something; twice as long each time, up to TRADE_EVERY_S."""
JITTER: Final = 0.25
ROUNDS_MAX: Final = 80
"""Of one trade: 4,096 descriptors go in 64 messages."""
TRADES_MAX: Final = 4
"""At a time; the others wait for one to end."""
CALLS_PER_S, CALLS_BURST = 2.0, 80.0
"""Rounds that one node may ask of us."""


@dataclass(slots=True)
class _Trade:
    """What is planned with one neighbour."""

    due_s: float
    retry_s: float = RETRY_S
    turns: int = 0
    """Trades that failed: another link is tried each time."""
    is_running: bool = False

    def soon(self, at_s: float) -> None:
        self.due_s = min(self.due_s, at_s)


class DescriptorService:
    """Signs, trades, answers; ``service.api_peer.DescriptorExchange``."""

    def __init__(
        self,
        *,
        node: str,
        own_id: SpiffeId,
        address: Address,
        boot_id: int,
        kept: KeptDescriptors,
        channel: PeerChannel,
        targets: Callable[[], Sequence[PeerPlace]],
        clock: Clock,
        alerts: Alerts,
        rng: random.Random,
    ) -> None:
        """Prepare.

        Args:
            node: our name, as in the keys of links.
            own_id: our SPIFFE ID.
            address: our stable address.
            boot_id: random, not 0, of this life: that of the key agreements.
            kept: where descriptors are; ``start`` loads it.
            channel: to the neighbours' daemons.
            targets: where they are dialled, by link.
            clock: both kinds of time.
            alerts: where a full disk is told.
            rng: chance of the pauses.
        """
        self._node = node
        self._own_id = own_id
        self._address = address
        self._boot_id = boot_id
        self._kept = kept
        self._channel = channel
        self._targets = targets
        self._clock = clock
        self._alerts = alerts
        self._rng = rng
        self._sequence = 0
        self._sign_at_s = float("-inf")
        self._trades: dict[str, _Trade] = {}
        self._running = 0
        self._calls = Budgets(CALLS_PER_S, CALLS_BURST)
        self._wake = asyncio.Event()

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    async def start(self) -> None:
        """Read what an earlier life has kept.  Raises StorageFailed."""
        await self._kept.load()

    def rows(self) -> Sequence[Descriptor]:
        """What is kept, for people: ours first."""
        return self._kept.rows()

    # ---- signing ----

    async def _sign(self, now_s: float) -> None:
        """Sign and keep our descriptor of now; its instant rises from one to the next, whatever the clock does."""
        self._sign_at_s = now_s + SIGN_RETRY_S
        now_ms = self._clock.unix_ms()
        try:
            if self._kept.own is not None and self._kept.own.signed_at_unix_ms > now_ms + AHEAD_MS_MAX:
                await self._kept.forget_own()  # of a clock that was wrong: nobody else has taken it
            last_ms = self._kept.own.signed_at_unix_ms if self._kept.own else -1
            self._sequence += 1
            claim = Claim(
                self._own_id,
                self._address,
                self._kept.public_key,
                self._boot_id,
                self._sequence,
                max(now_ms, last_ms + 1),
            )
            if await self._kept.keep_own(claim):
                self._sign_at_s = now_s + SIGN_EVERY_S * self._rng.uniform(1 - JITTER / 2, 1)
                self._spread(self._own_id)
        except NoIdentity:
            pass  # identity's own alert says why there is none
        except StorageFailed as error:
            self._alerts.raise_alert(STORE_ALERT, f"descriptors of nodes could not be kept: {error}")

    # ---- trading ----

    def greet(self, link: LinkKey) -> None:
        """Trade with the neighbour on a link: it can be reached now."""
        node = link.node_b if link.node_a == self._node else link.node_a
        trade = self._trades.setdefault(node, _Trade(float("inf")))
        trade.retry_s = RETRY_S
        trade.soon(self._now_s() + SPREAD_S * self._rng.random())
        self._wake.set()

    def _spread(self, source: SpiffeId) -> None:
        """Trade soon with all neighbours but the one that something new came from, and those that do not answer."""
        due_s = self._now_s() + SPREAD_S * self._rng.uniform(1 - JITTER, 1)
        for place in self._targets():
            trade = self._trades.get(place.node)
            if trade is not None and place.target.spiffe_id != source and trade.retry_s == RETRY_S:
                trade.soon(due_s)
        self._wake.set()

    async def _take(self, descriptors: Sequence[bytes], source: SpiffeId) -> list[Verdict]:
        verdicts = [await self._kept.take(raw, source) for raw in descriptors]
        if Verdict.OK in verdicts:
            self._spread(source)
        own = self._kept.own
        if own is not None and own.boot_id != self._boot_id and self._sequence:
            self._sign_at_s = min(self._sign_at_s, self._now_s() + SIGN_AGAIN_S)
        return verdicts

    async def exchange(
        self, proof: Proof, held: Sequence[bytes], given: Sequence[bytes]
    ) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Answer one round of a neighbour's trade.

        Raises:
            InvalidInput: what is given breaks the bounds; nothing of it was looked at.
            Busy: too many rounds at once.
        """
        check_message(held, given)
        if not self._calls.take(proof.spiffe_id, self._now_s()):
            raise Busy(f"{proof.spiffe_id} has asked for many descriptors just now")
        await self._take(given, proof.spiffe_id)
        return self._kept.lacking(held), self._kept.wanted(held)

    async def _trade(self, trade: _Trade, target: PeerTarget) -> bool:
        """Go through the rounds; whether both sides have all now.  Raises as the channel does, and InvalidInput."""
        told: set[bytes] = set()
        given: list[bytes] = []
        for _ in range(ROUNDS_MAX):
            theirs, wanted, proof = await self._channel.exchange_descriptors(target, self._kept.held(), given)
            check_message(wanted, theirs)
            verdicts = await self._take(theirs, proof.spiffe_id)
            if Verdict.OK in verdicts or told.difference(wanted):
                trade.retry_s = RETRY_S  # something has moved
            if Verdict.BUDGET in verdicts or not told.isdisjoint(wanted):
                return False  # one of us cannot take more, or will not
            next_given = self._kept.of_hashes(wanted)
            if not next_given and Verdict.OK not in verdicts:
                return True
            told.update(next_given)
            given = list(next_given.values())
        return False

    async def _run_trade(self, trade: _Trade, targets: Sequence[PeerTarget]) -> None:
        try:
            is_settled = await self._trade(trade, targets[trade.turns % len(targets)])
        except (PeerUnreachable, IdentityRefused, NoIdentity, InvalidInput):
            is_settled = False  # who cannot be reached, and why, is told by the key agreements
            trade.turns += 1
        finally:
            trade.is_running = False
            self._running -= 1
            self._wake.set()
        pause_s = TRADE_EVERY_S if is_settled else trade.retry_s
        trade.retry_s = RETRY_S if is_settled else min(2 * trade.retry_s, TRADE_EVERY_S)
        trade.soon(self._now_s() + pause_s * self._rng.uniform(1 - JITTER, 1 + JITTER))

    # ---- the pace ----

    async def run(self) -> None:
        """Sign and trade when it is due."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                now_s = self._now_s()
                if now_s >= self._sign_at_s:
                    await self._sign(now_s)
                wake_s = min(self._sign_at_s, self._begin_due(group, now_s))
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.001, wake_s - now_s)):
                        await self._wake.wait()

    def _begin_due(self, group: asyncio.TaskGroup, now_s: float) -> float:
        """Begin the trades that are due; when the next one will be, unless something wakes us before."""
        targets: dict[str, list[PeerTarget]] = {}
        for place in self._targets():
            targets.setdefault(place.node, []).append(place.target)
        self._trades = {
            node: self._trades.get(node) or _Trade(now_s + TRADE_EVERY_S * self._rng.random()) for node in targets
        }
        next_s = now_s + TRADE_EVERY_S
        for node, trade in self._trades.items():
            if trade.is_running or (trade.due_s <= now_s and self._running >= TRADES_MAX):
                continue
            if trade.due_s > now_s:
                next_s = min(next_s, trade.due_s)
                continue
            trade.due_s, trade.is_running = float("inf"), True
            self._running += 1
            group.create_task(self._run_trade(trade, targets[node]), name=f"descriptors with {node}")
        return next_s
