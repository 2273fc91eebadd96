"""Every address of this host, for the guard: of all its interfaces, configured or not."""

from collections.abc import Callable, Mapping

from x0d.policy.model import PackedPrefix, pack
from x0d.ports import Interface, InterfaceEvent, InterfaceSource


class LocalAddresses:
    """Kept by what the kernel tells of interfaces."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        """``on_change`` is called on the event loop when there are others."""
        self._on_change = on_change
        self._by_interface: dict[int, dict[PackedPrefix, str]] = {}

    async def start(self, source: InterfaceSource) -> None:
        """Know them all when this returns, and follow their changes."""
        source.subscribe(self._on_event)
        for interface in await source.read():
            self._by_interface.setdefault(interface.ifindex, _named(interface))
        self._on_change()

    def known(self) -> Mapping[PackedPrefix, str]:
        """Each address with the name of its interface; loopback addresses are left out."""
        return {prefix: name for addresses in self._by_interface.values() for prefix, name in addresses.items()}

    def _on_event(self, event: InterfaceEvent) -> None:
        before = self._by_interface.pop(event.ifindex, {})
        after = _named(event.interface) if event.interface is not None else {}
        if after:
            self._by_interface[event.ifindex] = after
        if before != after:
            self._on_change()


def _named(interface: Interface) -> dict[PackedPrefix, str]:
    return {pack(address.ip): interface.name for address in interface.addresses if not address.is_loopback}
