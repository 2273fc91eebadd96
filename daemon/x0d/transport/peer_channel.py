"""Calls to other daemons: one connection for each call, to exactly the neighbour that is meant.

Calls between daemons are rare (a key now and then, descriptors), so none keeps a connection for the next: what a call
returns as proof is then what this very connection has shown, and nothing idles that would have to be judged again.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

from grpc import StatusCode, aio

from x0d.errors import AddressUnavailable, IdentityRefused, NotKnownToPeer, NotThere, PeerUnreachable, RefusedByPeer
from x0d.identity.model import Proof
from x0d.ports.identity import KeyOffer, PeerTarget
from x0d.spiffe.snapshot import SnapshotSource
from x0d.telemetry import Telemetry
from x0d.transport.connector import Connector
from x0d.transport.connector_dial import DEADLINE_S
from x0d.transport.connector_tls import ExpectId
from x0d.v1 import peer_pb2, peer_pb2_grpc

NONCE_BYTES: Final = 32
CALL_S_MAX: Final = DEADLINE_S + 2.0
"""For the dial and the call."""

PROBE_S_MAX: Final = DEADLINE_S + 1.0
"""For the dial and the call of a probe: who looks at many neighbours waits for the slowest of them."""

_REFUSALS: Final = frozenset({StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED})
_TRANSPORT: Final = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED})
"""What gRPC itself says where a dial or a connection failed."""


class GrpcPeerChannel:
    """Satisfies ``ports.identity.PeerChannel``."""

    def __init__(
        self,
        source: SnapshotSource,
        require_pq: bool,
        directory: Path,
        counted: Telemetry,
        unix_s: Callable[[], float],
    ) -> None:
        """Prepare; ``directory`` is for the private sockets, below the runtime directory."""
        self._source = source
        self._require_pq = require_pq
        self._directory = directory
        self._counted = counted
        self._unix_s = unix_s

    async def agree(self, target: PeerTarget, offer: KeyOffer) -> tuple[KeyOffer, Proof]:
        """Agree on a key.

        Raises:
            IdentityRefused, PeerUnreachable: as in the port.
        """
        async with self._dialled(target) as (peer, connector):
            request = peer_pb2.AgreeKeyRequest(boot_id=offer.boot_id, nonce=offer.nonce)
            response = await peer.AgreeKey(request, timeout=CALL_S_MAX)
            if response.boot_id == 0 or len(response.nonce) != NONCE_BYTES:
                raise PeerUnreachable(f"{target.spiffe_id}: answered without a boot id or with a short nonce")
            return KeyOffer(response.boot_id, response.nonce), _proof_of(connector)

    async def exchange_descriptors(
        self, target: PeerTarget, held: Sequence[bytes], given: Sequence[bytes]
    ) -> tuple[Sequence[bytes], Sequence[bytes], Proof]:
        """Give descriptors, and get what we lack and what the peer wants.

        Raises:
            IdentityRefused, PeerUnreachable: as in the port.
        """
        async with self._dialled(target) as (peer, connector):
            request = peer_pb2.ExchangeDescriptorsRequest(held=held, descriptors=given)
            response = await peer.ExchangeDescriptors(request, timeout=CALL_S_MAX)
            return tuple(response.descriptors), tuple(response.wanted), _proof_of(connector)

    async def probe(self, target: PeerTarget) -> Proof:
        """Shake hands, and see that the peer admits us too: it judges a caller, its key exchange and role, at a call.

        The call asks for descriptors and gives none, which changes nothing there.  Its answer does not matter: whoever
        says that it is busy, or keeps no descriptors, has let us in.

        Raises:
            IdentityRefused, PeerUnreachable: as in the port.
        """
        async with self._dialled(target) as (peer, connector):
            try:
                await peer.ExchangeDescriptors(peer_pb2.ExchangeDescriptorsRequest(), timeout=PROBE_S_MAX)
            except aio.AioRpcError as error:
                if not _admits(error):
                    raise
            return _proof_of(connector)

    @contextlib.asynccontextmanager
    async def _dialled(self, target: PeerTarget) -> AsyncIterator[tuple[peer_pb2_grpc.PeerServiceStub, Connector]]:
        """Give a stub for one call; translate its failure, which gRPC calls "Socket closed" whatever it was."""
        connector = Connector(
            host=str(target.address),
            port=target.port,
            interface=target.interface,
            expect=ExpectId(target.spiffe_id, self._source, self._require_pq),
            directory=self._directory,
            unix_s=self._unix_s,
            on_handshake=self._accepted,
            on_refusal=self._refused,
        )
        try:
            await connector.start()
            options = [*connector.channel_options, ("grpc.enable_retries", 0)]
            async with aio.insecure_channel(connector.target, options=options) as channel:
                yield peer_pb2_grpc.PeerServiceStub(channel), connector
        except aio.AioRpcError as error:
            raise _error_of_call(error, connector, target) from error
        except AddressUnavailable as error:
            raise PeerUnreachable(f"{target.spiffe_id}: {error}") from error
        finally:
            await connector.stop()

    def _accepted(self, proof: Proof) -> None:
        pq = "true" if proof.is_post_quantum else "false"
        self._counted.tls_handshakes.labels("client", proof.group, proof.tls_version, pq).inc()

    def _refused(self, reason: str) -> None:
        self._counted.tls_failures.labels("client", reason).inc()


def _proof_of(connector: Connector) -> Proof:
    assert connector.last_proof is not None, "a call was answered through it"
    return connector.last_proof


def _admits(error: aio.AioRpcError) -> bool:
    """Whether a call failed behind the peer's gate: an x0d that has judged us says its reason, gRPC itself has none."""
    if error.code() in _REFUSALS:
        return False
    return error.code() is StatusCode.UNIMPLEMENTED or bool(_reason(error))


def _reason(error: aio.AioRpcError) -> object:
    """The word that an x0d gives for its refusal; empty: gRPC itself has failed."""
    return dict(error.trailing_metadata() or ()).get("x0d-reason", "")


def _error_of_call(
    error: aio.AioRpcError, connector: Connector, target: PeerTarget
) -> IdentityRefused | PeerUnreachable:
    why = connector.last_error
    if why is not None and error.code() in _TRANSPORT:
        return why.as_error()
    said = f"{error.code().name}: {error.details()}"
    if error.code() in _REFUSALS:
        return RefusedByPeer(f"{target.spiffe_id} refuses this node: {said}")
    if error.code() is StatusCode.NOT_FOUND and _reason(error) == NotThere.__name__:
        return NotKnownToPeer(f"{target.spiffe_id} does not know this node under that name")
    return PeerUnreachable(f"{target.spiffe_id}: {said}")
