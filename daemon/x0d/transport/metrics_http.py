"""The metrics port: prometheus_client's own HTTP server, in its own thread."""

from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from x0d.errors import AddressUnavailable


class MetricsServer:
    """Serves ``/metrics`` in the text or OpenMetrics format that the scraper asks for."""

    def __init__(self, address: str, port: int) -> None:
        self._address = address
        self._port = port
        self._server: WSGIServer | None = None
        self._thread: Thread | None = None

    def start(self, registry: CollectorRegistry) -> None:
        """Bind and serve.

        Raises:
            AddressUnavailable: the port is in use or the address is not of this host.
        """
        try:
            self._server, self._thread = start_http_server(self._port, self._address, registry)
        except OSError as error:
            where = f"metrics port {self._address}:{self._port}"
            text = f"{where}: {error.strerror}; change listen.metrics_address or listen.metrics_port"
            raise AddressUnavailable(text) from error

    def stop(self) -> None:
        """Close the port."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
