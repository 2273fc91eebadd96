"""A node's calls to its issuer: to join, with a token, and to renew, with the SVID that it has.

Joining trusts the token alone: the root by its hash, and below it nobody but ``/issuer/join``.  Renewing is an ordinary
dial of the peer port with our own SVID.  gRPC says "Socket closed" for whatever stopped a dial; what did is the
connector's to tell, and it goes into the error here.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final

from grpc import StatusCode, aio

from x0d.errors import AddressUnavailable, IdentityRefused, InvalidInput, PeerUnreachable, TokenRefused
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.identity.token import JoinToken, split_endpoint
from x0d.ports.issuer import Admission, Grant, join_id
from x0d.spiffe.certificate import split_der
from x0d.spiffe.snapshot import SnapshotSource
from x0d.transport.connector import Connector, ExpectId, ExpectPinnedRoot
from x0d.v1 import peer_pb2, peer_pb2_grpc

CALL_S_MAX: Final = 15.0
"""Dial and call together."""
RESPONSE_BYTES_MAX: Final = 1 << 20
FEDERATED_MAX: Final = 64


async def join(
    token: JoinToken, csr_der: bytes, interfaces: Sequence[str], directory: Path, unix_s: Callable[[], float]
) -> Admission:
    """Spend a token.

    Args:
        token: where, whom to trust, and the proof.
        csr_der: request for the certificate.
        interfaces: tried in turn where the token's address is link-local; others ignore them.
        directory: for a private socket while it lasts.
        unix_s: the wall clock.

    Raises:
        TokenRefused: by the issuer, which says why.
        IdentityRefused: whoever answers is not the token's issuer; it has seen nothing of the token.
        PeerUnreachable: nobody answers, or the issuer cannot do it now.
        InvalidInput: what was sent or what came back makes no sense.
    """
    devices = tuple(interfaces) if _is_link_local(token.host) else ("",)
    if not devices:
        raise PeerUnreachable(f"{token.host} is link-local, and the configuration names no interface to look on")
    expect = ExpectPinnedRoot(token.root_sha256, join_id(token.spiffe_id.trust_domain))
    request = peer_pb2.JoinRequest(secret=token.secret, spiffe_id=str(token.spiffe_id), csr=csr_der)
    unreached: list[str] = []
    for device in devices:
        connector = Connector(
            host=token.host, port=token.port, interface=device, expect=expect, directory=directory, unix_s=unix_s
        )
        try:
            async with _channel(connector) as channel:
                response = await peer_pb2_grpc.JoinServiceStub(channel).Join(request, timeout=CALL_S_MAX)
                return _read_admission(response)
        except aio.AioRpcError as error:
            failure = _failure(error, connector)
        if not isinstance(failure, PeerUnreachable):
            raise failure
        unreached.append(str(failure))
    raise PeerUnreachable("; ".join(unreached))


class RenewalClient:
    """``ports.issuer.RenewalChannel``: a connection for each renewal, which is a rare thing."""

    def __init__(
        self,
        *,
        endpoint: str,
        issuer_id: SpiffeId,
        source: SnapshotSource,
        require_pq: bool,
        directory: Path,
        unix_s: Callable[[], float],
    ) -> None:
        """``endpoint`` and ``issuer_id`` as the issuer gave them at the join.  Raises InvalidInput for no endpoint."""
        self._host, self._port = split_endpoint(endpoint)
        self._expect = ExpectId(issuer_id, source, require_pq)
        self._directory = directory
        self._unix_s = unix_s

    async def renew(self, csr_der: bytes) -> Grant:
        """Ask for a new certificate.

        Raises:
            PeerUnreachable: no answer, or a refusal; says which.
            IdentityRefused: somebody else answers there, or we have nothing to show.
            InvalidInput: the answer is no answer.
        """
        connector = Connector(
            host=self._host,
            port=self._port,
            interface="",
            expect=self._expect,
            directory=self._directory,
            unix_s=self._unix_s,
        )
        try:
            async with _channel(connector) as channel:
                request = peer_pb2.RenewSvidRequest(csr=csr_der)
                response = await peer_pb2_grpc.IssuerServiceStub(channel).RenewSvid(request, timeout=CALL_S_MAX)
                return _read_grant(response.svid)
        except AddressUnavailable as error:
            raise PeerUnreachable(f"no private socket to dial from: {error}") from error
        except aio.AioRpcError as error:
            failure = _failure(error, connector)
            if isinstance(failure, TokenRefused):
                raise PeerUnreachable(str(failure)) from error
            raise failure from error


@asynccontextmanager
async def _channel(connector: Connector) -> AsyncIterator[aio.Channel]:
    await connector.start()
    try:
        options = [*connector.channel_options, ("grpc.max_receive_message_length", RESPONSE_BYTES_MAX)]
        async with aio.insecure_channel(connector.target, options=options) as channel:
            yield channel
    finally:
        await connector.stop()


def _failure(
    error: aio.AioRpcError, connector: Connector
) -> TokenRefused | IdentityRefused | InvalidInput | PeerUnreachable:
    """Say what stopped a call: the dial if it did, else what the issuer answered."""
    dialled = connector.last_error
    if dialled is not None:
        return dialled.as_error()
    said = error.details() or error.code().name
    if error.code() is StatusCode.INVALID_ARGUMENT:
        return InvalidInput(f"the issuer says: {said}")
    if error.code() in {StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED}:
        return TokenRefused(f"the issuer says: {said}")
    return PeerUnreachable(f"the issuer says: {said}")


def _read_admission(response: peer_pb2.JoinResponse) -> Admission:
    split_endpoint(response.renewal_endpoint)
    return Admission(_read_grant(response.svid), response.renewal_endpoint, SpiffeId.parse(response.issuer_id))


def _read_grant(signed: peer_pb2.SignedSvid) -> Grant:
    """Take an answer apart; nothing of it is believed yet.  Raises InvalidInput."""
    if len(signed.federated_bundles) > FEDERATED_MAX:
        raise InvalidInput(f"the issuer names {len(signed.federated_bundles)} foreign trust domains")
    return Grant(
        chain_ders=split_der(signed.chain),
        bundle_ders=split_der(signed.bundle),
        federated={TrustDomain.parse(name): split_der(ders) for name, ders in signed.federated_bundles.items()},
    )


def _is_link_local(host: str) -> bool:
    try:
        return IPv6Address(host).is_link_local
    except ValueError:
        return False
