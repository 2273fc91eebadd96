"""A real TLS port over a fake source of SVIDs, and clients that may show it whatever they like.

The port answers every method of every proto and notes which handlers were reached.  Its own leaf carries a DNS name
besides its SPIFFE ID, so that gRPC's own client, which cannot check a URI, reaches it with any certificate.

Not modelled: a Workload API, and what the methods do.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc import StatusCode, aio

from fakes.audit import FakeAuditor
from fakes.authority import CA, HOUR_S, Issued
from fakes.control import until
from x0d.errors import IdentityRefused
from x0d.identity.model import Proof
from x0d.identity.roles import Binding, IdPattern, Role
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.ports.identity import CALLER
from x0d.spiffe.bundles import Bundles
from x0d.spiffe.snapshot import Snapshot, Svid
from x0d.telemetry import Telemetry
from x0d.transport.tls_server import TlsServer
from x0d.v1 import audit_pb2, dataplane_pb2, identity_pb2, incident_pb2, mesh_pb2, node_pb2, peer_pb2

DOMAIN = "dev.x0d.test"
FOREIGN = "other.x0d.test"
SERVER_NAME = "server.x0d.test"
OPERATOR = f"spiffe://{DOMAIN}/operator/alice"
STATUS = "/x0d.v1.NodeService/GetStatus"
WATCH = "/x0d.v1.IncidentService/WatchIncidents"
RELOAD = "/x0d.v1.NodeService/Reload"
FLOOD = b"flood"
"""Request of a watch that writes without end."""
AGREE = "/x0d.v1.PeerService/AgreeKey"
FILES = (audit_pb2, dataplane_pb2, identity_pb2, incident_pb2, mesh_pb2, node_pb2, peer_pb2)


def bound(role: Role, pattern: str) -> Binding:
    return Binding(role, IdPattern.parse(pattern))


BINDINGS = (
    bound(Role.ADMIN, f"spiffe://{DOMAIN}/operator/root"),
    bound(Role.OPERATOR, OPERATOR),
    bound(Role.VIEWER, f"spiffe://{DOMAIN}/operator/*"),
    bound(Role.PEER, f"spiffe://{DOMAIN}/node/*"),
)


def svid_of(issued: Issued, spiffe_id: str, ttl_s: float = HOUR_S) -> Svid:
    """What the Workload API would have given for this leaf."""
    now_s = time.time()
    return Svid(
        SpiffeId.parse(spiffe_id), issued.leaf_der, issued.chain_ders, issued.key_der, now_s - 1, now_s + ttl_s - 1, "1"
    )


@dataclass
class FakeSource:
    """Satisfies ``SnapshotSource`` and judges as the watcher does; ``put`` brings an update."""

    current: Snapshot | None = None
    subscribers: list[Callable[[], None]] = field(default_factory=list)
    ahead_s: float = 0.0
    """How far the wall clock is ahead of the machine's."""

    def unix_s(self) -> float:
        return time.time() + self.ahead_s

    def subscribe(self, on_change: Callable[[], None]) -> None:
        self.subscribers.append(on_change)

    def put(self, svid: Svid, *authorities: CA) -> None:
        generation = self.current.generation + 1 if self.current else 1
        bundles: dict[TrustDomain, list[bytes]] = {}
        for ca in authorities:
            bundles.setdefault(TrustDomain(ca.trust_domain), []).append(ca.der)
        self.current = Snapshot(generation, svid, Bundles.of(bundles))
        for on_change in self.subscribers:
            on_change()

    def judge(self, proof: Proof) -> None:
        if self.current is None:
            raise IdentityRefused("untrusted", "no bundle")
        self.current.bundles.verify(proof.leaf_pem, proof.chain_pem, proof.usage, self.unix_s())


class Reached:
    """Answers every method of every proto with what it was asked, and notes who got through."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        """Method and caller."""
        self.streams: set[str] = set()
        """Callers whose watch is open now."""
        self.written = 0
        """Messages of floods that the transport has taken."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(service.full_name for file in FILES for service in file.DESCRIPTOR.services_by_name.values())

    def register(self, server: aio.Server) -> None:
        for file in FILES:
            for service in file.DESCRIPTOR.services_by_name.values():
                handlers = {method.name: self._handler(service.full_name, method) for method in service.methods}
                server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))

    def _handler(self, service: str, method: Any) -> Any:  # noqa: ANN401 - a descriptor, a handler
        path = f"/{service}/{method.name}"

        async def one(request: bytes, _context: Any) -> bytes:  # noqa: ANN401 - gRPC's
            self.calls.append((path, CALLER.get().name))
            return request

        async def watch(request: bytes, _context: Any) -> AsyncIterator[bytes]:  # noqa: ANN401 - gRPC's
            name = CALLER.get().name
            self.calls.append((path, name))
            self.streams.add(name)
            try:
                yield b""
                while request == FLOOD:
                    yield bytes(65_536)
                    self.written += 1
                await asyncio.Event().wait()
            finally:
                self.streams.discard(name)

        async def converse(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:  # noqa: ANN401
            self.calls.append((path, CALLER.get().name))
            async for request in requests:
                yield request

        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(converse)
        return grpc.unary_stream_rpc_method_handler(watch) if method.server_streaming else (
            grpc.unary_unary_rpc_method_handler(one)
        )  # fmt: skip


@dataclass
class TlsLab:
    """The port and what a test looks at."""

    ca: CA
    foreign: CA
    own: Issued
    source: FakeSource
    server: TlsServer
    reached: Reached
    counted: Telemetry
    auditor: FakeAuditor
    refusals: list[str]
    """Reasons told to ``on_refusal``."""

    def channel(self, shown: Issued | None, address: str = "127.0.0.1") -> aio.Channel:
        """A connection of its own that shows this certificate; without one it shows none."""
        key, chain = (shown.key_pem, shown.certificates_pem) if shown else (None, None)
        host = f"[{address}]" if ":" in address else address
        credentials = grpc.ssl_channel_credentials(self.ca.pem, key, chain)
        options = (("grpc.ssl_target_name_override", SERVER_NAME), ("grpc.use_local_subchannel_pool", 1))
        return aio.secure_channel(f"{host}:{self.server.bound_port}", credentials, options)

    def put(self, *authorities: CA) -> None:
        """An update of the bundles, with the server's own SVID as it was."""
        self.source.put(svid_of(self.own, f"spiffe://{DOMAIN}/node/n0"), *authorities)

    def failures(self, reason: str) -> int:
        """Refusals counted for a reason."""
        labels = {"side": "server", "reason": reason}
        return int(self.counted.registry.get_sample_value("x0d_tls_handshake_failures_total", labels) or 0)

    def failures_by_reason(self) -> dict[str, int]:
        """Every reason that was counted."""
        return {
            sample.labels["reason"]: int(sample.value)
            for family in self.counted.registry.collect()
            for sample in family.samples
            if sample.name == "x0d_tls_handshake_failures_total" and sample.value
        }


@dataclass(frozen=True)
class Answer:
    """All that a caller learns."""

    status: StatusCode
    details: str
    reason: str
    """Trailing metadata ``x0d-reason``."""


async def ask(channel: aio.Channel, method: str = STATUS, request: bytes = b"") -> Answer:
    """Call a method whatever its kind, with one request, up to its first answer."""
    stub: Any = channel.unary_stream(method)
    call = stub(request, timeout=10)
    try:
        await call.read()
    except aio.AioRpcError:
        pass
    else:
        call.cancel()
        return Answer(StatusCode.OK, "", "")
    trailing = dict(await call.trailing_metadata() or ())
    return Answer(await call.code(), await call.details(), str(trailing.get("x0d-reason", "")))


async def ask_as(lab: TlsLab, shown: Issued | None, method: str = STATUS) -> Answer:
    """Call over a connection of its own."""
    async with lab.channel(shown) as channel:
        return await ask(channel, method)


@asynccontextmanager
async def tls_port(
    *,
    name: Any = "control",  # noqa: ANN401 - one of two words
    address: str = "127.0.0.1",
    require_pq: bool = False,
    dev_allowed: bool = True,
    bindings: Iterable[Binding] = BINDINGS,
    connections_max: int = 64,
    handshake_timeout_ms: int = 5_000,
    ttl_s: float = HOUR_S,
    has_svid: bool = True,
) -> AsyncIterator[TlsLab]:
    """Open a port that trusts ``ca`` and, as a federated domain, ``foreign``; close it at the end."""
    ca, foreign = (CA(domain, start_unix_s=time.time()) for domain in (DOMAIN, FOREIGN))
    own = ca.issue(f"spiffe://{DOMAIN}/node/n0", dns=[SERVER_NAME])
    source, reached, counted, auditor = FakeSource(), Reached(), Telemetry(), FakeAuditor()
    refusals: list[str] = []
    server = TlsServer(
        name=name,
        address=address,
        port=0,
        source=source,
        judge=source.judge,
        bindings=bindings,
        servicers=reached,
        counted=counted,
        auditor=auditor,
        require_pq=require_pq,
        dev_allowed=dev_allowed,
        connections_max=connections_max,
        handshake_timeout_ms=handshake_timeout_ms,
        unix_s=source.unix_s,
        on_refusal=lambda reason, _: refusals.append(reason),
    )
    if has_svid:
        source.put(svid_of(own, f"spiffe://{DOMAIN}/node/n0", ttl_s), ca, foreign)
    await server.start()
    server.set_ready()
    try:
        yield TlsLab(ca, foreign, own, source, server, reached, counted, auditor, refusals)
    finally:
        await server.stop(0.0)


async def open_watch(lab: TlsLab, channel: aio.Channel) -> Any:  # noqa: ANN401 - a stream call
    """A stream that is open: its first message has come."""
    stub: Any = channel.unary_stream(WATCH)
    call = stub(b"")
    await call.read()
    await until(lambda: lab.reached.streams)
    return call


async def until_still(count: Callable[[], int]) -> None:
    """Wait until a count has stood still for a while: whoever counts is stuck."""
    loop = asyncio.get_running_loop()
    last, since = count(), loop.time()
    while loop.time() - since < 0.2:
        await asyncio.sleep(0)
        if count() != last:
            last, since = count(), loop.time()
