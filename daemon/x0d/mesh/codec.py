"""Datagrams of the mesh: HELLO, STATE, ACK, SUMMARY.

Every datagram opens with magic, version, type and the sender's name, and is at most 1,200 bytes: 32 less
than what a UDP datagram may carry through any IPv6 link unfragmented (1,232), kept free for a replay
header and a MAC.  Integers are big endian.  One law holds for both layers, datagrams and the body of a
record: any bytes decode or raise ``InvalidInput``, and what decodes re-encodes to the same bytes.

A record with 256 neighbours does not fit one datagram, so STATE carries one *part* of a record's body
(at most 32 of 1,024 bytes); ``Assembly`` puts parts together, in bounded memory.  A record of at most 256
adjacencies and 256 prefixes always fits (``record_fits``).
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from x0d.errors import InvalidInput
from x0d.mesh.model import Address, Adjacency, AdjacencyState, LinkStateRecord, Prefix
from x0d.mesh.wire import Reader, pack_name

MAGIC = b"X0DM"
VERSION = 1
DATAGRAM_BYTES_MAX = 1200
NUMBER_MAX = 2**62  # of incarnations (nanoseconds until the year 2116) and sequences
COST_MAX = 65_535
GENERATION_MAX = 2**31 - 1
PREFIXES_MAX = 256
ADJACENCIES_MAX = 256
PART_BYTES = 1024
PARTS_MAX = 32
ASSEMBLIES_MAX = 64  # records in parts; the oldest is dropped, and its sender sends again

HELLO, STATE, ACK, SUMMARY = 1, 2, 3, 4
SOLICIT = 1


@dataclass(frozen=True, slots=True)
class Version:
    """Which record of which origin."""

    origin: str
    incarnation: int
    sequence: int

    @property
    def number(self) -> tuple[int, int]:
        """What decides which is newer."""
        return (self.incarnation, self.sequence)


@dataclass(frozen=True, slots=True)
class Hello:
    """The sender's daemon lives, and this is what it knows."""

    sender: str
    incarnation: int
    heard_incarnation: int
    """Of the receiver, as the sender heard it last; 0: not yet."""
    digest: int
    """Of the sender's database, 64 bits."""
    records: int
    solicit: bool
    """The sender asks for a HELLO at once."""


@dataclass(frozen=True, slots=True)
class StatePart:
    """A part of a record."""

    sender: str
    version: Version
    age_ms: int
    """Since the origin made the record."""
    part: int
    parts: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Ack:
    """Records received whole."""

    sender: str
    versions: tuple[Version, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """All records that the sender has of origins in (``after``, ``upto``]."""

    sender: str
    after: str
    """Empty: from the first name on."""
    upto: str
    """Empty: to the last name."""
    versions: tuple[Version, ...]


Message = Hello | StatePart | Ack | Summary

_HEAD = struct.Struct("!4sBB")
_HELLO = struct.Struct("!QQQIB")
_PART = struct.Struct("!QQIBBH")
_VERSION = struct.Struct("!QQ")


# ---- encoding ----


def _head(kind: int, sender: str) -> bytes:
    return _HEAD.pack(MAGIC, VERSION, kind) + pack_name(sender)


def _versions(versions: Iterable[Version]) -> bytes:
    return b"".join(pack_name(v.origin) + _VERSION.pack(v.incarnation, v.sequence) for v in versions)


def encode(message: Message) -> bytes:
    """Encode one message; its size is the caller's care (see ``encode_acks`` and ``encode_summaries``)."""
    match message:
        case Hello():
            flags = SOLICIT if message.solicit else 0
            body = _HELLO.pack(message.incarnation, message.heard_incarnation, message.digest, message.records, flags)
            data = _head(HELLO, message.sender) + body
        case StatePart():
            version = message.version
            numbers = _PART.pack(
                version.incarnation, version.sequence, message.age_ms, message.part, message.parts, len(message.body)
            )
            data = _head(STATE, message.sender) + pack_name(version.origin) + numbers + message.body
        case Ack():
            data = _head(ACK, message.sender) + struct.pack("!H", len(message.versions)) + _versions(message.versions)
        case Summary():
            names = pack_name(message.after, empty=True) + pack_name(message.upto, empty=True)
            count = struct.pack("!H", len(message.versions))
            data = _head(SUMMARY, message.sender) + names + count + _versions(message.versions)
    assert len(data) <= DATAGRAM_BYTES_MAX
    return data


def encode_state(sender: str, version: Version, age_ms: int, body: bytes) -> tuple[bytes, ...]:
    """Encode a record's body as one STATE datagram per part."""
    chunks = [body[at : at + PART_BYTES] for at in range(0, len(body), PART_BYTES)]
    return tuple(
        encode(StatePart(sender, version, age_ms, part, len(chunks), chunk)) for part, chunk in enumerate(chunks)
    )


def _chunks(versions: Sequence[Version], room: int) -> list[tuple[Version, ...]]:
    """Split so that each chunk's versions take at most ``room`` bytes."""
    chunks: list[list[Version]] = [[]]
    left = room
    for version in versions:
        size = 1 + len(version.origin) + _VERSION.size
        if size > left:
            chunks.append([])
            left = room
        chunks[-1].append(version)
        left -= size
    return [tuple(chunk) for chunk in chunks]


def encode_acks(sender: str, versions: Sequence[Version]) -> tuple[bytes, ...]:
    """Encode acknowledgements in as few datagrams as they need; none for none."""
    room = DATAGRAM_BYTES_MAX - len(_head(ACK, sender)) - 2
    return tuple(encode(Ack(sender, chunk)) for chunk in _chunks(versions, room) if chunk)


def encode_summaries(sender: str, versions: Sequence[Version]) -> tuple[bytes, ...]:
    """Encode a whole database's versions, sorted by origin, as summaries of adjoining ranges of names."""
    chunks = _chunks(versions, DATAGRAM_BYTES_MAX - len(_head(SUMMARY, sender)) - 2 * 64 - 2)
    bounds = ["", *(chunk[-1].origin for chunk in chunks[:-1]), ""]
    return tuple(
        encode(Summary(sender, after, upto, chunk))
        for after, upto, chunk in zip(bounds, bounds[1:], chunks, strict=False)
    )


def _address(address: Address) -> bytes:
    assert not getattr(address, "scope_id", None), "addresses of the mesh carry no zone"
    return bytes([address.version]) + address.packed


def encode_body(record: LinkStateRecord) -> bytes:
    """Encode what follows a record's origin and version."""
    assert record_fits(record)
    out = [struct.pack("!BH", record.no_transit, len(record.prefixes))]
    out += [bytes([p.version, p.prefixlen]) + p.network_address.packed for p in record.prefixes]
    out.append(struct.pack("!H", len(record.adjacencies)))
    for adjacency in record.adjacencies:
        out.append(pack_name(adjacency.neighbour))
        out.append(_address(adjacency.local_address) + adjacency.neighbour_address.packed)
        out.append(struct.pack("!HBI", adjacency.cost, adjacency.state, adjacency.generation))
    return b"".join(out)


def record_fits(record: LinkStateRecord) -> bool:
    """Whether a record is within the limits of the wire: 256 adjacencies and 256 prefixes."""
    return len(record.adjacencies) <= ADJACENCIES_MAX and len(record.prefixes) <= PREFIXES_MAX


# ---- decoding ----


def _number(value: int) -> int:
    if value > NUMBER_MAX:
        raise InvalidInput(f"version number {value} is out of range")
    return value


def _read_versions(reader: Reader) -> tuple[Version, ...]:
    (count,) = reader.unpack("!H")
    versions = []
    for _ in range(count):
        origin = reader.name()
        incarnation, sequence = reader.unpack("!QQ")
        versions.append(Version(origin, _number(incarnation), _number(sequence)))
    return tuple(versions)


def decode(datagram: bytes) -> Message:
    """Decode one datagram.

    Raises:
        InvalidInput: the bytes do not follow the format.
    """
    if len(datagram) > DATAGRAM_BYTES_MAX:
        raise InvalidInput(f"mesh datagram of {len(datagram)} bytes; at most {DATAGRAM_BYTES_MAX}")
    reader = Reader(datagram)
    magic, version, kind = reader.unpack("!4sBB")
    if magic != MAGIC or version != VERSION:
        raise InvalidInput("not a mesh datagram of version 1")
    sender = reader.name()
    match kind:
        case 1:
            message: Message = _read_hello(sender, reader)
        case 2:
            message = _read_part(sender, reader)
        case 3:
            message = Ack(sender, _read_versions(reader))
        case 4:
            after, upto = reader.name(empty=True), reader.name(empty=True)
            message = Summary(sender, after, upto, _read_versions(reader))
        case _:
            raise InvalidInput(f"mesh datagram of unknown type {kind}")
    reader.end()
    return message


def _read_hello(sender: str, reader: Reader) -> Hello:
    incarnation, heard, digest, records, flags = reader.unpack("!QQQIB")
    if flags & ~SOLICIT:
        raise InvalidInput(f"unknown HELLO flags {flags:#x}")
    return Hello(sender, _number(incarnation), _number(heard), digest, records, bool(flags))


def _read_part(sender: str, reader: Reader) -> StatePart:
    origin = reader.name()
    incarnation, sequence, age_ms, part, parts, size = reader.unpack("!QQIBBH")
    if not part < parts <= PARTS_MAX:
        raise InvalidInput(f"part {part} of {parts}")
    if not 0 < size <= PART_BYTES or (part < parts - 1 and size < PART_BYTES):
        raise InvalidInput(f"part of {size} bytes")
    version = Version(origin, _number(incarnation), _number(sequence))
    return StatePart(sender, version, age_ms, part, parts, reader.take(size))


def decode_body(version: Version, body: bytes) -> LinkStateRecord:
    """Decode the body of a record.

    Raises:
        InvalidInput: the bytes do not follow the format, or name something twice.
    """
    reader = Reader(body)
    no_transit, count = reader.unpack("!BH")
    if no_transit > 1 or count > PREFIXES_MAX:
        raise InvalidInput(f"record of {version.origin}: flags {no_transit}, {count} prefixes")
    prefixes = tuple(_read_prefix(reader) for _ in range(count))
    (count,) = reader.unpack("!H")
    if count > ADJACENCIES_MAX:
        raise InvalidInput(f"record of {version.origin}: {count} adjacencies")
    adjacencies = tuple(_read_adjacency(reader) for _ in range(count))
    reader.end()
    ends = {(a.neighbour, a.local_address, a.neighbour_address) for a in adjacencies}
    if len(ends) < len(adjacencies) or len(set(prefixes)) < len(prefixes):
        raise InvalidInput(f"record of {version.origin} names something twice")
    if any(adjacency.neighbour == version.origin for adjacency in adjacencies):
        raise InvalidInput(f"record of {version.origin}: adjacent to itself")
    return LinkStateRecord(
        version.origin, version.incarnation, version.sequence, bool(no_transit), prefixes, adjacencies
    )


def _read_prefix(reader: Reader) -> Prefix:
    family, length = reader.unpack("!BB")
    packed = reader.take(_address_bytes(family))
    try:
        return IPv4Network((packed, length)) if family == 4 else IPv6Network((packed, length))
    except ValueError as error:
        raise InvalidInput(f"bad prefix: {error}") from error


def _address_bytes(family: int) -> int:
    if family not in (4, 6):
        raise InvalidInput(f"address family {family}")
    return 4 if family == 4 else 16


def _read_adjacency(reader: Reader) -> Adjacency:
    neighbour = reader.name()
    (family,) = reader.unpack("!B")
    size = _address_bytes(family)
    make = IPv4Address if family == 4 else IPv6Address
    local, remote = make(reader.take(size)), make(reader.take(size))
    cost, state, generation = reader.unpack("!HBI")
    if not cost or state not in AdjacencyState.__members__.values() or generation > GENERATION_MAX:
        raise InvalidInput(f"adjacency to {neighbour}: cost {cost}, state {state}, generation {generation}")
    return Adjacency(neighbour, local, remote, cost, AdjacencyState(state), generation)


class Assembly:
    """Puts the parts of records together; at most 64 records at a time."""

    def __init__(self) -> None:
        self._open: dict[tuple[Version, int], dict[int, bytes]] = {}

    def add(self, message: StatePart) -> bytes | None:
        """Add a part; the whole body once all are there."""
        if message.parts == 1:
            return message.body
        key = (message.version, message.parts)
        if key not in self._open and len(self._open) >= ASSEMBLIES_MAX:
            del self._open[next(iter(self._open))]
        parts = self._open.setdefault(key, {})
        parts[message.part] = message.body
        if len(parts) < message.parts:
            return None
        del self._open[key]
        return b"".join(parts[part] for part in range(message.parts))
