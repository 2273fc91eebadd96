"""``PeerService``: what other daemons ask for, on the peer port alone.

The gate has checked certificate and role; here only a neighbour is answered, and for itself: which node calls is read
from what it has proved, never from the request.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from x0d.errors import NotSupported
from x0d.identity.model import Proof
from x0d.ports import KeyOffer
from x0d.ports.identity import CALLER
from x0d.service.peers import PeerService
from x0d.v1 import peer_pb2, peer_pb2_grpc

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    _Context = ServicerContext[Any, Any]


class DescriptorExchange(Protocol):
    """Signed descriptors, given and taken."""

    async def exchange(
        self, proof: Proof, held: Sequence[bytes], given: Sequence[bytes]
    ) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Take what a peer gives; those that it lacks, and the hashes of those that this node wants.

        Raises:
            InvalidInput: what is given breaks the bounds.
            Busy: too many calls of this peer.
        """


class PeerServicer(peer_pb2_grpc.PeerServiceServicer):
    """Keys for the mesh's datagrams, and descriptors."""

    def __init__(self, peers: PeerService, descriptors: DescriptorExchange | None = None) -> None:
        self._peers = peers
        self._descriptors = descriptors

    async def AgreeKey(  # noqa: N802 - gRPC's name
        self,
        request: peer_pb2.AgreeKeyRequest,
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> peer_pb2.AgreeKeyResponse:
        """Answer a neighbour with this node's half of a key."""
        answer = self._peers.answer(CALLER.get().proof, KeyOffer(request.boot_id, request.nonce))
        return peer_pb2.AgreeKeyResponse(boot_id=answer.boot_id, nonce=answer.nonce)

    async def ExchangeDescriptors(  # noqa: N802 - gRPC's name
        self,
        request: peer_pb2.ExchangeDescriptorsRequest,
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> peer_pb2.ExchangeDescriptorsResponse:
        """Give descriptors and take some; only where this node keeps them."""
        proof = CALLER.get().proof
        if self._descriptors is None or proof is None:
            raise NotSupported("an exchange of descriptors", "identity.pqc_beacons is not set on this node")
        lacking, wanted = await self._descriptors.exchange(proof, request.held, request.descriptors)
        return peer_pb2.ExchangeDescriptorsResponse(descriptors=lacking, wanted=wanted)
