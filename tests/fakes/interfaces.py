"""Interfaces that a test makes, changes and removes, in memory.

Not modelled: addresses under duplicate address detection, the dump after notices that the kernel lost.
"""

from collections.abc import Callable, Mapping

from x0d.ports import Interface, InterfaceEvent


class FakeInterfaces:
    """``ports.InterfaceSource``; events are told at once, with the time in ``now_ns``."""

    def __init__(self, *interfaces: Interface) -> None:
        self.now_ns = 0
        self.sent: dict[str, int] = {}
        self._interfaces = {interface.ifindex: interface for interface in interfaces}
        self._subscribers: list[Callable[[InterfaceEvent], None]] = []

    async def read(self) -> tuple[Interface, ...]:
        return tuple(self._interfaces[ifindex] for ifindex in sorted(self._interfaces))

    def subscribe(self, on_event: Callable[[InterfaceEvent], None]) -> None:
        self._subscribers.append(on_event)
        for interface in tuple(self._interfaces.values()):
            on_event(InterfaceEvent(interface.ifindex, interface, self.now_ns))

    def sent_packets(self) -> Mapping[str, int]:
        return {interface.name: self.sent.get(interface.name, 0) for interface in self._interfaces.values()}

    def put(self, interface: Interface) -> None:
        """Make or change an interface."""
        self._interfaces[interface.ifindex] = interface
        self._tell(InterfaceEvent(interface.ifindex, interface, self.now_ns))

    def remove(self, ifindex: int, *, moved: bool | None = False) -> None:
        """Remove an interface, or move it to another namespace; None: nobody tells which."""
        del self._interfaces[ifindex]
        self._tell(InterfaceEvent(ifindex, None, self.now_ns, moved))

    def vanish(self, ifindex: int) -> None:
        """Remove an interface; the notice is lost or late."""
        del self._interfaces[ifindex]

    def _tell(self, event: InterfaceEvent) -> None:
        for on_event in tuple(self._subscribers):
            on_event(event)
