"""Calls between daemons: what they return, what they prove, and how their failures are told apart."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path
from typing import Self

import pytest
from grpc import StatusCode, aio

from fakes.authority import Issued
from fakes.tls_lab import DOMAIN, bound, tls_port
from fakes.tls_peer import (
    LOOPS,
    OWN_ID,
    PEER_ID,
    FakeSource,
    bundles_of,
    hostile,
    new_ca,
    run_on,
    source_of,
    svid_of,
    tls_context,
)
from fakes.tls_service import serving
from x0d.errors import IdentityRefused, PeerUnreachable, RefusedByPeer
from x0d.identity.model import Proof
from x0d.identity.roles import Role
from x0d.identity.spiffe_id import SpiffeId
from x0d.ports.identity import KeyOffer, PeerChannel, PeerTarget
from x0d.telemetry import Telemetry
from x0d.transport.peer_channel import GrpcPeerChannel
from x0d.v1 import peer_pb2, peer_pb2_grpc

both_loops = pytest.mark.parametrize("loop", LOOPS)
OFFER = KeyOffer(boot_id=1, nonce=b"a" * 32)
ANSWER = KeyOffer(boot_id=2**64 - 1, nonce=b"b" * 32)


class Peer(peer_pb2_grpc.PeerServiceServicer):
    """Answers with ANSWER, or as a test says."""

    def __init__(self) -> None:
        self.answer = ANSWER
        self.refusal = ""
        self.asked: list[KeyOffer] = []
        self.probed: tuple[StatusCode, str, str] | None = None
        """How an exchange of descriptors ends, if not well: status, words, and x0d's reason."""

    async def AgreeKey(  # noqa: N802  the name of the method
        self,
        request: peer_pb2.AgreeKeyRequest,
        context: "aio.ServicerContext[peer_pb2.AgreeKeyRequest, peer_pb2.AgreeKeyResponse]",
    ) -> peer_pb2.AgreeKeyResponse:
        if self.refusal:
            await context.abort(StatusCode.UNAUTHENTICATED, self.refusal)
        self.asked.append(KeyOffer(request.boot_id, request.nonce))
        return peer_pb2.AgreeKeyResponse(boot_id=self.answer.boot_id, nonce=self.answer.nonce)

    async def ExchangeDescriptors(  # noqa: N802  the name of the method
        self,
        request: peer_pb2.ExchangeDescriptorsRequest,
        context: "aio.ServicerContext[peer_pb2.ExchangeDescriptorsRequest, peer_pb2.ExchangeDescriptorsResponse]",
    ) -> peer_pb2.ExchangeDescriptorsResponse:
        if self.probed is not None:
            status, words, reason = self.probed
            await context.abort(status, words, (("x0d-reason", reason),) if reason else ())
        return peer_pb2.ExchangeDescriptorsResponse(descriptors=request.held, wanted=request.descriptors)

    def register(self, server: aio.Server) -> None:
        peer_pb2_grpc.add_PeerServiceServicer_to_server(self, server)


def target(port: int, spiffe_id: str = PEER_ID) -> PeerTarget:
    return PeerTarget(SpiffeId.parse(spiffe_id), ip_address("127.0.0.1"), "", port)


class World:
    """A channel, its counters, and a directory that must be empty after every call."""

    def __init__(self, source: FakeSource, *, require_pq: bool = True) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self.counted = Telemetry()
        path = Path(self._directory.name)
        self.channel: PeerChannel = GrpcPeerChannel(source, require_pq, path, self.counted, time.time)

    def sample(self, name: str, **labels: str) -> float:
        return self.counted.registry.get_sample_value(name, {"side": "client"} | labels) or 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert [] == list(Path(self._directory.name).iterdir())
        self._directory.cleanup()


@contextlib.asynccontextmanager
async def classical(issued: Issued) -> AsyncIterator[int]:
    """A peer behind another TLS library than gRPC's, one that knows no post-quantum key exchange; gives its port."""
    service = aio.server()
    Peer().register(service)
    behind = service.add_insecure_port("127.0.0.1:0")
    await service.start()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", behind)
        await asyncio.gather(pass_on(reader, inner_writer), pass_on(inner_reader, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=tls_context(issued))
    try:
        async with server:
            yield server.sockets[0].getsockname()[1]
    finally:
        await service.stop(None)


@both_loops
def test_calls_return_what_the_peer_says_and_proves(loop: str) -> None:
    """A key is agreed, descriptors change hands, and a probe sees the same peer; each with its proof, each counted."""

    async def scene() -> None:
        ca, peer = new_ca(), Peer()
        async with serving(ca.issue(PEER_ID), ca, register=peer.register) as service:
            with World(source_of(ca)) as world:
                answer, proof = await world.channel.agree(target(service.port), OFFER)
                assert (ANSWER, [OFFER], PEER_ID) == (answer, peer.asked, str(proof.spiffe_id))
                assert proof.is_post_quantum
                given, wanted, proof = await world.channel.exchange_descriptors(target(service.port), [b"h"], [b"d"])
                assert ((b"h",), (b"d",), PEER_ID) == (given, wanted, str(proof.spiffe_id))
                probed: Proof = await world.channel.probe(target(service.port))
                assert proof == probed
                counted = world.sample(
                    "x0d_tls_handshakes_total", group="X25519MLKEM768", tls_version="TLSv1.3", pq="true"
                )
                assert 3 == counted

    run_on(loop, scene())


@both_loops
def test_an_intermediate_may_be_the_anchor(loop: str) -> None:
    """A bundle that holds an intermediate and no root vouches for what is below it."""

    async def scene() -> None:
        ca = new_ca()
        below = new_ca(parent=ca)
        source = FakeSource(source_of(ca).current)
        source.set(svid_of(ca.issue(OWN_ID)), bundles_of(below))
        async with serving(below.issue(PEER_ID), ca, register=Peer().register) as service:
            with World(source) as world:
                assert ANSWER == (await world.channel.agree(target(service.port), OFFER))[0]

    run_on(loop, scene())


@both_loops
def test_another_peer_is_an_identity_refused(loop: str) -> None:
    """Whoever is not the neighbour that is meant is refused with the reason, by call and probe, and counted."""

    async def scene() -> None:
        ca = new_ca()
        async with serving(ca.issue(f"spiffe://{ca.trust_domain}/node/n3"), ca, register=Peer().register) as service:
            with World(source_of(ca)) as world:
                with pytest.raises(IdentityRefused, match=r"n3, not .*n2") as refused:
                    await world.channel.agree(target(service.port), OFFER)
                assert "wrong_id" == refused.value.reason
                with pytest.raises(IdentityRefused) as refused:
                    await world.channel.probe(target(service.port))
                assert "wrong_id" == refused.value.reason
                assert 2 == world.sample("x0d_tls_handshake_failures_total", reason="wrong_id")

    run_on(loop, scene())


@both_loops
def test_classical_peer_is_refused_where_asked(loop: str) -> None:
    """Under require_pq a peer with a classical key exchange is refused; otherwise it is seen for what it is."""

    async def scene() -> None:
        ca = new_ca()
        async with classical(ca.issue(PEER_ID)) as port:
            with World(source_of(ca)) as world, pytest.raises(IdentityRefused) as refused:
                await world.channel.probe(target(port))
            assert "not_post_quantum" == refused.value.reason
            with World(source_of(ca), require_pq=False) as world:
                assert not (await world.channel.probe(target(port))).is_post_quantum

    run_on(loop, scene())


@both_loops
def test_peer_that_refuses_us_is_unreachable_and_says_why(loop: str) -> None:
    """A server that does not know our CA, and one whose gate lets nobody in: unreachable, with its words."""

    async def scene() -> None:
        ca, other, peer = new_ca(), new_ca(), Peer()
        source = FakeSource(source_of(other).current)
        source.set(svid_of(other.issue(OWN_ID)), bundles_of(ca))
        async with serving(ca.issue(PEER_ID), ca, register=peer.register) as service:
            with World(source) as world:
                with pytest.raises(PeerUnreachable, match="it may have refused our SVID"):
                    await world.channel.agree(target(service.port), OFFER)
                with pytest.raises(PeerUnreachable, match="it may have refused our SVID"):
                    await world.channel.probe(target(service.port))
            peer.refusal = "nobody"
            with (
                World(source_of(ca)) as world,
                pytest.raises(PeerUnreachable, match="UNAUTHENTICATED: nobody"),
            ):
                await world.channel.agree(target(service.port), OFFER)

    run_on(loop, scene())


ADMITTED = (
    None,
    (StatusCode.UNIMPLEMENTED, "identity.pqc_beacons is not set", "NotSupported"),
    (StatusCode.UNIMPLEMENTED, "Method not found!", ""),
    (StatusCode.UNAVAILABLE, "many descriptors just now", "Busy"),
    (StatusCode.UNAVAILABLE, "starting: open the store", "starting"),
    (StatusCode.RESOURCE_EXHAUSTED, "too many", "TooMany"),
)


@pytest.mark.parametrize("probed", ADMITTED, ids=lambda probed: probed and f"{probed[0].name}-{probed[2]}")
def test_probe_is_content_with_any_answer_from_behind_the_gate(probed: tuple[StatusCode, str, str] | None) -> None:
    """A peer that is busy, starts, or keeps no descriptors has let us in, and that is what a probe asks."""

    async def scene() -> None:
        ca, peer = new_ca(), Peer()
        peer.probed = probed
        async with serving(ca.issue(PEER_ID), ca, register=peer.register) as service:
            with World(source_of(ca)) as world:
                assert PEER_ID == str((await world.channel.probe(target(service.port))).spiffe_id)

    run_on("uvloop", scene())


@pytest.mark.parametrize(
    ("probed", "refuses"),
    [
        ((StatusCode.UNAUTHENTICATED, "not authenticated", "identity"), True),
        ((StatusCode.PERMISSION_DENIED, "not permitted", "role"), True),
        ((StatusCode.UNAVAILABLE, "no words of x0d's", ""), False),
    ],
    ids=["identity", "role", "transport"],
)
def test_probe_sees_who_does_not_let_us_in(probed: tuple[StatusCode, str, str], refuses: bool) -> None:
    """A peer that shakes hands and then refuses the call refuses us; one that only fails is unreachable."""

    async def scene() -> None:
        ca, peer = new_ca(), Peer()
        peer.probed = probed
        async with serving(ca.issue(PEER_ID), ca, register=peer.register) as service:
            with World(source_of(ca)) as world, pytest.raises(PeerUnreachable, match=probed[1]) as failed:
                await world.channel.probe(target(service.port))
        assert refuses == isinstance(failed.value, RefusedByPeer)

    run_on("uvloop", scene())


@pytest.mark.parametrize(("own_id", "admitted"), [(OWN_ID, True), (f"{OWN_ID}/x", False)], ids=["node", "stranger"])
def test_probe_of_a_daemons_own_port(own_id: str, admitted: bool) -> None:
    """To a real peer port a probe is a call like any other: no handshake that led to nothing, and no role is told."""

    async def scene() -> None:
        async with tls_port(name="peer", bindings=(bound(Role.PEER, OWN_ID),)) as lab:
            with World(source_of(lab.ca, own=lab.ca.issue(own_id))) as world:
                probe = world.channel.probe(target(lab.server.bound_port, f"spiffe://{DOMAIN}/node/n0"))
                if admitted:
                    await probe
                else:
                    with pytest.raises(RefusedByPeer, match="not permitted"):
                        await probe
            assert (1, 1) == (lab.server._callers.connections_seen, lab.server._handshakes._begun)
            assert ({} if admitted else {"policy": 1}) == lab.failures_by_reason()

    run_on("uvloop", scene())


@both_loops
def test_nobody_there_is_unreachable(loop: str) -> None:
    """A closed port, a peer without TLS, and our own lack of an SVID are no refusals of anybody."""

    async def scene() -> None:
        ca = new_ca()
        with hostile(None) as server:
            with World(source_of(ca)) as world, pytest.raises(PeerUnreachable, match="no TLS handshake"):
                await world.channel.agree(target(server.port), OFFER)
            with World(FakeSource(None)) as world, pytest.raises(PeerUnreachable, match="no SVID yet"):
                await world.channel.agree(target(server.port), OFFER)
            port = server.port
        with World(source_of(ca)) as world:
            with pytest.raises(PeerUnreachable, match="Connection refused"):
                await world.channel.agree(target(port), OFFER)
            with pytest.raises(PeerUnreachable, match="Connection refused"):
                await world.channel.probe(target(port))

    run_on(loop, scene())


@both_loops
@pytest.mark.parametrize("answer", [KeyOffer(0, b"b" * 32), KeyOffer(1, b"b" * 31), KeyOffer(1, b"")])
def test_half_an_answer_is_none(loop: str, answer: KeyOffer) -> None:
    """A peer that answers without a boot id or with a short nonce has not answered."""

    async def scene() -> None:
        ca, peer = new_ca(), Peer()
        peer.answer = answer
        async with serving(ca.issue(PEER_ID), ca, register=peer.register) as service:
            with World(source_of(ca)) as world, pytest.raises(PeerUnreachable, match="without a boot id"):
                await world.channel.agree(target(service.port), OFFER)

    run_on(loop, scene())


@both_loops
def test_many_calls_at_once_and_cancelled(loop: str) -> None:
    """Thirty calls at once are all answered; cancelled ones leave nothing behind."""

    async def scene() -> None:
        ca, peer = new_ca(), Peer()
        async with serving(ca.issue(PEER_ID), ca, register=peer.register) as service:
            with World(source_of(ca)) as world:
                calls = [world.channel.agree(target(service.port), OFFER) for _ in range(30)]
                assert [ANSWER] * 30 == [answer for answer, _ in await asyncio.gather(*calls)]
                tasks = [asyncio.ensure_future(world.channel.agree(target(service.port), OFFER)) for _ in range(10)]
                await asyncio.sleep(0)  # tidy: lets them begin
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    run_on(loop, scene())
