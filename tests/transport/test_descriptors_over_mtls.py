"""Descriptors on the real stack: two nodes' ports, keys and files, and the largest messages that both ends may send."""

import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import cast

import pytest

from fakes.audit import FakeAuditor
from fakes.authority import CA
from fakes.tls_peer import OWN_ID, PEER_ID, bundles_of, new_ca, svid_of, until
from x0d.errors import PeerUnreachable
from x0d.identity.descriptor import BATCH_BYTES_MAX, DESCRIPTOR_BYTES_MAX, HELD_MAX, SignedDescriptor, Verdict
from x0d.identity.roles import default_bindings
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.kernel.clock import SystemClock
from x0d.mesh.model import LinkKey
from x0d.ports import PeerTarget
from x0d.service.alerts import Alerts
from x0d.service.api_peer import PeerServicer
from x0d.service.descriptors import DescriptorService
from x0d.service.descriptors_kept import KeptDescriptors
from x0d.service.peers import PeerPlace, PeerService
from x0d.spiffe.descriptor_signing import DescriptorSigning
from x0d.spiffe.mldsa import open_key
from x0d.spiffe.snapshot import Snapshot
from x0d.store.descriptors import DescriptorDatabase
from x0d.telemetry import Telemetry
from x0d.transport.peer_channel import GrpcPeerChannel
from x0d.transport.tls_server import TlsServer
from x0d.v1 import peer_pb2_grpc

LOCAL = TrustDomain("dev.x0d.test")
LOOPBACK = IPv4Address("127.0.0.1")


class Source:
    """``SnapshotSource`` of one node; what it shows stays good here, so nothing is judged twice."""

    def __init__(self, ca: CA, spiffe_id: str) -> None:
        self.current: Snapshot | None = Snapshot(1, svid_of(ca.issue(spiffe_id), spiffe_id), bundles_of(ca))

    def subscribe(self, on_change: object) -> None:
        """It never changes."""

    def judge(self, proof: object) -> None:
        """The handshake has been judged."""


class Node:
    """One node's part, as ``node/graph.py`` joins it."""

    names = ("x0d.v1.PeerService",)

    def __init__(self, ca: CA, spiffe_id: str, directory: Path) -> None:
        self.spiffe_id = SpiffeId.parse(spiffe_id)
        self.name = self.spiffe_id.path.rpartition("/")[2]
        self.source = Source(ca, spiffe_id)
        self.counted, self.clock, alerts = Telemetry(), SystemClock(), Alerts()
        self.store = DescriptorDatabase(directory / "descriptors.db")
        self.signer = DescriptorSigning(open_key(directory / "identity"), self.source, LOCAL)
        self.kept = KeptDescriptors(
            own_id=self.spiffe_id,
            is_node=lambda _: True,
            signer=self.signer,
            store=self.store,
            clock=self.clock,
            counted=self.counted,
            alerts=alerts,
        )
        self.channel = GrpcPeerChannel(self.source, True, directory, self.counted, time.time)
        self.places: list[PeerPlace] = []
        self.service = DescriptorService(
            node=self.name,
            own_id=self.spiffe_id,
            address=LOOPBACK,
            boot_id=random.Random(self.name).randrange(1, 2**64),
            kept=self.kept,
            channel=self.channel,
            targets=lambda: self.places,
            clock=self.clock,
            alerts=alerts,
            rng=random.Random(1),
        )

    def register(self, server: object) -> None:
        """Only descriptors: no key is agreed on here."""
        peer_pb2_grpc.add_PeerServiceServicer_to_server(PeerServicer(cast("PeerService", None), self.service), server)

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[int]:
        """Serve and trade; the port."""
        server = TlsServer(
            name="peer",
            address=str(LOOPBACK),
            port=0,
            source=self.source,
            judge=self.source.judge,
            bindings=default_bindings(LOCAL),
            servicers=self,
            counted=self.counted,
            auditor=FakeAuditor(),
            require_pq=True,
            dev_allowed=True,
            connections_max=16,
            handshake_timeout_ms=2000,
            unix_s=time.time,
        )
        await self.store.open()
        await self.service.start()
        await server.start()
        server.set_ready()
        task = asyncio.create_task(self.service.run())
        try:
            yield server.bound_port
        finally:
            task.cancel()
            await asyncio.wait([task])
            await server.stop(0)
            self.signer.close()
            await self.store.close()


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Node, Node]]:
    """Nodes n1 and n2 of one CA; n1 knows where n2 is."""
    ca = new_ca()
    async with AsyncExitStack() as stack:
        nodes = []
        for spiffe_id in (OWN_ID, PEER_ID):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            nodes.append(Node(ca, spiffe_id, directory))
        n1, n2 = nodes
        await stack.enter_async_context(n1.alive())
        port = await stack.enter_async_context(n2.alive())
        n1.places.append(PeerPlace("n2", "", PeerTarget(n2.spiffe_id, LOOPBACK, "", port)))
        yield n1, n2


def test_two_nodes_know_each_other() -> None:
    """After a key agreement both nodes hold both descriptors, verified and on disk, and each says from whom."""

    async def main() -> None:
        async with two_nodes() as (n1, n2):
            n1.service.greet(LinkKey.between("n1", LOOPBACK, "n2", LOOPBACK))
            await until(lambda: 2 == len(n1.service.rows()) == len(n2.service.rows()))
            assert [OWN_ID, PEER_ID] == [row.spiffe_id for row in n1.service.rows()]
            assert [PEER_ID, OWN_ID] == [row.received_from for row in n2.service.rows()]
            for node in (n1, n2):
                assert 2 == len(await node.store.newest())
                for row in node.service.rows():
                    await node.signer.verify(SignedDescriptor.decode(row.raw))

    asyncio.run(main())


def test_largest_messages_pass() -> None:
    """The fullest question that a node sends reaches the other one, and each descriptor in it meets its verdict."""

    async def main() -> None:
        async with two_nodes() as (n1, n2):
            await until(lambda: bool(n1.service.rows()))
            own = SignedDescriptor.decode(n1.service.rows()[0].raw)
            filler = DESCRIPTOR_BYTES_MAX - len(own.encode()) - 12_000
            large = replace(own, chain_ders=(*own.chain_ders, bytes(filler))).encode()
            given = [large + b"x"] * (BATCH_BYTES_MAX // len(large) - 1)
            held = [bytes(32)] * HELD_MAX
            target = n1.places[0].target
            theirs, wanted, proof = await n1.channel.exchange_descriptors(target, held, given)
            assert ([bytes(32)], PEER_ID) == (list(wanted), str(proof.spiffe_id))
            assert [n2.service.rows()[0].raw] == list(theirs)
            malformed = {"result": Verdict.MALFORMED.value}
            counted = n2.counted.registry.get_sample_value("x0d_descriptor_verifications_total", malformed)
            assert len(given) == counted

    asyncio.run(main())


def test_hostile_messages_on_the_wire() -> None:
    """Messages beyond the bounds are refused by status, and the node goes on answering."""

    async def main() -> None:
        async with two_nodes() as (n1, n2):
            target = n1.places[0].target
            for held, given in (
                ([bytes(32)] * (HELD_MAX + 1), []),
                ([b"x"], []),
                ([], [b""] * 65),
                ([], [bytes(1 << 20)]),
            ):
                with pytest.raises(PeerUnreachable, match=r"INVALID_ARGUMENT|RESOURCE_EXHAUSTED"):
                    await n1.channel.exchange_descriptors(target, held, given)
            await until(lambda: bool(n2.service.rows()))
            theirs, _, _ = await n1.channel.exchange_descriptors(target, [], [])
            assert 1 == len(theirs)

    asyncio.run(main())
