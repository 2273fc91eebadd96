"""The Workload API's messages: on the wire as the public workload.proto says, and nothing in the default pool."""

import pytest
from google.protobuf import descriptor_pool
from hypothesis import given
from hypothesis import strategies as st

from x0d.errors import InvalidInput
from x0d.spiffe.workload_api import (
    BundlesUpdate,
    SvidUpdate,
    WorkloadSvid,
    X509BundlesResponse,
    X509SVIDRequest,
    X509SVIDResponse,
)

SVIDS = st.builds(WorkloadSvid, st.text(), st.binary(), st.binary(), st.binary(), st.text())
MAPS = st.dictionaries(st.text(), st.binary(), max_size=4)


@given(st.builds(SvidUpdate, st.lists(SVIDS, max_size=3).map(tuple), MAPS))
def test_svid_updates_read_as_written(update: SvidUpdate) -> None:
    """What is encoded decodes to the same value."""
    assert update == SvidUpdate.decode(update.encode())


@given(st.builds(BundlesUpdate, MAPS))
def test_bundles_updates_read_as_written(update: BundlesUpdate) -> None:
    """What is encoded decodes to the same value."""
    assert update == BundlesUpdate.decode(update.encode())


@given(st.binary(max_size=100))
def test_any_bytes_decode_or_are_invalid(data: bytes) -> None:
    """Bytes are a message, which is then the same after a round, or InvalidInput."""
    for kind in (SvidUpdate, BundlesUpdate):
        try:
            update = kind.decode(data)
        except InvalidInput:
            continue
        assert update == kind.decode(update.encode())


def test_bytes_on_the_wire_are_the_public_ones() -> None:
    """Field numbers and types are those of workload.proto: checked on bytes written by hand."""
    svid = b"\x0a\x0aspiffe://a" + b"\x12\x01c" + b"\x1a\x01k" + b"\x22\x01b" + b"\x2a\x01h"
    entry = b"\x0a\x0aspiffe://f\x12\x01B"
    wire = b"\x0a" + bytes([len(svid)]) + svid + b"\x1a" + bytes([len(entry)]) + entry
    expected = SvidUpdate((WorkloadSvid("spiffe://a", b"c", b"k", b"b", "h"),), {"spiffe://f": b"B"})
    assert expected == SvidUpdate.decode(wire)
    assert wire == expected.encode()
    assert BundlesUpdate({"spiffe://f": b"B"}) == BundlesUpdate.decode(b"\x12" + bytes([len(entry)]) + entry)


def test_the_default_pool_stays_free() -> None:
    """Ours is in a pool of its own, so that somebody else's workload.proto in this process loads beside it."""
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("X509SVIDRequest")
    assert b"" == X509SVIDRequest().SerializeToString()


def test_keys_are_not_shown() -> None:
    """A private key is in no representation that a log could print."""
    assert "secret" not in repr(WorkloadSvid("a", b"c", b"secret", b"b"))
    assert ["crl", "svids", "federated_bundles"] == [field.name for field in X509SVIDResponse.DESCRIPTOR.fields]
    assert ["crl", "bundles"] == [field.name for field in X509BundlesResponse.DESCRIPTOR.fields]
