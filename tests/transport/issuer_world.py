"""A development cluster's issuer, whole: authority and tokens on disk, join port and Workload API socket really open.

Its clock is the machine's, moved by what a test adds; a TLS library that looks at the clock sees the machine's.
"""

import asyncio
import random
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from fakes.audit import FakeAuditor
from x0d import telemetry
from x0d.identity.spiffe_id import SpiffeId, TrustDomain, node_id
from x0d.identity.token import JoinToken
from x0d.ports.issuer import Admission
from x0d.service.alerts import Alerts
from x0d.service.api_issuer import JoinServicers
from x0d.service.issuer import Issuer, IssuerTerms
from x0d.spiffe.authority import Authority
from x0d.spiffe.joined import KeyRequest
from x0d.spiffe.local_svids import IssuedSvids
from x0d.store.tokens import Tokens
from x0d.transport.entitlement import IssuerEntitlement
from x0d.transport.join_client import join
from x0d.transport.join_server import JoinServer
from x0d.transport.workload_server import WorkloadServer

TD = TrustDomain("dev.x0d.test")
OWN = node_id(TD, "n1")
N2 = node_id(TD, "n2")
SETTLE_S = 15.0
GROUP = "users"  # one that every host has stands for x0d


class MovedClock:
    """``ports.Clock``: the machine's, and what a test adds to it."""

    def __init__(self) -> None:
        self.wall_s = 0.0
        self.monotonic_s = 0.0

    def advance(self, for_s: float) -> None:
        """Let time pass."""
        self.wall_s += for_s
        self.monotonic_s += for_s

    def set_wall(self, by_s: float) -> None:
        """Set the wall clock, as an operator or a time server does."""
        self.wall_s += by_s

    def monotonic_ns(self) -> int:
        return time.monotonic_ns() + int(self.monotonic_s * 1e9)

    def unix_ms(self) -> int:
        return int((time.time() + self.wall_s) * 1e3)

    def unix_s(self) -> float:
        return time.time() + self.wall_s

    def monotonic(self) -> float:
        return self.monotonic_ns() / 1e9


@dataclass
class World:
    """One issuer that runs."""

    directory: Path
    runtime_dir: Path
    """Short, for sockets; 0755."""
    clock: MovedClock
    authority: Authority
    tokens: Tokens
    listener: JoinServer
    issuer: Issuer
    svids: IssuedSvids
    workload: WorkloadServer
    auditor: FakeAuditor
    alerts: Alerts
    counted: telemetry.Telemetry
    choices: dict[SpiffeId, str] = field(default_factory=dict)
    """Addresses that the issuer finds for nodes by itself."""

    @property
    def socket(self) -> Path:
        """The Workload API."""
        return self.runtime_dir / "workload.sock"

    async def token(self, name: str = "n2") -> JoinToken:
        """A token whose address is the port that is really open."""
        created = await self.issuer.create_token(name, "127.0.0.1")
        made = JoinToken.parse(created.token)
        endpoint = f"127.0.0.1:{self.listener.bound_port}"
        return JoinToken(endpoint, made.root_sha256, made.secret, made.spiffe_id, made.expires_unix_s)

    async def join(self, token: JoinToken, request: KeyRequest | None = None) -> Admission:
        """Spend a token as ``x0d --join`` does."""
        csr = (request or KeyRequest.make()).csr_der
        return await join(token, csr, (), self.runtime_dir, self.clock.unix_s)


@asynccontextmanager
async def issuer_world(
    directory: Path,
    *,
    clock: MovedClock | None = None,
    root_ttl_s: int = 86_400 * 365,
    svid_ttl_s: int = 86_400,
    federated: Mapping[TrustDomain, tuple[bytes, ...]] | None = None,
    join_port: int = 0,
) -> AsyncIterator[World]:
    """Start an issuer on what ``directory`` holds, and stop it at the end."""
    clock = clock or MovedClock()
    federated = federated or {}
    with short_directory() as runtime_dir:
        async with _world(directory, runtime_dir, clock, root_ttl_s, svid_ttl_s, federated, join_port) as world:
            yield world


@asynccontextmanager
async def _world(
    directory: Path,
    runtime_dir: Path,
    clock: MovedClock,
    root_ttl_s: int,
    svid_ttl_s: int,
    federated: Mapping[TrustDomain, tuple[bytes, ...]],
    join_port: int,
) -> AsyncIterator[World]:
    authority = Authority.open(directory / "identity", TD, root_ttl_s, svid_ttl_s, clock.unix_s)
    tokens = Tokens(directory / "tokens.db")
    await tokens.open()
    counted = telemetry.Telemetry()
    listener = JoinServer(
        address="127.0.0.1",
        port=join_port,
        directory=runtime_dir,
        authority=authority,
        counted=counted,
        handshake_timeout_ms=2000,
        unix_s=clock.unix_s,
        monotonic_s=clock.monotonic,
    )
    svids = IssuedSvids(authority, federated, clock.unix_s, random.Random(1))
    choices: dict[SpiffeId, str] = {}
    alerts, auditor = Alerts(), FakeAuditor()
    issuer = Issuer(
        terms=IssuerTerms(OWN, 9476, "10.255.0.1:9471", federated),
        authority=authority,
        tokens=tokens,
        listener=listener,
        svids=svids,
        choose_address=choices.get,
        clock=clock,
        alerts=alerts,
    )
    listener.add(JoinServicers(issuer))
    listener.auditor = auditor
    workload = WorkloadServer(runtime_dir, svids=svids, entitle=IssuerEntitlement(OWN), viewer_group=GROUP)
    await workload.start()
    await issuer.start()
    running = asyncio.get_running_loop().create_task(issuer.run())
    try:
        yield World(
            directory,
            runtime_dir,
            clock,
            authority,
            tokens,
            listener,
            issuer,
            svids,
            workload,
            auditor,
            alerts,
            counted,
            choices,
        )
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await workload.stop()
        await tokens.close()


@contextmanager
def short_directory() -> Iterator[Path]:
    """Make a directory whose sockets have short paths, and that everybody may enter; remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="x0d-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def stranger(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, protocols: tuple[str, ...] = ("h2",)) -> ssl.SSLContext:
    """TLS of a caller of the join port who shows nothing and asks for nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario in a loop of its own, of the daemon's kind, and not for ever."""

    async def bounded() -> None:
        async with asyncio.timeout(3 * SETTLE_S):
            await scenario()

    uvloop.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(SETTLE_S):
        while not condition():  # noqa: ASYNC110  whatever a test asks for has no event
            await asyncio.sleep(0.02)
