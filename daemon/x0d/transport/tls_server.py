"""A TCP port with mTLS: the control port for people, the peer port for daemons.

The port opens with the first SVID that the Workload API gives; until then nothing listens.  Each handshake takes the
newest SVID and bundles, so a rotation touches no connection that exists.  Connections are recycled at a third of
the SVID's life, and streams on them go on: ``max_connection_age`` with infinite grace.  What a caller has shown is
judged on every call (``tls_callers.py``, ``gate.py``), and for open streams after every change and each second.

The TLS library tells nobody of a handshake that it refuses (unknown authority, expired, no certificate, plaintext).  It
does ask for our certificate at the begin of each, so the failures are counted by what is left over: connections that
began and from which no call was heard in time.  Who shakes hands and then asks nothing is among them.

Order a caller keeps: ``start``, ``set_starting`` as steps go by, ``set_ready`` once, ``stop``.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Literal

import grpc
import structlog
from grpc import aio

from x0d import telemetry
from x0d.errors import AddressUnavailable, IdentityRefused
from x0d.identity.model import Proof, Reason
from x0d.identity.roles import Binding
from x0d.ports.audit import Auditor
from x0d.spiffe.snapshot import Snapshot, SnapshotSource
from x0d.transport.denials import Denials
from x0d.transport.free_port import check_free, port_text
from x0d.transport.gate import Gate
from x0d.transport.grpc_server import OPTIONS, Servicers, build
from x0d.transport.health import Health
from x0d.transport.open_streams import OpenStream, OpenStreams
from x0d.transport.tls_callers import TlsCallers

LOOK_S: Final = 1.0
"""Between two looks at the open streams; a change of the bundles does not wait for it."""
FIRST_CALL_S: Final = 1.0
"""After a handshake's time, for its connection's first call."""
AGE_SHARE: Final = 1 / 3
"""Of our SVID's life, to a connection, which is to end before the SVID does that it was made with.

SVIDs are replaced at half of their life, give or take a twentieth.  So a connection is made at 0.55 of it at the
latest, and gRPC adds up to a tenth to its age: it ends at 0.92, and a renewal may be late by what is left.
"""
AGE_SLACK: Final = 1.2
"""An SVID shorter by this still outlives the connections made with it."""
IDLE_MS_MAX: Final = 20_000
"""A connection without a call: short, for whoever has any SVID of the trust domain could fill the port with them."""
AGE_MS_MIN: Final = 1_000
AGE_MS_MAX: Final = 2**31 - 1

log = structlog.get_logger()


class TlsServer:
    """One port.  Its callers are SPIFFE IDs, and roles come from bindings alone."""

    def __init__(  # noqa: PLR0913  a composition root's list
        self,
        *,
        name: Literal["control", "peer"],
        address: str,
        port: int,
        source: SnapshotSource,
        judge: Callable[[Proof], None],
        bindings: Iterable[Binding],
        servicers: Servicers,
        counted: telemetry.Telemetry,
        auditor: Auditor | None,
        require_pq: bool,
        dev_allowed: bool,
        connections_max: int,
        handshake_timeout_ms: int,
        unix_s: Callable[[], float],
        on_refusal: Callable[[str, str], None] | None = None,
    ) -> None:
        """Prepare; nothing is opened before ``start``.

        ``control`` answers health and reflection besides ``servicers``; port 0 is any, see ``bound_port``.  ``source``
        has our SVID and whom to trust, always the newest; ``judge`` looks again at what a peer has shown
        (``ports.SvidSource.judge``).  ``auditor`` None: set later, and until then changes are refused.  ``require_pq``:
        refuse callers whose key exchange is not post-quantum; ``dev_allowed``: take identities of development, thus not
        in production.  Connections beyond ``connections_max`` are closed at once, those whose handshake is not done in
        its time then.  ``on_refusal`` is told reason and detail of every refusal, on the event loop.
        """
        self._name = name
        self._address = address
        self._port = port
        self._source = source
        self._servicers = servicers
        self._counted = counted
        self._callers = TlsCallers(
            source=source,
            judge=judge,
            bindings=bindings,
            require_pq=require_pq,
            dev_allowed=dev_allowed,
            connections_max=connections_max,
            counted=counted,
            unix_s=unix_s,
        )
        self._streams = OpenStreams(self._callers.judge, self._on_cut)
        self._denials = Denials(f"{name} port", counted, on_refusal)
        self._gate = Gate(
            self._callers.authenticate, self._denials, auditor=auditor, streams=self._streams, limit=self._callers.limit
        )
        self._health = Health()
        self._options = {  # each once: of an option given twice gRPC takes the first
            **dict(OPTIONS),
            "grpc.server_handshake_timeout_ms": handshake_timeout_ms,
            "grpc.max_allowed_incoming_connections": connections_max,
            "grpc.max_connection_age_grace_ms": 2**31 - 1,
            "grpc.max_connection_idle_ms": IDLE_MS_MAX,
        }
        self._handshakes = Handshakes(handshake_timeout_ms / 1e3 + FIRST_CALL_S)
        self._server: aio.Server | None = None
        self._opening: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._shown_generation = 0
        self._age_ms = 0
        self._outlives = False
        self.bound_port = 0
        """0 while the port is not open."""
        self.last_error = ""
        """Why the port could not be opened; empty when it is, or waits for an SVID."""

    @property
    def auditor(self) -> Auditor | None:
        """Where calls that change something are recorded; while there is none they are refused."""
        return self._gate.auditor

    @auditor.setter
    def auditor(self, auditor: Auditor) -> None:
        self._gate.auditor = auditor

    async def start(self) -> None:
        """Open the port, now or as soon as there is an SVID.

        Raises:
            AddressUnavailable: the address is not of this host, or the port is in use.
        """
        check_free(self._name, self._address, self._port)
        self._source.subscribe(self._on_change)
        if self._source.current is not None:
            await self._open(self._source.current)
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def set_starting(self, step: str) -> None:
        """Say which start-up step is under way; callers that must wait are told."""
        self._gate.step = step

    def set_ready(self) -> None:
        """Answer everything from now on."""
        self._gate.step = None
        self._health.set(ready=True)

    def set_serving(self, serving: bool) -> None:
        """Whether health says SERVING once the node is ready: not while its own SVID has expired."""
        self._health.set(able=serving)

    def set_bindings(self, bindings: Iterable[Binding]) -> None:
        """Who holds which role, from now on; streams of those who have lost theirs end."""
        self._callers.bindings = tuple(bindings)
        self._streams.look()

    async def stop(self, grace_s: float) -> None:
        """Take no new call, give those under way ``grace_s`` seconds, then end them."""
        self._health.set(ready=False)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        server, self._server, self.bound_port = self._server, None, 0
        if server is not None:
            await server.stop(grace_s)

    # ---- the port ----

    async def _open(self, snapshot: Snapshot) -> None:
        self._age_ms = age_ms_of(snapshot)
        options = {**self._options, "grpc.max_connection_age_ms": self._age_ms}
        health = self._health if self._name == "control" else None
        server = build(self._gate, self._servicers, tuple(options.items()), health)
        self._shown_generation = snapshot.generation
        credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(snapshot),
            self._fetch,  # type: ignore[arg-type]  # None, which the stubs do not know, is for no change
            require_client_authentication=True,
        )
        host = f"[{self._address}]" if ":" in self._address else self._address
        try:
            bound = server.add_secure_port(f"{host}:{self._port}", credentials)
        except RuntimeError as error:
            raise AddressUnavailable(
                port_text(self._name, self._address, self._port, "gRPC could not bind it")
            ) from error
        await server.start()
        self._server, self.bound_port, self.last_error = server, bound, ""

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """What a handshake that begins now shows and trusts; a thread of gRPC's asks, one at a time."""
        self._handshakes.begin()
        snapshot = self._source.current
        if snapshot is None or snapshot.generation == self._shown_generation:
            return None
        configuration = _configuration(snapshot)
        self._shown_generation = snapshot.generation
        return configuration

    def _on_change(self) -> None:
        """Take a new SVID or new bundles: what exists is judged by them at once, what comes is shown them."""
        self._streams.look()
        if self._server is not None:
            self._check_age()
        if self._server is None and self._opening is None and self._timer is not None:
            self._opening = asyncio.get_running_loop().create_task(self._open_late(), name=f"open {self._name} port")

    def _check_age(self) -> None:
        """Say so where SVIDs live much shorter than the one that the port was opened with.

        The age of connections cannot be changed while a server runs.  Nothing is open for that: calls and streams are
        judged by the clock, each by itself.  But a client that keeps one connection may be refused on it when its own
        SVID of then has ended, and sees ours after its end, until it connects anew.  To open the port again would cut
        calls for a change that an operator makes once.
        """
        assert self._source.current is not None, "a source that had a snapshot keeps one"
        outlives = self._age_ms > AGE_SLACK * age_ms_of(self._source.current)
        if outlives and not self._outlives:
            log.warning(
                telemetry.CONNECTIONS_OUTLIVE_SVID,
                port=self._name,
                connection_age_s=self._age_ms / 1e3,
                remedy="SVIDs live shorter than when this port was opened: restart x0d to recycle connections in time",
            )
        self._outlives = outlives

    async def _open_late(self) -> None:
        try:
            if self._source.current is not None:
                await self._open(self._source.current)
        except AddressUnavailable as error:
            if str(error) != self.last_error:
                log.error(telemetry.START_FAILED, port=self._name, error=str(error))
            self.last_error = str(error)  # tried again at the next look
        finally:
            self._opening = None

    def _look(self) -> None:
        """Once a second: what only time changes."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LOOK_S, self._look)
        self._streams.look()
        failed = self._handshakes.failed(loop.time(), self._callers.connections_seen)
        if failed:
            self._counted.tls_failures.labels("server", Reason.HANDSHAKE.value).inc(failed)
        if self._server is None and self._source.current is not None:
            self._on_change()

    def _on_cut(self, stream: OpenStream, refused: IdentityRefused) -> None:
        self._counted.streams_revoked.inc()
        log.warning(
            telemetry.STREAM_REVOKED,
            who=stream.principal.name,
            method=stream.method,
            reason=refused.reason,
            detail=str(refused),
        )


class Handshakes:
    """Counts handshakes that led to nothing, as far as that shows from outside."""

    def __init__(self, patience_s: float) -> None:
        """``patience_s``: from a handshake's begin to its connection's first call."""
        self._patience_s = patience_s
        self._numbers = itertools.count(1)
        self._begun = 0
        self._history: deque[tuple[float, int]] = deque()
        self._failed = 0

    def begin(self) -> None:
        """One more begins; from any thread."""
        self._begun = next(self._numbers)

    def failed(self, now_s: float, connections_seen: int) -> int:
        """How many more have failed since the last question; ``connections_seen`` have made a call so far."""
        self._history.append((now_s, self._begun))
        due = 0
        while self._history and self._history[0][0] <= now_s - self._patience_s:
            due = self._history.popleft()[1]
        if not due:
            return 0
        new = max(0, due - connections_seen - self._failed)
        self._failed += new
        return new


def age_ms_of(snapshot: Snapshot) -> int:
    """Choose the age at which connections are recycled, for a server opened with this snapshot."""
    life_s = snapshot.svid.not_after_unix_s - snapshot.svid.not_before_unix_s
    return min(max(int(life_s * AGE_SHARE * 1e3), AGE_MS_MIN), AGE_MS_MAX)


def _configuration(snapshot: Snapshot) -> grpc.ServerCertificateConfiguration:
    """Our certificates, and the roots of every bundle: the library's sieve, whose verdict is not ours."""
    pair = (snapshot.svid.key_pem, snapshot.svid.certificates_pem)
    return grpc.ssl_server_certificate_configuration([pair], snapshot.bundles.all_pem())
