"""Prefixes and comments: every spelling reads as ``ipaddress`` reads it, and what is no prefix is refused."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x0d.errors import InvalidInput
from x0d.policy.model import COMMENT_CHARACTERS_MAX, PackedPrefix, clean_comment, pack, parse_prefix

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
HOST_LIKE = st.text(alphabet="0123456789abcdefABCDEF:.", max_size=45)


@given(ADDRESSES, st.integers(0, 128))
def test_prefix_is_what_ipaddress_says(address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int) -> None:
    """A prefix with bits set behind its length is the network that ipaddress makes of it, and prints as such."""
    length = min(length, address.max_prefixlen)
    if pack(address).address != address.packed:
        return  # IPv4-mapped: refused, see below
    network = ipaddress.ip_network((address, length), strict=False)
    prefix = parse_prefix(f"{address}/{length}")
    assert (network.network_address.packed, length) == prefix
    assert str(network).removesuffix(f"/{address.max_prefixlen}") == str(prefix)
    assert prefix == parse_prefix(str(prefix))
    assert pack(address) == parse_prefix(address.exploded.upper())


@given(st.one_of(HOST_LIKE, st.from_regex(r"[0-9a-f]{0,5}(:{1,3}[0-9a-f]{0,5}){0,9}", fullmatch=True)))
def test_quick_ways_take_what_ipaddress_takes(text: str) -> None:
    """An address is taken exactly if ipaddress takes it, and is the same address."""
    try:
        expected: bytes | None = ipaddress.ip_address(text).packed
        mapped = getattr(ipaddress.ip_address(text), "ipv4_mapped", None)
        expected = None if mapped else expected
    except ValueError:
        expected = None
    try:
        found: bytes | None = parse_prefix(text).address
    except InvalidInput:
        found = None
    assert expected == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "neither an IP address nor a prefix"),
        ("10.0.0.256", "neither an IP address nor a prefix"),
        ("10.0.0.01", "neither an IP address nor a prefix"),
        ("10.0.0", "neither an IP address nor a prefix"),
        ("n2", "neither an IP address nor a prefix"),
        ("10.0.0.0/33", "a number from 0 to 32"),
        ("10.0.0.0/", "a number from 0 to 32"),
        ("10.0.0.0/+8", "a number from 0 to 32"),
        ("10.0.0.0/8/8", "a number from 0 to 32"),
        ("::/129", "a number from 0 to 128"),
        ("fe80::1%eth0", "a prefix has no zone"),
        ("::ffff:10.0.0.1", "write the IPv4 address itself"),
        ("1" * 100_000, "too long"),
    ],
)
def test_what_is_no_prefix_is_refused(text: str, reason: str) -> None:
    """A text that is no prefix is InvalidInput with the reason, and a long one is not repeated in full."""
    with pytest.raises(InvalidInput, match=reason) as refused:
        parse_prefix(text)
    assert len(str(refused.value)) < 200


def test_prefix_covers_its_part() -> None:
    """A prefix covers itself and what is in it, not what is wider, beside it or of the other family."""
    wide = parse_prefix("10.0.0.0/8")
    assert wide.covers(wide)
    assert wide.covers(parse_prefix("10.1.2.3"))
    assert not parse_prefix("10.1.2.3").covers(wide)
    assert not wide.covers(parse_prefix("11.0.0.0/9"))
    assert not parse_prefix("0.0.0.0/0").covers(parse_prefix("::1"))
    assert PackedPrefix(bytes(4), 0) == parse_prefix("1.2.3.4/0")


@given(st.text(max_size=2000))
def test_comment_is_one_short_printable_line(text: str) -> None:
    """Whatever a comment was, what is kept is printable, bounded and stays as it is."""
    comment = clean_comment(text)
    assert comment.isprintable()
    assert len(comment) <= COMMENT_CHARACTERS_MAX
    assert comment == clean_comment(comment)


def test_comment_loses_what_commands_a_terminal() -> None:
    """Escape sequences and line ends become blanks; letters of any script stay."""
    assert "[31mred x Grüße" == clean_comment("\x1b[31mred\r\n x\tGrüße ")
