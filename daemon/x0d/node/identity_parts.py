"""What authenticates this node and those that it speaks to, built by hand: SVID, TLS ports, peers, and their views.

Opened in this order: the identity of this node (``open``), the TLS ports (``listen``), and with the tasks the Workload
API's watcher, whose first SVID opens the ports.  Nothing here waits for an SVID: a node without one runs, forwards and
answers on its control socket, and says what it lacks.
"""

import asyncio
import random
import secrets
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from grpc import aio

from x0d import telemetry
from x0d.config import Config
from x0d.errors import AddressUnavailable
from x0d.identity.roles import Role, roles_of
from x0d.identity.spiffe_id import SpiffeId, node_id
from x0d.kernel.clock import SystemClock
from x0d.mesh.model import LinkKey
from x0d.node.identity_source import IdentitySource
from x0d.policy.model import PackedPrefix
from x0d.ports import Auditor
from x0d.service.alerts import Alerts
from x0d.service.api_issuer import IssuerServicer
from x0d.service.api_peer import PeerServicer
from x0d.service.descriptors import DescriptorService
from x0d.service.descriptors_kept import KeptDescriptors
from x0d.service.identity import IdentityFacts, IdentityService
from x0d.service.identity_checks import IdentityChecks
from x0d.service.identity_view import IdentityOverview
from x0d.service.metrics_identity import IdentityReading
from x0d.service.peers import PeerService
from x0d.service.views_identity import Descriptor
from x0d.spiffe import mldsa
from x0d.spiffe.descriptor_signing import DescriptorSigning
from x0d.spiffe.fetch import fetch_once
from x0d.spiffe.watcher import Watcher
from x0d.store.descriptors import DescriptorDatabase
from x0d.transport.grpc_server import ControlServer, Servicers
from x0d.transport.peer_channel import GrpcPeerChannel
from x0d.transport.tls_server import TlsServer
from x0d.v1 import peer_pb2_grpc

ASK_S = 3.0  # of patience with the Workload API, when an operator has it checked
NONCE_BYTES = 32
DESCRIPTORS_ALERT = "descriptors_moved_aside"


class PeerServicers:
    """What the peer port offers."""

    def __init__(self, peers: PeerServicer, issuer: IssuerServicer | None) -> None:
        self._peers = peers
        self._issuer = issuer

    @property
    def names(self) -> Sequence[str]:
        """Full service names."""
        return ("x0d.v1.PeerService", *(("x0d.v1.IssuerService",) if self._issuer else ()))

    def register(self, server: aio.Server) -> None:
        """Add them to the server."""
        peer_pb2_grpc.add_PeerServiceServicer_to_server(self._peers, server)
        if self._issuer is not None:
            peer_pb2_grpc.add_IssuerServiceServicer_to_server(self._issuer, server)


class IdentityParts:
    """All that is about identity; complete once ``open`` and ``listen`` have run."""

    def __init__(self, config: Config, clock: SystemClock, counted: telemetry.Telemetry, alerts: Alerts) -> None:
        self._config = config
        self._clock = clock
        self._counted = counted
        self._alerts = alerts
        identity = config.identity
        self._boot_id = secrets.randbits(64) or 1
        self._dials = config.node.runtime_dir / "dials"
        self._descriptors: DescriptorService | None = None
        self._servers: list[TlsServer] = []
        self._set_serving: Callable[[bool], None] = lambda _: None
        self.source = IdentitySource(config, clock, counted, alerts)
        self.watcher = Watcher(
            socket=config.workload_socket,
            own_id=config.spiffe_id,
            trust_domain=identity.trust_domain,
            federation=frozenset(each.trust_domain for each in identity.federation),
            dev_allowed=not config.node.production,
            owner_uid=identity.workload_uid if config.node.production else None,
            unix_s=self.source.unix_s,
            monotonic_ns=clock.monotonic_ns,
            rng=random.Random(),
        )
        self._channel = GrpcPeerChannel(self.watcher, identity.require_pq, self._dials, counted, self.source.unix_s)
        self.peers = PeerService(
            own_id=config.spiffe_id,
            boot_id=self._boot_id,
            peer_port=config.listen.peer_port,
            source=self.watcher,
            channel=self._channel,
            clock=clock,
            alerts=alerts,
            rng=random.Random(),
            nonce=lambda: secrets.token_bytes(NONCE_BYTES),
        )
        self.service = IdentityService(
            facts=self._facts, source=self.watcher, clock=clock, alerts=alerts, set_serving=self._serve
        )

    # ---- steps ----

    async def open(
        self,
        stack: AsyncExitStack,
        viewer_group: str,
        addresses: Callable[[], Iterable[PackedPrefix]],
        local_of: Callable[[str], str | None],
    ) -> None:
        """Take up this node's identity; ``addresses`` are this host's, ``local_of`` ours on the link to a node.

        Raises:
            NoIdentity, StorageFailed, AddressUnavailable: as ``IdentitySource.open``.
            NotSupported: post-quantum is asked for, and this TLS library lacks it.
        """

        def choose(spiffe_id: SpiffeId) -> str | None:
            return choose_address(self._config, spiffe_id, addresses(), local_of)

        if self._config.identity.require_pq:
            mldsa.probe_key_exchange()
        make_private(self._dials)
        await self.source.open(stack, viewer_group, choose, self.watcher, self._dials)
        if self._config.identity.pqc_beacons:
            self._descriptors = await self._open_descriptors(stack)
        self.overview = self._view()

    async def listen(
        self, stack: AsyncExitStack, servicers: Servicers, auditor: Auditor, control: ControlServer, grace_s: float
    ) -> None:
        """Open the control and the peer port, now or with the first SVID; ``control`` is told of our health.

        Raises:
            AddressUnavailable: a port is in use, or listen.address is not of this host.
        """
        listen = self._config.listen
        issuer = IssuerServicer(self.source.issuer) if self.source.issuer else None
        offers: tuple[tuple[Any, int, Servicers], ...] = (
            ("control", listen.control_port, servicers),
            ("peer", listen.peer_port, PeerServicers(PeerServicer(self.peers, self._descriptors), issuer)),
        )
        for name, port, offered in offers:
            server = TlsServer(
                name=name,
                address=listen.address,
                port=port,
                source=self.watcher,
                judge=self.watcher.judge,
                bindings=self._config.bindings,
                servicers=offered,
                counted=self._counted,
                auditor=auditor,
                require_pq=self._config.identity.require_pq,
                dev_allowed=not self._config.node.production,
                connections_max=listen.connections_max,
                handshake_timeout_ms=listen.handshake_timeout_ms,
                unix_s=self.source.unix_s,
                on_refusal=self.service.refused,
            )
            server.set_starting("the TLS ports open")
            await server.start()
            stack.push_async_callback(server.stop, grace_s)
            self._servers.append(server)
        self._set_serving = control.set_serving
        self.source.set_auditor(auditor)

    def set_ready(self) -> None:
        """Answer everything from now on."""
        for server in self._servers:
            server.set_ready()

    def tasks(self) -> tuple[tuple[str, Coroutine[Any, Any, None]], ...]:
        """What runs as long as the daemon does."""
        return (
            ("workload API", self.watcher.run()),
            ("identity", self.service.run()),
            ("peers", self.peers.run()),
            *((("descriptors", self._descriptors.run()),) if self._descriptors else ()),
            *self.source.tasks(),
        )

    def greet(self, link: LinkKey) -> None:
        """A neighbour can be reached: trade descriptors with it, where this node keeps them."""
        if self._descriptors is not None:
            self._descriptors.greet(link)

    def reconfigure(self, config: Config) -> None:
        """Take over the bindings of a newly read configuration."""
        self._config = config
        for server in self._servers:
            server.set_bindings(config.bindings)

    # ---- out ----

    def reading(self) -> IdentityReading:
        """What a scrape shows."""
        return IdentityReading(self.watcher.status(), self.peers.authenticated())

    def _serve(self, serving: bool) -> None:
        self._set_serving(serving)
        for server in self._servers:
            server.set_serving(serving)

    def _facts(self) -> IdentityFacts:
        config = self._config
        return IdentityFacts(
            own_id=config.spiffe_id,
            source=self.source.kind,
            workload_socket=str(config.workload_socket),
            require_pq=config.identity.require_pq,
            bindings=config.bindings,
            neighbours=tuple((each.node, each.interface) for each in config.mesh.neighbours),
        )

    async def _open_descriptors(self, stack: AsyncExitStack) -> DescriptorService:
        """Sign and keep descriptors.

        Raises:
            NotSupported: this TLS library has no ML-DSA.
            StorageFailed: key or file cannot be read or written.
        """
        config = self._config
        mldsa.probe()
        key = await asyncio.to_thread(mldsa.open_key, self.source.directory)
        signing = DescriptorSigning(key, self.watcher, config.identity.trust_domain)
        stack.callback(signing.close)
        store = DescriptorDatabase(config.node.state_dir / "descriptors.db")
        report = await store.open()
        stack.push_async_callback(store.close)
        if report.moved_aside is not None:
            text = f"descriptors.db was not readable ({report.reason}) and was moved to {report.moved_aside}"
            self._alerts.raise_alert(DESCRIPTORS_ALERT, text)
        kept = KeptDescriptors(
            own_id=config.spiffe_id,
            signer=signing,
            store=store,
            clock=self._clock,
            counted=self._counted,
            alerts=self._alerts,
            is_node=lambda spiffe_id: Role.PEER in roles_of(spiffe_id, self._config.bindings),
        )
        service = DescriptorService(
            node=config.node.name,
            own_id=config.spiffe_id,
            boot_id=self._boot_id,
            kept=kept,
            address=config.node.address.network_address,
            channel=self._channel,
            targets=self.peers.targets,
            clock=self._clock,
            alerts=self._alerts,
            rng=random.Random(),
        )
        await service.start()
        return service

    async def _rows(self) -> Sequence[Descriptor]:
        return self._descriptors.rows() if self._descriptors else ()

    def _view(self) -> IdentityOverview:
        checks = IdentityChecks(
            facts=self._facts,
            service=self.service,
            clock=self._clock,
            ask=lambda: fetch_once(self._config.workload_socket, ASK_S),
            places=self.peers.targets,
            channel=self._channel,
            issuer=self.source.issuer,
            held=self.source.held,
        )
        return IdentityOverview(
            facts=self._facts,
            service=self.service,
            checks=checks,
            peers=self.peers.rows,
            issuer=self.source.issuer,
            renewal=self.source.renewal,
            descriptors=self._rows,
        )


def make_private(directory: Path) -> None:
    """Make the directory of the dials' sockets, for us alone.

    Raises:
        AddressUnavailable: it cannot be made.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise AddressUnavailable(f"{directory}: {error.strerror}") from error


def choose_address(
    config: Config, spiffe_id: SpiffeId, addresses: Iterable[PackedPrefix], local_of: Callable[[str], str | None]
) -> str | None:
    """Host at which a node that joins may reach this one: on the link to it, else the only global address there is."""
    for neighbour in config.mesh.neighbours:
        if node_id(config.identity.trust_domain, neighbour.node) == spiffe_id and (local := local_of(neighbour.node)):
            return local
    found = {ip_address(packed.address) for packed in addresses} - {config.node.address.network_address}
    usable = [each for each in found if not (each.is_loopback or each.is_link_local or each.is_multicast)]
    return str(usable[0]) if len(usable) == 1 else None
