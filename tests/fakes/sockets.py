"""Sockets of links in memory, and the wires that join them.

A wire carries datagrams to the other end's socket and probes to the other end's data plane, whichever daemon lives
there: a kernel answers by itself.  Not modelled: hop limits, datagrams from strangers, queues, the sharing of one
socket by several neighbours.  ``tests/contract/test_sockets.py`` holds it and the real sockets to one contract.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from fakes.clock import FakeClock
from fakes.dataplane import FakeDataPlane
from x0d.errors import AddressUnavailable
from x0d.mesh.model import Address

PROBE_PORT, MESH_PORT = 9474, 9473
DELAY_S = 0.0002
OnDatagram = Callable[[bytes], None]
Place = tuple[str, Address, int, Address]
"""Interface, local address, port, neighbour."""


@dataclass
class Wire:
    """One direction of a link."""

    cut: bool = False
    loss: float = 0.0


@dataclass(frozen=True)
class Peer:
    """What is at the other end of an interface."""

    sockets: "FakeSockets"
    interface: str
    wire: Wire


class FakeSocket:
    """``ports.DatagramSocket``."""

    def __init__(self, owner: "FakeSockets", place: Place, on_datagram: OnDatagram | None) -> None:
        self._owner = owner
        self.place = place
        self.on_datagram = on_datagram
        self.closed = False
        self.sent: list[bytes] = []

    def send(self, payload: bytes) -> bool:
        if self.closed or self.place[0] in self._owner.dark:
            return False
        self.sent.append(payload)
        self._owner.transmit(self.place, payload)
        return True

    def close(self) -> None:
        self.closed = True
        if self._owner.open_sockets.get(self.place) is self:
            del self._owner.open_sockets[self.place]


@dataclass
class FakeSockets:
    """``service.links.SocketOpener`` of one node; ``join`` it to another's."""

    clock: FakeClock
    plane: FakeDataPlane
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    ifindexes: dict[str, int] = field(default_factory=dict)
    refused: dict[tuple[str, int], AddressUnavailable] = field(default_factory=dict)
    """What opening a port on an interface is answered with."""
    dark: set[str] = field(default_factory=set)
    """Interfaces without carrier: nothing is taken."""
    open_sockets: dict[Place, FakeSocket] = field(default_factory=dict)
    peers: dict[str, Peer] = field(default_factory=dict)
    opened: int = 0

    def open(
        self, interface: str, local: Address, port: int, neighbour: Address, on_datagram: OnDatagram | None
    ) -> FakeSocket:
        refusal = self.refused.get((interface, port))
        if refusal is not None:
            raise refusal
        place = (interface, local, port, neighbour)
        assert place not in self.open_sockets, f"{place} is open already"
        self.opened += 1
        made = self.open_sockets[place] = FakeSocket(self, place, on_datagram)
        return made

    def transmit(self, place: Place, payload: bytes) -> None:
        """Put a payload on the wire."""
        interface, local, port, neighbour = place
        peer = self.peers.get(interface)
        if peer is None or peer.wire.cut or self.rng.random() < peer.wire.loss:
            return
        self.clock.at(DELAY_S, lambda: peer.sockets.deliver(peer.interface, local, neighbour, port, payload))

    def deliver(self, interface: str, source: Address, destination: Address, port: int, payload: bytes) -> None:
        """Take a payload off the wire: a probe in the kernel, a datagram on the event loop."""
        if port == PROBE_PORT:
            answer = self.plane.receive(self.ifindexes[interface], source, destination, payload)
            if answer is not None:
                self.transmit((interface, destination, port, source), answer)
            return
        place = (interface, destination, port, source)
        reader = self.open_sockets.get(place)
        if reader is not None and reader.on_datagram is not None:
            asyncio.get_running_loop().call_soon(self._read, place, reader, payload)

    def _read(self, place: Place, reader: FakeSocket, payload: bytes) -> None:
        if self.open_sockets.get(place) is reader and reader.on_datagram is not None:
            reader.on_datagram(payload)


def join(one: FakeSockets, one_interface: str, other: FakeSockets, other_interface: str) -> tuple[Wire, Wire]:
    """Lay a wire between two nodes; the first of the two carries from ``one`` to ``other``."""
    there, back = Wire(), Wire()
    one.peers[one_interface] = Peer(other, other_interface, there)
    other.peers[other_interface] = Peer(one, one_interface, back)
    return there, back
