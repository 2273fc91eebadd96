"""The control server: gRPC on a private socket, behind the front's public one.

It starts before the data plane is loaded, answers health and status then, and everything once the node says it is
ready.  The knowledge store opens later than this socket: ``auditor`` is set when it is there.

Order a caller keeps: ``add``, ``start``, ``set_starting`` as steps go by, ``auditor``, ``set_ready`` once, ``stop``.
"""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from x0d.errors import AddressUnavailable
from x0d.identity.roles import Binding
from x0d.ports.audit import Auditor
from x0d.transport.access import UnixRoles
from x0d.transport.denials import Denials
from x0d.transport.front import Front
from x0d.transport.gate import Gate
from x0d.transport.health import Health
from x0d.transport.open_calls import CALLS_MAX
from x0d.transport.open_streams import OpenStreams
from x0d.transport.unix_callers import UnixCallers

REQUEST_BYTES_MAX: Final = 1 << 20
"""The largest request is a part of a deny-list, half as large; a larger one is refused unread."""
RESPONSE_BYTES_MAX: Final = 16 << 20
STREAMS_PER_CONNECTION_MAX: Final = 128
"""Calls at a time on one connection; the client queues the rest."""
CEILING: Final = 8 * CALLS_MAX
"""Calls at a time that gRPC takes, those among them that the gate is just refusing: it shall decide, by who calls."""

OPTIONS: Final = (
    ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
    ("grpc.max_send_message_length", RESPONSE_BYTES_MAX),
    ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.so_reuseport", 0),
)


class Servicers(Protocol):
    """The services to offer."""

    @property
    def names(self) -> Sequence[str]:
        """Full names, such as ``x0d.v1.NodeService``."""

    def register(self, server: aio.Server) -> None:
        """Add them to the server."""


def build(
    gate: Gate, servicers: Servicers | None, options: Sequence[tuple[str, int]], health: Health | None
) -> aio.Server:
    """Make a server whose every method passes ``gate``; with ``health`` it answers health and reflection too."""
    server = aio.server(interceptors=(gate,), options=options, maximum_concurrent_rpcs=CEILING)
    names: list[str] = []
    if servicers is not None:
        servicers.register(server)
        names.extend(servicers.names)
    if health is not None:
        names += [health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME]
        health.add(names)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        reflection.enable_server_reflection(names, server)
    return server


class ControlServer:
    """Everything that answers on ``<runtime_dir>/x0d.sock``."""

    def __init__(
        self,
        runtime_dir: Path,
        viewer_group: str = "x0d",
        *,
        bindings: Iterable[Binding] = (),
        auditor: Auditor | None = None,
    ) -> None:
        """Members of ``viewer_group`` may look, ``bindings`` add roles; calls that change wait for an ``auditor``."""
        self._viewer_group = viewer_group
        self._callers = callers = UnixCallers(UnixRoles.of_bindings(bindings, viewer_group), viewer_group)
        self._front = Front(
            runtime_dir / "x0d.sock",
            runtime_dir / "private",
            gids=lambda: callers.roles.gids,
            standing_of=callers.standing_of,
            learn=callers.learn,
        )
        callers.caller_of = self._front.caller_of
        self._streams = OpenStreams(self._callers.judge)
        self._gate = Gate(
            self._callers.authenticate,
            Denials("control socket"),
            auditor=auditor,
            streams=self._streams,
            explain=self._callers.explain,
        )
        self._servicers: Servicers | None = None
        self._server: aio.Server | None = None
        self._health = Health()

    @property
    def connections(self) -> int:
        """Client connections open now."""
        return self._front.connections

    @property
    def connections_refused(self) -> int:
        """Client connections closed because there were too many."""
        return self._front.refused_total

    def add(self, servicers: Servicers) -> None:
        """Offer these services; once, before ``start``."""
        self._servicers = servicers

    async def start(self) -> None:
        """Bind and answer.  The directory ``runtime_dir`` must exist.

        Raises:
            AddressUnavailable: somebody answers on the socket, or it cannot be bound.
        """
        self._front.prepare()
        server = build(self._gate, self._servicers, OPTIONS, self._health)
        try:
            server.add_insecure_port(f"unix:{self._front.backend}")
        except RuntimeError as error:
            raise AddressUnavailable(f"{self._front.backend}: gRPC could not bind it") from error
        await server.start()
        self._server = server
        try:
            self._front.start()
        except AddressUnavailable:
            await self.stop(0.0)
            raise

    @property
    def auditor(self) -> Auditor | None:
        """Where calls that change something are recorded; while there is none they are refused."""
        return self._gate.auditor

    @auditor.setter
    def auditor(self, auditor: Auditor) -> None:
        self._gate.auditor = auditor

    async def set_bindings(self, bindings: Iterable[Binding]) -> None:
        """Who holds which role, from now on; streams of those who have lost theirs end."""
        self._callers.roles = await asyncio.to_thread(UnixRoles.of_bindings, tuple(bindings), self._viewer_group)
        self._streams.look()

    @property
    def unknown_accounts(self) -> tuple[str, ...]:
        """Roles that bindings give to users and groups this host does not have: ``operator for user anna``."""
        return self._callers.roles.unknown

    def set_serving(self, serving: bool) -> None:
        """Whether health says SERVING once the node is ready: not while its own SVID has expired."""
        self._health.set(able=serving)

    def set_starting(self, step: str) -> None:
        """Say which start-up step is under way; callers that must wait are told."""
        self._gate.step = step

    def set_ready(self) -> None:
        """Answer everything from now on."""
        self._gate.step = None
        self._health.set(ready=True)

    async def stop(self, grace_s: float) -> None:
        """Take no new call, give those under way ``grace_s`` seconds, then end them."""
        self._health.set(ready=False)
        self._front.close_listener()
        if self._server is not None:
            await self._server.stop(grace_s)
            self._server = None
            self._front.backend.unlink(missing_ok=True)
        await self._front.stop()
