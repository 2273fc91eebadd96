"""Deny-lists and sources for a measurement: random, from one seed, and what is known of each source.

The lists are unkind to a pre-filter and kind to nobody: addresses all over unicast space, prefixes of /16 to /28
(IPv6: /32 to /64) in equal shares.  A list of real offenders is more clustered.  Which sources the pre-filter clears
is asked of the daemon's own.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address

from kernel.xdp_packets import Packet
from kernel.xdp_values import filter_start
from x0d.kernel.deny_filter import DenyFilter
from x0d.policy.model import PackedPrefix, mask

ENTRIES = 10_000
FIRST_BYTES = [first for first in range(1, 224) if first not in {10, 127}]
LENGTHS = {4: (16, 28), 16: (32, 64)}


@dataclass(frozen=True, slots=True)
class DenyLists:
    """Entries of one family."""

    exact: frozenset[PackedPrefix]
    nets: frozenset[PackedPrefix]

    @classmethod
    def draw(cls, chance: random.Random, size: int, exact: int = ENTRIES, nets: int = ENTRIES) -> "DenyLists":
        """So many different entries of addresses of ``size`` bytes, no exact one within a prefix."""
        prefixes: set[PackedPrefix] = set()
        while len(prefixes) < nets:
            length = chance.randint(*LENGTHS[size])
            prefixes.add(PackedPrefix(mask(random_address(chance, size), length), length))
        bare = cls(frozenset(), frozenset(prefixes))
        addresses: set[PackedPrefix] = set()
        while len(addresses) < exact:
            address = random_address(chance, size)
            if not bare.covers(address):
                addresses.add(PackedPrefix(address, size * 8))
        return cls(frozenset(addresses), frozenset(prefixes))

    def covers(self, address: bytes) -> bool:
        """Whether some entry is about this address."""
        if PackedPrefix(address, len(address) * 8) in self.exact:
            return True
        first, last = LENGTHS[len(address)]
        return any(PackedPrefix(mask(address, length), length) in self.nets for length in range(first, last + 1))

    def filter(self) -> "Filter":
        """The pre-filter of these entries."""
        return Filter(self.exact | self.nets)

    def free_source(self, chance: random.Random, size: int, *, in_filter: bool | None = None) -> bytes:
        """An address that no entry covers; ``in_filter``: whether the pre-filter lets it through (None: either)."""
        chosen = self.filter() if in_filter is not None else None
        while True:
            address = random_address(chance, size)
            fits = chosen is None or (address in chosen) == in_filter
            if fits and not self.covers(address):
                return address

    def free_sources(self, chance: random.Random, size: int, count: int) -> list[bytes]:
        """Different addresses that no entry covers."""
        found: dict[bytes, None] = {}
        while len(found) < count:
            found[self.free_source(chance, size)] = None
        return list(found)

    def denied_by_net(self, chance: random.Random, count: int) -> list[bytes]:
        """An address within each of so many prefixes, chosen with repetition."""
        nets = sorted(self.nets)
        return [_within(chance, chance.choice(nets)) for _ in range(count)]

    def denied_exactly(self, chance: random.Random, count: int) -> list[bytes]:
        """Exact entries, chosen with repetition."""
        exact = sorted(self.exact)
        return [chance.choice(exact).address for _ in range(count)]


class Filter:
    """Which sources the lists are asked about."""

    def __init__(self, entries: Collection[PackedPrefix]) -> None:
        """Of a list with these entries."""
        made = DenyFilter(entries)
        self._bits = {size: made.encode(size) for size in LENGTHS}

    def __contains__(self, address: bytes) -> bool:
        """Whether the bit of an address is set."""
        start = filter_start(ip_address(address))
        return bool(self._bits[len(address)][start >> 3] >> (start & 7) & 1)


def random_address(chance: random.Random, size: int) -> bytes:
    """An address of unicast space: IPv4 (size 4) from 1.0.0.0 to 223.255.255.255, IPv6 (16) from 2000::/4.

    None is of this host's loopback or of the lab's network, which x0d denies only when it is forced to.
    """
    raw = chance.randbytes(size)
    first = FIRST_BYTES[raw[0] % len(FIRST_BYTES)] if size == 4 else 0x20 | raw[0] & 0x0F
    return bytes([first]) + raw[1:]


def share_in_filter(sources: Collection[bytes], lists: DenyLists) -> float:
    """Part of the sources that the pre-filter does not clear, so that the lists are asked."""
    chosen = lists.filter()
    return sum(source in chosen for source in sources) / len(sources)


def frame(source: bytes) -> bytes:
    """A UDP packet of 60 bytes (IPv6: 80), as any host might send."""
    target = "192.0.2.1" if len(source) == 4 else "2001:db8::1"
    packet = Packet(ip_address(source), ip_address(target), bytes(18), 64, source_port=4000, destination_port=4001)
    return packet.encode()


def _within(chance: random.Random, net: PackedPrefix) -> bytes:
    bits = len(net.address) * 8
    host = chance.getrandbits(bits - net.length)
    return (int.from_bytes(net.address) | host).to_bytes(len(net.address))
