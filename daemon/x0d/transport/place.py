"""Where a call over TCP comes from, as people write it."""

from ipaddress import AddressValueError, IPv6Address
from urllib.parse import unquote


def place_of(peer: str) -> str:
    """``[fe80::2%2]:35832`` of gRPC's ``ipv6:%5Bfe80::2%252%5D:35832``; what is no IP address stays as it is.

    An IPv4 caller of a socket that takes both families is given as IPv4.
    """
    scheme, _, rest = peer.partition(":")
    if scheme not in ("ipv4", "ipv6"):
        return peer
    place = unquote(rest)
    host, _, port = place.rpartition(":")
    try:
        mapped = IPv6Address(host.strip("[]")).ipv4_mapped
    except AddressValueError:
        return place
    return f"{mapped}:{port}" if mapped else place
