"""Where a daemon answers: a socket of this host, or a host and port and who must be there."""

import re
from dataclasses import dataclass
from typing import Final

from x0ctl.failure import EXIT_USAGE, Failure

CONTROL_PORT: Final = 9470
_HOST_PORT: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[^\]/]+)?)\]|(?P<host>[^\[\]:/]+))(?::(?P<port>\d{1,5}))?"
)
_EXAMPLE: Final = "--server-id spiffe://dev.x0d.test/node/n2; X0CTL_SERVER_ID holds it too"


@dataclass(frozen=True, slots=True)
class Place:
    """A host and port."""

    host: str
    """Name or address; IPv6 without brackets, a link-local one with its interface: ``fe80::1%eth1``."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_local(endpoint: str) -> bool:
    """Whether it is a socket of this host."""
    return endpoint.startswith("unix:")


def socket_path(endpoint: str) -> str:
    """Path of a ``unix:`` endpoint."""
    return endpoint.removeprefix("unix:").removeprefix("//")


def place_of(endpoint: str) -> Place:
    """Read ``dns:///HOST:PORT``; without a port it is the control port.

    Raises:
        Failure: it is no endpoint.
    """
    scheme, _, rest = endpoint.partition(":")
    match = _HOST_PORT.fullmatch(rest.removeprefix("///"))
    port = int(match["port"] or CONTROL_PORT) if match else 0
    if scheme != "dns" or match is None or not 1 <= port <= 65_535:
        text = f"{endpoint!r} is not an endpoint"
        raise Failure(EXIT_USAGE, text, "it looks like unix:///run/x0d/x0d.sock or dns:///n2.example.org:9470")
    return Place(match["v6"] or match["host"], port)


def require_server_id(server_id: str, endpoint: str) -> str:
    """Say who must answer at a remote endpoint.

    Raises:
        Failure: nobody was named.
    """
    if not server_id:
        text = f"{endpoint} needs --server-id: the SPIFFE ID of the daemon that must answer there"
        raise Failure(EXIT_USAGE, text, f"for example {_EXAMPLE}")
    return server_id
