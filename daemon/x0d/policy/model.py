"""Deny-list entries and limits, and the prefixes that they are about.

A deny-list may have a hundred thousand entries, so a prefix is a pair of plain values, not an object
of ``ipaddress``: ten times cheaper to make, to compare and to hand to the kernel.
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

from x0d.errors import InvalidInput

LIMITS_MAX: Final = 1024
"""Limits at a time; the next is refused."""
COMMENT_CHARACTERS_MAX: Final = 200
RATE_PPS_MAX: Final = 10_000_000
BURST_MAX: Final = 1_000_000

_PLAIN_IPV4 = re.compile(r"(?:0|[1-9]\d{0,2})(?:\.(?:0|[1-9]\d{0,2})){3}", re.ASCII)


class PackedPrefix(NamedTuple):
    """A prefix in canonical form: no bit is set behind its length."""

    address: bytes
    """4 or 16 bytes in network order."""
    length: int
    """0 to 32, or 0 to 128."""

    @property
    def is_exact(self) -> bool:
        """Whether it is one address."""
        return self.length == len(self.address) * 8

    def __str__(self) -> str:
        text = str(ip_address(self.address))
        return text if self.is_exact else f"{text}/{self.length}"

    def covers(self, other: "PackedPrefix") -> bool:
        """Whether every address of ``other`` is in this prefix."""
        if len(self.address) != len(other.address) or self.length > other.length:
            return False
        return mask(other.address, self.length) == self.address


@dataclass(frozen=True, slots=True)
class DenyEntry:
    """Packets from this prefix are dropped."""

    prefix: PackedPrefix
    expires_unix_ms: int = 0
    """0: never."""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """Each source address in this prefix may send so much; the longest prefix counts."""

    prefix: PackedPrefix
    rate_pps: int
    """1 to ``RATE_PPS_MAX``."""
    burst: int
    """Packets at once beyond the rate, 1 to ``BURST_MAX``."""
    expires_unix_ms: int = 0
    """0: never."""
    comment: str = ""


def mask(address: bytes, length: int) -> bytes:
    """Clear every bit behind ``length``."""
    bits = len(address) * 8
    number = int.from_bytes(address) >> (bits - length) << (bits - length)
    return number.to_bytes(len(address))


def pack(address: IPv4Address | IPv6Address) -> PackedPrefix:
    """The prefix of one address; an IPv4-mapped IPv6 address is the IPv4 address."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return PackedPrefix(address.packed, address.max_prefixlen)


def parse_prefix(text: str) -> PackedPrefix:
    """Read ``192.0.2.1``, ``192.0.2.0/24``, ``2001:db8::/32``; bits behind the length are cleared.

    Raises:
        InvalidInput: it is neither an address nor a prefix; says why.
    """
    host, slash, tail = text.partition("/")
    address = _parse_address(host, text)
    bits = len(address) * 8
    if not slash:
        return PackedPrefix(address, bits)
    if not (tail.isascii() and tail.isdigit()) or int(tail) > bits:
        raise InvalidInput(f"{text!r}: the prefix length must be a number from 0 to {bits}")
    length = int(tail)
    return PackedPrefix(address if length == bits else mask(address, length), length)


def _parse_address(host: str, text: str) -> bytes:
    if _PLAIN_IPV4.fullmatch(host):
        try:
            return bytes(map(int, host.split(".")))
        except ValueError:
            raise InvalidInput(f"{text!r}: a number of an IPv4 address is above 255") from None
    try:
        address = IPv6Address(host)
    except AddressValueError as error:
        raise InvalidInput(f"{text!r} is neither an IP address nor a prefix: {error}") from None
    if address.scope_id is not None:
        raise InvalidInput(f"{text!r}: a prefix has no zone")
    if address.ipv4_mapped is not None:
        raise InvalidInput(f"{text!r}: write the IPv4 address itself")
    return address.packed
