"""From which host a call over TCP comes, read out of gRPC's text for it."""

from ipaddress import IPv6Address, ip_address
from urllib.parse import unquote

from x0d.ports.identity import CALLER


def host_of(peer: str) -> str:
    """``192.0.2.7`` of ``ipv4:192.0.2.7:40000``, ``fe80::1`` of ``ipv6:%5Bfe80::1%25eth1%5D:40000``; else empty.

    An IPv4 caller of a socket that takes both families is given as IPv4: that is what its packets carry.
    """
    scheme, _, rest = peer.partition(":")
    if scheme not in ("ipv4", "ipv6"):
        return ""
    host = unquote(rest).rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ip_address(host)
    except ValueError:
        return ""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def calling_hosts() -> tuple[str, ...]:
    """Host of whoever makes the call that is being served; empty on a unix socket."""
    principal = CALLER.get(None)
    host = host_of(principal.address) if principal else ""
    return (host,) if host else ()
