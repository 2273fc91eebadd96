"""The join port of a development cluster's issuer: TLS that proves who we are to somebody who proves nothing yet.

What it shows is a certificate for ``spiffe://TD/issuer/join`` with its root in the chain, so that a joiner who knows
only the root's hash can check both.  Nobody else can get that ID.  Callers show no certificate: their token is their
proof, and before it is looked at each address and all together have a budget of attempts.
"""

import threading
import time
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import grpc
from grpc import aio

from x0d.errors import AddressUnavailable, IdentityRefused, NoIdentity
from x0d.identity.budget import Budget, Budgets
from x0d.identity.model import Principal, Reason
from x0d.identity.roles import Role
from x0d.ports.audit import Auditor
from x0d.ports.issuer import join_id
from x0d.spiffe.authority import Authority
from x0d.spiffe.certificate import to_pem
from x0d.spiffe.local_svids import svid_of
from x0d.spiffe.request import key_to_der, make_key, public_key_to_der
from x0d.spiffe.snapshot import Svid
from x0d.telemetry import Telemetry
from x0d.transport.denials import Denials
from x0d.transport.free_port import check_free, port_text
from x0d.transport.gate import Gate
from x0d.transport.grpc_server import Servicers
from x0d.transport.place import place_of

REQUEST_BYTES_MAX: Final = 32_768
CONNECTIONS_MAX: Final = 64
"""Open at a time; the next is closed at once."""
CALLS_MAX: Final = 64
CERTIFICATE_TTL_S: Final = 3_600
"""Of what the port shows; renewed at half of it, or of what the configuration gives certificates at most."""
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
        authority: Authority,
        counted: Telemetry,
        handshake_timeout_ms: int,
        unix_s: Callable[[], float],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``address`` and ``port`` as in [listen]; port 0, in tests: any, see ``bound_port``."""
        self._address = address
        self._port = port
        self._authority = authority
        self._unix_s = unix_s
        self._options = (
            ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
            ("grpc.max_concurrent_streams", 4),
            ("grpc.max_metadata_size", 8 << 10),
            ("grpc.server_handshake_timeout_ms", handshake_timeout_ms),
            ("grpc.max_connection_idle_ms", 10_000),
            ("grpc.max_connection_age_ms", 60_000),
            ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
            ("grpc.so_reuseport", 0),
        )
        self._joiners = Joiners(monotonic_s)
        self._gate = Gate(
            self._joiners.authenticate,
            Denials("join", counted),
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
        check_free("join", self._address, self._port)
        if self._authority.root_der(root_sha256) is None:
            root_sha256 = self._authority.root_sha256
        shown = ShownCertificate(self._authority, root_sha256, self._unix_s)
        server = aio.server(interceptors=(self._gate,), options=self._options, maximum_concurrent_rpcs=CALLS_MAX)
        if self._servicers is not None:
            self._servicers.register(server)
        host = f"[{self._address}]" if ":" in self._address else self._address
        credentials = grpc.dynamic_ssl_server_credentials(
            shown.configuration(),
            shown.fetch,  # type: ignore[arg-type]  # None is "unchanged"; grpc's types know no such word
            require_client_authentication=False,
        )
        try:
            self.bound_port = server.add_secure_port(f"{host}:{self._port}", credentials)
        except RuntimeError as error:
            raise AddressUnavailable(port_text("join", self._address, self._port, "gRPC could not bind it")) from error
        await server.start()
        self._server, self._root_sha256 = server, root_sha256

    async def close(self, grace_s: float) -> None:
        """Stop listening; calls under way have ``grace_s`` seconds.  Nothing happens if it is closed."""
        if self._server is None:
            return
        await self._server.stop(grace_s)  # cancelled here it counts as open, and may be closed again
        self._server, self._root_sha256, self.bound_port = None, b"", 0


class ShownCertificate:
    """What one opening of the port shows; gRPC asks for it at each handshake, in threads of its own."""

    def __init__(self, authority: Authority, root_sha256: bytes, unix_s: Callable[[], float]) -> None:
        self._authority = authority
        self._root_sha256 = root_sha256
        self._unix_s = unix_s
        self._lock = threading.Lock()
        self._svid = self._make()

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """Key and chain of now, the root last."""
        root = self._authority.root_der(self._root_sha256)
        chain = self._svid.certificates_pem + (b"" if root is None else to_pem(root))
        return grpc.ssl_server_certificate_configuration([(self._svid.key_pem, chain)])

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Give a new configuration when half of the certificate's life is over; None: keep the old one."""
        with self._lock:
            svid, now = self._svid, self._unix_s()
            if svid.not_before_unix_s <= now < (svid.not_before_unix_s + svid.not_after_unix_s) / 2:
                return None
            try:
                self._svid = self._make()
            except NoIdentity:
                return None  # joiners see the old one expire, and the issuer's alerts say why
            return self.configuration()

    def _make(self) -> Svid:
        spiffe_id = join_id(self._authority.trust_domain)
        key = make_key()
        public = public_key_to_der(key)
        signed = self._authority.issue(spiffe_id, public, CERTIFICATE_TTL_S, root_sha256=self._root_sha256)
        return svid_of(spiffe_id, signed.chain_ders, key_to_der(key))


class Joiners:
    """Callers of the join port: TLS 1.3, and attempts within their budgets."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._sources = Budgets(SOURCE_RATE_PER_S, SOURCE_BURST)
        self._total = Budget(TOTAL_RATE_PER_S, TOTAL_BURST)

    def authenticate(self, context: "_Context") -> Principal:
        """Take an attempt from the caller's budget.

        Raises:
            IdentityRefused: there is none left, or the connection is not TLS 1.3.
        """
        versions = (context.auth_context() or {}).get("ssl_tls_version", ())
        if list(versions) != [b"TLSv1.3"]:
            raise IdentityRefused(Reason.TLS_VERSION, "the join port speaks TLS 1.3")
        peer = context.peer()
        now_s = self._monotonic_s()
        if not self._sources.take(source_of(peer), now_s) or not self._total.take(now_s):
            raise IdentityRefused(Reason.POLICY, "too many attempts to join; wait half a minute and try again")
        return Principal(f"joiner at {place_of(peer)}", frozenset({Role.JOINER}), address=peer)


def source_of(peer: str) -> str:
    """What shares a budget: an IPv4 address, or the /64 of an IPv6 one, of gRPC's ``ipv6:%5B::1%5D:4711``."""
    text = unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return text
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or IPv6Network((address, 64), strict=False))
    return str(address)
