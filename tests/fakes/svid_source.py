"""``ports.SvidSource`` whose status is what the test puts there, and a channel that answers as it is told.

Not modelled: certificates, handshakes, updates by themselves.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from x0d.identity.model import Proof, Usage
from x0d.mesh.model import Address
from x0d.ports import Clock, KeyOffer, PeerTarget, SvidStatus, TrustBundle

OWN = "spiffe://dev.x0d.test/node/n1"
DAY_S = 86_400.0


class FakeSvidSource:
    """A day's SVID, a minute old, from a Workload API that is there."""

    def __init__(self, clock: Clock) -> None:
        begin_s = clock.unix_ms() / 1e3 - 60
        self.current = SvidStatus(
            spiffe_id=OWN,
            serial="5f0a",
            not_before_unix_s=begin_s,
            not_after_unix_s=begin_s + DAY_S,
            generation=1,
            connected=True,
            connected_changed_at_ns=clock.monotonic_ns(),
            updates=1,
            rejected={},
            last_error="",
            bundles=(TrustBundle("dev.x0d.test", own=True, authorities=1, not_after_unix_s=begin_s + 365 * DAY_S),),
        )
        self._listeners: list[Callable[[], None]] = []

    def change(self, **changes: object) -> None:
        """Put something else in the status; nobody is told."""
        self.current = replace(self.current, **changes)  # type: ignore[arg-type]

    def update(self, **changes: object) -> None:
        """The same by an update that was taken: those who listen are told."""
        self.change(updates=self.current.updates + 1, **changes)
        for listener in self._listeners:
            listener()

    def status(self) -> SvidStatus:
        return self.current

    def judge(self, proof: Proof) -> None:
        """Everybody is trusted."""

    def subscribe(self, on_change: Callable[[], None]) -> None:
        self._listeners.append(on_change)


def proof_of(target: PeerTarget, group: str = "X25519MLKEM768") -> Proof:
    """What a peer shows that is who was asked for."""
    return Proof(target.spiffe_id, Usage.SERVER, b"leaf", b"", 1_800_000_000.0, group)


class ToldChannel:
    """``ports.PeerChannel``: each address answers as it is told to in ``answers``; the others are well."""

    def __init__(self) -> None:
        self.answers: dict[Address, Exception | float | str] = {}
        """What is raised, how many seconds it takes, or the key exchange group; by address."""
        self.most_at_once = 0
        self._now = 0

    async def probe(self, target: PeerTarget) -> Proof:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            answer = self.answers.get(target.address, 0.001)
            if isinstance(answer, Exception):
                raise answer
            await asyncio.sleep(answer if isinstance(answer, float) else 0.001)
            return proof_of(target, answer) if isinstance(answer, str) else proof_of(target)
        finally:
            self._now -= 1

    async def agree(self, target: PeerTarget, offer: KeyOffer) -> tuple[KeyOffer, Proof]:
        raise AssertionError(f"a check agrees on nothing: {target} {offer}")

    async def exchange_descriptors(
        self, target: PeerTarget, held: Sequence[bytes], given: Sequence[bytes]
    ) -> tuple[Sequence[bytes], Sequence[bytes], Proof]:
        raise AssertionError(f"a check exchanges nothing: {target} {held} {given}")
