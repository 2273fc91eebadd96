"""Roles: a pattern stands for one ID or for whole segments below a path, and nobody holds a role by accident."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0d.errors import InvalidInput
from x0d.identity.roles import Binding, IdPattern, Role, default_bindings, roles_of
from x0d.identity.spiffe_id import SpiffeId, TrustDomain

TD = TrustDomain("dev.x0d.test")
ROOT = "spiffe://dev.x0d.test/operator/root"

domains = st.sampled_from(["dev.x0d.test", "dev.x0d.tes", "ev.x0d.test", "other.test"])
segments = st.text("abN1.-_", min_size=1, max_size=3).filter(lambda text: text not in {".", ".."})
paths = st.lists(segments, min_size=1, max_size=4)
ids = st.builds(lambda td, path: f"spiffe://{td}/" + "/".join(path), domains, paths)
patterns = st.one_of(ids, ids.map(lambda text: f"{text}/*"), domains.map(lambda td: f"spiffe://{td}/*"))


@given(patterns)
def test_round_trip(text: str) -> None:
    """A pattern is written as it was read."""
    assert text == str(IdPattern.parse(text))


@given(st.one_of(st.text(max_size=60), st.text("/*sa", max_size=12).map(lambda tail: f"spiffe://a/{tail}")))
def test_any_text(text: str) -> None:
    """Any text is a pattern that is written alike, or raises InvalidInput."""
    try:
        pattern = IdPattern.parse(text)
    except InvalidInput:
        return
    assert text == str(pattern)


@given(patterns, ids)
def test_matching_against_plain_segments(pattern: str, text: str) -> None:
    """A pattern says the same as a comparison of segments, one by one."""
    wanted, given_id = pattern.split("/"), text.split("/")
    if wanted[-1] == "*":
        expected = len(given_id) >= len(wanted) and given_id[: len(wanted) - 1] == wanted[:-1]
    else:
        expected = wanted == given_id
    assert expected == IdPattern.parse(pattern).matches(SpiffeId.parse(text))


@given(ids, st.data())
def test_star_elsewhere(text: str, data: st.DataObject) -> None:
    """A star that is not the whole of the last segment is refused."""
    at = data.draw(st.integers(0, len(text)))
    bad = text[:at] + "*" + text[at:]
    if bad.endswith("/*"):
        return
    for pattern in (bad, f"{bad}/*"):
        with pytest.raises(InvalidInput):
            IdPattern.parse(pattern)


@pytest.mark.parametrize(
    "text",
    ["", "*", "/*", "spiffe://*", "spiffe:///*", "spiffe://*/node", "spiffe://a", "spiffe://a/", "spiffe://a//*",
     "spiffe://a/*/", "spiffe://a/*/*", "spiffe://a/**", "spiffe://a/node*", "spiffe://a/*/node", "spiffe://a/n/*\n",
     "a/*", "a", "spiffe://spiffe://a/*", "spiffe://A/*", "https://a/*", "spiffe://a/../*", "spiffe:/*"],
)  # fmt: skip
def test_bad_patterns(text: str) -> None:
    """Neither partial wildcards nor anything that is no ID is a pattern."""
    with pytest.raises(InvalidInput):
        IdPattern.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("spiffe://dev.x0d.test/node/n1", {Role.PEER}),
        ("spiffe://dev.x0d.test/node/n1/deeper", {Role.PEER}),
        ("spiffe://dev.x0d.test/node", set()),
        ("spiffe://dev.x0d.test/nodeX", set()),
        ("spiffe://dev.x0d.test/nodeX/n1", set()),
        ("spiffe://dev.x0d.test/Node/n1", set()),
        (ROOT, {Role.ADMIN, Role.VIEWER}),
        (f"{ROOT}/x", {Role.VIEWER}),
        ("spiffe://dev.x0d.test/operator/Root", {Role.VIEWER}),
        ("spiffe://dev.x0d.test/operator/alice", {Role.VIEWER}),
        ("spiffe://dev.x0d.test/operator", set()),
        ("spiffe://dev.x0d.test/issuer/join", set()),
        ("spiffe://other.test/node/n1", set()),
        ("spiffe://other.test/operator/root", set()),
    ],
)
def test_defaults(text: str, expected: set[Role]) -> None:
    """Without a word in the configuration, exactly these IDs hold these roles."""
    assert expected == roles_of(SpiffeId.parse(text), default_bindings(TD))


@given(ids)
def test_nobody_by_default(text: str) -> None:
    """Without bindings, and with those of unix users and groups alone, no ID holds a role."""
    unix = (Binding(Role.ADMIN, user="root"), Binding(Role.ADMIN, group="x0d"), Binding(Role.ADMIN))
    assert frozenset() == roles_of(SpiffeId.parse(text), ())
    assert frozenset() == roles_of(SpiffeId.parse(text), unix)
