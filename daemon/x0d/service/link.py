"""One link of this node: its probes, its judgement, its state.

The unit sends a probe at each tick and judges by the kernel's record of the replies.  It reads the
clock before the record, so a reply is in the record that judges its probe however late Python woke:
a late prober delays a verdict and never invents one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from x0d.errors import AddressUnavailable
from x0d.mesh.detector import Detector, DetectorTimers
from x0d.mesh.model import Address, LinkKey, LinkState, ProbeRecord
from x0d.mesh.node import LinkPort
from x0d.mesh.quality import Quality
from x0d.ports import Clock, DatagramSocket, DataPlane, Interface


class ProbeEncoder(Protocol):
    """Makes the payload of a probe."""

    def __call__(self, session: int, sequence: int, sent_at_ns: int) -> bytes:
        """``struct x0d_probe``, as a request."""


PROBES_SHOWN = 50  # latest probes that the loss of a link is counted over while it is down


@dataclass(frozen=True, slots=True)
class NeighbourEntry:
    """A neighbour as configured."""

    node: str
    interface: str
    address: Address
    cost: int


@dataclass(slots=True)
class Binding:
    """What a link has while its interface is attached."""

    port: LinkPort
    probes: DatagramSocket
    datagrams: DatagramSocket


class SocketOpener(Protocol):
    """Opens a link's sockets."""

    def open(
        self,
        interface: str,
        local: Address,
        port: int,
        neighbour: Address,
        on_datagram: Callable[[bytes], None] | None,
    ) -> DatagramSocket:
        """``on_datagram`` None: sends only (answers to probes are taken by XDP).  Raises AddressUnavailable."""


@dataclass(frozen=True, slots=True)
class LinkPorts:
    """UDP ports, the same at all nodes."""

    probes: int
    mesh: int


class LinkUnit:
    """One configured neighbour."""

    def __init__(self, entry: NeighbourEntry, timers: DetectorTimers, session: int, encode: ProbeEncoder) -> None:
        self.entry = entry
        self.detector = Detector(timers, session)
        self.quality = Quality()
        self.binding: Binding | None = None
        self.state = LinkState.WAITING
        self._reason = f"interface {entry.interface} does not exist yet"
        self.peer_problem = ""
        """What keeps the neighbour's daemon from being authenticated; empty: nothing."""
        self.state_since_ns = 0
        self.generation = 0
        self.fault_at_ns: int | None = None
        """Last sign of the link before the fault that it is in; None while nobody says that it is down."""
        self.is_ailing = False
        """A symptom was reported, and no recovery since."""
        self.record = ProbeRecord()
        self.sequence = 0
        self.clean_until_ns = 0
        """When the window of the quality test was last without a loss."""
        self._timers = timers
        self._session = session
        self._encode = encode

    @property
    def key(self) -> LinkKey | None:
        """The link's name at both ends; None until the own address on it is known."""
        return self.binding.port.key if self.binding else None

    @property
    def reason(self) -> str:
        """Why the link is in its state, and what is wrong with the neighbour's identity."""
        return f"{self._reason}; {self.peer_problem}" if self.peer_problem else self._reason

    @property
    def sockets_alert(self) -> str:
        """Name of the alert while the sockets of this link cannot be opened."""
        return f"link_sockets {self.entry.interface} {self.entry.address}"

    @property
    def loss_out(self) -> float:
        """Share of the probes lost towards the neighbour; while the link is down, of those both ways."""
        return self._round_trip_loss() if self.state is LinkState.DOWN else self.quality.loss_out

    @property
    def loss_in(self) -> float:
        """Share of the answers lost on the way back; while the link is down, of those both ways."""
        return self._round_trip_loss() if self.state is LinkState.DOWN else self.quality.loss_in

    def _round_trip_loss(self) -> float:
        """Share of the latest probes that are unanswered: the directions cannot be told apart without answers."""
        latest = range(max(1, self.sequence - PROBES_SHOWN + 1), self.sequence + 1)
        return sum(not self.record.answered(sequence) for sequence in latest) / len(latest) if latest else 0.0

    def bind(self, binding: Binding) -> None:
        """Begin with an attached interface; what was judged on an earlier one is forgotten."""
        self.binding = binding
        self.detector.reset(self._session)
        self.quality = Quality()
        self.record = ProbeRecord()

    def unbind(self) -> None:
        """The interface is gone, blocked, or has another address."""
        if self.binding:
            self.binding.probes.close()
            self.binding.datagrams.close()
        self.binding = None

    def enter(self, state: LinkState, reason: str, now_ns: int) -> None:
        """Take up a state."""
        if state is not self.state:
            self.state_since_ns = now_ns
        if state is LinkState.UP:
            self.fault_at_ns = None
        self.state, self._reason = state, reason

    def judge(self, plane: DataPlane, now_ns: int) -> bool | None:
        """Look at the kernel's record: True, it came up; False, it went down; ``now_ns`` was read before this call."""
        if self.binding is None:
            return None
        port = self.binding.port
        record = plane.probe_record(port.ifindex, port.neighbour_address)
        if record is not None:
            self.record = record
        verdict = self.detector.observe(now_ns, record)
        if self.state is LinkState.DOWN:
            self.quality.interrupted()  # what a cut swallows is no sign of a lossy link
        else:
            self.quality.observe(record)
            if self.fault_at_ns is not None and self.detector.last_sign_ns > self.fault_at_ns:
                self.fault_at_ns = None  # the other end said down and was wrong, or saw a short gap
        if self.quality.loss_out == self.quality.loss_in == 0.0:
            self.clean_until_ns = now_ns
        return verdict.up if verdict else None

    def probe(self, clock: Clock) -> bool:
        """Send the next probe; False: the kernel did not take it, and it counts as sent and lost."""
        if self.binding is None:
            return False
        self.sequence += 1
        taken = self.binding.probes.send(self._encode(self._session, self.sequence, clock.monotonic_ns()))
        self.detector.sent(self.sequence, clock.monotonic_ns())
        return taken

    def describe_loss(self) -> str:
        """Say what raised the alarm; once no direction loses any more, how long that has held."""
        if self.quality.degraded:
            return self.quality.describe_alarm()
        return f"clean again after {self.quality.probes_to_clean} probes without loss"


def port_of(node: str, interface: Interface, local: Address, entry: NeighbourEntry) -> LinkPort:
    """The link of ``node`` to a configured neighbour, from an address of this interface."""
    return LinkPort(
        key=LinkKey.between(node, local, entry.node, entry.address),
        neighbour=entry.node,
        interface=interface.name,
        ifindex=interface.ifindex,
        local_address=local,
        neighbour_address=entry.address,
        cost=entry.cost,
    )


def open_sockets(
    sockets: SocketOpener, ports: LinkPorts, port: LinkPort, on_datagram: Callable[[bytes], None]
) -> Binding:
    """Open both sockets of a link; neither stays open if one is refused, as AddressUnavailable."""
    where = (port.interface, port.local_address)
    probes = sockets.open(*where, ports.probes, port.neighbour_address, None)
    try:
        return Binding(port, probes, sockets.open(*where, ports.mesh, port.neighbour_address, on_datagram))
    except AddressUnavailable:
        probes.close()
        raise


def local_address(interface: Interface, neighbour: Address) -> Address | None:
    """Our address on the neighbour's network; None if the interface has none there."""
    for own in interface.addresses:
        if own.version == neighbour.version and neighbour in own.network and own.ip != neighbour:
            return own.ip
    return None
