"""The agreed key: the same at both ends, and another one as soon as anything about the agreement differs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0d.errors import InvalidInput
from x0d.identity.agreement import Half, agree
from x0d.identity.spiffe_id import SpiffeId, TrustDomain, node_id

TD = TrustDomain("dev.x0d.test")
N1, N2, N3 = (node_id(TD, name) for name in ("n1", "n2", "n3"))
ONE: Half = (1, bytes(range(32)))
TWO: Half = (2, bytes(range(32, 64)))

ids = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True).map(lambda name: node_id(TD, name))
halves = st.tuples(st.integers(1, 2**64 - 1), st.binary(min_size=32, max_size=32))


@given(ids, halves, ids, halves)
def test_symmetric(own_id: SpiffeId, own: Half, peer_id: SpiffeId, peer: Half) -> None:
    """Both ends compute the same key, of the promised size."""
    if own[1] == peer[1]:
        return
    key = agree(own_id, own, peer_id, peer)
    assert key == agree(peer_id, peer, own_id, own)
    assert (32, True) == (len(key.material), 0 <= key.id <= 65_535)


def test_every_part_counts() -> None:
    """Another ID, boot id or nonce at either end gives another key; so do halves that changed places."""
    other_nonce = bytes(32)
    keys = [
        agree(N1, ONE, N2, TWO),
        agree(N3, ONE, N2, TWO),
        agree(N1, ONE, N3, TWO),
        agree(N1, (3, ONE[1]), N2, TWO),
        agree(N1, ONE, N2, (3, TWO[1])),
        agree(N1, (1, other_nonce), N2, TWO),
        agree(N1, ONE, N2, (2, other_nonce)),
        agree(N2, ONE, N1, TWO),
        agree(N1, (2, ONE[1]), N2, (1, TWO[1])),
    ]
    assert len(keys) == len({key.material for key in keys})


def test_known_answer() -> None:
    """The computation is that of every earlier version, for neighbours upgrade one after the other."""
    key = agree(N1, ONE, N2, TWO)
    assert ("6d16277142eb552439b018dec2ccb6eac3a875ec3db669ac0bd826ba9a1e8da8", 33600) == (key.material.hex(), key.id)


def test_material_is_not_shown() -> None:
    """Logs and tracebacks do not show the key."""
    key = agree(N1, ONE, N2, TWO)
    assert f"PeerKey(id={key.id})" == repr(key)


@pytest.mark.parametrize(
    "bad", [(0, TWO[1]), (-1, TWO[1]), (2**64, TWO[1]), (2, b""), (2, bytes(31)), (2, bytes(33)), (2, ONE[1])]
)
def test_bad_halves(bad: Half) -> None:
    """A half with no boot id, a nonce of another size, or our own nonce is refused."""
    with pytest.raises(InvalidInput):
        agree(N1, ONE, N2, bad)
