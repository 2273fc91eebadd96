"""Identities and the peers' channel in memory: proofs are words, handshakes take virtual milliseconds.

``FakeSvids`` is one node's ``ports.SvidSource``: it trusts roots by name, renews and expires on demand.
``FakePeerChannel`` is its ``ports.PeerChannel``: it reaches whoever listens at an address of a ``PeerNetwork``, both
ends judge each other as TLS would, and the call is served by the real ``PeerServicer``.
``tests/contract/test_peer_channel.py`` holds it and the channel over mTLS to one contract.

Not modelled: certificates and their rules, chains, sessions, connections that live on, load, gRPC's statuses.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fakes.clock import FakeClock
from x0d.errors import IdentityRefused, NotKnownToPeer, NotThere, PeerUnreachable, RefusedByPeer, X0dError
from x0d.identity.model import Principal, Proof, Reason, Usage
from x0d.identity.roles import Role
from x0d.identity.spiffe_id import SpiffeId
from x0d.mesh.model import Address
from x0d.ports import KeyOffer, PeerTarget, SvidStatus
from x0d.ports.identity import CALLER
from x0d.service.api_peer import PeerServicer
from x0d.v1 import peer_pb2

DEADLINE_S = 5.0
TRIP_S = 0.001
GROUP = "X25519MLKEM768"


class FakeSvids:
    """One node's own SVID, and whom it trusts."""

    def __init__(self, clock: FakeClock, spiffe_id: SpiffeId, root: str = "root1", ttl_s: float = 86_400.0) -> None:
        self._clock = clock
        self.spiffe_id = spiffe_id
        self.root = root
        self.ttl_s = ttl_s
        self.trusted = {root}
        self.ahead_s = 0.0
        """How far this node's wall clock is ahead while it judges others."""
        self.serial = 1
        self.generation = 1
        self.not_after_unix_s = self._now_s() + ttl_s
        self._listeners: list[Callable[[], None]] = []

    def _now_s(self) -> float:
        return self._clock.unix_ms() / 1e3

    # ---- ports.SvidSource ----

    def status(self) -> SvidStatus:
        return SvidStatus(
            spiffe_id=str(self.spiffe_id) if self.not_after_unix_s else "",
            serial=str(self.serial),
            not_before_unix_s=self.not_after_unix_s - self.ttl_s,
            not_after_unix_s=self.not_after_unix_s,
            generation=self.generation,
            connected=True,
            connected_changed_at_ns=0,
            updates=self.generation,
            rejected={},
            last_error="",
            bundles=(),
        )

    def judge(self, proof: Proof) -> None:
        root = proof.chain_pem.decode()
        if root not in self.trusted:
            raise IdentityRefused(Reason.UNTRUSTED, f"{proof.spiffe_id} is signed by {root}")
        if self._now_s() + self.ahead_s >= proof.not_after_unix_s:
            raise IdentityRefused(Reason.EXPIRED, f"the certificate of {proof.spiffe_id} has expired")

    def subscribe(self, on_change: Callable[[], None]) -> None:
        self._listeners = [on_change]  # one life of the daemon at a time

    # ---- what a test does ----

    def proof(self, usage: Usage) -> Proof:
        """What this node shows in a handshake."""
        leaf = f"{self.spiffe_id} {self.serial}".encode()
        return Proof(self.spiffe_id, usage, leaf, self.root.encode(), self.not_after_unix_s, GROUP)

    def renew(self, root: str = "") -> None:
        """Get a new SVID; ``root``: from another root than before."""
        self.serial += 1
        self.root = root or self.root
        self.not_after_unix_s = self._now_s() + self.ttl_s
        self._changed()

    def trust(self, *roots: str) -> None:
        """Trust these roots and no others."""
        self.trusted = set(roots)
        self._changed()

    def _changed(self) -> None:
        self.generation += 1
        for listener in self._listeners:
            listener()


@dataclass(frozen=True)
class Listener:
    """A daemon that answers on its peer port."""

    svids: FakeSvids
    servicer: PeerServicer


class PeerNetwork:
    """Who listens at which address."""

    def __init__(self) -> None:
        self.listening: dict[Address, Listener] = {}


class FakePeerChannel:
    """``ports.PeerChannel``."""

    def __init__(
        self, network: PeerNetwork, svids: FakeSvids, passes: Callable[[PeerTarget], bool] = lambda _: True
    ) -> None:
        """``passes``: whether packets come through to a target and back."""
        self._network = network
        self._svids = svids
        self._passes = passes
        self.dials: list[PeerTarget] = []
        self.answers_lost = 0
        """So many answers are lost from now on, after the peer has acted."""

    async def _shake(self, target: PeerTarget) -> tuple[Listener, Proof]:
        self.dials.append(target)
        await asyncio.sleep(2 * TRIP_S)
        if not self._passes(target):
            await asyncio.sleep(DEADLINE_S)
            raise PeerUnreachable(f"{target.address} has not answered within {DEADLINE_S:.0f} s")
        listener = self._network.listening.get(target.address)
        if listener is None:
            raise PeerUnreachable(f"{target.address}: connection refused")
        proof = listener.svids.proof(Usage.SERVER)
        self._svids.judge(proof)
        if proof.spiffe_id != target.spiffe_id:
            raise IdentityRefused(Reason.WRONG_ID, f"{proof.spiffe_id} answers, {target.spiffe_id} was asked for")
        try:
            listener.svids.judge(self._svids.proof(Usage.CLIENT))
        except IdentityRefused as refusal:
            raise RefusedByPeer(f"{target.spiffe_id} refuses this node") from refusal
        return listener, proof

    async def agree(self, target: PeerTarget, offer: KeyOffer) -> tuple[KeyOffer, Proof]:
        listener, proof = await self._shake(target)
        request = peer_pb2.AgreeKeyRequest(boot_id=offer.boot_id, nonce=offer.nonce)
        caller = self._svids.proof(Usage.CLIENT)
        token = CALLER.set(Principal(str(caller.spiffe_id), frozenset({Role.PEER}), proof=caller))
        try:
            answer = await listener.servicer.AgreeKey(request, None)  # type: ignore[arg-type]
        except NotThere as error:
            raise NotKnownToPeer(f"{target.spiffe_id} does not know this node under that name") from error
        except X0dError as error:
            raise PeerUnreachable(f"{target.spiffe_id} says: {error}") from error
        finally:
            CALLER.reset(token)
        await asyncio.sleep(TRIP_S)
        if self.answers_lost:
            self.answers_lost -= 1
            raise PeerUnreachable(f"{target.address}: connection reset")
        return KeyOffer(answer.boot_id, answer.nonce), proof

    async def exchange_descriptors(
        self, target: PeerTarget, held: Sequence[bytes], given: Sequence[bytes]
    ) -> tuple[Sequence[bytes], Sequence[bytes], Proof]:
        listener, proof = await self._shake(target)
        request = peer_pb2.ExchangeDescriptorsRequest(held=held, descriptors=given)
        caller = self._svids.proof(Usage.CLIENT)
        token = CALLER.set(Principal(str(caller.spiffe_id), frozenset({Role.PEER}), proof=caller))
        try:
            answer = await listener.servicer.ExchangeDescriptors(request, None)  # type: ignore[arg-type]
        except X0dError as error:
            raise PeerUnreachable(f"{target.spiffe_id} says: {error}") from error
        finally:
            CALLER.reset(token)
        return answer.descriptors, answer.wanted, proof

    async def probe(self, target: PeerTarget) -> Proof:
        _, proof = await self._shake(target)
        return proof
