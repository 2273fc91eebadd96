"""Interfaces as a real kernel tells of them."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_interface

import pytest
import uvloop

from kernel.namespaces import Namespace, namespace, veth
from x0d.kernel.interfaces import KernelInterfaces
from x0d.ports import Interface, InterfaceEvent

pytestmark = pytest.mark.kernel


class Watch:
    """Interfaces under watch: every event, and the wait for one that satisfies a condition."""

    def __init__(self) -> None:
        self.source = KernelInterfaces()
        self.events: list[InterfaceEvent] = []
        self._arrived = asyncio.Event()
        self.source.subscribe(self._on_event)

    def _on_event(self, event: InterfaceEvent) -> None:
        self.events.append(event)
        self._arrived.set()

    async def until(self, condition: Callable[[InterfaceEvent], bool]) -> InterfaceEvent:
        """The first event, of those not yet looked at, that satisfies the condition."""
        async with asyncio.timeout(10):
            while True:
                while self.events:
                    event = self.events.pop(0)
                    if condition(event):
                        return event
                self._arrived.clear()
                await self._arrived.wait()


@pytest.fixture
def pair() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces joined by near11 (index 11) and far21 (index 21)."""
    with ExitStack() as stack:
        near, far = stack.enter_context(namespace("near")), stack.enter_context(namespace("far"))
        veth(near, far, ("near11", "far21"), (11, 21))
        yield near, far


def test_read_shows_links_and_addresses(pair: tuple[Namespace, Namespace]) -> None:
    """Name, index, states, MTU and usable addresses of every interface are read."""
    near, _ = pair
    near.ip("link set near11 mtu 1400")
    near.ip("addr add 10.1.0.1/24 dev near11")
    near.ip("addr add fd01::1/64 dev near11 nodad")

    async def main() -> tuple[Interface, ...]:
        source = KernelInterfaces()
        found = await source.read()
        source.close()
        return found

    lo, near11 = near.run_loop(main)
    assert ("lo", 1, True, True) == (lo.name, lo.ifindex, lo.up, lo.carrier)
    assert ("near11", 11, True, True, 1400) == (
        near11.name,
        near11.ifindex,
        near11.up,
        near11.carrier,
        near11.mtu,
    )
    assert {ip_interface("10.1.0.1/24"), ip_interface("fd01::1/64")} <= set(near11.addresses)


def test_carrier_comes_and_goes(pair: tuple[Namespace, Namespace]) -> None:
    """Carrier loss and return are told, while the interface stays up, and a link set down is told as such."""
    near, far = pair

    async def main() -> None:
        watch = Watch()
        await watch.until(lambda event: event.interface is not None and event.interface.name == "near11")
        far.ip("link set far21 down")
        event = await watch.until(lambda e: e.interface is not None and not e.interface.carrier)
        assert (11, True) == (event.ifindex, event.interface is not None and event.interface.up)
        far.ip("link set far21 up")
        event = await watch.until(lambda e: e.interface is not None and e.interface.carrier)
        assert (11, True) == (event.ifindex, event.interface is not None and event.interface.up)
        near.ip("link set near11 down")
        await watch.until(lambda e: e.interface is not None and not e.interface.up and not e.interface.carrier)
        watch.source.close()

    near.run_loop(main)


def test_removed_renamed_and_made_again(pair: tuple[Namespace, Namespace]) -> None:
    """A rename keeps the index, a removal tells None, and a new interface of the old name has another index.

    A move to another namespace is told from a removal.
    """
    near, far = pair

    async def main() -> None:
        watch = Watch()
        await watch.until(lambda event: event.ifindex == 11)
        near.ip("link set near11 down")
        near.ip("link set near11 name other")
        await watch.until(lambda e: e.ifindex == 11 and e.interface is not None and e.interface.name == "other")
        near.ip("link del other")
        event = await watch.until(lambda e: e.ifindex == 11 and e.interface is None)
        assert event.moved is False
        veth(near, far, ("near11", "far22"), (13, 22))
        event = await watch.until(lambda e: e.interface is not None and e.interface.name == "near11")
        assert 13 == event.ifindex
        near.ip(f"link set near11 netns {far.name}")
        event = await watch.until(lambda e: e.ifindex == 13 and e.interface is None)
        assert event.moved is True
        watch.source.close()

    near.run_loop(main)


def test_address_comes_and_goes(pair: tuple[Namespace, Namespace]) -> None:
    """An address is told with its interface when it is there, and when it is not any more."""
    near, _ = pair
    address = ip_interface("10.1.0.1/24")

    async def main() -> None:
        watch = Watch()
        await watch.until(lambda event: event.ifindex == 11)
        near.ip(f"addr add {address} dev near11")
        await watch.until(lambda e: e.interface is not None and address in e.interface.addresses)
        near.ip(f"addr del {address} dev near11")
        await watch.until(
            lambda e: e.ifindex == 11 and e.interface is not None and address not in e.interface.addresses
        )
        watch.source.close()

    near.run_loop(main)


def test_lost_notices_are_made_up_for(pair: tuple[Namespace, Namespace]) -> None:
    """While the loop is busy more happens than the socket holds; a dump then tells how things stand."""
    near, _ = pair

    async def main() -> None:
        watch = Watch()
        await watch.until(lambda event: event.ifindex == 11)
        batch = [f"link set near11 mtu {1300 + number % 100}" for number in range(600)]
        commands = "\n".join([*batch, "link add late type bridge", "link set near11 mtu 1277"])
        near.run("sh", "-c", f"echo '{commands}' | ip -batch -")  # blocks the loop, on purpose
        await watch.until(lambda e: e.ifindex == 11 and e.interface is not None and e.interface.mtu == 1277)
        assert {"lo", "near11", "late"} == {interface.name for interface in await watch.source.read()}
        watch.source.close()

    near.run_loop(main)


def test_sent_packets_are_those_of_the_namespace(pair: tuple[Namespace, Namespace]) -> None:
    """The counters name this namespace's interfaces, and count what is sent on each."""
    near, _ = pair

    async def main() -> tuple[dict[str, int], dict[str, int]]:
        source = KernelInterfaces()
        before = dict(source.sent_packets())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as discard:
            for _ in range(5):
                discard.sendto(b"x", ("127.0.0.1", 9))
        after = dict(source.sent_packets())
        source.close()
        return before, after

    before, after = near.run_loop(main)
    assert {"lo", "near11"} == before.keys() == after.keys()
    assert after["lo"] - before["lo"] >= 5


def test_runs_under_uvloop() -> None:
    """The namespaces' threads run the loop that the daemon runs."""
    with namespace("loop") as near:

        async def main() -> bool:
            return isinstance(asyncio.get_running_loop(), uvloop.Loop)

        assert near.run_loop(main)
