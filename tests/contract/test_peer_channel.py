"""What the peers' channel promises: the one in memory that tests use, and gRPC over mTLS against a real peer port."""

import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol, cast

import pytest
from grpc import aio

from fakes.authority import CA
from fakes.clock import FakeClock, run_virtual
from fakes.dataplane import FakeDataPlane
from fakes.peers import FakePeerChannel, FakeSvids, Listener, PeerNetwork
from fakes.sockets import MESH_PORT, FakeSockets
from fakes.tls_lab import FakeSource, svid_of
from x0d.errors import IdentityRefused, NotKnownToPeer, PeerUnreachable
from x0d.identity.agreement import agree
from x0d.identity.model import Proof, Usage
from x0d.identity.roles import default_bindings
from x0d.identity.spiffe_id import SpiffeId, TrustDomain, node_id
from x0d.mesh.model import LinkKey
from x0d.mesh.node import LinkPort
from x0d.ports import KeyOffer, PeerChannel, PeerTarget, SvidSource
from x0d.service.alerts import Alerts
from x0d.service.api_peer import PeerServicer
from x0d.service.peers import PeerService
from x0d.telemetry import Telemetry
from x0d.transport.peer_channel import GrpcPeerChannel
from x0d.transport.tls_server import TlsServer
from x0d.v1 import peer_pb2_grpc

DOMAIN = TrustDomain("dev.x0d.test")
N1, N2 = node_id(DOMAIN, "n1"), node_id(DOMAIN, "n2")
BOOT_1, BOOT_2 = 11, 22
LOOPBACK, NEAR = ip_address("127.0.0.1"), ip_address("127.0.0.2")
OFFER = KeyOffer(BOOT_1, bytes(range(32)))


def daemon(source: SvidSource, clock: FakeClock, knows: str) -> PeerService:
    """The peers of n2, which has one link, to the node ``knows``."""
    rng = random.Random(2)
    peers = PeerService(
        own_id=N2,
        boot_id=BOOT_2,
        peer_port=1,
        source=source,
        channel=FakePeerChannel(PeerNetwork(), FakeSvids(clock, N2)),
        clock=clock,
        alerts=Alerts(),
        rng=rng,
        nonce=lambda: rng.randbytes(32),
    )
    peers.connect(greet=lambda _: None, on_problem=lambda _, __: None)
    key = LinkKey.between("n2", LOOPBACK, knows, NEAR)
    socket = FakeSockets(clock, FakeDataPlane(clock, 1)).open("lo", LOOPBACK, MESH_PORT, NEAR, None)
    peers.put_link(LinkPort(key, knows, "lo", 1, LOOPBACK, NEAR, 1), socket)
    return peers


class World(Protocol):
    """n1's channel, and n2, which listens or does not."""

    channel: PeerChannel

    def listen(self, knows: str) -> AbstractAsyncContextManager[PeerService]:
        """Let n2 answer; ``knows`` is its only neighbour."""

    def target(self, spiffe_id: SpiffeId) -> PeerTarget:
        """Where n2 is, or would be; who is expected there."""

    def distrust(self, who: SpiffeId) -> None:
        """Let the other end not trust this one."""


class FakeWorld:
    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._svids = {spiffe_id: FakeSvids(clock, spiffe_id) for spiffe_id in (N1, N2)}
        self._network = PeerNetwork()
        self.channel: PeerChannel = FakePeerChannel(self._network, self._svids[N1])

    @asynccontextmanager
    async def listen(self, knows: str) -> AsyncIterator[PeerService]:
        peers = daemon(self._svids[N2], self._clock, knows)
        self._network.listening[LOOPBACK] = Listener(self._svids[N2], PeerServicer(peers))
        yield peers
        self._network.listening.clear()

    def target(self, spiffe_id: SpiffeId) -> PeerTarget:
        return PeerTarget(spiffe_id, LOOPBACK, "", 9471)

    def distrust(self, who: SpiffeId) -> None:
        self._svids[N2 if who == N1 else N1].trust()


class TlsWorld:
    """Two authorities of one trust domain, so that either node can be distrusted."""

    def __init__(self, directory: Path) -> None:
        self._authorities = {each: CA(DOMAIN.name, start_unix_s=time.time()) for each in (N1, N2)}
        self._sources = {each: FakeSource() for each in (N1, N2)}
        for each in (N1, N2):
            self._put(each, *self._authorities.values())
        self._port = 1
        self._counted = Telemetry()
        self.channel: PeerChannel = GrpcPeerChannel(self._sources[N1], True, directory, self._counted, time.time)

    def _put(self, who: SpiffeId, *trusted: CA) -> None:
        self._sources[who].put(svid_of(self._authorities[who].issue(str(who)), str(who)), *trusted)

    @asynccontextmanager
    async def listen(self, knows: str) -> AsyncIterator[PeerService]:
        source = self._sources[N2]
        peers = daemon(cast("SvidSource", source), FakeClock(), knows)
        server = TlsServer(
            name="peer",
            address=str(LOOPBACK),
            port=0,
            source=source,
            judge=source.judge,
            bindings=default_bindings(DOMAIN),
            servicers=OnlyPeers(peers),
            counted=self._counted,
            auditor=None,
            require_pq=True,
            dev_allowed=True,
            connections_max=8,
            handshake_timeout_ms=2000,
            unix_s=time.time,
        )
        await server.start()
        server.set_ready()
        self._port = server.bound_port
        try:
            yield peers
        finally:
            await server.stop(0.0)

    def target(self, spiffe_id: SpiffeId) -> PeerTarget:
        return PeerTarget(spiffe_id, LOOPBACK, "", self._port)

    def distrust(self, who: SpiffeId) -> None:
        judge = N2 if who == N1 else N1
        self._put(judge, self._authorities[judge])


class OnlyPeers:
    """What a peer port serves."""

    names = ("x0d.v1.PeerService",)

    def __init__(self, peers: PeerService) -> None:
        self._peers = peers

    def register(self, server: aio.Server) -> None:
        peer_pb2_grpc.add_PeerServiceServicer_to_server(PeerServicer(self._peers), server)


Scenario = Callable[[World], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=["fake", "tls"])
def play(request: pytest.FixtureRequest) -> Play:
    """Run a scenario in one world."""

    async def on(scenario: Scenario, world: World) -> None:
        await scenario(world)

    def in_memory(scenario: Scenario) -> None:
        clock = FakeClock()
        run_virtual(clock, on(scenario, FakeWorld(clock)))

    def over_tls(scenario: Scenario) -> None:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(on(scenario, TlsWorld(Path(directory))))

    return in_memory if request.param == "fake" else over_tls


def test_both_ends_get_the_same_key(play: Play) -> None:
    """The answer is the peer's half, with what it has proved; the peer has taken ours for who we have proved to be."""

    async def scenario(world: World) -> None:
        async with world.listen("n1") as peers:
            answer, proof = await world.channel.agree(world.target(N2), OFFER)
            (row,) = peers.rows()
            held = peers._neighbours["n1"].held[-1]
        assert (BOOT_2, N2, Usage.SERVER, True) == (
            answer.boot_id,
            proof.spiffe_id,
            proof.usage,
            proof.is_post_quantum,
        )
        assert (N1, Usage.CLIENT, "authenticated") == (held.proof.spiffe_id, held.proof.usage, row.state)
        assert agree(N1, (BOOT_1, OFFER.nonce), N2, (answer.boot_id, answer.nonce)) == held.key

    play(scenario)


def test_somebody_else_is_an_identity_refused(play: Play) -> None:
    """Who answers under another ID is refused before it is asked anything, by a call and by a probe."""

    async def scenario(world: World) -> None:
        async with world.listen("n1") as peers:
            target = world.target(node_id(DOMAIN, "n3"))
            calls: tuple[Callable[[], Awaitable[object]], ...] = (
                lambda: world.channel.agree(target, OFFER),
                lambda: world.channel.exchange_descriptors(target, [], []),
                lambda: world.channel.probe(target),
            )
            for call in calls:
                with pytest.raises(IdentityRefused) as refused:
                    await call()
                assert "wrong_id" == refused.value.reason
            assert ["waiting"] == [row.state for row in peers.rows()]

    play(scenario)


def test_peer_that_is_not_trusted_is_an_identity_refused(play: Play) -> None:
    """A peer whose root is not ours is untrusted, with the reason that says so."""

    async def scenario(world: World) -> None:
        async with world.listen("n1") as peers:
            world.distrust(N2)
            with pytest.raises(IdentityRefused) as refused:
                await world.channel.agree(world.target(N2), OFFER)
            assert "untrusted" == refused.value.reason
            assert ["waiting"] == [row.state for row in peers.rows()]

    play(scenario)


def test_peer_that_does_not_trust_us_is_unreachable(play: Play) -> None:
    """A peer that refuses us is no wrong peer: it may be tried again."""

    async def scenario(world: World) -> None:
        async with world.listen("n1") as peers:
            world.distrust(N1)
            with pytest.raises(PeerUnreachable):
                await world.channel.agree(world.target(N2), OFFER)
            assert ["waiting"] == [row.state for row in peers.rows()]

    play(scenario)


def test_what_the_peer_says_is_in_the_error(play: Play) -> None:
    """A peer that does not know us as a neighbour says so, and one without descriptors too."""

    async def scenario(world: World) -> None:
        async with world.listen("n4"):
            with pytest.raises(NotKnownToPeer, match="/node/n2 does not know this node under that name"):
                await world.channel.agree(world.target(N2), OFFER)
            with pytest.raises(PeerUnreachable, match="descriptors is not available"):
                await world.channel.exchange_descriptors(world.target(N2), [], [])

    play(scenario)


def test_nobody_there_is_unreachable(play: Play) -> None:
    """Where nobody listens there is no answer, and no peer that was refused."""

    async def scenario(world: World) -> None:
        with pytest.raises(PeerUnreachable):
            await world.channel.agree(world.target(N2), OFFER)
        with pytest.raises(PeerUnreachable):
            await world.channel.probe(world.target(N2))

    play(scenario)


def test_probe_proves_the_peer(play: Play) -> None:
    """A probe shows who is there and leaves no key behind."""

    async def scenario(world: World) -> None:
        async with world.listen("n1") as peers:
            proof: Proof = await world.channel.probe(world.target(N2))
            assert (N2, "waiting") == (proof.spiffe_id, peers.rows()[0].state)

    play(scenario)
