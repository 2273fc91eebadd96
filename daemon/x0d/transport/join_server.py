"""The join port of a development cluster's issuer: TLS that proves who we are to somebody who proves nothing yet.

What it shows is a certificate for ``spiffe://TD/issuer/join`` with its root in the chain, so that a joiner who knows
only the root's hash can check both.  Nobody else can get that ID.  Callers show no certificate: their token is their
proof, and before it is looked at each address and all together have a budget of attempts.  TLS and all limits of
connections are before gRPC, in ``join_front``.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from grpc import aio

from x0d.errors import AddressUnavailable, IdentityRefused
from x0d.identity.budget import Budget, Budgets
from x0d.identity.model import Principal, Reason
from x0d.identity.roles import Role
from x0d.ports.audit import Auditor
from x0d.spiffe.authority import Authority
from x0d.telemetry import Telemetry
from x0d.transport.denials import Denials
from x0d.transport.gate import Gate
from x0d.transport.grpc_server import Servicers
from x0d.transport.join_front import JoinFront, source_of
from x0d.transport.join_tls import ShownCertificate

REQUEST_BYTES_MAX: Final = 32_768
CALLS_MAX: Final = 64
PRIVATE_NAME: Final = "join"
"""Directory of gRPC's own socket; a short name, for paths of sockets have at most 107 bytes."""
SOURCE_RATE_PER_S: Final = 0.2
SOURCE_BURST: Final = 5
"""Attempts of one address at once; then one in five seconds."""
TOTAL_RATE_PER_S: Final = 5.0
TOTAL_BURST: Final = 50

if TYPE_CHECKING:
    _Context = aio.ServicerContext[Any, Any]


class JoinServer:
    """Satisfies ``ports.issuer.JoinListener``; may be opened and closed any number of times."""

    def __init__(
        self,
        *,
        address: str,
        port: int,
        directory: Path,
        authority: Authority,
        counted: Telemetry,
        handshake_timeout_ms: int,
        unix_s: Callable[[], float],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``address`` and ``port`` as in [listen]; port 0, in tests: any, see ``bound_port``.

        ``directory``: for the private socket; it must exist when the port opens.
        """
        self._authority = authority
        self._unix_s = unix_s
        self._options = (
            ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
            ("grpc.max_concurrent_streams", 4),
            ("grpc.max_metadata_size", 8 << 10),
            ("grpc.server_handshake_timeout_ms", handshake_timeout_ms),  # for the first frame
            ("grpc.max_connection_idle_ms", 10_000),
            ("grpc.so_reuseport", 0),
        )
        self._front = JoinFront(
            address,
            port,
            directory / PRIVATE_NAME,
            handshake_timeout_ms=handshake_timeout_ms,
            monotonic_s=monotonic_s,
            on_refusal=lambda refused, place: self._denials.tell(refused, place, "none"),
        )
        self._denials = _Denials(counted, self._front.place_of_peer)
        self._gate = Gate(
            Joiners(monotonic_s, self._front.place_of_peer).authenticate,
            self._denials,
            explain=lambda method, _: f"{method} is not for joiners",
        )
        self._gate.step = None
        self._servicers: Servicers | None = None
        self._server: aio.Server | None = None
        self._root_sha256 = b""
        self.bound_port = 0
        """Where it listens; 0 while it does not."""

    @property
    def is_open(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    @property
    def connections(self) -> int:
        """Open now."""
        return self._front.connections

    @property
    def root_sha256(self) -> bytes:
        """Root that it shows; empty while it is closed."""
        return self._root_sha256

    @property
    def auditor(self) -> Auditor | None:
        """Who writes a record of each join; without one all are refused."""
        return self._gate.auditor

    @auditor.setter
    def auditor(self, auditor: Auditor | None) -> None:
        self._gate.auditor = auditor

    def add(self, servicers: Servicers) -> None:
        """Offer these services; once, before ``open``."""
        self._servicers = servicers

    async def open(self, root_sha256: bytes) -> None:
        """Listen, showing a certificate of this root, or of the one that signs now if there is none such.

        Raises:
            AddressUnavailable: the address is not of this host, or the port is in use.
            NoIdentity: no root can sign now.
        """
        assert self._server is None, "open"
        if self._authority.root_der(root_sha256) is None:
            root_sha256 = self._authority.root_sha256
        shown = ShownCertificate(self._authority, root_sha256, self._unix_s)
        bound_port = self._front.bind()
        try:
            server = await self._start_grpc()
        except BaseException:  # whatever ends the opening, a cancel too, leaves no listener; it goes on
            self._front.close_listener()
            raise
        self._front.start(shown.context)
        self._server, self._root_sha256, self.bound_port = server, root_sha256, bound_port

    async def _start_grpc(self) -> aio.Server:
        server = aio.server(interceptors=(self._gate,), options=self._options, maximum_concurrent_rpcs=CALLS_MAX)
        if self._servicers is not None:
            self._servicers.register(server)
        try:
            server.add_insecure_port(f"unix:{self._front.backend}")
        except RuntimeError as error:
            raise AddressUnavailable(f"{self._front.backend}: gRPC could not bind it") from error
        await server.start()
        return server

    async def close(self, grace_s: float) -> None:
        """Stop listening; calls under way have ``grace_s`` seconds.  Nothing happens if it is closed."""
        if self._server is None:
            return
        self._front.close_listener()
        await self._server.stop(grace_s)  # cancelled here it counts as open, and may be closed again
        await self._front.stop()
        self._server, self._root_sha256, self.bound_port = None, b"", 0


class _Denials(Denials):
    """Tells where a caller really is; gRPC and its gate know a private socket's name."""

    def __init__(self, counted: Telemetry, place_of_peer: Callable[[str], str | None]) -> None:
        super().__init__("join", counted)
        self._place_of_peer = place_of_peer

    def tell(self, refused: IdentityRefused, who: str, method: str) -> None:
        super().tell(refused, self._place_of_peer(who) or who, method)


class Joiners:
    """Callers of the join port: behind its front, and attempts within their budgets."""

    def __init__(self, monotonic_s: Callable[[], float], place_of_peer: Callable[[str], str | None]) -> None:
        self._monotonic_s = monotonic_s
        self._place_of_peer = place_of_peer
        self._sources = Budgets(SOURCE_RATE_PER_S, SOURCE_BURST)
        self._total = Budget(TOTAL_RATE_PER_S, TOTAL_BURST)

    def authenticate(self, context: "_Context") -> Principal:
        """Take an attempt from the caller's budget.

        Raises:
            IdentityRefused: there is none left, or the caller does not come through the front.
        """
        place = self._place_of_peer(context.peer())
        if place is None:
            raise IdentityRefused(Reason.FOREIGN_PROCESS, "the join port's private socket is for its front alone")
        now_s = self._monotonic_s()
        source = source_of(place.rpartition(":")[0].strip("[]"))
        if not self._sources.take(source, now_s) or not self._total.take(now_s):
            raise IdentityRefused(Reason.POLICY, "too many attempts to join; wait half a minute and try again")
        return Principal(f"joiner at {place}", frozenset({Role.JOINER}), address=place)
