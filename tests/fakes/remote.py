"""A control port with mTLS over fake views, and a Workload API for whoever calls it: what x0ctl meets on another host.

Not modelled: rotation, an issuer, other hosts (all is on loopback).
"""

import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from grpc import aio

from fakes.agent import FakeAgent, serving, update_of
from fakes.audit import FakeAuditor
from fakes.authority import CA
from fakes.views import fake_views
from x0d.identity.model import Proof
from x0d.identity.roles import default_bindings
from x0d.identity.spiffe_id import TrustDomain
from x0d.service.api import Servicers
from x0d.service.views import Views
from x0d.spiffe.snapshot import Snapshot
from x0d.spiffe.validation import Expectation, validate
from x0d.spiffe.workload_api import SvidUpdate
from x0d.telemetry import Telemetry
from x0d.transport.tls_server import TlsServer
from x0d.v1 import peer_pb2_grpc

DOMAIN = "dev.x0d.test"
SERVER_ID = f"spiffe://{DOMAIN}/node/n2"
ROOT_ID = f"spiffe://{DOMAIN}/operator/root"


def update(authority: CA, spiffe_id: str) -> SvidUpdate:
    """What an agent gives to the holder of an ID."""
    return update_of(authority.issue(spiffe_id), authority, spiffe_id=spiffe_id)


class PeerPort:
    """What a peer port offers; its methods do nothing."""

    names = ("x0d.v1.PeerService",)

    def register(self, server: aio.Server) -> None:
        peer_pb2_grpc.add_PeerServiceServicer_to_server(peer_pb2_grpc.PeerServiceServicer(), server)


class Held:
    """``SnapshotSource`` of an SVID that never changes."""

    def __init__(self, authority: CA, spiffe_id: str) -> None:
        accepted = validate(update(authority, spiffe_id), Expectation(dev_allowed=True), time.time())
        self.current: Snapshot | None = Snapshot(1, accepted.svid, accepted.bundles)

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Nothing changes."""

    def judge(self, proof: Proof) -> None:
        assert self.current is not None
        self.current.bundles.verify(proof.leaf_pem, proof.chain_pem, proof.usage, time.time())


@dataclass
class Remote:
    """The port, what is behind it, and the caller's Workload API."""

    authority: CA
    server: TlsServer
    views: Views
    agent: FakeAgent
    auditor: FakeAuditor
    host: str

    @property
    def endpoint(self) -> str:
        return f"dns:///{self.host}:{self.server.bound_port}"

    def call_as(self, spiffe_id: str, authority: CA | None = None, *roots: CA) -> None:
        """Give the caller this identity from now on, and these roots to trust beside those of ``authority``."""
        signed = update(authority or self.authority, spiffe_id)
        more = b"".join(root.der for root in roots)
        self.agent.push(replace(signed, svids=tuple(replace(svid, bundle=svid.bundle + more) for svid in signed.svids)))

    def arguments(self, *arguments: str, server_id: str = SERVER_ID) -> list[str]:
        """Of x0ctl; the endpoint stands before them."""
        return ["--server-id", server_id, "--workload-socket", str(self.agent.path), *arguments]


@asynccontextmanager
async def remote(address: str = "127.0.0.1", *, peer_port: bool = False) -> AsyncIterator[Remote]:
    """Start the port, or a peer port instead, as ``SERVER_ID``; the caller is root of the issuer."""
    directory = Path(tempfile.mkdtemp(prefix="x0dt-"))
    authority = CA(DOMAIN, start_unix_s=time.time())
    source = Held(authority, SERVER_ID)
    views = fake_views()
    auditor = FakeAuditor()
    server = TlsServer(
        name="peer" if peer_port else "control",
        address=address,
        port=0,
        source=source,
        judge=source.judge,
        bindings=default_bindings(TrustDomain(DOMAIN)),
        servicers=PeerPort() if peer_port else Servicers(views),
        counted=Telemetry(),
        auditor=auditor,
        require_pq=False,
        dev_allowed=True,
        connections_max=64,
        handshake_timeout_ms=3000,
        unix_s=time.time,
    )
    await server.start()
    server.set_ready()
    try:
        async with serving(directory / "agent.sock") as agent:
            host = f"[{address}]" if ":" in address else address
            found = Remote(authority, server, views, agent, auditor, host)
            found.call_as(ROOT_ID)
            yield found
    finally:
        await server.stop(0.0)
        shutil.rmtree(directory)
