"""Probe packets by hand, and a checker that shares no code with the kernel program."""

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from x0d.mesh.model import Address

ETHERNET_IPV4, ETHERNET_IPV6, ETHERNET_ARP, ETHERNET_VLAN = 0x0800, 0x86DD, 0x0806, 0x8100
UDP = 17
OUR_MAC, PEER_MAC = bytes.fromhex("02aabbccdd01"), bytes.fromhex("02aabbccdd02")


@dataclass(frozen=True)
class Packet:
    """A UDP packet in an Ethernet frame; the defaults are those of a probe."""

    source: Address
    destination: Address
    payload: bytes
    hop_limit: int = 255
    source_port: int = 9474
    destination_port: int = 9474
    destination_mac: bytes = OUR_MAC
    options: bytes = b""
    """IPv4 options, a multiple of four bytes."""
    fragment: int = 0
    """IPv4 flags and offset."""
    vlan: int | None = None
    protocol: int = UDP

    def but(self, **changes: object) -> "Packet":
        """Make a copy with other fields."""
        return replace(self, **changes)  # type: ignore[arg-type]  # the caller names fields

    def encode(self) -> bytes:
        """Make the frame, with right checksums."""
        length = 8 + len(self.payload)
        udp = struct.pack("!HHHH", self.source_port, self.destination_port, length, 0) + self.payload
        check = internet_checksum(pseudo_header(self.source, self.destination, length) + udp) or 0xFFFF
        udp = udp[:6] + struct.pack("!H", check) + udp[8:]
        kind = ETHERNET_IPV4 if isinstance(self.source, IPv4Address) else ETHERNET_IPV6
        tag = b"" if self.vlan is None else struct.pack("!HH", ETHERNET_VLAN, self.vlan)
        return self.destination_mac + PEER_MAC + tag + struct.pack("!H", kind) + self._ip_header(length) + udp

    def _ip_header(self, length: int) -> bytes:
        addresses = self.source.packed + self.destination.packed
        if isinstance(self.source, IPv6Address):
            return struct.pack("!IHBB", 0x60000000, length, self.protocol, self.hop_limit) + addresses
        words = 5 + len(self.options) // 4
        fixed = (0x40 | words, 0, words * 4 + length, 7, self.fragment, self.hop_limit, self.protocol)
        header = struct.pack("!BBHHHBBH", *fixed, 0) + addresses + self.options
        return header[:10] + struct.pack("!H", internet_checksum(header)) + header[12:]


def decode(frame: bytes) -> Packet:
    """Read an answer; AssertionError where a length or checksum is wrong."""
    (kind,) = struct.unpack_from("!H", frame, 12)
    if kind == ETHERNET_IPV4:
        header = frame[14:34]
        assert header[0] == 0x45
        assert struct.unpack_from("!H", header, 2)[0] == len(frame) - 14
        assert internet_checksum(header) == 0
        source: Address = IPv4Address(header[12:16])
        destination: Address = IPv4Address(header[16:20])
        hop_limit, udp = header[8], frame[34:]
    else:
        assert kind == ETHERNET_IPV6
        header = frame[14:54]
        assert struct.unpack_from("!H", header, 4)[0] == len(frame) - 54
        source, destination = IPv6Address(header[8:24]), IPv6Address(header[24:40])
        hop_limit, udp = header[7], frame[54:]
    source_port, destination_port, length, check = struct.unpack_from("!HHHH", udp)
    assert length == len(udp)
    assert check != 0
    assert internet_checksum(pseudo_header(source, destination, length) + udp) == 0
    return Packet(source, destination, udp[8:], hop_limit, source_port, destination_port, frame[:6])


def pseudo_header(source: Address, destination: Address, length: int) -> bytes:
    """RFC 768 and RFC 8200 section 8.1; their checksums are the same."""
    return source.packed + destination.packed + struct.pack("!II", length, UDP)


def internet_checksum(content: bytes) -> int:
    """RFC 1071, the plain way: 0 over content that holds its own right checksum."""
    padded = content + b"\0" * (len(content) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
