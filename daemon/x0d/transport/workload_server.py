"""The SPIFFE Workload API of a development cluster's node, on ``<runtime_dir>/workload.sock``.

A front asks the kernel who connects and closes the connection of whoever is entitled to nothing; behind it gRPC speaks
the public protocol, as SPIRE's agent does: the security header is required, FetchX509SVID and FetchX509Bundles stream
every change and nothing twice, and there are no JWTs (UNIMPLEMENTED).
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc import StatusCode, aio

from x0d.errors import AddressUnavailable, NoIdentity
from x0d.identity.spiffe_id import SpiffeId
from x0d.spiffe import workload_api
from x0d.spiffe.local_svids import WorkloadSvids
from x0d.transport.access import Caller, gid_of
from x0d.transport.entitlement import Entitlement
from x0d.transport.front import Front, Standing

SOCKET_NAME: Final = "workload.sock"
PRIVATE_NAME: Final = "agent"
"""Directory of gRPC's own socket; a short name, for paths of sockets have at most 107 bytes."""
REQUEST_BYTES_MAX: Final = 4_096
"""Requests are empty."""
CALLS_MAX: Final = 512
"""At a time, of all callers."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
    ("grpc.max_concurrent_streams", 16),
    ("grpc.max_metadata_size", 8 << 10),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.so_reuseport", 0),
)

if TYPE_CHECKING:
    _Context = aio.ServicerContext[Any, Any]


class WorkloadServer:
    """The socket and what answers on it; ``start`` and ``stop`` once each."""

    def __init__(self, runtime_dir: Path, *, svids: WorkloadSvids, entitle: Entitlement, viewer_group: str) -> None:
        """``runtime_dir`` must exist when it starts; of callers' groups ``entitle`` is told ``viewer_group`` alone."""
        self._svids = svids
        self._entitle = entitle
        self._viewer_group = viewer_group
        self._gids: frozenset[int] = frozenset()
        self._front = Front(
            runtime_dir / SOCKET_NAME,
            runtime_dir / PRIVATE_NAME,
            gids=lambda: self._gids,
            standing_of=self._standing_of,
        )
        self._server: aio.Server | None = None

    @property
    def connections(self) -> int:
        """Open now."""
        return self._front.connections

    @property
    def strangers_total(self) -> int:
        """Connections closed because nothing is for who opened them."""
        return self._front.strangers_total

    async def start(self) -> None:
        """Listen.

        Raises:
            AddressUnavailable: somebody answers on the socket, or it cannot be bound.
        """
        await self.look_up_group()
        self._front.prepare()
        server = aio.server(options=_OPTIONS, maximum_concurrent_rpcs=CALLS_MAX)
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            workload_api.FETCH_X509_SVID.rpartition("/")[2]: grpc.unary_stream_rpc_method_handler(self._fetch_svid),
            workload_api.FETCH_X509_BUNDLES.rpartition("/")[2]: grpc.unary_stream_rpc_method_handler(
                self._fetch_bundles
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(workload_api.SERVICE, handlers),))
        try:
            server.add_insecure_port(f"unix:{self._front.backend}")
        except RuntimeError as error:
            raise AddressUnavailable(f"{self._front.backend}: gRPC could not bind it") from error
        await server.start()
        self._server = server
        try:
            self._front.start()
        except AddressUnavailable:
            await self.stop()
            raise

    async def look_up_group(self) -> None:
        """Ask the host again which group the viewers' is; connections that come later are judged by the answer."""
        gid = await asyncio.to_thread(gid_of, self._viewer_group)
        self._gids = frozenset() if gid is None else frozenset({gid})

    async def stop(self) -> None:
        """End all streams and remove the socket; nothing happens if it is stopped."""
        self._front.close_listener()
        if self._server is not None:
            await self._server.stop(0.0)
            self._server = None
            self._front.backend.unlink(missing_ok=True)
        await self._front.stop()

    def _standing_of(self, caller: Caller) -> Standing:
        if not self._entitle.may_ask(caller):
            return Standing.REFUSED
        # The daemon itself and root keep their room whatever the operators' processes take up.
        return Standing.PRIVILEGED if caller.uid == 0 or caller.pid == os.getpid() else Standing.ORDINARY

    # ---- methods ----

    async def _fetch_svid(self, _: bytes, context: "_Context") -> AsyncIterator[bytes]:
        spiffe_id = await self._entitled(context)
        async for message in self._changes(lambda: self._svid_message(spiffe_id), context):
            yield message

    async def _fetch_bundles(self, _: bytes, context: "_Context") -> AsyncIterator[bytes]:
        await self._entitled(context)
        async for message in self._changes(self._bundles_message, context):
            yield message

    async def _entitled(self, context: "_Context") -> SpiffeId:
        metadata = dict(context.invocation_metadata() or ())
        name, value = workload_api.SECURITY_HEADER
        if metadata.get(name) != value:
            await context.abort(StatusCode.INVALID_ARGUMENT, f"security header missing: {name}: {value}")
        caller = self._front.caller_of(context.peer())
        try:
            spiffe_id = None if caller is None else await self._entitle.of(caller)
        except TimeoutError:
            await context.abort(StatusCode.UNAVAILABLE, "this host's directory of accounts does not answer")
            raise AssertionError from None  # abort raises
        if spiffe_id is None:
            await context.abort(StatusCode.PERMISSION_DENIED, "no identity issued")
            raise AssertionError  # abort raises
        return spiffe_id

    async def _changes(self, encode: Callable[[], bytes], context: "_Context") -> AsyncIterator[bytes]:
        """Yield the message of now, and each that differs from the one before."""
        changed = asyncio.Event()
        self._svids.subscribe(changed.set)
        try:
            sent = b""
            while True:
                changed.clear()
                message = encode()
                if message != sent:
                    yield message
                    sent = message
                await changed.wait()
        except NoIdentity as error:
            await context.abort(StatusCode.UNAVAILABLE, str(error))
        finally:
            self._svids.unsubscribe(changed.set)

    def _svid_message(self, spiffe_id: SpiffeId) -> bytes:
        svid = self._svids.svid(spiffe_id)
        bundles = {domain: b"".join(ders) for domain, ders in self._svids.bundles().items()}
        own = bundles.pop(spiffe_id.trust_domain)
        delivered = workload_api.WorkloadSvid(
            spiffe_id=str(spiffe_id),
            certificates=svid.leaf_der + b"".join(svid.chain_ders),
            key=svid.key_der,
            bundle=own,
        )
        federated = {f"spiffe://{domain}": ders for domain, ders in bundles.items()}
        return workload_api.SvidUpdate((delivered,), federated).encode()

    def _bundles_message(self) -> bytes:
        bundles = {f"spiffe://{domain}": b"".join(ders) for domain, ders in self._svids.bundles().items()}
        return workload_api.BundlesUpdate(bundles).encode()
