"""The neighbours that XDP answers: maps ``x0d_links`` and ``x0d_locals``.

A record of ``x0d_links`` stays through restarts; XDP writes it under its lock, and it is read with
it.  ``x0d_locals`` holds our own addresses: a probe to another address is not for us.
"""

from collections.abc import Mapping

from x0d.kernel import bpf_maps, layout
from x0d.mesh.model import Address, ProbeRecord


class NeighbourTable:
    """Reads and writes the records; the descriptors are its owner's."""

    def __init__(self, map_fds: Mapping[str, int], session: int) -> None:
        """``session`` is this life's, by which the records of an earlier one are told."""
        self._links, self._locals, self._buckets = (map_fds[f"x0d_{name}"] for name in ("links", "locals", "buckets"))
        self._session = session

    def put(self, ifindex: int, neighbour: Address, local: Address) -> None:
        """Let XDP answer and accept this neighbour's probes; the record of an adopted link stays.

        Raises:
            KernelRefused: E2BIG at ``layout.LINKS_MAX`` neighbours.
        """
        key = layout.encode_link_key(ifindex, neighbour)
        value = bpf_maps.lookup(self._links, key, layout.LINK.size, bpf_maps.MAP_LOCK)
        bpf_maps.update(self._locals, layout.encode_link_key(ifindex, local), layout.LOCAL.pack(1))
        if value is None:
            bpf_maps.update(self._links, key, layout.encode_link(local, ProbeRecord()), bpf_maps.MAP_NOEXIST)
            return
        former, record = layout.decode_link(value)
        if former != local:
            # Counts of the microseconds between reading and writing are lost; an address changes rarely.
            changed = layout.encode_link(local, record)
            bpf_maps.update(self._links, key, changed, bpf_maps.MAP_EXIST | bpf_maps.MAP_LOCK)
            self._drop_unused_local(ifindex, former)

    def delete(self, ifindex: int, neighbour: Address) -> None:
        """Forget a neighbour; nothing happens if it is not there."""
        key = layout.encode_link_key(ifindex, neighbour)
        value = bpf_maps.lookup(self._links, key, layout.LINK.size, bpf_maps.MAP_LOCK)
        if value is not None and bpf_maps.delete(self._links, key):
            self._drop_unused_local(ifindex, layout.decode_link(value)[0])

    def forget(self, ifindex: int) -> None:
        """Drop every record of an interface: all keys start with its index."""
        sizes = {self._links: layout.LINK.size, self._locals: layout.LOCAL.size}
        for map_fd, value_size in sizes.items():
            for key, _value in list(bpf_maps.entries(map_fd, layout.LINK_KEY.size, value_size)):
                if layout.decode_link_key(key)[0] == ifindex:
                    bpf_maps.delete(map_fd, key)
        bpf_maps.delete(self._buckets, layout.IFINDEX.pack(ifindex))

    def links(self) -> dict[tuple[int, Address], Address]:
        """Own address by interface and neighbour, of all records there are, adopted ones among them."""
        found = bpf_maps.entries(self._links, layout.LINK_KEY.size, layout.LINK.size, bpf_maps.MAP_LOCK)
        return {layout.decode_link_key(key): layout.decode_link(value)[0] for key, value in found}

    def record(self, ifindex: int, neighbour: Address) -> ProbeRecord | None:
        """Read the kernel's record; its prober's half is zero until this life's first reply."""
        key = layout.encode_link_key(ifindex, neighbour)
        value = bpf_maps.lookup(self._links, key, layout.LINK.size, bpf_maps.MAP_LOCK)
        if value is None:
            return None
        record = layout.decode_link(value)[1]
        if record.session == self._session:
            return record
        return ProbeRecord(record.peer_session, record.requests_received, record.request_last_at_ns)

    def _drop_unused_local(self, ifindex: int, local: Address) -> None:
        if (ifindex, local) not in {(at, own) for (at, _neighbour), own in self.links().items()}:
            bpf_maps.delete(self._locals, layout.encode_link_key(ifindex, local))
