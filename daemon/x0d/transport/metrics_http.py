"""The metrics port: prometheus_client's own HTTP server, in its own thread."""

import ssl
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from x0d.errors import AddressUnavailable


class MetricsServer:
    """Serves ``/metrics`` in the text or OpenMetrics format that the scraper asks for."""

    def __init__(self, address: str, port: int, certificate: Path | None = None, key: Path | None = None) -> None:
        """With ``certificate`` and ``key`` (PEM files) it speaks TLS, else plain HTTP."""
        self._address = address
        self._port = port
        self._certificate = certificate
        self._key = key
        self._server: WSGIServer | None = None
        self._thread: Thread | None = None

    def start(self, registry: CollectorRegistry) -> None:
        """Bind and serve.

        Raises:
            AddressUnavailable: the port is in use, the address is not of this host, or the certificate is none.
        """
        certificate, key = self._certificate, self._key
        try:
            for file in filter(None, (certificate, key)):
                file.open("rb").close()  # the TLS library's error names no file
            self._server, self._thread = start_http_server(
                self._port,
                self._address,
                registry,
                certfile=str(certificate) if certificate else None,
                keyfile=str(key) if key else None,
            )
        except ssl.SSLError as error:
            named = f"listen.metrics_certificate {certificate} and listen.metrics_key {key}"
            raise AddressUnavailable(f"{named}: {error.args[-1]}; a PEM chain and its key are wanted") from error
        except OSError as error:
            where = f"metrics port {self._address}:{self._port}"
            remedy = "change listen.metrics_address or listen.metrics_port"
            if error.filename is not None:
                where, remedy = str(error.filename), "change listen.metrics_certificate or listen.metrics_key"
            raise AddressUnavailable(f"{where}: {error.strerror}; {remedy}") from error

    def stop(self) -> None:
        """Close the port."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
