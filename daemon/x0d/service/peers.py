"""The neighbours' daemons: who they are, and the keys that the mesh's datagrams are sealed with.

One key a neighbour, agreed over mTLS between the two daemons and taken by all links that lead to it.  Either end may
dial, both may at once: every agreement leaves both with the same key, and a seal opens under the newest few of them.
The channel goes to the neighbour's address on the link, out of that link's interface: no route is needed, and the mesh
that makes the routes can rest on it.

What a neighbour has proved is kept with its key and looked at again at every change of the trust bundles and once a
second: who is not trusted any more has no key from then on; who has expired is not listened to while that is so.
A datagram without a valid MAC is counted, and at most a hint to dial (``peers_neighbour`` says when that is done).
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from x0d.errors import (
    Busy,
    DatagramRefused,
    IdentityRefused,
    InvalidInput,
    NoIdentity,
    NotThere,
    PeerUnreachable,
)
from x0d.identity.agreement import agree
from x0d.identity.model import Proof, Reason
from x0d.identity.spiffe_id import SpiffeId, node_id
from x0d.mesh.model import LinkKey
from x0d.mesh.node import LinkPort
from x0d.ports import Clock, DatagramSocket, KeyOffer, PeerChannel, PeerTarget, SvidSource
from x0d.service.alerts import Alerts
from x0d.service.peers_neighbour import KEY_DATAGRAMS_MAX, PASSING, Neighbour
from x0d.service.peers_told import PeerNews, PeerRow, problem_of, row_of, row_without_link
from x0d.service.sealed import HINTS, SealedLink

LOOK_S = 1.0
"""Between two looks at what neighbours have proved, and at our own SVID."""
NO_KEY = "no key agreed on yet"
NO_SVID = "this node has no valid SVID that it could show: x0ctl identity show"
DIALS_MAX = 32
"""At a time; the others wait for one to end, which takes a few milliseconds or the channel's deadline."""


@dataclass(frozen=True, slots=True)
class PeerPlace:
    """Where a neighbour is dialled on one link, for those who want to try it."""

    node: str
    interface: str
    target: PeerTarget


class PeerService:
    """Keeps a key with every neighbour, and seals what goes to it."""

    def __init__(
        self,
        *,
        own_id: SpiffeId,
        boot_id: int,
        peer_port: int,
        source: SvidSource,
        channel: PeerChannel,
        clock: Clock,
        alerts: Alerts,
        rng: random.Random,
        nonce: Callable[[], bytes],
    ) -> None:
        """``boot_id``: random, not 0, of this life; ``nonce``: gives 32 bytes that nobody can foresee, each time."""
        self._own_id = own_id
        self._boot_id = boot_id
        self._peer_port = peer_port
        self._source = source
        self._channel = channel
        self._clock = clock
        self._alerts = alerts
        self._rng = rng
        self._nonce = nonce
        self._neighbours: dict[str, Neighbour] = {}
        self._by_link: dict[LinkKey, Neighbour] = {}
        self._serial = ""
        self._look_at_s = float("-inf")
        self._may_dial = False
        self._dials = 0
        self._wake = asyncio.Event()
        source.subscribe(self._source_changed)

    def connect(
        self,
        *,
        greet: Callable[[LinkKey], None],
        on_problem: Callable[[str, str], None],
        unlinked: Callable[[], Iterable[tuple[str, str]]] = tuple,
    ) -> None:
        """Join what is built later; before the first link is put.

        Args:
            greet: bring the neighbour on a link up to date: it can be reached now.
            on_problem: told of a node what keeps it from being authenticated; empty: nothing any more.
            unlinked: nodes that are configured as neighbours where there is no link for now, and why.
        """
        self._greet = greet
        self._unlinked = unlinked
        self._news = PeerNews(self._alerts, on_problem)

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    # ---- links ----

    def put_link(self, port: LinkPort, socket: DatagramSocket) -> SealedLink:
        """Take up a link; what is sent through the answer is sealed."""
        link = SealedLink(port, socket, self._own_id, self._boot_id)
        neighbour = self._neighbours.get(port.neighbour)
        if neighbour is None:
            spiffe_id = node_id(self._own_id.trust_domain, port.neighbour)
            neighbour = self._neighbours[port.neighbour] = Neighbour(port.neighbour, spiffe_id, self._rng)
        link.suspended = bool(neighbour.suspended)
        self._by_link[port.key] = neighbour
        neighbour.links[port.key] = link
        neighbour.link_put()
        self._news.show(neighbour)
        self._wake.set()
        return link

    def remove_link(self, key: LinkKey) -> None:
        """Forget a link, and with its last link the neighbour; nothing happens if it is not there."""
        neighbour = self._by_link.pop(key, None)
        if neighbour is None:
            return
        del neighbour.links[key]
        if not neighbour.links:
            del self._neighbours[neighbour.node]
            self._news.forget(neighbour)

    def open(self, key: LinkKey, datagram: bytes) -> bytes:
        """Give the payload of a datagram that came in on a link.

        Raises:
            DatagramRefused: it is not the neighbour's, or not new; a dial may follow.
            InvalidInput: no link of ours.
        """
        neighbour = self._by_link.get(key)
        if neighbour is None:
            raise InvalidInput(f"mesh datagram on the unknown link {key}")
        try:
            payload = neighbour.links[key].open(datagram)
        except DatagramRefused as refusal:
            if refusal.reason in HINTS and neighbour.hint():
                self._wake.set()
            raise
        neighbour.heard(self._now_s())
        return payload

    def silent(self, key: LinkKey) -> None:
        """Ask a neighbour at once that is not heard any more: it may have lost our key, or know us no more."""
        neighbour = self._by_link.get(key)
        if neighbour is not None and neighbour.hint():
            self._wake.set()

    # ---- agreements ----

    def answer(self, proof: Proof | None, offer: KeyOffer) -> KeyOffer:
        """Answer a neighbour that wants a key: our half; its links use the key once it has shown to have it.

        Args:
            proof: what the caller has shown to the gate; None: nothing.
            offer: its half.

        Raises:
            NotThere: no neighbour of this node's calls.
            InvalidInput: a half that nobody may give.
            Busy: too many at once, or the link to it is not there for now.
            IdentityRefused: the caller's certificate does not hold any more.
        """
        neighbour = next((n for n in self._neighbours.values() if proof and n.spiffe_id == proof.spiffe_id), None)
        if neighbour is None or proof is None:
            who = proof.spiffe_id if proof else "the caller"
            for node, reason in self._unlinked():
                if who == node_id(self._own_id.trust_domain, node):
                    raise Busy(f"{self._own_id} has no link to {who} for now: {reason}")
            for each in self._neighbours.values():
                each.hint()  # one of them may call itself otherwise now
            self._wake.set()
            raise NotThere(f"{who} is no neighbour of {self._own_id}: name it in [[mesh.neighbours]] there")
        if not neighbour.answers.take(self._now_s()):
            raise Busy(f"{neighbour.spiffe_id} has asked for many keys just now")
        self._source.judge(proof)
        half = KeyOffer(self._boot_id, self._nonce())
        self._take(neighbour, half, offer, proof, initiated=False)
        return half

    async def _dial(self, neighbour: Neighbour, link: SealedLink) -> None:
        half = KeyOffer(self._boot_id, self._nonce())
        try:
            theirs, proof = await self._channel.agree(self._target(neighbour, link), half)
            if self._neighbours.get(neighbour.node) is neighbour:  # else its last link has gone meanwhile
                self._check(neighbour, proof)
                self._take(neighbour, half, theirs, proof, initiated=True)
        except (IdentityRefused, PeerUnreachable, NoIdentity, InvalidInput) as error:
            neighbour.failed(self._now_s(), error)
            if self._neighbours.get(neighbour.node) is neighbour:
                self._news.tell(neighbour)
        finally:
            neighbour.is_dialling = False
            self._dials -= 1
            self._wake.set()

    def _target(self, neighbour: Neighbour, link: SealedLink) -> PeerTarget:
        port = link.port
        return PeerTarget(neighbour.spiffe_id, port.neighbour_address, port.interface, self._peer_port)

    def _check(self, neighbour: Neighbour, proof: Proof) -> None:
        """Look again: bundles may have changed since the handshake.  Raises IdentityRefused."""
        if proof.spiffe_id != neighbour.spiffe_id:
            raise IdentityRefused(Reason.WRONG_ID, f"{proof.spiffe_id} answers in the place of {neighbour.spiffe_id}")
        self._source.judge(proof)

    def _take(self, neighbour: Neighbour, own: KeyOffer, theirs: KeyOffer, proof: Proof, *, initiated: bool) -> None:
        key = agree(self._own_id, (own.boot_id, own.nonce), neighbour.spiffe_id, (theirs.boot_id, theirs.nonce))
        neighbour.agreed(self._now_s(), theirs.boot_id, key, proof, initiated=initiated)
        self._news.tell(neighbour)
        self._wake.set()
        if initiated:  # the other end has the key already; who answers must not speak before the answer arrives
            for link in tuple(neighbour.links):
                self._greet(link)

    # ---- looking again ----

    def _source_changed(self) -> None:
        self._look_at_s = float("-inf")
        for neighbour in self._neighbours.values():
            if not neighbour.usable:
                neighbour.hint()  # what was refused may be trusted now
        self._wake.set()

    def _look(self, now_s: float) -> None:
        """Judge our own SVID and every neighbour's proof, as of now."""
        self._look_at_s = now_s + LOOK_S
        status = self._source.status()
        self._may_dial = bool(status.spiffe_id) and self._clock.unix_ms() / 1e3 < status.not_after_unix_s
        if status.serial and status.serial != self._serial:
            for neighbour in self._neighbours.values() if self._serial else ():
                neighbour.want()  # under the new certificate, so that the old one's end ends nothing
            self._serial = status.serial
        for neighbour in tuple(self._neighbours.values()):
            self._judge(neighbour)
            if any(link.sent >= KEY_DATAGRAMS_MAX for link in neighbour.links.values()):
                neighbour.want()

    def _judge(self, neighbour: Neighbour) -> None:
        """Hold what a neighbour has proved against the bundles and the clock of now."""
        passing = ""
        for held in tuple(neighbour.held):
            try:
                self._source.judge(held.proof)
            except IdentityRefused as refusal:
                if refusal.reason not in PASSING:
                    self._news.dropped(neighbour, refusal.reason)
                    neighbour.drop()
                    neighbour.judged(refusal)
                    break
                if held is neighbour.held[-1]:  # that of an earlier key has been replaced in time
                    passing = f"{refusal.reason}: {refusal}"
        if bool(passing) != bool(neighbour.suspended):
            neighbour.suspend(passing)
            for link in () if passing else tuple(neighbour.links):
                self._greet(link)
        self._news.tell(neighbour)

    # ---- the pace ----

    async def run(self) -> None:
        """Dial who is due, and look at everybody once a second."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                now_s = self._now_s()
                if now_s >= self._look_at_s:
                    self._look(now_s)
                wake_s = self._look_at_s
                for neighbour in self._neighbours.values() if self._may_dial else ():
                    due_s = neighbour.due_s()
                    if due_s <= now_s and self._dials < DIALS_MAX:
                        self._dials += 1
                        link = neighbour.dial(now_s)
                        group.create_task(self._dial(neighbour, link), name=f"agree with {neighbour.node}")
                    elif due_s > now_s:
                        wake_s = min(wake_s, due_s)
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.001, wake_s - now_s)):
                        await self._wake.wait()

    # ---- out ----

    def targets(self) -> Sequence[PeerPlace]:
        """Where every neighbour is dialled, by link."""
        return [
            PeerPlace(neighbour.node, link.port.interface, self._target(neighbour, link))
            for neighbour in self._neighbours.values()
            for link in neighbour.links.values()
        ]

    def rows(self) -> Sequence[PeerRow]:
        """What is known of the neighbours, by link."""
        now = (self._now_s(), self._clock.unix_ms() / 1e3)
        own = "" if self._may_dial else NO_SVID
        return [
            *(row_of(neighbour, link, now, own) for link, neighbour in self._by_link.items()),
            *(
                row_without_link(node, node_id(self._own_id.trust_domain, node), reason)
                for node, reason in self._unlinked()
            ),
        ]

    def lacks_key(self, node: str) -> str:
        """Why there is no key to use with a neighbour; empty: there is one."""
        neighbour = self._neighbours.get(node)
        if neighbour is None:
            return NO_KEY
        if neighbour.usable:
            return ""
        return problem_of(neighbour) or (NO_KEY if self._may_dial else NO_SVID)

    def authenticated(self) -> Mapping[str, int]:
        """Neighbours with a usable key, by key exchange group."""
        return Counter(n.held[-1].proof.group for n in self._neighbours.values() if n.usable)
