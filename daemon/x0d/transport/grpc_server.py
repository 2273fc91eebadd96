"""The control server: gRPC on a private socket, behind the front's public one.

It starts before the data plane is loaded, answers health and status then, and everything once the
node says it is ready.

Order a caller keeps: ``start`` first, ``set_starting`` as steps go by, ``set_ready`` once, ``stop``.
"""

import grp
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from x0d.errors import AddressUnavailable
from x0d.transport.access import Roles, caller_of
from x0d.transport.front import Front, check_path, clear_stale
from x0d.transport.gate import Gate
from x0d.transport.health import Health

REQUEST_BYTES_MAX: Final = 1 << 20
"""The largest request is a part of a deny-list, half as large; a larger one is refused unread."""
RESPONSE_BYTES_MAX: Final = 16 << 20
STREAMS_PER_CONNECTION_MAX: Final = 128
"""Calls at a time on one connection; the client queues the rest."""
CALLS_MAX: Final = 1024
"""Calls at a time, of all clients; the next is refused as RESOURCE_EXHAUSTED."""

_OPTIONS: Final = (
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


class ControlServer:
    """Everything that answers on ``<runtime_dir>/x0d.sock``."""

    def __init__(self, runtime_dir: Path, viewer_group: str = "x0d") -> None:
        self._runtime_dir = runtime_dir.absolute()
        self._private = self._runtime_dir / "private"
        self._backend = self._private / "grpc.sock"
        self._roles = Roles(frozenset({0, os.geteuid()}), _gid_of(viewer_group))
        self._gate = Gate(self._private, self._roles, viewer_group)
        self._servicers: Servicers | None = None
        self._server: aio.Server | None = None
        self._health: Health | None = None
        self._front = Front(self._runtime_dir / "x0d.sock", self._private, self._backend, self._roles)

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
        self._make_private()
        server = aio.server(interceptors=(self._gate,), options=_OPTIONS, maximum_concurrent_rpcs=CALLS_MAX)
        names = [health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME]
        if self._servicers is not None:
            self._servicers.register(server)
            names.extend(self._servicers.names)
        self._health = Health(names)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(names, server)
        try:
            server.add_insecure_port(f"unix:{self._backend}")
        except RuntimeError as error:
            raise AddressUnavailable(f"{self._backend}: gRPC could not bind it") from error
        await server.start()
        self._server = server
        try:
            self._front.start()
        except AddressUnavailable:
            await self.stop(0.0)
            raise

    def set_starting(self, step: str) -> None:
        """Say which start-up step is under way; callers that must wait are told."""
        self._gate.step = step

    def set_ready(self) -> None:
        """Answer everything from now on."""
        self._gate.step = None
        if self._health is not None:
            self._health.set(serving=True)

    async def stop(self, grace_s: float) -> None:
        """Take no new call, give those under way ``grace_s`` seconds, then end them."""
        if self._health is not None:
            self._health.set(serving=False)
        self._front.close_listener()
        if self._server is not None:
            await self._server.stop(grace_s)
            self._server = None
            self._backend.unlink(missing_ok=True)
        await self._front.stop()

    def _make_private(self) -> None:
        """Make the directory that only our uid can enter, and empty it of an earlier life's sockets."""
        check_path(self._backend)
        try:
            self._private.mkdir(mode=0o700, exist_ok=True)
            if self._private.is_symlink() or self._private.stat().st_uid != os.geteuid():
                raise AddressUnavailable(f"{self._private} belongs to somebody else; remove it")
            self._private.chmod(0o700)
            clear_stale(self._backend)
            for entry in self._private.iterdir():
                if caller_of(f"unix:{entry}", self._private) is not None:
                    entry.unlink(missing_ok=True)
        except OSError as error:
            raise AddressUnavailable(f"{self._private}: {error.strerror}") from error


def _gid_of(group: str) -> frozenset[int]:
    """The group's id as a set; empty when there is no such group, and then nobody is a member."""
    try:
        return frozenset({grp.getgrnam(group).gr_gid})
    except KeyError:
        return frozenset()
