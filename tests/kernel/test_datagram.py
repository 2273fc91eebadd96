"""Datagram sockets between direct neighbours, on real interfaces."""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from kernel.namespaces import Namespace, namespace, veth
from x0d.errors import AddressUnavailable
from x0d.mesh.model import Address
from x0d.transport.datagram import PAYLOAD_BYTES_MAX, DatagramSockets, NeighbourSocket, open_datagram

pytestmark = pytest.mark.kernel

PORT = 9473
NEAR4, FAR4, OTHER4 = ip_address("10.1.0.1"), ip_address("10.1.0.2"), ip_address("10.1.0.3")
NEAR6, FAR6 = ip_address("fe80::a"), ip_address("fe80::b")


class Pair:
    """Two joined namespaces with addresses of both families; ``far`` has a second IPv4 address."""

    def __init__(self, near: Namespace, far: Namespace) -> None:
        self.near = near
        self.far = far

    def join(self, indexes: tuple[int, int]) -> None:
        """Make the interfaces, and their addresses at once usable."""
        veth(self.near, self.far, ("near0", "far0"), indexes)
        for end, name, addresses in (
            (self.near, "near0", (f"{NEAR4}/24", f"{NEAR6}/64")),
            (self.far, "far0", (f"{FAR4}/24", f"{OTHER4}/24", f"{FAR6}/64")),
        ):
            for address in addresses:
                end.ip(f"addr add {address} dev {name}{' nodad' if ':' in address else ''}")

    def send_from_far(self, local: Address, remote: Address, payload: bytes, hop_limit: int) -> None:
        """Send a datagram as a stranger's program would."""

        def send() -> None:
            if local.version == 4:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hop_limit)
                    sender.bind((str(local), 0))
                    sender.sendto(payload, (str(remote), PORT))
                return
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hop_limit)
                scope = socket.if_nametoindex("far0")
                sender.bind((str(local), 0, 0, scope))
                sender.sendto(payload, (str(remote), PORT, 0, scope))

        self.far.call(send)


class Inbox:
    """Payloads that arrived, and the wait for the next."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()

    def __call__(self, payload: bytes) -> None:
        self._queue.put_nowait(payload)

    async def next(self) -> bytes:
        async with asyncio.timeout(10):
            return await self._queue.get()

    @property
    def empty(self) -> bool:
        return self._queue.empty()


@pytest.fixture
def pair() -> Iterator[Pair]:
    with namespace("near") as near, namespace("far") as far:
        made = Pair(near, far)
        made.join((11, 21))
        yield made


BOTH = pytest.mark.parametrize(("local", "remote"), [(NEAR4, FAR4), (NEAR6, FAR6)], ids=["ipv4", "ipv6"])


@BOTH
def test_neighbours_hear_each_other(pair: Pair, local: Address, remote: Address) -> None:
    """What one sends, up to the greatest length, the other receives, both ways; it leaves with hop limit 255."""

    async def main() -> None:
        far_inbox, near_inbox = Inbox(), Inbox()
        far = pair.far.call(lambda: open_far(loop, remote, local, far_inbox))
        near = open_datagram("near0", local, PORT, remote, near_inbox)
        for payload in (b"", b"hello", bytes(PAYLOAD_BYTES_MAX)):
            assert near.send(payload)
            assert payload == await far_inbox.next()
            assert far.send(payload)
            assert payload == await near_inbox.next()
        assert {"hop_limit": 0, "stranger": 0, "too_long": 0} == dict(near.refused)
        near.close()
        far.close()
        assert not near.send(b"after close")

    loop = LoopBox()
    pair.near.run_loop(lambda: loop.holding(main))


@BOTH
def test_only_hop_limit_255_from_the_neighbour_is_heard(pair: Pair, local: Address, remote: Address) -> None:
    """A lower hop limit and an oversized datagram are counted and dropped; the next good one arrives."""

    async def main() -> None:
        inbox = Inbox()
        near = open_datagram("near0", local, PORT, remote, inbox)
        pair.send_from_far(remote, local, b"routed", 254)
        pair.send_from_far(remote, local, b"far away", 64)
        pair.send_from_far(remote, local, bytes(PAYLOAD_BYTES_MAX + 1), 255)
        pair.send_from_far(remote, local, b"good", 255)
        assert b"good" == await inbox.next()
        assert {"hop_limit": 2, "stranger": 0, "too_long": 1} == dict(near.refused)
        assert inbox.empty
        near.close()

    pair.near.run_loop(main)


def test_strangers_are_refused_and_neighbours_share_a_socket(pair: Pair) -> None:
    """Two neighbours behind one interface get their own datagrams; without the second, its are a stranger's."""

    async def main() -> None:
        sockets, first, second = DatagramSockets(), Inbox(), Inbox()
        one = sockets.open("near0", NEAR4, PORT, FAR4, first)
        other = sockets.open("near0", NEAR4, PORT, OTHER4, second)
        pair.send_from_far(OTHER4, NEAR4, b"from other", 255)
        pair.send_from_far(FAR4, NEAR4, b"from far", 255)
        assert (b"from far", b"from other") == (await first.next(), await second.next())
        other.close()
        other.close()
        pair.send_from_far(OTHER4, NEAR4, b"stranger", 255)
        pair.send_from_far(FAR4, NEAR4, b"last", 255)
        assert b"last" == await first.next()
        assert (1, True) == (one.refused["stranger"], second.empty)
        one.close()
        sockets.open("near0", NEAR4, PORT, FAR4, first).close()

    pair.near.run_loop(main)


def test_probe_socket_reads_nothing(pair: Pair) -> None:
    """A socket without a reader sends, and what arrives for it is left lying."""

    async def main() -> None:
        probes = open_datagram("near0", NEAR4, PORT, FAR4, None)
        pair.send_from_far(FAR4, NEAR4, b"unread", 64)
        assert probes.send(b"probe")
        assert {"hop_limit": 0, "stranger": 0, "too_long": 0} == dict(probes.refused)
        probes.close()

    pair.near.run_loop(main)


def test_address_unavailable_says_why(pair: Pair) -> None:
    """A port in use, a foreign address and a missing interface are each told in words."""

    async def main() -> None:
        first = open_datagram("near0", NEAR4, PORT, FAR4, None)
        for interface, local, words in (
            ("near0", NEAR4, "the port is in use"),
            ("near0", FAR4, "the address is not on this host"),
            ("near0", FAR6, "the address is not on this host"),
            ("absent0", NEAR4, "the interface does not exist"),
            ("absent0", NEAR6, "the interface does not exist"),
        ):
            with pytest.raises(AddressUnavailable, match=words):
                open_datagram(interface, local, PORT, FAR4, None)
        for on_datagram, key in ((None, "listen.probe_port"), (lambda _payload: None, "listen.mesh_port")):
            with pytest.raises(AddressUnavailable, match=f"the port is in use; .*{key}"):
                open_datagram("near0", NEAR4, PORT, FAR4, on_datagram)
        first.close()

    pair.near.run_loop(main)


@BOTH
def test_removed_device_needs_and_gets_a_new_socket(pair: Pair, local: Address, remote: Address) -> None:
    """Without carrier or device a send returns False and raises nothing; a recreated device works when opened anew."""

    async def main() -> None:
        sockets, inbox = DatagramSockets(), Inbox()
        old = sockets.open("near0", local, PORT, remote, inbox)
        pair.near.ip("link del near0")
        assert not old.send(b"nowhere")
        pair.join((13, 23))
        assert not old.send(b"still nowhere")
        new = sockets.open("near0", local, PORT, remote, inbox)
        old.close()
        assert new.send(b"somewhere")
        pair.send_from_far(remote, local, b"hello again", 255)
        assert b"hello again" == await inbox.next()
        new.close()

    pair.near.run_loop(main)


class LoopBox:
    """The running loop, for a socket that another namespace's thread opens on it."""

    loop: asyncio.AbstractEventLoop

    async def holding(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.loop = asyncio.get_running_loop()
        await main()


def open_far(box: LoopBox, local: Address, remote: Address, inbox: Inbox) -> NeighbourSocket:
    """Open a socket in the calling thread's namespace that is read on the loop of the box, which waits meanwhile."""
    asyncio._set_running_loop(box.loop)
    try:
        return open_datagram("far0", local, PORT, remote, inbox)
    finally:
        asyncio._set_running_loop(None)
