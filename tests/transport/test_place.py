"""How records and logs write where a call comes from."""

import pytest

from x0d.transport.place import place_of


@pytest.mark.parametrize(
    ("peer", "place"),
    [
        ("ipv4:192.0.2.7:40000", "192.0.2.7:40000"),
        ("ipv6:%5Bfe80::2%252%5D:35832", "[fe80::2%2]:35832"),
        ("ipv6:[2001:db8::7]:40000", "[2001:db8::7]:40000"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:40000", "192.0.2.7:40000"),
        ("ipv6:nonsense", "nonsense"),
        ("unix:/run/x0d/private/u0-p1-1", "unix:/run/x0d/private/u0-p1-1"),
        ("", ""),
    ],
)
def test_place(peer: str, place: str) -> None:
    """Addresses are written with their zone and port, IPv6 in brackets, IPv4 as IPv4; other texts are left alone."""
    assert place == place_of(peer)
