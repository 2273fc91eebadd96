"""Mesh datagrams: any bytes decode or raise InvalidInput, and what decodes re-encodes."""

from ipaddress import IPv6Address, IPv6Network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.strategies import messages, records, versions
from x0d.errors import InvalidInput
from x0d.mesh.codec import (
    ASSEMBLIES_MAX,
    DATAGRAM_BYTES_MAX,
    Ack,
    Assembly,
    Message,
    StatePart,
    Summary,
    Version,
    decode,
    decode_body,
    encode,
    encode_acks,
    encode_body,
    encode_state,
    encode_summaries,
    record_fits,
)
from x0d.mesh.model import Adjacency, AdjacencyState, LinkStateRecord


@given(messages)
def test_messages_round_trip(message: Message) -> None:
    """Every message decodes to itself."""
    assert message == decode(encode(message))


@given(st.one_of(st.binary(max_size=1300), st.binary(max_size=60).map(lambda tail: b"X0DM\x01" + tail)))
def test_any_bytes(data: bytes) -> None:
    """Random bytes decode or raise InvalidInput; what decodes re-encodes to the same bytes."""
    try:
        message = decode(data)
    except InvalidInput:
        return
    assert data == encode(message)


@given(messages, st.data())
def test_damaged_messages(message: Message, data: st.DataObject) -> None:
    """A datagram cut short or with a byte changed holds to the same law."""
    good = encode(message)
    at = data.draw(st.integers(0, len(good) - 1))
    changed = bytearray(good)
    changed[at] = data.draw(st.integers(0, 255))
    for bad in (good[:at], bytes(changed)):
        try:
            decoded = decode(bad)
        except InvalidInput:
            continue
        assert bad == encode(decoded)


@given(records, st.data())
def test_records(record: LinkStateRecord, data: st.DataObject) -> None:
    """A record's body round-trips, and damaged it decodes to what re-encodes, or raises InvalidInput."""
    version = Version(record.origin, record.incarnation, record.sequence)
    body = encode_body(record)
    assert record == decode_body(version, body)
    changed = bytearray(body)
    changed[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_body(version, bytes(changed))
    except InvalidInput:
        return
    assert bytes(changed) == encode_body(decoded)


def biggest() -> LinkStateRecord:
    def address(number: int) -> IPv6Address:
        return IPv6Address((0xFE80 << 112) + number)

    return LinkStateRecord(
        "a" * 63,
        1,
        1,
        False,
        tuple(IPv6Network((number << 64, 64)) for number in range(256)),
        tuple(Adjacency("b" * 63, address(n), address(n + 1), 100, AdjacencyState.UP, 1) for n in range(256)),
    )


def test_the_biggest_record_travels_in_parts_of_any_order() -> None:
    """256 adjacencies and 256 prefixes fit in datagrams of 1,200 bytes and come together again."""
    record = biggest()
    assert record_fits(record)
    body = encode_body(record)
    version = Version(record.origin, 1, 1)
    datagrams = encode_state("c" * 63, version, 4000, body)
    assert all(len(datagram) <= DATAGRAM_BYTES_MAX for datagram in datagrams)
    assembly = Assembly()
    bodies = []
    for datagram in reversed(datagrams):
        message = decode(datagram)
        assert isinstance(message, StatePart)
        bodies.append(assembly.add(message))
    assert [None] * (len(datagrams) - 1) + [body] == bodies
    assert record == decode_body(version, body)


def test_assembly_is_bounded() -> None:
    """Unfinished records push the oldest out."""
    assembly = Assembly()
    for number in range(ASSEMBLIES_MAX + 1):
        assembly.add(StatePart("n1", Version("n2", 1, number), 0, 0, 2, b"a" * 1024))
    assert assembly.add(StatePart("n1", Version("n2", 1, 0), 0, 1, 2, b"b")) is None
    assert assembly.add(StatePart("n1", Version("n2", 1, ASSEMBLIES_MAX), 0, 1, 2, b"b")) is not None


@given(st.lists(versions, max_size=200, unique_by=lambda v: v.origin))
def test_summaries_cover_all_names(entries: list[Version]) -> None:
    """Summaries adjoin from the first name to the last and hold each version once; acks likewise."""
    entries.sort(key=lambda v: v.origin)
    summaries = [decode(datagram) for datagram in encode_summaries("n1", entries)]
    assert entries == [v for s in summaries if isinstance(s, Summary) for v in s.versions]
    bounds = [(s.after, s.upto) for s in summaries if isinstance(s, Summary)]
    assert ("", "") == (bounds[0][0], bounds[-1][1])
    assert all(left[1] == right[0] != "" for left, right in pairwise(bounds))
    acks = [decode(datagram) for datagram in encode_acks("n1", entries)]
    assert entries == [v for a in acks if isinstance(a, Ack) for v in a.versions]


@pytest.mark.parametrize("field", ["prefixes", "adjacencies"])
def test_twice_the_same(field: str) -> None:
    """A record that names a prefix or a link twice is refused."""
    record = biggest()
    items = getattr(record, field)[:1] * 2
    twice = LinkStateRecord("n1", 1, 1, False, *((items, ()) if field == "prefixes" else ((), items)))
    with pytest.raises(InvalidInput):
        decode_body(Version("n1", 1, 1), encode_body(twice))
