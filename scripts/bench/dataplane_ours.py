"""x0d's data plane by its own adapters, opened in this process: programs, maps, lists; no daemon around them."""

import asyncio
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from bench.dataplane_bpf import lookup, program_by_id
from bench.dataplane_world import BPFFS, add_veth
from x0d.kernel import bpf
from x0d.kernel.dataplane import PlaneSettings, XdpDataPlane
from x0d.kernel.pins import netns_inode
from x0d.kernel.policy import KernelPolicy
from x0d.policy.model import BURST_MAX, RATE_PPS_MAX, PackedPrefix, PrefixKey
from x0d.ports.policy import LimitRate

T = TypeVar("T")
DEFAULT4, DEFAULT6 = PackedPrefix(bytes(4), 0), PackedPrefix(bytes(16), 0)
NEVER_BITES = {prefix: LimitRate(RATE_PPS_MAX, BURST_MAX) for prefix in (DEFAULT4, DEFAULT6)}
"""One limit for every source there is, of each family, above what a test run can send."""
STAGES = ("deny", "limit", "probe")


class Ours:
    """One data plane on an interface of its own; several live beside each other."""

    def __init__(self, name: str, *, sources_max: int = 65_536, objects_dir: Path | None = None) -> None:
        """Load and attach to a new pair of interfaces; ``name`` has at most eight letters."""
        self.interface = f"{name}0"
        self.ifindex = add_veth(self.interface, f"{name}1")
        self.peer_interface = f"{name}1"
        self._runner = asyncio.Runner()
        settings = PlaneSettings(
            allow_skb_mode=False,
            probe_port=9474,
            probe_rate_pps=2000,
            probe_burst=200,
            session=77,
            deny_entries_max=131_072,
            sources_max=sources_max,
            talkers=True,
            event_buffer_bytes=256 * 1024,
            objects_dir=objects_dir,
        )
        self._bpffs = BPFFS / name
        self.plane = XdpDataPlane(self._bpffs, settings)
        self.wait(self.plane.open)
        self.policy = KernelPolicy(lambda: self.plane.map_fds, lambda: self.plane.maps_dir, settings.deny_entries_max)
        self.wait(self.policy.open)
        self.wait(lambda: self.plane.attach(self.interface, self.ifindex))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _err: BaseException | None, _at: TracebackType | None
    ) -> None:
        """Take everything out of the kernel."""
        self.wait(self.policy.close)
        self.wait(self.plane.detach_all)
        self.plane.close()
        self._runner.close()

    def wait(self, make: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine to its end."""

        async def whole() -> T:
            return await make()

        return self._runner.run(whole())

    @property
    def program_fd(self) -> int:
        """The root program, as it is attached now."""
        fd = bpf.open_pin(self._pins / f"{self.ifindex}-xdp" / "program")
        assert fd is not None
        return fd

    def deny(self, *lists: Mapping[PrefixKey, int]) -> None:
        """Replace the deny-list."""
        self.wait(lambda: self.policy.replace_deny({key: value for each in lists for key, value in each.items()}))

    def limit(self, limits: Mapping[PackedPrefix, LimitRate]) -> None:
        """Replace the limits."""
        self.wait(lambda: self.policy.replace_limits(limits))

    @property
    def slots_fd(self) -> int:
        """The PROG_ARRAY of the attached variant."""
        fd = bpf.open_pin(self._pins / "maps" / "x0d_stages_frags")
        assert fd is not None
        return fd

    def stage_fd(self, stage: str) -> int:
        """The program in a slot."""
        (number,) = struct.unpack("=I", lookup(self.slots_fd, self.slot(stage), 4))
        return program_by_id(number)

    @staticmethod
    def slot(stage: str) -> bytes:
        """Key of a stage in the PROG_ARRAY."""
        return struct.pack("=I", STAGES.index(stage))

    def received(self, protocol_class: str = "udp") -> dict[str, int]:
        """Packets of a class that came to the interface, by verdict."""
        found: dict[str, int] = {}
        for counter in self.plane.sample().packets:
            if counter.ifindex == self.ifindex and counter.protocol_class == protocol_class:
                found[counter.verdict] = found.get(counter.verdict, 0) + counter.packets
        return found

    @property
    def _pins(self) -> Path:
        return self._bpffs / str(netns_inode())
