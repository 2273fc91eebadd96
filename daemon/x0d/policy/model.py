"""Deny-list entries and limits, and the prefixes that they are about.

A deny-list may have a hundred thousand entries, so a prefix is a pair of plain values, not an object
of ``ipaddress``: ten times cheaper to make, to compare and to hand to the kernel.

``PackedPrefix`` is the pair with names and methods.  Lists are keyed by the bare pair, ``PrefixKey``,
which equals it and hashes as it does: Python's collector looks at an object of any class again and again,
which stopped the whole daemon for 0.1 s at each load, but no longer at a bare pair of plain values.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple, TypeAlias

from x0d.errors import InvalidInput

LIMITS_MAX: Final = 1024
"""Limits at a time; the next is refused."""
COMMENT_CHARACTERS_MAX: Final = 200
RATE_PPS_MAX: Final = 10_000_000
BURST_MAX: Final = 1_000_000
EXPIRES_UNIX_MS_MAX: Final = 9_000_000_000_000
"""In the year 2255: later instants have no room in 63 bits of nanoseconds, and nobody means them."""
PREFIX_CHARACTERS_MAX: Final = 49
"""The longest spelling there is: eight groups, the last two as an IPv4 address, and ``/128``."""

PrefixKey: TypeAlias = tuple[bytes, int]
"""Address and length of a prefix; ``PackedPrefix(*key)`` gives the names back."""

_PLAIN_IPV6 = re.compile(r"[0-9a-fA-F:]{2,39}")
_MAPPED = bytes(10) + b"\xff\xff"
_OCTETS = {str(number): number for number in range(256)}
_LENGTHS = {str(number): number for number in range(129)}
_IPV4_MASKS = tuple(0xFFFFFFFF << (32 - length) & 0xFFFFFFFF for length in range(33))
_SHOWN_CHARACTERS_MAX = 60  # of what somebody wrote, in an error's sentence


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


class Terms(NamedTuple):
    """How long an entry holds and why it is there: what a whole list keeps beside each prefix."""

    expires_unix_ms: int = 0
    """0: never."""
    comment: str = ""


_make_prefix = tuple.__new__  # a third of a microsecond less than the class itself; a list has 100,000


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
    if len(address) == 4:
        return (int.from_bytes(address) & _IPV4_MASKS[length]).to_bytes(4)
    beyond = 128 - length
    return (int.from_bytes(address) >> beyond << beyond).to_bytes(16)


def clean_comment(text: str) -> str:
    """Cut what a terminal or a log would take for a command, and what is beyond ``COMMENT_CHARACTERS_MAX``."""
    text = text[: 4 * COMMENT_CHARACTERS_MAX]
    if not text.isprintable():
        text = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(text.split())[:COMMENT_CHARACTERS_MAX].rstrip()


def shown(text: str) -> str:
    """Quote what somebody wrote, cut to a length that fits a sentence."""
    cut = len(text) > _SHOWN_CHARACTERS_MAX
    return f"{text[:_SHOWN_CHARACTERS_MAX]!r}..." if cut else repr(text)


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
    address = _quick_ipv4(host) or _quick_ipv6(host) or _parse_address(host, text)
    bits = len(address) * 8
    if not slash:
        return _make_prefix(PackedPrefix, (address, bits))
    length = _LENGTHS.get(tail, bits + 1)
    if length > bits:
        raise InvalidInput(f"{shown(text)}: the prefix length must be a number from 0 to {bits}")
    return _make_prefix(PackedPrefix, (mask(address, length), length))


def _quick_ipv4(host: str) -> bytes | None:
    """Read a dotted quad in half a microsecond; None for all else."""
    numbers = host.split(".")
    if len(numbers) != 4:
        return None
    one, two, three, four = numbers
    try:
        return bytes((_OCTETS[one], _OCTETS[two], _OCTETS[three], _OCTETS[four]))
    except KeyError:
        return None


def _quick_ipv6(host: str) -> bytes | None:
    """Read groups of hexadecimal digits, a tenth of the time of ``ipaddress``; None for all else."""
    if not _PLAIN_IPV6.fullmatch(host):
        return None
    head, gap, tail = host.partition("::")
    before = head.split(":") if head else []
    after = tail.split(":") if tail else []
    missing = 8 - len(before) - len(after)
    if (missing < 1) if gap else missing:
        return None
    groups = before + ["0"] * missing + after
    digits = "".join([group.rjust(4, "0") for group in groups])
    if "" in groups or len(digits) != 32:  # a third colon in a row, or a group of more than four
        return None
    address = bytes.fromhex(digits)
    return None if address.startswith(_MAPPED) else address


def _parse_address(host: str, text: str) -> bytes:
    """Read what the quick ways have not: rare spellings, and whatever is wrong, with its reason."""
    if len(text) > PREFIX_CHARACTERS_MAX:
        raise InvalidInput(f"{shown(text)} is too long for an IP address or a prefix")
    try:
        address = ip_address(host)
    except ValueError:
        raise InvalidInput(f"{shown(text)} is neither an IP address nor a prefix") from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise InvalidInput(f"{shown(text)}: a prefix has no zone")
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        raise InvalidInput(f"{shown(text)}: write the IPv4 address itself")
    return address.packed
