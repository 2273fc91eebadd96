"""The host that a call comes from, out of gRPC's text."""

import pytest

from x0d.identity.model import Principal
from x0d.ports.identity import CALLER
from x0d.service.caller_address import calling_hosts, host_of


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("ipv4:192.0.2.7:40000", "192.0.2.7"),
        ("ipv6:[2001:db8::7]:40000", "2001:db8::7"),
        ("ipv6:%5B2001:db8::7%5D:40000", "2001:db8::7"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:40000", "192.0.2.7"),
        ("ipv6:%5Bfe80::1%25eth1%5D:40000", "fe80::1"),
        ("unix:/run/x0d/private/u0-1", ""),
        ("unix:", ""),
        ("ipv4:bogus:1", ""),
        ("", ""),
    ],
)
def test_host(peer: str, expected: str) -> None:
    """Addresses come without port, brackets, zone and mapping; what is no address of a host is nothing."""
    assert expected == host_of(peer)


def test_caller() -> None:
    """The call that is being served counts; outside one, and on a unix socket, there is no host."""
    assert () == calling_hosts()
    for address, expected in (("ipv4:192.0.2.7:40000", ("192.0.2.7",)), ("", ())):
        token = CALLER.set(Principal("somebody", frozenset(), address=address))
        assert expected == calling_hosts()
        CALLER.reset(token)
