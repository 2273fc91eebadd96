"""SPIFFE IDs: what follows the grammar parses to itself byte for byte, everything else raises InvalidInput."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0d.errors import InvalidInput
from x0d.identity.spiffe_id import SpiffeId, TrustDomain, node_id

IN_DOMAIN = string.ascii_lowercase + string.digits + "._-"
IN_PATH = string.ascii_letters + string.digits + "._-"
GOOD = "spiffe://dev.x0d.test/node/n1"

domains = st.text(IN_DOMAIN, min_size=1, max_size=255)
segments = st.text(IN_PATH, min_size=1, max_size=40).filter(lambda text: text not in {".", ".."})
ids = st.builds(
    lambda td, path: f"spiffe://{td}/" + "/".join(path), domains, st.lists(segments, min_size=1, max_size=6)
)


@given(ids)
def test_round_trip(text: str) -> None:
    """What follows the grammar parses, and is written as it was."""
    spiffe_id = SpiffeId.parse(text)
    assert text == str(spiffe_id)
    assert text == f"spiffe://{spiffe_id.trust_domain}{spiffe_id.path}"


@given(st.one_of(st.text(max_size=80), st.text(max_size=40).map(lambda tail: f"spiffe://a/{tail}"), ids))
def test_any_text(text: str) -> None:
    """Any text parses to itself or raises InvalidInput, a lone surrogate as well."""
    try:
        spiffe_id = SpiffeId.parse(text)
    except InvalidInput:
        return
    assert text == str(spiffe_id)


@given(st.text(max_size=60))
def test_any_trust_domain(text: str) -> None:
    """Any text is a trust domain, with or without its scheme, or raises InvalidInput."""
    try:
        domain = TrustDomain.parse(text)
    except InvalidInput:
        return
    assert text in {str(domain), f"spiffe://{domain}"}
    assert not set(str(domain)) - set(IN_DOMAIN)


@given(ids, st.data())
def test_one_character_more(text: str, data: st.DataObject) -> None:
    """A character from outside the grammar, anywhere in an ID, is refused."""
    at = data.draw(st.integers(0, len(text)))
    bad = data.draw(st.characters().filter(lambda c: c not in IN_PATH + "/"))
    with pytest.raises(InvalidInput):
        SpiffeId.parse(text[:at] + bad + text[at:])


@pytest.mark.parametrize("number", range(256))
def test_every_byte(number: int) -> None:
    """Each byte is allowed in a trust domain and in a path exactly if the grammar names it."""
    character = chr(number)
    for text, allowed in (
        (f"spiffe://a{character}b/node", character in IN_DOMAIN or character == "/"),
        (f"spiffe://a/x{character}y", character in IN_PATH or character == "/"),
    ):
        if allowed:
            assert text == str(SpiffeId.parse(text))
        else:
            with pytest.raises(InvalidInput):
                SpiffeId.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe:",
        "spiffe://",
        "spiffe:///",
        "spiffe:///node",
        "spiffe://dev.x0d.test",
        "spiffe://dev.x0d.test/",
        "spiffe:/dev.x0d.test/node",
        "SPIFFE://dev.x0d.test/node",
        "Spiffe://dev.x0d.test/node",
        "spiffe://DEV.x0d.test/node",
        "https://dev.x0d.test/node",
        " spiffe://dev.x0d.test/node",
        GOOD + "\n",
        GOOD + "\0",
        GOOD + "\0.evil",
        GOOD + " ",
        GOOD + "/",
        "spiffe://dev.x0d.test\n/node",
        "spiffe://dev.x0d.test//node",
        "spiffe://dev.x0d.test/node//n1",
        "spiffe://dev.x0d.test/./n1",
        "spiffe://dev.x0d.test/node/..",
        "spiffe://dev.x0d.test/node/../operator/root",
        "spiffe://dev.x0d.test:443/node",
        "spiffe://user@dev.x0d.test/node",
        "spiffe://user:word@dev.x0d.test/node",
        GOOD + "?a=b",
        GOOD + "#part",
        "spiffe://dev.x0d.test/node/%61",
        "spiffe://dev.x0d.test/node/*",
        "spiffe://dév.test/node",
        "spiffe://dev.x0d.test/nodé",
        "spiffe://dev.x0d.test/node/n\u0661",
        "spiffe://dev.x0d.test/\ud800",
        "spiffe://" + "a" * 256 + "/node",
        "spiffe://a/" + "b" * 2_038,
    ],
)
def test_bad(text: str) -> None:
    """Known tricks are refused."""
    with pytest.raises(InvalidInput):
        SpiffeId.parse(text)


def test_limits() -> None:
    """2,048 bytes and a trust domain of 255 are the most that is taken."""
    longest = "spiffe://" + "a" * 255 + "/" + "b" * (2_048 - 9 - 255 - 1)
    assert (2_048, longest) == (len(longest), str(SpiffeId.parse(longest)))


@pytest.mark.parametrize("segment", ["...", "..a", "a..", ".a", "-", "_"])
def test_dots(segment: str) -> None:
    """Only ``.`` and ``..`` are special among dots."""
    assert f"/{segment}" == SpiffeId.parse(f"spiffe://a/{segment}").path


@given(ids, ids)
def test_equal_by_bytes(one: str, other: str) -> None:
    """Two IDs are the same exactly if their texts are."""
    assert (one == other) == (SpiffeId.parse(one) == SpiffeId.parse(other))
    changed = GOOD.replace("n1", "N1")
    assert SpiffeId.parse(GOOD) != SpiffeId.parse(changed)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x0d.test", True),
        ("a.example", True),
        ("a.invalid", True),
        ("test", True),
        ("example.org", False),
        ("contest", False),
        ("x.test.org", False),
    ],
)
def test_dev_domains(name: str, *, expected: bool) -> None:
    """Reserved names are told from those that a network may own."""
    assert expected == TrustDomain.parse(name).is_dev


def test_refusals_are_bounded() -> None:
    """A refusal shows the beginning of what it refuses, with nothing a terminal would act on."""
    with pytest.raises(InvalidInput) as refusal:
        SpiffeId.parse("\x1b[2J" + "x" * 100_000)
    assert len(str(refusal.value)) < 300
    assert str(refusal.value).isprintable()


def test_node_id() -> None:
    """A node's ID is below /node, and a name that could leave it is refused."""
    domain = TrustDomain("dev.x0d.test")
    assert GOOD == str(node_id(domain, "n1"))
    for name in ("", "..", ".", "a/", "n1\n"):
        with pytest.raises(InvalidInput):
            node_id(domain, name)
