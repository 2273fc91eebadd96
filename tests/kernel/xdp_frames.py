"""Frames of every kind by hand, and what each is: a classifier that shares no code with the kernel program."""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from kernel.xdp_packets import ETHERNET_IPV4, ETHERNET_IPV6, OUR_MAC, PEER_MAC
from x0d.mesh.model import Address

DOT1Q, DOT1AD = 0x8100, 0x88A8
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, MOBILITY, HIP, SHIM6 = 0, 43, 44, 51, 60, 135, 139, 140
EXTENSIONS = {
    "hop-by-hop": HOP_BY_HOP,
    "routing": ROUTING,
    "fragment": FRAGMENT,
    "authentication": AUTHENTICATION,
    "destination": DESTINATION,
    "mobility": MOBILITY,
    "hip": HIP,
    "shim6": SHIM6,
}
SOURCE4, TARGET4 = IPv4Address("198.51.100.7"), IPv4Address("10.0.0.1")
SOURCE6, TARGET6 = IPv6Address("2001:db8::7"), IPv6Address("fd00::1")
TRANSPORT = {TCP: struct.pack("!HHIIBBHHH", 4242, 53, 1, 2, 0x50, 2, 100, 0, 0), ICMP: b"\x08" + bytes(7)}
TRANSPORT |= {UDP: struct.pack("!HHHH", 4242, 53, 8, 0), ICMP6: b"\x80" + bytes(7)}


def ethernet(ethertype: int, payload: bytes, tags: tuple[int, ...] = ()) -> bytes:
    """A frame; ``tags`` are the ethertypes of its VLAN tags from the outside in."""
    first, *following = (*tags, ethertype)
    # For each tag its control field and the ethertype of what comes next.
    stack = b"".join(struct.pack("!HH", 7, kind) for kind in following)
    return OUR_MAC + PEER_MAC + struct.pack("!H", first) + stack + payload


def ipv4(
    protocol: int,
    payload: bytes,
    *,
    source: IPv4Address = SOURCE4,
    options: bytes = b"",
    fragment: int = 0,
    tags: tuple[int, ...] = (),
) -> bytes:
    """An IPv4 packet in its frame; ``fragment`` is flags and offset."""
    words = 5 + len(options) // 4
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, words * 4 + len(payload), 7, fragment, 64, protocol, 0)
    return ethernet(ETHERNET_IPV4, head + source.packed + TARGET4.packed + options + payload, tags)


def syn(source: IPv4Address, port: int, target: IPv4Address = TARGET4) -> bytes:
    """A SYN over IPv4, without checksums, which XDP does not look at; the stack drops it."""
    frame = ipv4(TCP, struct.pack("!HHIIBBHHH", 4242, port, 1, 0, 0x50, 2, 1000, 0, 0), source=source)
    return frame[:30] + target.packed + frame[34:]


def ipv6(next_header: int, payload: bytes, *, source: IPv6Address = SOURCE6, tags: tuple[int, ...] = ()) -> bytes:
    """An IPv6 packet in its frame."""
    head = struct.pack("!IHBB", 0x60000000, len(payload) & 0xFFFF, next_header, 64)
    return ethernet(ETHERNET_IPV6, head + source.packed + TARGET6.packed + payload, tags)


def chain(*kinds: int, protocol: int = UDP, payload: bytes | None = None, longer: int = 0) -> bytes:
    """An IPv6 packet with these extension headers, each ``longer`` units above the least length."""
    content = TRANSPORT[protocol] if payload is None else payload
    following = protocol
    for kind in reversed(kinds):
        content = extension(kind, following, longer) + content
        following = kind
    return ipv6(following, content)


def extension(kind: int, following: int, longer: int = 0, offset: int = 0) -> bytes:
    """One extension header; ``offset`` is that of a fragment, in its field."""
    if kind == FRAGMENT:
        return struct.pack("!BBHI", following, 0, offset, 9)
    if kind == AUTHENTICATION:  # in 4 bytes, without the first 8
        return bytes([following, longer]) + bytes(6 + 4 * longer)
    return bytes([following, longer]) + bytes(6 + 8 * longer)


# ---- what a frame is ----


@dataclass(frozen=True)
class Kind:
    """Class of a frame, and what the programs know of it."""

    protocol_class: str
    source: Address | None = None
    tags: int = 0
    ports: tuple[int, int] = (0, 0)


class Cut(Exception):
    """A frame ends before a header does."""


class Reader:
    """Takes bytes from a frame."""

    def __init__(self, frame: bytes) -> None:
        self.left = frame

    def take(self, count: int) -> bytes:
        """The next bytes; raises Cut."""
        if count > len(self.left):
            raise Cut
        taken, self.left = self.left[:count], self.left[count:]
        return taken


def classify(frame: bytes) -> Kind:
    """Tell what the documentation of the programs says of a frame."""
    reader, tags = Reader(frame), 0
    source: Address | None = None
    try:
        kind = int.from_bytes(reader.take(14)[12:], "big")
        while tags < 2 and kind in {DOT1Q, DOT1AD}:
            tags += 1
            kind = int.from_bytes(reader.take(4)[2:], "big")
        if kind == ETHERNET_IPV4:
            source, protocol = _read_ipv4(reader)
        elif kind == ETHERNET_IPV6:
            source = _read_ipv6(reader)
            protocol = _read_extensions(reader, _next_header(frame, tags))
        else:
            return Kind("arp" if kind == 0x0806 else "other", None, tags)
        if isinstance(protocol, str):
            return Kind(protocol, source, tags)
        return _read_transport(reader, protocol, source, tags)
    except Cut:
        if source is None and len(frame) >= 14 + 4 * tags:
            source = _source_of_whole_header(frame, tags)
        return Kind("malformed", source, tags)


def _source_of_whole_header(frame: bytes, tags: int) -> Address | None:
    """IPv6 only: the chain behind the header may be cut, the address is known."""
    at = 14 + 4 * tags
    is_whole = frame[at - 2 : at] == b"\x86\xdd" and len(frame) >= at + 40 and frame[at] >> 4 == 6
    source = IPv6Address(frame[at + 8 : at + 24]) if is_whole else None
    return None if source is None or source.ipv4_mapped else source


def _next_header(frame: bytes, tags: int) -> int:
    return frame[14 + 4 * tags + 6]


def _read_ipv4(reader: Reader) -> tuple[IPv4Address, int | str]:
    head = reader.take(20)
    words = head[0] & 15
    if head[0] >> 4 != 4 or words < 5:
        raise Cut
    reader.take(4 * words - 20)
    offset = int.from_bytes(head[6:8], "big") & 0x1FFF
    return IPv4Address(head[12:16]), "fragment" if offset else head[9]


def _read_ipv6(reader: Reader) -> IPv6Address:
    head = reader.take(40)
    source = IPv6Address(head[8:24])
    if head[0] >> 4 != 6 or source.ipv4_mapped:
        raise Cut
    return source


def _read_extensions(reader: Reader, following: int) -> int | str:
    for _ in range(6):
        if following not in EXTENSIONS.values():
            return following
        head = reader.take(8)
        if following == FRAGMENT:
            if int.from_bytes(head[2:4], "big") >> 3:
                return "fragment"
        else:
            reader.take(head[1] * 4 if following == AUTHENTICATION else head[1] * 8)
        following = head[0]
    return "ip_other" if following in EXTENSIONS.values() else following


def _read_transport(reader: Reader, protocol: int, source: Address | None, tags: int) -> Kind:
    icmp = ICMP if isinstance(source, IPv4Address) else ICMP6
    names = {TCP: ("tcp", 20), UDP: ("udp", 8), icmp: ("icmp", 8)}
    if protocol not in names:
        return Kind("ip_other", source, tags)
    name, least = names[protocol]
    try:
        head = reader.take(least)
    except Cut:
        return Kind("malformed", source, tags)
    ports = (0, 0) if name == "icmp" else struct.unpack_from("!HH", head)
    return Kind(name, source, tags, (ports[0], ports[1]))
