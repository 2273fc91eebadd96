"""The XDP programs as services see them: attachments, neighbours, counters, what is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from x0d.mesh.model import Address, ProbeRecord


@dataclass(frozen=True, slots=True)
class RefusedMode:
    """An XDP mode that the kernel refused on the way to the one in force."""

    mode: str
    errno: int


@dataclass(frozen=True, slots=True)
class Attachment:
    """Our program on one interface."""

    interface: str
    ifindex: int
    mode: str
    """``native``, ``skb`` or ``hardware``."""
    frags: bool
    adopted: bool
    """The link was pinned by an earlier life of the daemon, and nothing was missed in between."""
    refused: tuple[RefusedMode, ...]
    """On the way to this attachment; an adopted one tells nothing of the modes that were refused when it was made."""


class PacketCounter(NamedTuple):
    """Packets of one interface, class and verdict; there are thousands of them in a sample."""

    ifindex: int
    protocol_class: str
    verdict: str
    packets: int
    bytes: int


class ProbeCounter(NamedTuple):
    """Probes of one interface and event."""

    ifindex: int
    event: str
    packets: int


@dataclass(frozen=True, slots=True)
class PlaneSample:
    """One pass over what XDP counts: sums over the CPUs, and over the maps of earlier layouts."""

    at_ns: int
    packets: Sequence[PacketCounter]
    probes: Sequence[ProbeCounter]
    events_sent: int
    events_lost: int
    syn_limited: int = 0
    """SYNs to our ports that were dropped, since the maps were made."""


@dataclass(frozen=True, slots=True)
class ProgramStatus:
    """A program of ours, in the kernel or not."""

    name: str
    object_name: str
    """``xdp`` or ``trace``."""
    kind: str
    """``root``, ``stage`` or ``tracepoint``."""
    state: str
    """``loaded``, ``refused`` or ``off``."""
    reason: str = ""
    errno: int = 0
    log_tail: str = ""
    """Last lines of the verifier's log."""
    program_id: int = 0
    is_former: bool = False
    """Loaded by an earlier life of the daemon, and kept because of what ``reason`` says; then ``log_tail`` tells of
    the refused program that it stands in for."""


@dataclass(frozen=True, slots=True)
class MapStatus:
    name: str
    map_type: str
    entries_max: int
    memory_bytes: int
    """As the kernel accounts it."""


@dataclass(frozen=True, slots=True)
class ObjectStatus:
    """A compiled object as it was loaded."""

    path: str
    sha256: str
    license: str
    layout_version: int
    has_btf: bool
    loaded_unix_ms: int


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What an upgrade has put in force."""

    replaced: tuple[str, ...]
    """Names of the programs that are others now."""
    took_ms: float
    objects: tuple[str, ...] = ()
    """Paths of the objects whose bytes are others than when they were read before."""


class DataPlane(Protocol):
    """The XDP programs, their attachments and their maps."""

    async def attach(self, interface: str, ifindex: int) -> Attachment:
        """Adopt or attach.

        Raises:
            ForeignProgram: somebody else's program is there; it stays.
            KernelRefused: no allowed mode works; ``refused`` modes are in its ``detail``.
        """

    async def detach(self, ifindex: int) -> None:
        """Take our program off an interface, with what is recorded of it; nothing happens if it is not there."""

    async def detach_all(self) -> None:
        """Leave nothing in the kernel: attachments, programs, pins, maps.  ``open`` starts anew."""

    async def open(self) -> None:
        """Load the programs with what is pinned; nothing happens if they are.  See the adapter for what it raises.

        Where a program is refused and an earlier life's attachment does what would be missing, that life's
        programs go on, on all interfaces, until an upgrade that succeeds; ``programs`` says so.
        """

    async def upgrade(self) -> Upgraded:
        """Read the object again and put it in force on every interface, all or nothing; no packet is missed.

        A program whose code is the same stays.

        Raises:
            NotSupported: the file is missing.
            InvalidInput: the file is not an object that can be loaded here.
            KernelRefused: the kernel refuses a program, with ``log_tail``; the old ones go on.
        """

    def shortfall(self, stage: str) -> str:
        """Why a stage (``deny``, ``limit``, ``probe`` or ``syn``) does nothing on some interface or on all.

        A sentence without its full stop; empty if the stage works wherever we are attached.
        """

    def attached_ifindexes(self) -> frozenset[int]:
        """Interfaces that our program is on, those of an earlier life included."""

    async def verify(self) -> Mapping[int, str]:
        """Interfaces that our program was attached to and is on no longer, by ifindex with why; ``attach`` again.

        An attachment that has only lost its pins gets them back.
        """

    async def collect(self, ifindexes: frozenset[int]) -> None:
        """Unpin what belongs to interfaces that no longer exist; ``ifindexes`` are those that do."""

    def put_link(self, ifindex: int, neighbour: Address, local: Address) -> None:
        """Let XDP answer and accept this neighbour's probes; the record of an adopted link stays."""

    def delete_link(self, ifindex: int, neighbour: Address) -> None:
        """Forget a neighbour; nothing happens if it is not there."""

    def links(self) -> Mapping[tuple[int, Address], Address]:
        """Neighbours that XDP knows, (ifindex, neighbour) to own address; those of an earlier life included."""

    def probe_record(self, ifindex: int, neighbour: Address) -> ProbeRecord | None:
        """Read the kernel's record of a neighbour; None if there is none."""

    def sample(self) -> PlaneSample:
        """Read every counter in one pass; empty while nothing is loaded."""

    def programs(self) -> Sequence[ProgramStatus]:
        """Every program of the object, loaded or refused."""

    def maps(self) -> Sequence[MapStatus]:
        """Every map there is, with the memory it takes."""

    def objects(self) -> Sequence[ObjectStatus]:
        """The object that was read last; empty while nothing is loaded.  ``programs`` tells what came of it."""


class SynGuard(Protocol):
    """What keeps a hostile host from beginning TCP connections with our ports faster than we can refuse them.

    A source is an address on an interface of ours; of an IPv6 address that is not link-local, its first 64 bits.
    Connections that exist, other ports, and packets in transit are not touched.
    """

    def set_limit(self, ports: Sequence[int], rate_pps: int, burst: int) -> None:
        """Let each source begin ``burst`` connections at once with these ports together, and ``rate_pps`` a second.

        It holds from the next packet on, also while the daemon is away; rate 0: there is no limit.  At most four
        ports.  It is to be set again after ``open`` and ``upgrade``, which may have made the maps anew; where nothing
        has changed that changes nothing.  ``DataPlane.shortfall`` tells where the stage does not work.

        Raises:
            PinMissing: nothing is loaded, or an object of before the limit.
            KernelRefused: another refusal.
        """

    def limited(self) -> int:
        """SYNs dropped so far, of all sources; 0 while nothing is loaded."""
