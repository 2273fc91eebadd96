"""Calls to other daemons: one connection for each call, to exactly the neighbour that is meant.

Calls between daemons are rare (a key now and then, descriptors), so none keeps a connection for the next: what a call
returns as proof is then what this very connection has shown, and nothing idles that would have to be judged again.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

from grpc import StatusCode, aio

from x0d.errors import AddressUnavailable, IdentityRefused, PeerUnreachable
from x0d.identity.model import Proof, Reason
from x0d.ports.identity import KeyOffer, PeerTarget
from x0d.spiffe.snapshot import SnapshotSource
from x0d.telemetry import Telemetry
from x0d.transport.connector import UNREACHABLE, Connector
from x0d.transport.connector_dial import DEADLINE_S, Dialer
from x0d.transport.connector_tls import ExpectId
from x0d.v1 import peer_pb2, peer_pb2_grpc

NONCE_BYTES: Final = 32
CALL_S_MAX: Final = DEADLINE_S + 2.0
"""For the dial and the call."""

_NOT_THE_PEERS_FAULT: Final = frozenset(
    {UNREACHABLE, Reason.TIMEOUT, Reason.HANDSHAKE, Reason.NO_OWN_SVID, Reason.OWN_SVID_EXPIRED}
)
"""Nobody was told from somebody else: the dial is worth another try later."""


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
        """Shake hands, see that the peer accepts us too, and end the connection.

        Raises:
            IdentityRefused, PeerUnreachable: as in the port.
        """
        expect = ExpectId(target.spiffe_id, self._source, self._require_pq)
        dialer = Dialer(str(target.address), target.port, target.interface, expect, self._unix_s)
        try:
            session = await dialer.dial()
        except IdentityRefused as refused:
            self._refused(refused.reason)
            raise _error_of(refused.reason, str(refused)) from refused
        try:
            self._accepted(session.proof)
            await session.confirm()
        except PeerUnreachable as error:
            raise PeerUnreachable(f"{dialer.where}: {error}") from error
        finally:
            session.close()
        return session.proof

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


def _error_of(reason: str, detail: str) -> IdentityRefused | PeerUnreachable:
    return PeerUnreachable(detail) if reason in _NOT_THE_PEERS_FAULT else IdentityRefused(reason, detail)


def _error_of_call(
    error: aio.AioRpcError, connector: Connector, target: PeerTarget
) -> IdentityRefused | PeerUnreachable:
    why = connector.last_error
    if why is not None and error.code() in {StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED}:
        return _error_of(why.reason, why.detail)
    return PeerUnreachable(f"{target.spiffe_id}: {error.code().name}: {error.details()}")
