"""The descriptors that this node keeps, and the way that others' take to get there.

What is cheap to find out is found out first: size and structure, whose it is, whether it is new, whether its instant
can be.  Only then it costs something: a verification from the budget of whoever gave it, and one from that of all
sources together.  Most of one core-second buys 1,000 verifications, so 50 a second bound what strangers can cost.

The newest of each node is what is passed on.  Earlier ones, for third parties, are on the disk, and in memory as many
as go into one answer to people.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from x0d import telemetry
from x0d.errors import IdentityRefused, InvalidInput, StorageFailed
from x0d.identity.budget import Budget, Budgets
from x0d.identity.descriptor import (
    HELD_MAX,
    KEPT_PER_NODE,
    Claim,
    SignedDescriptor,
    Verdict,
    batch_of,
    check_order,
    check_time,
)
from x0d.identity.spiffe_id import SpiffeId
from x0d.ports import Clock
from x0d.ports.descriptors import DescriptorSigner, DescriptorStore, KeptDescriptor
from x0d.service.alerts import Alerts
from x0d.service.views_identity import Descriptor

ALL_PER_S, ALL_BURST = 50.0, 200.0
"""Verifications, whoever gave them."""
SOURCE_PER_S, SOURCE_BURST = 5.0, 50.0
"""Verifications of what one node gave us."""
TOLD_PER_S, TOLD_BURST = 0.1, 10.0
"""Refusals that are logged; all are counted."""
LISTED_BYTES_MAX: Final = 12 * 1_024 * 1_024
"""Of the descriptors in one answer to people, which may have 16 MiB."""
STORE_ALERT: Final = "descriptors_not_stored"
_ORDINARY: Final = frozenset({Verdict.KNOWN, Verdict.STALE, Verdict.BUDGET, Verdict.NO_BUNDLE})
"""Refusals that come of nodes being out of step."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Held:
    claim: Claim
    kept: KeptDescriptor


class KeptDescriptors:
    """Takes descriptors, keeps the good ones, and finds those that others lack."""

    def __init__(
        self,
        *,
        own_id: SpiffeId,
        is_node: Callable[[SpiffeId], bool],
        signer: DescriptorSigner,
        store: DescriptorStore,
        clock: Clock,
        counted: telemetry.Telemetry,
        alerts: Alerts,
        nodes_max: int = HELD_MAX,
    ) -> None:
        """``is_node``: whether an ID is one that daemons have; ``nodes_max``: beyond, the oldest gives way."""
        self._own_id = own_id
        self._is_node = is_node
        self._signer = signer
        self._store = store
        self._clock = clock
        self._counted = counted.descriptors_verified
        self._alerts = alerts
        self._nodes_max = nodes_max
        self._newest: dict[SpiffeId, _Held] = {}
        self._earlier: list[_Held] = []  # the newest first
        self._all = Budget(ALL_PER_S, ALL_BURST)
        self._sources = Budgets(SOURCE_PER_S, SOURCE_BURST)
        self._told = Budget(TOLD_PER_S, TOLD_BURST)
        self._one = asyncio.Lock()  # so that what was checked still holds when it is kept
        for verdict in Verdict:
            self._counted.labels(verdict.value)

    async def load(self) -> None:
        """Read what an earlier life has kept; those of another trust domain stay on the disk.  Raises StorageFailed."""
        for held in map(_held, await self._store.newest()):
            if held.claim.spiffe_id.trust_domain == self._own_id.trust_domain and len(self._newest) < self._nodes_max:
                self._newest[held.claim.spiffe_id] = held
        latest = map(_held, await self._store.latest(LISTED_BYTES_MAX))
        self._earlier = [held for held in latest if self._is_earlier(held)]

    def _is_earlier(self, held: _Held) -> bool:
        newest = self._newest.get(held.claim.spiffe_id)
        return newest is not None and newest.kept.digest != held.kept.digest

    # ---- taking ----

    async def take(self, raw: bytes, source: SpiffeId) -> Verdict:
        """Keep what another node gave, if it is good and new."""
        async with self._one:
            try:
                verdict = await self._take(raw, source)
            except InvalidInput as error:
                verdict = self._refused(Verdict.MALFORMED, source, str(error))
            except IdentityRefused as refusal:
                verdict = self._refused(Verdict(refusal.reason), source, str(refusal))
        self._counted.labels(verdict.value).inc()
        return verdict

    async def _take(self, raw: bytes, source: SpiffeId) -> Verdict:
        descriptor = SignedDescriptor.decode(raw)
        claim = descriptor.claim
        if claim.spiffe_id.trust_domain != self._own_id.trust_domain or not self._is_node(claim.spiffe_id):
            raise IdentityRefused(Verdict.FOREIGN, f"{claim.spiffe_id} is no node of {self._own_id.trust_domain}")
        held = self._newest.get(claim.spiffe_id)
        if held is not None and held.kept.digest == descriptor.digest:
            return Verdict.KNOWN
        check_time(claim, self._clock.unix_ms())
        check_order(claim, held.claim if held else None)
        now_s = self._clock.monotonic_ns() / 1e9
        if not self._sources.take(source, now_s) or not self._all.take(now_s):
            raise IdentityRefused(Verdict.BUDGET, "too many to verify")
        given_up = self._given_up_for(claim)
        await self._signer.verify(descriptor)
        return await self._keep(descriptor, source, given_up)

    def _given_up_for(self, claim: Claim) -> SpiffeId | None:
        """Choose whose descriptors make room for a new node's; None: there is room."""
        if claim.spiffe_id in self._newest or len(self._newest) < self._nodes_max:
            return None
        others = (newest.claim for spiffe_id, newest in self._newest.items() if spiffe_id != self._own_id)
        oldest = min(others, key=lambda other: other.signed_at_unix_ms, default=claim)
        if oldest.signed_at_unix_ms >= claim.signed_at_unix_ms:
            raise IdentityRefused(Verdict.FULL, f"descriptors of {self._nodes_max} nodes are kept, all newer")
        return oldest.spiffe_id

    async def _keep(self, descriptor: SignedDescriptor, source: SpiffeId, given_up: SpiffeId | None) -> Verdict:
        claim = descriptor.claim
        kept = KeptDescriptor(
            str(claim.spiffe_id), claim.signed_at_unix_ms, descriptor.digest, str(source), descriptor.encode()
        )
        try:
            await self._store.keep(kept, per_node=KEPT_PER_NODE, in_place_of=str(given_up or ""))
        except StorageFailed as error:
            self._alerts.raise_alert(STORE_ALERT, f"descriptors of nodes could not be kept: {error}")
            return Verdict.NOT_STORED
        self._alerts.clear(STORE_ALERT)
        self._remember(_Held(claim, kept), given_up)
        log.info(telemetry.DESCRIPTOR_KEPT, spiffe_id=kept.spiffe_id, received_from=kept.received_from)
        return Verdict.OK

    def _remember(self, held: _Held, given_up: SpiffeId | None) -> None:
        """Put it in place of the newest of its node, which becomes the first of the earlier ones."""
        node = held.claim.spiffe_id
        before = self._newest.get(node)
        self._newest[node] = held
        if before is not None:
            self._earlier = sorted([before, *self._earlier], key=_by_age)
            of_node = [earlier for earlier in self._earlier if earlier.claim.spiffe_id == node]
            for surplus in of_node[KEPT_PER_NODE - 1 :]:
                self._earlier.remove(surplus)
            fitting = batch_of((earlier.kept.raw for earlier in self._earlier), LISTED_BYTES_MAX, len(self._earlier))
            del self._earlier[len(fitting) :]
        if given_up is not None:
            del self._newest[given_up]
            self._earlier = [earlier for earlier in self._earlier if earlier.claim.spiffe_id != given_up]

    def _refused(self, verdict: Verdict, source: SpiffeId, detail: str) -> Verdict:
        if verdict not in _ORDINARY and self._told.take(self._clock.monotonic_ns() / 1e9):
            log.warning(telemetry.DESCRIPTOR_REFUSED, reason=verdict.value, received_from=str(source), detail=detail)
        return verdict

    # ---- our own ----

    @property
    def public_key(self) -> bytes:
        """ML-DSA-65, of the signer."""
        return self._signer.public_key

    @property
    def own(self) -> Claim | None:
        """Our newest one."""
        newest = self._newest.get(self._own_id)
        return newest.claim if newest else None

    async def keep_own(self, claim: Claim) -> bool:
        """Sign and keep; whether the disk took it.  Raises NoIdentity."""
        async with self._one:
            descriptor = await self._signer.sign(claim)
            return await self._keep(descriptor, self._own_id, None) is Verdict.OK

    async def forget_own(self) -> None:
        """Forget all of ours.  Raises StorageFailed."""
        async with self._one:
            await self._store.forget(str(self._own_id))
            self._newest.pop(self._own_id, None)
            self._earlier = [earlier for earlier in self._earlier if earlier.claim.spiffe_id != self._own_id]

    # ---- giving ----

    def held(self) -> list[bytes]:
        """Hashes of the newest of each node."""
        return [newest.kept.digest for newest in self._newest.values()][:HELD_MAX]

    def lacking(self, held: Iterable[bytes]) -> list[bytes]:
        """Those that whoever holds these hashes has not, the newest first, as many as go into one message."""
        known = set(held)
        lacking = [newest for newest in self._newest.values() if newest.kept.digest not in known]
        return batch_of(held.kept.raw for held in sorted(lacking, key=_by_age))

    def wanted(self, held: Iterable[bytes]) -> list[bytes]:
        """Hashes among these that we have not, nor had."""
        ours = {held.kept.digest for held in (*self._newest.values(), *self._earlier)}
        return [digest for digest in dict.fromkeys(held) if digest not in ours]

    def of_hashes(self, wanted: Iterable[bytes]) -> dict[bytes, bytes]:
        """Those with these hashes, by hash, as many as go into one message."""
        asked = set(wanted)
        found = {n.kept.digest: n.kept.raw for n in self._newest.values() if n.kept.digest in asked}
        return dict(zip(found, batch_of(found.values()), strict=False))

    # ---- out ----

    def rows(self) -> Sequence[Descriptor]:
        """Ours first, then the newest of each node, then earlier ones; as many as go into an answer."""
        newest = sorted(self._newest.values(), key=lambda held: (held.claim.spiffe_id != self._own_id, _by_age(held)))
        every = [*newest, *self._earlier]
        return [
            _row(held) for held in every[: len(batch_of((e.kept.raw for e in every), LISTED_BYTES_MAX, len(every)))]
        ]


def _held(kept: KeptDescriptor) -> _Held:
    return _Held(SignedDescriptor.decode(kept.raw).claim, kept)


def _by_age(held: _Held) -> int:
    return -held.claim.signed_at_unix_ms


def _row(held: _Held) -> Descriptor:
    claim, kept = held.claim, held.kept
    return Descriptor(
        spiffe_id=kept.spiffe_id,
        address=str(claim.address),
        key_id=claim.key_id,
        boot_id=f"{claim.boot_id:016x}",
        signed_at_unix_ms=claim.signed_at_unix_ms,
        received_from=kept.received_from,
        raw=kept.raw,
    )
