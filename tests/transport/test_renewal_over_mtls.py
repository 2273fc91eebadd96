"""A node that has joined, whole: its Workload API, its watcher, and renewals at the issuer's peer port over mTLS."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fakes.audit import FakeAuditor
from transport.issuer_world import GROUP, N2, OWN, TD, World, issuer_world, play, short_directory, until
from x0d import telemetry
from x0d.errors import IdentityRefused, InvalidInput, PeerUnreachable
from x0d.identity.model import Reason
from x0d.identity.roles import default_bindings
from x0d.identity.spiffe_id import SpiffeId, node_id
from x0d.service.alerts import Alerts
from x0d.service.api_issuer import IssuerServicer
from x0d.service.renewal import Renewal
from x0d.spiffe.bundles import Bundles
from x0d.spiffe.joined import JoinedIdentity, KeyRequest, read, save, take
from x0d.spiffe.snapshot import Snapshot
from x0d.spiffe.watcher import Watcher
from x0d.transport.entitlement import JoinedEntitlement
from x0d.transport.join_client import RenewalClient
from x0d.transport.tls_callers import SCARCE_BURST
from x0d.transport.tls_server import TlsServer
from x0d.transport.workload_server import WorkloadServer
from x0d.v1 import peer_pb2_grpc


class PeerServicers:
    """What the issuer's peer port offers, as far as these tests go."""

    names = ("x0d.v1.IssuerService",)

    def __init__(self, world: World) -> None:
        self._world = world

    def register(self, server: object) -> None:
        peer_pb2_grpc.add_IssuerServiceServicer_to_server(IssuerServicer(self._world.issuer), server)


def watcher_on(socket: Path, own_id: SpiffeId, world: World) -> Watcher:
    return Watcher(
        socket=socket,
        own_id=own_id,
        trust_domain=TD,
        federation=frozenset(),
        dev_allowed=True,
        owner_uid=None,
        unix_s=world.clock.unix_s,
        monotonic_ns=world.clock.monotonic_ns,
        rng=random.Random(4),
    )


@asynccontextmanager
async def running(watcher: Watcher) -> AsyncIterator[Watcher]:
    task = asyncio.ensure_future(watcher.run())
    try:
        await until(lambda: watcher.current is not None)
        yield watcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def peer_port(world: World) -> AsyncIterator[tuple[TlsServer, FakeAuditor]]:
    """The issuer's peer port, with the issuer's own identity."""
    async with running(watcher_on(world.socket, OWN, world)) as watcher:
        auditor = FakeAuditor()
        server = TlsServer(
            name="peer",
            address="127.0.0.1",
            port=0,
            source=watcher,
            judge=watcher.judge,
            bindings=default_bindings(TD),
            servicers=PeerServicers(world),
            counted=telemetry.Telemetry(),
            auditor=auditor,
            require_pq=True,
            dev_allowed=True,
            connections_max=64,
            handshake_timeout_ms=2000,
            unix_s=world.clock.unix_s,
        )
        await server.start()
        server.set_ready()
        try:
            yield server, auditor
        finally:
            await server.stop(0)


@dataclass
class Node:
    """The joined end."""

    identity: JoinedIdentity
    watcher: Watcher
    client: RenewalClient
    renewal: Renewal
    directory: Path


@asynccontextmanager
async def joined_node(world: World, endpoint: str, directory: Path, issuer_id: SpiffeId = OWN) -> AsyncIterator[Node]:
    """Join, and run what a joined node runs."""
    request = KeyRequest.make()
    admission = replace(await world.join(await world.token(), request), renewal_endpoint=endpoint, issuer_id=issuer_id)
    save(directory, take(N2, request.key, admission, world.clock.unix_s()))
    found = read(directory)
    assert found is not None
    identity = JoinedIdentity(directory, found, world.clock.unix_s)
    with short_directory() as runtime_dir:
        async with _running_node(world, endpoint, directory, issuer_id, identity, runtime_dir) as node:
            yield node


@asynccontextmanager
async def _running_node(
    world: World, endpoint: str, directory: Path, issuer_id: SpiffeId, identity: JoinedIdentity, runtime_dir: Path
) -> AsyncIterator[Node]:
    served = WorkloadServer(runtime_dir, svids=identity, entitle=JoinedEntitlement(N2), viewer_group=GROUP)
    await served.start()
    try:
        async with running(watcher_on(runtime_dir / "workload.sock", N2, world)) as watcher:
            client = RenewalClient(
                endpoint=endpoint,
                issuer_id=issuer_id,
                source=watcher,
                require_pq=True,
                directory=runtime_dir,
                unix_s=world.clock.unix_s,
            )
            renewal = Renewal(identity, client, world.clock, random.Random(5), Alerts())
            yield Node(identity, watcher, client, renewal, directory)
    finally:
        await served.stop()


def has_newest(node: Node) -> bool:
    """Whether the watcher has what the last renewal brought."""
    return node.watcher.current is not None and node.watcher.current.svid == node.identity.svid(N2)


def roots_of(watcher: Watcher) -> int:
    """How many roots of its own trust domain a watcher trusts."""
    return 0 if watcher.current is None else len(watcher.current.bundles.authorities(TD))


def test_a_renewal_reaches_watcher_and_disk(tmp_path: Path) -> None:
    """Each renewal brings a new key and certificate for the same ID, on disk and to everybody on the node."""

    async def scenario() -> None:
        async with (
            issuer_world(tmp_path) as world,
            peer_port(world) as (server, auditor),
            joined_node(world, f"127.0.0.1:{server.bound_port}", tmp_path / "n2") as node,
        ):
            for _ in range(3):
                before = node.identity.svid(N2)
                assert await node.renewal.renew(), node.renewal.last_error
                after = node.identity.svid(N2)
                assert (N2, N2) == (before.spiffe_id, after.spiffe_id)
                assert before.serial != after.serial
                assert before.key_der != after.key_der
                await until(lambda: has_newest(node))
                found = read(node.directory)
                assert found is not None
                assert after == found.svid
            assert [(str(N2), "done")] * 3 == [(record.who, record.outcome) for record in auditor.records]
            assert 0 == sum(node.watcher.status().rejected.values())

    play(scenario)


def test_a_renewal_brings_the_next_root_along(tmp_path: Path) -> None:
    """A published root reaches a node before anything is signed by it; renewals go on when the old root is gone."""

    async def scenario() -> None:
        async with (
            issuer_world(tmp_path, root_ttl_s=1000, svid_ttl_s=100) as world,
            peer_port(world) as (server, _),
            joined_node(world, f"127.0.0.1:{server.bound_port}", tmp_path / "n2") as node,
        ):
            first = world.authority.root_sha256
            now = world.clock.unix_s()
            for at_s, roots in ((501, 2), (602, 2), (823, 1)):
                assert world.authority.rotate(now + at_s)
                assert roots == len(world.authority.bundle())
                world.svids.refresh(world.clock.unix_s())
                if at_s == 602:  # the issuer shows a certificate of the new root from here on
                    world.svids.refresh(now + 60)
                assert await node.renewal.renew(), node.renewal.last_error
                await until(lambda: has_newest(node))
                assert roots == roots_of(node.watcher)
            assert first != world.authority.root_sha256
            assert list(world.authority.bundle()) == list(node.identity.bundles()[TD])

    play(scenario)


@pytest.mark.parametrize("path", ["/operator/root", "/node/n1", "/node/x/y"])
def test_nobody_renews_what_is_no_node_of_the_cluster(tmp_path: Path, path: str) -> None:
    """Whoever has another ID than a node's gets no certificate for it, whatever role let it call."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            with pytest.raises(InvalidInput):
                world.issuer.renew(SpiffeId(TD, path), KeyRequest.make().csr_der)

    play(scenario)


def test_an_operator_is_refused_at_the_peer_port(tmp_path: Path) -> None:
    """RenewSvid is for the role peer: the cluster's root operator, with a good SVID, does not have it."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world, peer_port(world) as (server, auditor):
            operator = SpiffeId.parse(f"spiffe://{TD}/operator/root")
            source = OneSvid(world, operator)
            client = RenewalClient(
                endpoint=f"127.0.0.1:{server.bound_port}",
                issuer_id=OWN,
                source=source,
                require_pq=True,
                directory=world.runtime_dir,
                unix_s=world.clock.unix_s,
            )
            with pytest.raises(PeerUnreachable, match="not permitted"):
                await client.renew(KeyRequest.make().csr_der)
            assert [] == auditor.records

    play(scenario)


class OneSvid:
    """``SnapshotSource`` with an SVID that the authority makes for whatever ID."""

    def __init__(self, world: World, spiffe_id: SpiffeId) -> None:
        self.current = Snapshot(1, world.svids.svid(spiffe_id), Bundles.of({TD: world.authority.bundle()}))

    def subscribe(self, on_change: object) -> None:
        del on_change


def test_renewals_have_a_budget(tmp_path: Path) -> None:
    """A node that renews without end is told to wait, before a record is written or anything signed; others are not."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world, peer_port(world) as (server, auditor):
            clients = [
                RenewalClient(
                    endpoint=f"127.0.0.1:{server.bound_port}",
                    issuer_id=OWN,
                    source=OneSvid(world, spiffe_id),
                    require_pq=True,
                    directory=world.runtime_dir,
                    unix_s=world.clock.unix_s,
                )
                for spiffe_id in (N2, node_id(TD, "n3"))
            ]
            csr = KeyRequest.make().csr_der
            for _ in range(SCARCE_BURST):
                await clients[0].renew(csr)
            with pytest.raises(PeerUnreachable, match="too often; try again in 20 s"):
                await clients[0].renew(csr)
            assert SCARCE_BURST == len(auditor.records)
            await clients[1].renew(csr)

    play(scenario)


def test_somebody_else_at_the_issuers_address(tmp_path: Path) -> None:
    """A node that answers where the issuer should is refused, and the identity stays as it was."""

    async def scenario() -> None:
        async with (
            issuer_world(tmp_path) as world,
            peer_port(world) as (server, auditor),
            joined_node(world, f"127.0.0.1:{server.bound_port}", tmp_path / "n2", node_id(TD, "n9")) as node,
        ):
            before = node.identity.svid(N2)
            with pytest.raises(IdentityRefused) as refused:
                await node.client.renew(node.identity.request())
            assert Reason.WRONG_ID == refused.value.reason
            assert not await node.renewal.renew()
            assert before is node.identity.svid(N2)
            assert [] == auditor.records

    play(scenario)


def test_an_issuer_that_is_away(tmp_path: Path) -> None:
    """Without the issuer a renewal says where nobody answers, and succeeds once it is back."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world, joined_node(world, "127.0.0.1:1", tmp_path / "n2") as node:
            assert not await node.renewal.renew()
            assert "127.0.0.1:1" in node.renewal.last_error
            assert node.identity.not_after_unix_s == node.renewal.outage_hurts_unix_s

    play(scenario)


def test_a_runtime_directory_that_is_gone(tmp_path: Path) -> None:
    """Without a place for its private socket a renewal fails like any other, and does not end the daemon."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world, joined_node(world, "127.0.0.1:1", tmp_path / "n2") as node:
            node.client._directory = Path("/proc/nowhere")
            assert not await node.renewal.renew()
            assert "no private socket to dial from" in node.renewal.last_error

    play(scenario)
