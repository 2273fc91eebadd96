"""Join tokens: any text parses or raises InvalidInput, what parses is written alike, and a cut is told."""

import contextlib
from base64 import urlsafe_b64encode
from dataclasses import replace
from hashlib import blake2s

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0d.errors import InvalidInput
from x0d.identity.spiffe_id import SpiffeId
from x0d.identity.token import PREFIX, JoinToken, secret_hash, split_endpoint

WORD = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
GOOD = JoinToken(
    endpoint="[fe80::1]:9476",
    root_sha256=bytes(range(32)),
    secret=bytes(range(16)),
    spiffe_id=SpiffeId.parse("spiffe://dev.x0d.test/node/n2"),
    expires_unix_s=1_800_000_000,
)

hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,40}[a-z0-9])?", fullmatch=True),
)
ids = st.from_regex(r"spiffe://[a-z0-9._-]{1,40}(/[a-z][A-Za-z0-9_-]{0,20}){1,4}", fullmatch=True).map(SpiffeId.parse)
tokens = st.builds(
    JoinToken,
    endpoint=st.builds(lambda host, port: f"{host}:{port}", hosts, st.integers(1, 65_535)),
    root_sha256=st.binary(min_size=32, max_size=32),
    secret=st.binary(min_size=16, max_size=16),
    spiffe_id=ids,
    expires_unix_s=st.integers(0, 2**48 - 1),
)


@given(tokens)
def test_round_trip(token: JoinToken) -> None:
    """A token parses to itself and is one word."""
    word = token.encode()
    assert token == JoinToken.parse(f"  {word}\n")
    assert word.removeprefix(PREFIX).strip(WORD) == ""


@given(st.one_of(st.text(max_size=200), st.text(WORD, max_size=300).map(lambda tail: PREFIX + tail)))
def test_any_text(text: str) -> None:
    """Any text parses or raises InvalidInput; what parses is written alike."""
    try:
        token = JoinToken.parse(text)
    except InvalidInput:
        return
    assert text.strip() == token.encode()


@given(tail=st.binary(max_size=120), wide=st.booleans())
def test_any_body(tail: bytes, *, wide: bool) -> None:
    """Any bytes under a right checksum parse or raise InvalidInput; what parses is written alike."""
    body = bytes(54) + (b"\0\x0b" if wide else b"") + tail
    word = PREFIX + urlsafe_b64encode(body + blake2s(body, digest_size=4, person=b"x0djoin").digest()).decode().rstrip(
        "="
    )
    try:
        token = JoinToken.parse(word)
    except InvalidInput:
        return
    assert word == token.encode()


@given(tokens, st.data())
def test_damaged(token: JoinToken, data: st.DataObject) -> None:
    """A token that was cut, or in which one character was changed, is refused."""
    word = token.encode()
    at = data.draw(st.integers(0, len(word) - 1))
    changed = word[:at] + data.draw(st.sampled_from(WORD).filter(lambda c: c != word[at])) + word[at + 1 :]
    for bad in (word[:at], changed, word + data.draw(st.sampled_from(WORD))):
        with pytest.raises(InvalidInput):
            JoinToken.parse(bad)


@pytest.mark.parametrize("host", ["a", "ab", "abc"])
def test_one_word_for_a_token(host: str) -> None:
    """No other last character gives the same token, though some of its bits carry nothing."""
    word = replace(GOOD, endpoint=f"{host}:9476").encode()
    taken = []
    for last in WORD:
        with contextlib.suppress(InvalidInput):
            taken.append(JoinToken.parse(word[:-1] + last).encode())
    assert [word] == taken


def test_refusals_keep_the_secret() -> None:
    """Neither a refusal nor the token's repr shows the secret."""
    word = GOOD.encode()
    with pytest.raises(InvalidInput) as refusal:
        JoinToken.parse(word[:-1])
    assert "the join token is cut or damaged: copy it whole" == str(refusal.value)
    assert "secret" not in repr(GOOD)


def test_known_answer() -> None:
    """The word is that of every earlier version."""
    assert (
        "x0d1-AABrSdIAAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8AAQIDBAUGBwgJCgsMDQ4PAA5bZmU4MDo6MV06OTQ3NnNwaWZmZTovL2Rldi54MGQudGVzdC9ub2RlL24yybHa2w"
        == GOOD.encode()
    )


def test_longest() -> None:
    """The longest ID and the longest host fit."""
    spiffe_id = SpiffeId.parse("spiffe://" + "a" * 255 + "/" + "b" * (2_048 - 9 - 256))
    token = JoinToken("h" * 253 + ":65535", GOOD.root_sha256, GOOD.secret, spiffe_id, 2**48 - 1)
    assert token == JoinToken.parse(token.encode())


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("10.0.0.1:9476", ("10.0.0.1", 9476)),
        ("[fe80::1]:1", ("fe80::1", 1)),
        ("n1.dev.x0d.test:65535", ("n1.dev.x0d.test", 65_535)),
    ],
)
def test_endpoints(endpoint: str, expected: tuple[str, int]) -> None:
    """Names, IPv4 and bracketed IPv6 addresses have a port."""
    assert expected == split_endpoint(endpoint)


@pytest.mark.parametrize(
    "endpoint",
    ["", ":", "host", "host:", "host:0", "host:65536", "host:09", "host:+1", "host:1 ", ":9476", "fe80::1:9476",
     "[fe80::1]", "[fe80::1%eth0]:9476", "[10.0.0.1]:9476", "[]:1", "a b:1", "-a:1", "a\n:1", "a:1\n", "unix:/run/x:1",
     "host:٣", "h" * 254 + ":1"],
)  # fmt: skip
def test_bad_endpoints(endpoint: str) -> None:
    """What names no host or no port is refused."""
    with pytest.raises(InvalidInput):
        split_endpoint(endpoint)


def test_a_second_port_is_told() -> None:
    """A host that was given with a port, and so was put into brackets, is told as that."""
    with pytest.raises(InvalidInput, match=r"^'192\.0\.2\.1:99' is neither an IPv6 address nor a host without a port$"):
        split_endpoint("[192.0.2.1:99]:9476")


def test_secret_hash() -> None:
    """A hash is 32 bytes, of its secret alone, and not the secret's plain SHA-256."""
    one, other = secret_hash(GOOD.secret), secret_hash(bytes(16))
    assert (32, False, one) == (len(one), one == other, secret_hash(GOOD.secret))
