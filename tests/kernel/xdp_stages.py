"""The XDP programs alone, on maps of a test's own: what a packet meets, without a daemon or an interface.

Root and stages are loaded as the daemon loads them, but by the shortest way, so that a test of the
programs does not depend on the loader.  Packets come from BPF_PROG_TEST_RUN and seem to come in on lo.
"""

import mmap
import os
import struct
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from ipaddress import ip_network
from pathlib import Path

from kernel import xdp_values
from kernel.xdp_values import Deny, Limit, Network, Source
from x0d.kernel import bpf, layout, layout_policy
from x0d.kernel.events import decode_event
from x0d.kernel.layout import DataPlaneConfig, InterfaceCounters
from x0d.kernel.layout_policy import Policy
from x0d.kernel.libbpf import Libbpf
from x0d.kernel.syn import SynLimit, put_syn_limit, read_syn_drops
from x0d.mesh.model import Address
from x0d.ports.policy import PacketEvent

OBJECT = Path(layout.__file__).with_name("objects") / "xdp.bpf.o"
REPOSITORY = Path(__file__).resolve().parents[2]
LO = 1
SIZES = {"x0d_deny_hits": 16384, "x0d_sources": 1024, "x0d_events": 4096}
CONFIG = DataPlaneConfig(session=77, probe_port=9474, probe_rate_pps=1000, probe_burst=100)
RESETTABLE = (
    ("x0d_sources", 16, layout_policy.SOURCE.size),
    ("x0d_limit4", layout_policy.NET4_KEY.size, layout_policy.LIMIT_INDEX.size),
    ("x0d_limit6", layout_policy.NET6_KEY.size, layout_policy.LIMIT_INDEX.size),
    ("x0d_syn_sources", layout_policy.SYN_KEY.size, layout.COUNT.size),
)
HITS_RESET = 8
"""Tests that share programs use slots and indices below this."""
_NUMBER = struct.Struct("=I")


@cache
def _library() -> Libbpf:
    return Libbpf()


@cache
def read_xdp_object() -> bytes:
    """Build the object if it is older than its sources, and read it."""
    subprocess.run(["make", "-s", "-C", REPOSITORY / "ebpf"], check=True)
    return OBJECT.read_bytes()


class XdpStages:
    """One variant, frags or plain, of root and stages on maps of their own."""

    def __init__(
        self,
        stages: Collection[str] = layout.STAGES,
        *,
        frags: bool = True,
        sizes: Mapping[str, int] = SIZES,
        elf: bytes | None = None,
    ) -> None:
        """Load root and ``stages``; count packets of lo."""
        elf = elf or read_xdp_object()
        suffix = "_frags" if frags else ""
        root = _library().load(elf, f"x0d_root{suffix}", {}, max_entries=sizes)
        self.fds = dict(root.map_fds)
        self.root_fd = root.fd
        self.stage_fds: dict[str, int] = {}
        self.deny_index = 0
        self._policy = Policy()
        self._cpus = bpf.possible_cpus()
        for stage in stages:
            loaded = _library().load(elf, f"x0d_{stage}{suffix}", self.fds)
            self.stage_fds[stage] = loaded.fd
            for fd in loaded.map_fds.values():
                os.close(fd)
            self.put_stage(stage)
        self.configure(CONFIG)
        self.put_interface(LO)

    def close(self) -> None:
        """Give everything back to the kernel."""
        for fd in (self.root_fd, *self.stage_fds.values(), *self.fds.values()):
            os.close(fd)

    def reset(self) -> None:
        """Forget what an earlier test has put in force or counted."""
        self.configure(CONFIG)
        self.put_interface(LO)
        for stage in self.stage_fds:
            self.put_stage(stage)
        for name, key_size, value_size in RESETTABLE:
            for key, _value in list(bpf.entries(self.fds[name], key_size, value_size)):
                bpf.delete(self.fds[name], key)
        for index in range(HITS_RESET):
            bpf.update(self.fds["x0d_deny_hits"], _index(index), bytes(8 * self._cpus))
            bpf.update(self.fds["x0d_limit_hits"], _index(index), bytes(8 * self._cpus))
        bpf.update(self.fds["x0d_syn_drops"], _index(0), bytes(8 * self._cpus))
        self.limit_syns(SynLimit((), 0, 1))
        self._policy = Policy(self.deny_index)
        self._put_policy()

    def put_stage(self, stage: str) -> None:
        """Fill the stage's slot."""
        bpf.update(self.fds["x0d_stages"], _index(layout.STAGES.index(stage)), _NUMBER.pack(self.stage_fds[stage]))

    def configure(self, config: DataPlaneConfig) -> None:
        """Write the configuration."""
        bpf.update(self.fds["x0d_config"], bytes(4), layout.encode_config(config))

    def put_interface(self, ifindex: int) -> None:
        """Count packets of an interface, from zero."""
        bpf.update(self._counters_of(ifindex), layout.IFINDEX.pack(ifindex), layout.NO_COUNTS * self._cpus)

    def counters(self, ifindex: int = LO) -> InterfaceCounters:
        """What was counted."""
        size = layout.INTERFACE.size * self._cpus
        value = bpf.lookup(self._counters_of(ifindex), layout.IFINDEX.pack(ifindex), size)
        assert value is not None
        return xdp_values.decode_interface(value)

    def run(self, frame: bytes, *, repeat: int = 1) -> bpf.PacketRun:
        """Show a frame to the root."""
        return bpf.run_on_packet(self.root_fd, frame, repeat=repeat)

    # ---- deny-list ----

    def deny(self, entries: Mapping[Network, Deny], covered: Sequence[Network] | None = None) -> None:
        """Replace the whole list; ``covered`` are the networks of the filter, by default those of the list."""
        index = self.deny_index = 1 - self.deny_index
        kinds = 0
        for name, key_size in layout_policy.DENY_KEYS.items():
            pairs = {key: deny for network, deny in entries.items() if (key := _deny_key(name, network))}
            kind = bpf.LPM_TRIE if name.endswith("_nets") else bpf.HASH
            made = bpf.MapKind(kind, key_size, layout_policy.DENY.size, max(len(entries), 1), bpf.NO_PREALLOC)
            with bpf.closing(bpf.create_map(name, made)) as inner:
                for key, deny in pairs.items():
                    bpf.update(inner, key, xdp_values.encode_deny(deny))
                bpf.update(self.fds[name], _index(index), _NUMBER.pack(inner))
            kinds |= layout_policy.DENY_BITS[name] if pairs else 0
        chosen = list(entries) if covered is None else covered
        for version, size in ((4, 4), (6, 16)):
            bits = xdp_values.encode_deny_filter([network for network in chosen if network.version == version])
            bpf.update(self.fds["x0d_deny_filter"], _index(layout_policy.filter_element(index, size)), bits)
        self._policy = Policy(index, kinds, self._policy.limit_generation)
        self._put_policy()

    def deny_hits(self, slot: int) -> int:
        """Packets that the entry of this slot has dropped."""
        return self._hits("x0d_deny_hits", slot)

    # ---- limits ----

    def limit(self, limits: Mapping[Network, tuple[int, Limit]]) -> None:
        """Add limits, each with its index, and start a new generation."""
        for network, (index, limit) in limits.items():
            bpf.update(self.fds["x0d_limits"], _index(index), xdp_values.encode_limit(limit))
            trie = self.fds[f"x0d_limit{network.version}"]
            bpf.update(trie, xdp_values.encode_net_key(network), _index(index))
        self.new_generation()

    def new_generation(self) -> None:
        """Have every source ask again which limit holds for it."""
        policy = self._policy
        self._policy = Policy(policy.deny_index, policy.deny_kinds, policy.limit_generation + 1)
        self._put_policy()

    def limit_hits(self, index: int) -> int:
        """Packets that this limit has dropped."""
        return self._hits("x0d_limit_hits", index)

    def source(self, address: Address) -> Source | None:
        """What is tracked of a source."""
        key = layout.encode_address(address)
        value = bpf.lookup(self.fds["x0d_sources"], key, layout_policy.SOURCE.size)
        return None if value is None else xdp_values.decode_source(value)

    def put_source(self, address: Address, source: Source) -> None:
        """Write what is tracked of a source."""
        bpf.update(self.fds["x0d_sources"], layout.encode_address(address), xdp_values.encode_source(source))

    def sources(self) -> set[Address]:
        """Every tracked address."""
        found = bpf.entries(self.fds["x0d_sources"], 16, layout_policy.SOURCE.size)
        return {layout.decode_address(key) for key, _value in found}

    # ---- SYNs to our ports ----

    def limit_syns(self, limit: SynLimit) -> None:
        """Put a limit in force; the buckets of sources stay."""
        put_syn_limit(self.fds, limit)

    def syn_drops(self) -> int:
        """SYNs that the limit has dropped."""
        return read_syn_drops(self.fds, self._cpus)

    def syn_sources(self) -> dict[tuple[int, Address], int]:
        """When the next SYN of each interface and source is due, nanoseconds."""
        found = {}
        for key, value in bpf.entries(self.fds["x0d_syn_sources"], layout_policy.SYN_KEY.size, layout.COUNT.size):
            ifindex, _reserved, address = layout_policy.SYN_KEY.unpack(key)
            found[ifindex, layout.decode_address(address)] = layout.COUNT.unpack(value)[0]
        return found

    def put_syn_source(self, ifindex: int, address: Address, due_at_ns: int) -> None:
        """Write when the next SYN of a source is due."""
        key = layout_policy.SYN_KEY.pack(ifindex, 0, layout.encode_address(address))
        bpf.update(self.fds["x0d_syn_sources"], key, layout.COUNT.pack(due_at_ns))

    # ---- events ----

    def events(self) -> list[PacketEvent]:
        """Take everything out of the ring buffer."""
        fd, size = self.fds["x0d_events"], bpf.map_shape(self.fds["x0d_events"])[2]
        page = mmap.PAGESIZE
        taken = []
        with (
            mmap.mmap(fd, page) as consumer,
            mmap.mmap(fd, page + 2 * size, prot=mmap.PROT_READ, offset=page) as producer,
        ):
            at = int.from_bytes(consumer[:8], "little")
            end = int.from_bytes(producer[:8], "little")
            while at < end:
                start = page + at % size
                length = int.from_bytes(producer[start : start + 4], "little")
                assert length == layout_policy.EVENT.size
                taken.append(decode_event(producer[start + 8 : start + 8 + length]))
                at += 8 + (length + 7) // 8 * 8
            consumer[:8] = at.to_bytes(8, "little")
        return taken

    def _counters_of(self, ifindex: int) -> int:
        return self.fds["x0d_low" if ifindex < layout.LOW_INTERFACES_MAX else "x0d_interfaces"]

    def _put_policy(self) -> None:
        bpf.update(self.fds["x0d_policy"], bytes(4), layout_policy.encode_policy(self._policy))

    def _hits(self, name: str, index: int) -> int:
        value = bpf.lookup(self.fds[name], _index(index), 8 * self._cpus)
        assert value is not None
        return sum(count for (count,) in layout.COUNT.iter_unpack(value))


@contextmanager
def new_stages(
    stages: Collection[str] = layout.STAGES, *, frags: bool = True, sizes: Mapping[str, int] = SIZES
) -> Iterator[XdpStages]:
    """Load, and give back at the end."""
    programs = XdpStages(stages, frags=frags, sizes=sizes)
    try:
        yield programs
    finally:
        programs.close()


def networks(*texts: str) -> list[Network]:
    """Parse prefixes."""
    return [ip_network(text) for text in texts]


def _index(number: int) -> bytes:
    return _NUMBER.pack(number)


def _deny_key(name: str, network: Network) -> bytes | None:
    """Key of a network in the list ``name``; None if it belongs into another."""
    is_exact = network.prefixlen == network.max_prefixlen
    if name != f"x0d_deny{network.version}{'' if is_exact else '_nets'}":
        return None
    return network.network_address.packed if is_exact else xdp_values.encode_net_key(network)
