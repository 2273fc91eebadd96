"""``JoinService`` and ``IssuerService``: what the issuer of a development cluster answers to nodes."""

from typing import TYPE_CHECKING, Any

from grpc import aio

from x0d.errors import InvalidInput
from x0d.identity.token import SECRET_BYTES
from x0d.ports.audit import tell_change
from x0d.ports.identity import CALLER
from x0d.ports.issuer import Grant
from x0d.service.issuer import Issuer
from x0d.v1 import peer_pb2, peer_pb2_grpc

if TYPE_CHECKING:
    _Context = aio.ServicerContext[Any, Any]


class JoinServicer(peer_pb2_grpc.JoinServiceServicer):
    """On the join port: a token is the proof."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    async def Join(  # noqa: N802 - gRPC's name
        self,
        request: peer_pb2.JoinRequest,
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> peer_pb2.JoinResponse:
        """Spend a token."""
        if len(request.secret) != SECRET_BYTES:
            raise InvalidInput(f"a secret of {len(request.secret)} bytes; a token holds {SECRET_BYTES}")
        source = CALLER.get().address
        admission = await self._issuer.admit(request.secret, request.spiffe_id, request.csr, source)
        tell_change(after=f"certificate for {request.spiffe_id}")
        return peer_pb2.JoinResponse(
            svid=to_signed_svid(admission.grant),
            renewal_endpoint=admission.renewal_endpoint,
            issuer_id=str(admission.issuer_id),
        )


class IssuerServicer(peer_pb2_grpc.IssuerServiceServicer):
    """On the peer port: the caller's own SVID is the proof."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    async def RenewSvid(  # noqa: N802 - gRPC's name
        self,
        request: peer_pb2.RenewSvidRequest,
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> peer_pb2.RenewSvidResponse:
        """Certify a new key for the ID that the caller has proved."""
        proof = CALLER.get().proof
        assert proof is not None, "only the peer port gives the role peer, and its callers have shown an SVID"
        grant = self._issuer.renew(proof.spiffe_id, request.csr)
        tell_change(after=f"certificate for {proof.spiffe_id}")
        return peer_pb2.RenewSvidResponse(svid=to_signed_svid(grant))


class JoinServicers:
    """What the join port offers, in the form of ``transport``'s servers."""

    names = ("x0d.v1.JoinService",)

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    def register(self, server: aio.Server) -> None:
        """Add the service to the server."""
        peer_pb2_grpc.add_JoinServiceServicer_to_server(JoinServicer(self._issuer), server)


def to_signed_svid(grant: Grant) -> peer_pb2.SignedSvid:
    """Write a grant for the wire."""
    return peer_pb2.SignedSvid(
        chain=b"".join(grant.chain_ders),
        bundle=b"".join(grant.bundle_ders),
        federated_bundles={f"spiffe://{domain}": b"".join(ders) for domain, ders in grant.federated.items()},
    )
