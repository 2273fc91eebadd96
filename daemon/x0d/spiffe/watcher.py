"""Our identity over time: the Workload API's stream, its updates judged, the last good one kept.

A bad update changes nothing: it is counted by its reason, shown, and the stream stays open.  A stream that ends is
opened again after a jittered pause, from 0.1 to 5 s, for ever: the agent may be away for as long as our SVID lasts.
Time latches nothing: an update refused for the clock's sake alone is looked at again each second, and whether our own
SVID or a peer's is in force is asked anew at each use, with the clock of that instant.

Subscribers are called by the event loop, one by one: what one of them raises is the loop's to report and ends neither
the watcher nor the others' turn.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import structlog

from x0d import telemetry
from x0d.errors import IdentityRefused, InvalidInput, NoIdentity
from x0d.identity.model import Proof, Reason
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.ports.identity import SvidStatus, TrustBundle
from x0d.spiffe.agent_socket import prove_socket
from x0d.spiffe.snapshot import Snapshot
from x0d.spiffe.stream import workload_stream
from x0d.spiffe.validation import Accepted, Expectation, Flaw, is_untimely, validate
from x0d.spiffe.workload_api import SvidUpdate

BACK_OFF_MIN_S: Final = 0.1
BACK_OFF_MAX_S: Final = 5.0
FIRST_ANSWER_S: Final = 30.0
"""An agent that takes a call and says nothing is asked anew after this."""
LOOK_AGAIN_S: Final = 1.0

log = structlog.get_logger(__name__)


class Watcher:
    """Keeps the newest good ``Snapshot``; a ``ports.SvidSource`` and a ``SnapshotSource``."""

    def __init__(
        self,
        *,
        socket: Path,
        own_id: SpiffeId | None,
        trust_domain: TrustDomain | None,
        federation: frozenset[TrustDomain],
        dev_allowed: bool,
        owner_uid: int | None,
        unix_s: Callable[[], float],
        monotonic_ns: Callable[[], int],
        rng: random.Random,
    ) -> None:
        """Describe where our identity comes from.

        Args:
            socket: the Workload API's.
            own_id: the SVID to take; None: the first.
            trust_domain: of our own SVID; None: whichever.
            federation: foreign trust domains whose bundles are used.
            dev_allowed: whether development's trust domains are accepted, as ours and as peers'.
            owner_uid: who runs the agent, beside root, which is then proved before each dial; None: not asked.
            unix_s: the wall clock.
            monotonic_ns: for the instant of ``SvidStatus.connected_changed_at_ns``.
            rng: spreads the pauses.
        """
        self._socket = socket
        self._expected = Expectation(own_id, trust_domain, federation, dev_allowed)
        self._owner_uid = owner_uid
        self._unix_s = unix_s
        self._monotonic_ns = monotonic_ns
        self._rng = rng
        self._current: Snapshot | None = None
        self._taken = b""
        """The message that ``current`` came from: the same again is no work."""
        self._untimely: bytes | None = None
        """The newest message, if only the clock speaks against it."""
        self._subscribers: list[Callable[[], None]] = []
        self._connected = False
        self._answers = 0
        """Messages of the present stream."""
        self._connected_changed_at_ns = monotonic_ns()
        self._updates = 0
        self._bundle_generation = 0
        self._rejected: Counter[str] = Counter({str(flaw): 0 for flaw in Flaw})
        self._connection_error = "the Workload API has not answered yet"
        self._update_error = ""

    @property
    def current(self) -> Snapshot | None:
        """The newest good snapshot, whether or not its SVID is still in force; None before the first."""
        return self._current

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Call back on the event loop after each update that was taken."""
        self._subscribers.append(on_change)

    def judge(self, proof: Proof) -> None:
        """Look again at what a peer has shown, with the bundles of now and the clock of now.

        Raises:
            IdentityRefused: it would not be accepted any more; ``no_own_svid`` while there are no bundles at all.
        """
        if self._current is None:
            raise IdentityRefused(Reason.NO_OWN_SVID, "there is no bundle yet to judge a peer with")
        domain = proof.spiffe_id.trust_domain
        if domain.is_dev and not self._expected.dev_allowed:
            raise IdentityRefused(Reason.DEV_IDENTITY, f"trust domain {domain} is for development")
        bundles = self._current.bundles
        verified = bundles.verify(proof.leaf_pem, proof.chain_pem, proof.usage, self._unix_s())
        if verified.spiffe_id != proof.spiffe_id:
            raise IdentityRefused(Reason.WRONG_ID, f"the certificate of {proof.spiffe_id} is {verified.spiffe_id}'s")

    def status(self) -> SvidStatus:
        """Answer from memory."""
        now = self._current
        return SvidStatus(
            spiffe_id=str(now.svid.spiffe_id) if now else "",
            serial=now.svid.serial if now else "",
            not_before_unix_s=now.svid.not_before_unix_s if now else 0.0,
            not_after_unix_s=now.svid.not_after_unix_s if now else 0.0,
            generation=self._bundle_generation,
            connected=self._connected,
            connected_changed_at_ns=self._connected_changed_at_ns,
            updates=self._updates,
            rejected=dict(self._rejected),
            last_error=self._connection_error or self._update_error,
            bundles=_bundles_of(now) if now else (),
        )

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(), name="workload API")
            tasks.create_task(self._look_again(), name="untimely SVID")

    async def _watch(self) -> None:
        pauses_s = back_off(self._rng)
        while True:
            self._answers = 0
            try:
                await self._read_stream()
            except NoIdentity as failure:
                self._lost(str(failure))
            except TimeoutError:
                self._lost(f"the Workload API at {self._socket} has not answered within {FIRST_ANSWER_S:g} s")
            if self._answers:
                pauses_s = back_off(self._rng)
            await asyncio.sleep(next(pauses_s))

    async def _read_stream(self) -> None:
        """Read until the stream ends, which is always an error."""
        path = self._socket if self._owner_uid is None else prove_socket(self._socket, self._owner_uid)
        async with asyncio.timeout(FIRST_ANSWER_S) as deadline, workload_stream(path) as read:
            while True:
                data = await read()
                deadline.reschedule(None)
                self._answers += 1
                self._answered()
                self._take(data)

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            if self._untimely is not None:
                self._take(self._untimely)

    def _answered(self) -> None:
        self._connection_error = ""
        if not self._connected:
            self._connected = True
            self._connected_changed_at_ns = self._monotonic_ns()
            log.info(telemetry.WORKLOAD_API_BACK, socket=str(self._socket))

    def _lost(self, detail: str) -> None:
        if self._connected:
            self._connected = False
            self._connected_changed_at_ns = self._monotonic_ns()
        if detail != self._connection_error:
            self._connection_error = detail
            log.warning(telemetry.WORKLOAD_API_LOST, socket=str(self._socket), reason=detail)

    def _take(self, data: bytes) -> None:
        """Take an update, or keep what we have."""
        if data == self._taken:
            self._untimely, self._update_error = None, ""
            return
        try:
            accepted = validate(SvidUpdate.decode(data), self._expected, self._unix_s())
        except InvalidInput as failure:
            self._reject(data, Reason.MALFORMED, str(failure))
        except IdentityRefused as refusal:
            self._reject(data, refusal.reason, str(refusal))
        else:
            self._taken, self._untimely, self._update_error = data, None, ""
            self._swap(accepted)

    def _reject(self, data: bytes, reason: str, detail: str) -> None:
        seen_before = data == self._untimely
        self._untimely = data if is_untimely(reason) else None
        self._update_error = f"the last update was refused: {detail}"
        if not seen_before:
            self._rejected[str(reason)] += 1
            log.error(telemetry.SVID_UPDATE_REJECTED, reason=str(reason), detail=detail)

    def _swap(self, accepted: Accepted) -> None:
        last = self._current
        bundles = accepted.bundles
        if last is not None and last.bundles == bundles:
            bundles = last.bundles  # with the verdicts that it has cached
            if last.svid == accepted.svid:
                return
        else:
            self._bundle_generation += 1
        self._updates += 1
        self._current = Snapshot(last.generation + 1 if last else 1, accepted.svid, bundles)
        log.info(
            telemetry.SVID_UPDATED,
            spiffe_id=str(accepted.svid.spiffe_id),
            serial=accepted.svid.serial,
            ttl_s=round(accepted.svid.not_after_unix_s - self._unix_s()),
            generation=self._bundle_generation,
            trust_domains=[str(domain) for domain in sorted(bundles.trust_domains)],
        )
        loop = asyncio.get_running_loop()
        for on_change in self._subscribers:
            loop.call_soon(on_change)


def back_off(rng: random.Random) -> Iterator[float]:
    """Yield pauses in seconds, without end: doubled each time up to the longest, each cut by up to a half by chance."""
    pause_s = BACK_OFF_MIN_S
    while True:
        yield pause_s * rng.uniform(0.5, 1.0)
        pause_s = min(2 * pause_s, BACK_OFF_MAX_S)


def _bundles_of(snapshot: Snapshot) -> tuple[TrustBundle, ...]:
    bundles = snapshot.bundles
    return tuple(
        TrustBundle(
            trust_domain=domain.name,
            own=domain == snapshot.svid.spiffe_id.trust_domain,
            authorities=len(bundles.authorities(domain)),
            not_after_unix_s=bundles.not_after_unix_s(domain),
        )
        for domain in sorted(bundles.trust_domains)
    )
