"""Nodes that trade descriptors, on fakes and in virtual time."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from typing import cast

from fakes.clock import FakeClock
from fakes.descriptors import FakeDescriptorSigner, FakeDescriptorStore
from fakes.peers import FakePeerChannel, FakeSvids, Listener, PeerNetwork
from x0d.identity.descriptor import HELD_MAX, Claim, SignedDescriptor, Verdict
from x0d.identity.spiffe_id import SpiffeId, TrustDomain, node_id
from x0d.mesh.model import LinkKey
from x0d.ports import PeerTarget
from x0d.service.alerts import Alerts
from x0d.service.api_peer import PeerServicer
from x0d.service.descriptors import DescriptorService
from x0d.service.descriptors_kept import KeptDescriptors
from x0d.service.peers import PeerPlace, PeerService
from x0d.telemetry import Telemetry

LOCAL = TrustDomain("x0d.test")


def id_of(name: str) -> SpiffeId:
    """ID of node ``nN``."""
    return node_id(LOCAL, name)


def address_of(name: str) -> IPv4Address:
    """Address of node ``nN``, stable and on its one wire."""
    return IPv4Address("10.255.0.0") + int(name[1:])


class DescribedNode:
    """One node's descriptors, and what they need; its store and its SVID live on when the daemon is stopped."""

    def __init__(self, clock: FakeClock, network: PeerNetwork, name: str, *neighbours: str) -> None:
        self.clock = clock
        self.network = network
        self.name = name
        self.neighbours = neighbours
        self.signer = FakeDescriptorSigner(id_of(name))
        self.store = FakeDescriptorStore()
        self.svids = FakeSvids(clock, id_of(name))
        self.alerts = Alerts()
        self.reachable = True
        self.lives = 0
        self.start()

    def start(self, nodes_max: int = HELD_MAX) -> None:
        """Build the services of a new life."""
        self.lives += 1
        rng = random.Random(f"{self.name} {self.lives}")
        self.counted = Telemetry()
        self.channel = FakePeerChannel(self.network, self.svids, lambda _: self.reachable)
        self.kept = KeptDescriptors(
            own_id=id_of(self.name),
            is_node=lambda spiffe_id: spiffe_id.path.startswith("/node/"),
            signer=self.signer,
            store=self.store,
            clock=self.clock,
            counted=self.counted,
            alerts=self.alerts,
            nodes_max=nodes_max,
        )
        self.service = DescriptorService(
            node=self.name,
            own_id=id_of(self.name),
            address=address_of(self.name),
            boot_id=rng.randrange(1, 2**64),
            kept=self.kept,
            channel=self.channel,
            targets=self.targets,
            clock=self.clock,
            alerts=self.alerts,
            rng=rng,
        )

    def targets(self) -> Sequence[PeerPlace]:
        """Where the neighbours are dialled."""
        return [PeerPlace(n, "eth0", PeerTarget(id_of(n), address_of(n), "eth0", 9471)) for n in self.neighbours]

    @asynccontextmanager
    async def alive(self, *greeted: str) -> AsyncIterator[None]:
        """Run the daemon's part; keys were agreed with ``greeted``."""
        peers = cast("PeerService", None)  # no key is agreed on here
        self.network.listening[address_of(self.name)] = Listener(self.svids, PeerServicer(peers, self.service))
        await self.service.start()
        task = asyncio.create_task(self.service.run())
        for node in greeted:
            self.greet(node)
        try:
            yield
        finally:
            task.cancel()
            self.network.listening.pop(address_of(self.name), None)
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    def greet(self, node: str) -> None:
        """A key has been agreed with a neighbour."""
        self.service.greet(LinkKey.between(self.name, address_of(self.name), node, address_of(node)))

    async def given(self, descriptor: SignedDescriptor | bytes, source: str = "n9") -> Verdict:
        """Somebody gives this node a descriptor."""
        raw = descriptor if isinstance(descriptor, bytes) else descriptor.encode()
        return await self.kept.take(raw, id_of(source))

    # ---- what a test looks at ----

    def holds(self) -> dict[str, Claim]:
        """The newest claim of each node, by its name."""
        claims = [SignedDescriptor.decode(row.raw).claim for row in reversed(self.service.rows())]
        found: dict[str, Claim] = {}
        for claim in sorted(claims, key=lambda claim: claim.signed_at_unix_ms):
            found[claim.spiffe_id.path.removeprefix("/node/")] = claim
        return found

    def source_of(self, node: str) -> str:
        """From whom it has the newest of a node."""
        row = max(
            (r for r in self.service.rows() if r.spiffe_id == str(id_of(node))), key=lambda r: r.signed_at_unix_ms
        )
        return row.received_from.rpartition("/")[2]

    def count(self, verdict: Verdict) -> int:
        """How many descriptors met this verdict."""
        value = self.counted.registry.get_sample_value("x0d_descriptor_verifications_total", {"result": verdict.value})
        assert value is not None, "counted from the start"
        return int(value)


def line(clock: FakeClock, size: int) -> list[DescribedNode]:
    """Nodes n1, n2, ... in a row."""
    network = PeerNetwork()
    names = [f"n{number}" for number in range(1, size + 1)]
    return [
        DescribedNode(clock, network, name, *names[max(0, at - 1) : at], *names[at + 1 : at + 2])
        for at, name in enumerate(names)
    ]


async def signed(
    name: str, at_unix_ms: int, sequence: int = 1, boot_id: int = 5, root: str = "root1"
) -> SignedDescriptor:
    """What a node would sign."""
    return await signed_by(FakeDescriptorSigner(id_of(name), root), at_unix_ms, sequence, boot_id)


async def signed_by(
    signer: FakeDescriptorSigner, at_unix_ms: int, sequence: int = 1, boot_id: int = 5
) -> SignedDescriptor:
    """What this signer would sign."""
    assert signer.spiffe_id is not None
    address = IPv4Address("10.255.0.9")
    return await signer.sign(Claim(signer.spiffe_id, address, signer.public_key, boot_id, sequence, at_unix_ms))


def forged(descriptor: SignedDescriptor) -> SignedDescriptor:
    """Well formed, and signed by nobody."""
    return replace(descriptor, svid_signature=b"forged")
