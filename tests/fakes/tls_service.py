"""A real gRPC server of tests, over mTLS, whose certificate can be changed while it runs.

Not modelled: everything that ``transport/tls_server.py`` checks of its clients; it takes whoever its roots vouch for.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import grpc
from grpc import aio

from fakes.authority import CA, Issued

ECHO: Final = "/t.Echo/Echo"
COUNT: Final = "/t.Echo/Count"
"""Sends 1, 2, 3, ... until it is cancelled."""
UnaryCall = aio.UnaryUnaryMultiCallable[bytes, bytes]
StreamCall = aio.UnaryStreamMultiCallable[bytes, bytes]


class TlsService:
    """Serves ECHO and COUNT on a port of loopback."""

    def __init__(self, issued: Issued, client_ca: CA) -> None:
        self._issued = issued
        self._client_pem = client_ca.pem
        self._shown: Issued | None = None
        self._server: aio.Server | None = None
        self.port = 0
        self.clients: set[bytes] = set()
        """Leaf certificates that callers have shown, PEM."""

    def show(self, issued: Issued, *client_cas: CA) -> None:
        """Use another certificate from the next connection on, and trust these authorities."""
        self._issued = issued
        if client_cas:
            self._client_pem = b"".join(authority.pem for authority in client_cas)

    def _configuration(self) -> grpc.ServerCertificateConfiguration | None:
        """Answer gRPC, in a thread of its own; None: as before."""
        issued = self._issued
        if issued is self._shown:
            return None
        self._shown = issued
        return grpc.ssl_server_certificate_configuration([(issued.key_pem, issued.certificates_pem)], self._client_pem)

    async def start(
        self, *, connection_age_ms: int | None = None, register: Callable[[aio.Server], None] = lambda _: None
    ) -> None:
        options = [] if connection_age_ms is None else [
            ("grpc.max_connection_age_ms", connection_age_ms), ("grpc.max_connection_age_grace_ms", 2**31 - 1),
        ]  # fmt: skip
        self._server = aio.server(options=options)
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Echo": grpc.unary_unary_rpc_method_handler(self._echo),
            "Count": grpc.unary_stream_rpc_method_handler(self._count),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.Echo", handlers),))
        register(self._server)
        initial = self._configuration()
        assert initial is not None, "nothing was shown before"
        credentials = grpc.dynamic_ssl_server_credentials(
            initial,
            self._configuration,  # type: ignore[arg-type]  # gRPC's documentation allows None, its types do not
            require_client_authentication=True,
        )
        self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        await self._server.start()

    async def stop(self) -> None:
        assert self._server is not None, "started"
        await self._server.stop(grace=None)

    async def _echo(self, request: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        self.clients.update(context.auth_context()["x509_pem_cert"])
        return request

    async def _count(self, _: bytes, __: aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        number = 0
        while True:
            number += 1
            yield b"%d" % number
            await asyncio.sleep(0.001)  # tidy: the stream's own pace


@asynccontextmanager
async def serving(
    issued: Issued,
    client_ca: CA,
    *,
    connection_age_ms: int | None = None,
    register: Callable[[aio.Server], None] = lambda _: None,
) -> AsyncIterator[TlsService]:
    """Run a service for the length of a block; ``register`` may add servicers."""
    service = TlsService(issued, client_ca)
    await service.start(connection_age_ms=connection_age_ms, register=register)
    try:
        yield service
    finally:
        await service.stop()
