"""Where a dial goes: link-local addresses by their device, with no route at all; names and literals as given."""

import asyncio
import socket
import time

import pytest

from fakes.authority import CA
from fakes.tls_peer import LOOPS, PEER_ID, connecting, hostile, new_ca, run_on, source_of, tls_context, until
from kernel.namespaces import Namespace, namespace, veth
from x0d.errors import IdentityRefused, PeerUnreachable
from x0d.identity.spiffe_id import SpiffeId
from x0d.transport.connector_dial import Dialer
from x0d.transport.connector_tls import ExpectId

OTHER_ID = "spiffe://dev.x0d.test/node/n3"


def dialer(ca: CA, host: str, port: int, interface: str, spiffe_id: str = PEER_ID) -> Dialer:
    return Dialer(
        host, port, interface, ExpectId(SpiffeId.parse(spiffe_id), source_of(ca), require_pq=False), time.time
    )


def dial(here: Namespace, one: Dialer) -> str:
    """Dial in a namespace and tell who answered."""

    async def scene() -> str:
        session = await one.dial()
        try:
            return str(session.proof.spiffe_id)
        finally:
            session.close()

    return here.run_loop(scene)


def listener_in(there: Namespace) -> socket.socket:
    return there.call(lambda: socket.create_server(("::", 9471), family=socket.AF_INET6))


@pytest.mark.kernel
def test_link_local_neighbours_are_told_apart_by_device() -> None:
    """Two neighbours with one link-local address: the named device leads to the one behind it, before any route."""
    ca = new_ca()
    with namespace("here") as here, namespace("two") as two, namespace("three") as three:
        for number, there in enumerate((two, three)):
            veth(here, there, (f"eth{number}", "eth0"), (11 + number, 21 + number))
            here.ip(f"addr add fe80::1/64 dev eth{number} nodad")
            there.ip("addr add fe80::2/64 dev eth0 nodad")
        with (
            hostile(tls_context(ca.issue(PEER_ID)), listener=listener_in(two)),
            hostile(tls_context(ca.issue(OTHER_ID)), listener=listener_in(three)),
        ):
            assert PEER_ID == dial(here, dialer(ca, "fe80::2", 9471, "eth0"))
            assert OTHER_ID == dial(here, dialer(ca, "fe80::2", 9471, "eth1", OTHER_ID))
            assert OTHER_ID == dial(here, dialer(ca, "fe80::2%eth1", 9471, "", OTHER_ID))
            with pytest.raises(IdentityRefused, match=r"\[fe80::2\]:9471 by eth1: it is .*/n3, not .*/n2") as refused:
                dial(here, dialer(ca, "fe80::2", 9471, "eth1"))
            assert "wrong_id" == refused.value.reason


@pytest.mark.kernel
def test_ipv4_leaves_by_the_named_device_alone() -> None:
    """An address that routes reach by another device is not reached by the named one."""
    ca = new_ca()
    with namespace("here") as here, namespace("two") as two, namespace("three") as three:
        for number, there in enumerate((two, three)):
            veth(here, there, (f"eth{number}", "eth0"), (11 + number, 21 + number))
        here.ip("addr add 10.9.0.1/24 dev eth0")
        two.ip("addr add 10.9.0.2/24 dev eth0")
        listener = two.call(lambda: socket.create_server(("10.9.0.2", 9471)))
        with hostile(tls_context(ca.issue(PEER_ID)), listener=listener):
            assert PEER_ID == dial(here, dialer(ca, "10.9.0.2", 9471, "eth0"))
            assert PEER_ID == dial(here, dialer(ca, "10.9.0.2", 9471, ""))
            with pytest.raises(PeerUnreachable):
                dial(here, dialer(ca, "10.9.0.2", 9471, "eth1"))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("host", ["127.0.0.1", "::ffff:127.0.0.1", "localhost"])
def test_literals_and_names(loop: str, host: str) -> None:
    """Addresses are taken as they are, names are resolved."""
    ca = new_ca()

    async def scene() -> str:
        with hostile(tls_context(ca.issue(PEER_ID))) as server:
            session = await dialer(ca, host, server.port, "").dial()
            session.close()
            return str(session.proof.spiffe_id)

    assert PEER_ID == run_on(loop, scene())


@pytest.mark.parametrize("loop", LOOPS)
def test_reset_connection_ends(loop: str) -> None:
    """A peer that resets the connection ends it here at once: no loop leaves a descriptor that has shown an error."""
    ca = new_ca()

    async def scene() -> bytes:
        with hostile(tls_context(ca.issue(PEER_ID)), resets=True) as server:
            expect = ExpectId(SpiffeId.parse(PEER_ID), source_of(ca), require_pq=False)
            async with connecting(server.port, expect) as connector:
                with socket.socket(socket.AF_UNIX) as inner:
                    inner.setblocking(False)
                    inner.connect(connector.target.removeprefix("unix:"))
                    async with asyncio.timeout(5):
                        while await asyncio.get_running_loop().sock_recv(inner, 4096):
                            pass
                await until(lambda: connector.connections == 0)
                return server.seen

    assert b"" == run_on(loop, scene())
