"""Whether a TCP port of [listen] can be opened, asked of the kernel beforehand: gRPC says only that it could not."""

import errno
import socket
from ipaddress import ip_address
from typing import Any

from x0d.errors import AddressUnavailable


def check_free(name: str, address: str, port: int) -> None:
    """Find out whether a port can be opened.

    Args:
        name: of the port in [listen]: ``control``, ``peer`` or ``join``.
        address: ``listen.address``.
        port: of TCP; 0 is any.

    Raises:
        AddressUnavailable: the address is not of this host, or the port is in use.
    """
    version = ip_address(address.partition("%")[0]).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            where: Any = socket.getaddrinfo(address, port, family, socket.SOCK_STREAM)[0][4]
            probe.bind(where)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT and address == "::":
            return  # a host without IPv6: gRPC takes 0.0.0.0 then
        text = port_text(name, address, port, error.strerror or str(error))
        raise AddressUnavailable(text, in_use=error.errno == errno.EADDRINUSE) from error


def port_text(name: str, address: str, port: int, reason: str) -> str:
    """Say why a port could not be opened, and which keys decide where it is."""
    shown = f"[{address}]" if ":" in address else address
    return f"{name} port {shown}:{port}: {reason}; change listen.address or listen.{name}_port"
