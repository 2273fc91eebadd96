"""``x0ctl identity check``: what identity rests on, really tried, with what to do about each shortfall.

The Workload API is asked anew, and every neighbour's daemon is dialled and asked whether it lets us in, all at
once; what has not answered within ``CHECK_S`` has failed.  Without a valid SVID of our own nobody is dialled: then that
is what is wrong, and it is said first.  Nothing is changed: no key is agreed, nothing that was
learned is kept.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from ipaddress import ip_address
from typing import Any, Final

from x0d.errors import IdentityRefused, NoIdentity, PeerUnreachable, RefusedByPeer
from x0d.identity.lifetime import Validity
from x0d.identity.model import Proof
from x0d.ports import Clock, PeerChannel, PeerTarget
from x0d.ports.issuer import HeldIdentity, IssuerView
from x0d.service.identity import IdentityFacts, IdentityService, instant
from x0d.service.peers import PeerPlace
from x0d.service.peers_told import REMEDIES
from x0d.service.views_identity import IdentityCheck

CHECK_S: Final = 7.0
"""For all of it: more than a dial may take, less than x0ctl waits."""
DIALS_MAX: Final = 16
"""At a time."""
CLOCK_SET_S: Final = 2.0
"""The wall clock was set by more than this since the start: worth a word."""
CLOCK_SANE_UNIX_S: Final = 1_600_000_000
"""September 2020, before x0d was made: a clock that was never set says less."""

NOT_TRIED: Final = "not tried: no valid SVID"
OK, WARNING, FAILED = "ok", "warning", "failed"
_TO_ISSUER: Final = "renewal"


class IdentityChecks:
    """Tries what identity rests on."""

    def __init__(
        self,
        *,
        facts: Callable[[], IdentityFacts],
        service: IdentityService,
        clock: Clock,
        ask: Callable[[], Awaitable[object]],
        places: Callable[[], Sequence[PeerPlace]],
        channel: PeerChannel,
        issuer: IssuerView | None,
        held: HeldIdentity | None,
    ) -> None:
        """``ask``: ask the Workload API once, as any workload does (NoIdentity); ``places``: where to dial whom."""
        self._facts = facts
        self._service = service
        self._clock = clock
        self._ask = ask
        self._places = places
        self._channel = channel
        self._issuer = issuer
        self._held = held
        self._began_unix_s = clock.unix_ms() / 1e3
        self._began_ns = clock.monotonic_ns()

    async def run(self) -> tuple[IdentityCheck, ...]:
        """Try everything at once; at most ``CHECK_S``.  What ails our own SVID is said first."""
        places = list(self._places())
        proofs: list[Proof] = []
        room = asyncio.Semaphore(DIALS_MAX)
        trials: list[tuple[str, Coroutine[Any, Any, IdentityCheck]]] = [("workload_api", self._try_workload_api())]
        to_issuer = self._issuer_target()
        if to_issuer is not None:
            trials.append((_TO_ISSUER, self._try_peer(_TO_ISSUER, to_issuer, room, [])))
        for place in places:
            name = f"peer {place.node} on {place.interface}"
            trials.append((name, self._try_peer(name, place.target, room, proofs)))
        _, seen = self._service.judge()
        tried = trials if seen.usable else trials[:1]
        workload, *dialled = await _all(tried)
        for name, dial in trials[len(tried) :]:
            dial.close()
            dialled.append(IdentityCheck(name, WARNING, NOT_TRIED, "the line svid says what to do first"))
        return (
            self._svid(),
            workload,
            self._clock_check(),
            self._post_quantum(proofs),
            *self._issuing(),
            *dialled,
            *self._not_tried({(place.node, place.interface) for place in places}),
        )

    # ---- tried ----

    async def _try_workload_api(self) -> IdentityCheck:
        facts = self._facts()
        try:
            await self._ask()
        except NoIdentity as error:
            _, seen = self._service.judge()
            remedy = facts.remedy_of_workload_api if seen.usable else facts.remedy_of_none
            return IdentityCheck("workload_api", FAILED, str(error), remedy)
        return IdentityCheck("workload_api", OK, f"{facts.workload_socket} answers")

    async def _try_peer(
        self, name: str, target: PeerTarget, room: asyncio.Semaphore, proofs: list[Proof]
    ) -> IdentityCheck:
        where = f"port {target.port} of {target.address}"
        try:
            async with room:
                proof = await self._channel.probe(target)
        except IdentityRefused as error:
            remedy = REMEDIES.get(error.reason, "x0ctl identity check on that node says how it sees this one")
            return IdentityCheck(name, FAILED, f"refused ({error.reason}): {error}", remedy)
        except NoIdentity as error:
            return IdentityCheck(name, FAILED, f"not dialled: {error}", self._facts().remedy_of_none)
        except RefusedByPeer as error:
            remedy = "its journalctl -u x0d says why: look there at its roots, [[identity.bindings]] and require_pq"
            return IdentityCheck(name, FAILED, str(error), remedy)
        except PeerUnreachable as error:
            remedy = f"does x0d run on {target.spiffe_id}, and does a firewall let TCP through to {where}?"
            return IdentityCheck(name, FAILED, str(error), remedy)
        proofs.append(proof)
        until = instant(proof.not_after_unix_s)
        return IdentityCheck(name, OK, f"{proof.spiffe_id}, {proof.tls_version}, {proof.group}, valid until {until}")

    # ---- looked at ----

    def _svid(self) -> IdentityCheck:
        status, seen = self._service.judge()
        remedy, remedy_of_none = self._facts().remedy, self._facts().remedy_of_none
        if seen.validity is Validity.MISSING:
            return IdentityCheck("svid", FAILED, f"none: {status.last_error or 'none has come'}", remedy_of_none)
        life = (
            f"{status.spiffe_id}, valid from {instant(status.not_before_unix_s)} to {instant(status.not_after_unix_s)}"
        )
        if seen.validity is Validity.NOT_YET_VALID:
            remedy = f"is the clock right? If it is: {remedy_of_none}"
            return IdentityCheck("svid", FAILED, f"not valid yet: {life}", remedy)
        if seen.validity is Validity.EXPIRED:
            return IdentityCheck("svid", FAILED, f"expired: {life}", remedy_of_none)
        if seen.late:
            return IdentityCheck("svid", WARNING, f"not renewed in time: {life}", remedy)
        return IdentityCheck("svid", OK, life)

    def _clock_check(self) -> IdentityCheck:
        """Compare the wall clock with what does not depend on it, and with the roots, which outlast every clock."""
        remedy = "set the clock, and keep it right: systemctl status systemd-timesyncd, or chrony"
        now_unix_s = self._clock.unix_ms() / 1e3
        said = instant(now_unix_s)
        if now_unix_s < CLOCK_SANE_UNIX_S:
            return IdentityCheck("clock", FAILED, f"{said} is before this x0d was made", remedy)
        status, _ = self._service.judge()
        own = [bundle for bundle in status.bundles if bundle.own and bundle.authorities]
        if own and now_unix_s >= max(bundle.not_after_unix_s for bundle in own):
            detail = f"{said} is after the end of every root of {own[0].trust_domain}"
            return IdentityCheck("clock", FAILED, detail, remedy)
        passed_s = (self._clock.monotonic_ns() - self._began_ns) / 1e9
        set_by_s = now_unix_s - self._began_unix_s - passed_s
        if abs(set_by_s) > CLOCK_SET_S:
            detail = f"{said}; it was set by {set_by_s:+.1f} s since x0d started"
            return IdentityCheck("clock", WARNING, detail, f"nothing if that was wanted; else {remedy}")
        return IdentityCheck("clock", OK, said)

    def _post_quantum(self, proofs: Sequence[Proof]) -> IdentityCheck:
        classical = sorted({str(proof.spiffe_id) for proof in proofs if not proof.is_post_quantum})
        required = "required" if self._facts().require_pq else "not required"
        if classical:
            detail = f"{required}; classical key exchange with {', '.join(classical)}"
            return IdentityCheck("post_quantum", WARNING, detail, "update what runs there")
        groups = ", ".join(sorted({proof.group for proof in proofs})) or "no neighbour has answered"
        return IdentityCheck("post_quantum", OK, f"{required}; {groups}")

    def _issuing(self) -> Iterable[IdentityCheck]:
        if self._issuer is None:
            return
        now = self._issuer.status()
        status, _ = self._service.judge()
        ends = instant(now.root_not_after_unix_s)
        if now.root_not_after_unix_s < status.not_after_unix_s:
            remedy = "the root should have been replaced: journalctl -u x0d says what failed"
            yield IdentityCheck("issuer", WARNING, f"its root ends at {ends}, before what it has signed", remedy)
        else:
            yield IdentityCheck("issuer", OK, f"root {now.root_sha256[:16]}..., valid until {ends}")

    def _issuer_target(self) -> PeerTarget | None:
        """Where a joined node renews; None where that is no address, or none of ours."""
        if self._held is None:
            return None
        host, _, port = self._held.renewal_endpoint.rpartition(":")
        bare, _, zone = host.strip("[]").partition("%")
        try:
            return PeerTarget(self._held.issuer_id, ip_address(bare), zone, int(port))
        except ValueError:
            return None

    def _not_tried(self, dialled: set[tuple[str, str]]) -> Iterable[IdentityCheck]:
        for node, interface in self._facts().neighbours:
            if (node, interface) not in dialled:
                detail = "not tried: the link is not there"
                yield IdentityCheck(f"peer {node} on {interface}", WARNING, detail, "x0ctl link list says why")


async def _all(trials: Sequence[tuple[str, Coroutine[Any, Any, IdentityCheck]]]) -> list[IdentityCheck]:
    """Run all, in order of ``trials``; those not done in time have failed."""
    tasks = [(name, asyncio.create_task(trial, name=name)) for name, trial in trials]
    try:
        await asyncio.wait([task for _, task in tasks], timeout=CHECK_S)
        return [task.result() if task.done() else _late(name) for name, task in tasks]
    finally:
        unfinished = [task for _, task in tasks if not task.done()]
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)


def _late(name: str) -> IdentityCheck:
    return IdentityCheck(
        name, FAILED, f"no answer within {CHECK_S:g} s", "is it reachable? x0ctl link list shows links"
    )
