"""``IdentityService``: who this node is, whom it trusts, and tokens for those who join."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from x0d.errors import InvalidInput
from x0d.identity.spiffe_id import ID_BYTES_MAX
from x0d.ports.issuer import CreatedToken, OpenToken
from x0d.service.api_changes import Changes
from x0d.service.api_convert import to_message
from x0d.service.views import Views, there
from x0d.v1 import identity_pb2, identity_pb2_grpc

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    _Context = ServicerContext[Any, Any]

ADDRESS_CHARACTERS_MAX = 255


class IdentityServicer(identity_pb2_grpc.IdentityServiceServicer):
    """Identity, for people."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._one_check = asyncio.Lock()
        self._changes = Changes()

    async def GetIdentity(  # noqa: N802 - gRPC's name
        self,
        request: identity_pb2.GetIdentityRequest,  # noqa: ARG002 - empty
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> identity_pb2.GetIdentityResponse:
        """Answered from memory."""
        return to_message(there(self._views.identity).identity(), identity_pb2.GetIdentityResponse)

    async def CheckIdentity(  # noqa: N802 - gRPC's name
        self,
        request: identity_pb2.CheckIdentityRequest,  # noqa: ARG002 - empty
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> identity_pb2.CheckIdentityResponse:
        """One at a time: each dials every neighbour."""
        async with self._one_check:
            checks = await there(self._views.identity).check()
        return identity_pb2.CheckIdentityResponse(
            checks=[to_message(check, identity_pb2.IdentityCheck) for check in checks]
        )

    async def CreateToken(  # noqa: N802 - gRPC's name
        self,
        request: identity_pb2.CreateTokenRequest,
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> identity_pb2.CreateTokenResponse:
        """Made whole although the caller leaves; the audit is told for whom, and never the token."""
        if not request.spiffe_id or len(request.spiffe_id.encode()) > ID_BYTES_MAX:
            raise InvalidInput(f"spiffe_id is the ID or the name of the node that joins, at most {ID_BYTES_MAX} bytes")
        if len(request.address) > ADDRESS_CHARACTERS_MAX or not request.address.isprintable():
            raise InvalidInput(f"address is a host or an IP address, at most {ADDRESS_CHARACTERS_MAX} characters")
        made = there(self._views.identity).create_token(request.spiffe_id, request.address)
        created = await self._changes.run(made, _created_text)
        return to_message(created, identity_pb2.CreateTokenResponse)

    async def ListTokens(  # noqa: N802 - gRPC's name
        self,
        request: identity_pb2.ListTokensRequest,  # noqa: ARG002 - empty
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> identity_pb2.ListTokensResponse:
        """Answered from memory."""
        rows = there(self._views.identity).open_tokens()
        return identity_pb2.ListTokensResponse(tokens=[to_message(row, identity_pb2.OpenToken) for row in rows])

    async def RevokeToken(  # noqa: N802 - gRPC's name
        self,
        request: identity_pb2.RevokeTokenRequest,
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> identity_pb2.RevokeTokenResponse:
        """Made whole although the caller leaves; the audit is told which tokens they were."""
        if not request.which or len(request.which.encode()) > ID_BYTES_MAX:
            raise InvalidInput(f"which is a token's id or a node, at most {ID_BYTES_MAX} bytes")
        revoked = await self._changes.run(there(self._views.identity).revoke_tokens(request.which), _revoked_text)
        return identity_pb2.RevokeTokenResponse(revoked=[to_message(row, identity_pb2.OpenToken) for row in revoked])

    async def ListDescriptors(  # noqa: N802 - gRPC's name
        self,
        request: identity_pb2.ListDescriptorsRequest,  # noqa: ARG002 - empty
        context: "_Context",  # noqa: ARG002 - not needed
    ) -> identity_pb2.ListDescriptorsResponse:
        """Those that this node keeps."""
        rows = await there(self._views.identity).descriptors()
        return identity_pb2.ListDescriptorsResponse(
            descriptors=[to_message(row, identity_pb2.Descriptor) for row in rows]
        )


def _created_text(created: CreatedToken) -> str:
    return f"{created.spiffe_id} may join by {created.address}"


def _revoked_text(revoked: Sequence[OpenToken]) -> str:
    return "revoked: " + ", ".join(f"{each.id} of {each.spiffe_id}" for each in revoked)
