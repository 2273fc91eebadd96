"""What every data plane promises: the fake that tests use, and XDP on real interfaces."""

import asyncio
import errno
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from fakes.clock import FakeClock
from fakes.dataplane import FakeDataPlane
from kernel.plane_world import PlaneWorld, new_plane_world
from kernel.xdp_frames import syn
from kernel.xdp_packets import Packet
from x0d.errors import ForeignProgram, PinMissing
from x0d.kernel import bpf, layout
from x0d.mesh.model import Address, ProbeRecord
from x0d.ports import DataPlane, SynGuard

SESSION = 77
HERE, THERE, STRANGER = ip_address("10.9.0.1"), ip_address("10.9.0.2"), ip_address("10.9.0.3")
T = TypeVar("T")


class Machine(Protocol):
    """A data plane, and two interfaces of it that are joined: what leaves ``va`` comes in on ``vb``."""

    plane: DataPlane
    guard: SynGuard
    """The same object."""
    va: int
    vb: int

    def wait(self, make: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine where the plane lives."""

    def send(self, source: Address, destination: Address, payload: bytes) -> None:
        """Send a probe out of ``va``."""

    def send_syn(self, source: Address, port: int) -> None:
        """Send a SYN to an address of ours out of ``va``."""

    def request(self, session: int, sequence: int) -> bytes:
        """A probe of a moment ago."""

    def occupy(self, interface: str) -> None:
        """Put somebody else's program on an interface."""

    def settled(self, condition: Callable[[], bool]) -> bool:
        """Wait for what was sent to have been dealt with."""


class FakeMachine:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.fake = FakeDataPlane(self.clock, SESSION)
        self.plane: DataPlane = self.fake
        self.guard: SynGuard = self.fake
        self.va, self.vb = 11, 12

    def wait(self, make: Callable[[], Awaitable[T]]) -> T:
        async def whole() -> T:
            return await make()

        return asyncio.run(whole())

    def send(self, source: Address, destination: Address, payload: bytes) -> None:
        answer = self.fake.receive(self.vb, source, destination, payload)
        if answer is not None:
            self.fake.receive(self.va, destination, source, answer)

    def send_syn(self, source: Address, port: int) -> None:
        self.fake.receive_syn(self.vb, source, port)

    def request(self, session: int, sequence: int) -> bytes:
        return layout.encode_request(session, sequence, self.clock.now_ns - 50_000)

    def occupy(self, interface: str) -> None:
        self.fake.foreign.add(interface)

    def settled(self, condition: Callable[[], bool]) -> bool:
        return condition()


class KernelMachine:
    def __init__(self, plane_world: PlaneWorld) -> None:
        self.world = plane_world.world
        self.va = self.world.add_veth("va", "vb")
        self.vb = self.world.index("vb")
        self.xdp = plane_world.open(session=SESSION)
        self.plane: DataPlane = self.xdp
        self.guard: SynGuard = self.xdp
        self._held: list[int] = []

    def wait(self, make: Callable[[], Awaitable[T]]) -> T:
        return self.world.wait(make)

    def send(self, source: Address, destination: Address, payload: bytes) -> None:
        self._send(Packet(source, destination, payload).encode())

    def send_syn(self, source: Address, port: int) -> None:
        assert isinstance(source, IPv4Address)
        self._send(syn(source, port))

    def _send(self, frame: bytes) -> None:
        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind(("va", 0))
                raw.send(frame)

        self.world.run(send)

    def request(self, session: int, sequence: int) -> bytes:
        return layout.encode_request(session, sequence, time.monotonic_ns())

    def occupy(self, interface: str) -> None:
        program = bpf.load_instructions(bpf.XDP_PROGRAM, bpf.RETURN_PASS)
        index = self.world.index(interface)
        link = self.world.run(lambda: bpf.create_xdp_link(program, index, bpf.XDP_FLAGS_SKB))
        self._held += [program, link]

    def close(self) -> None:
        self.xdp.close()
        for descriptor in self._held:
            os.close(descriptor)

    def settled(self, condition: Callable[[], bool]) -> bool:
        deadline_s = time.monotonic() + 5
        while not condition() and time.monotonic() < deadline_s:
            os.sched_yield()
        return condition()


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.kernel)])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    """A plane with nothing attached."""
    if request.param == "fake":
        yield FakeMachine()
        return
    with new_plane_world(tmp_path) as world:
        made = KernelMachine(world)
        try:
            yield made
        finally:
            made.close()


def attach(machine: Machine) -> None:
    """Attach to both interfaces."""
    machine.wait(lambda: machine.plane.attach("va", machine.va))
    machine.wait(lambda: machine.plane.attach("vb", machine.vb))


def record(machine: Machine) -> ProbeRecord:
    """What ``va`` has recorded of its neighbour."""
    found = machine.plane.probe_record(machine.va, THERE)
    assert found is not None
    return found


def events(machine: Machine) -> dict[tuple[int, str], int]:
    """Probe counters that are not zero."""
    return {(count.ifindex, count.event): count.packets for count in machine.plane.sample().probes if count.packets}


def test_attaching_twice_adopts(machine: Machine) -> None:
    """What is attached already is adopted, and is listed until it is detached; detaching twice is no error."""
    first = machine.wait(lambda: machine.plane.attach("va", machine.va))
    assert ("va", machine.va, "native", False) == (first.interface, first.ifindex, first.mode, first.adopted)
    assert frozenset({machine.va}) == machine.plane.attached_ifindexes()
    assert machine.wait(lambda: machine.plane.attach("va", machine.va)).adopted
    for _ in range(2):
        machine.wait(lambda: machine.plane.detach(machine.va))
    assert frozenset() == machine.plane.attached_ifindexes()


def test_neighbours_are_known_until_they_are_deleted(machine: Machine) -> None:
    """A neighbour has an empty record at once; its own address may change; deleting it twice is no error."""
    attach(machine)
    assert machine.plane.probe_record(machine.va, THERE) is None
    machine.plane.put_link(machine.va, THERE, HERE)
    assert ProbeRecord() == machine.plane.probe_record(machine.va, THERE)
    machine.plane.put_link(machine.va, THERE, STRANGER)
    assert {(machine.va, THERE): STRANGER} == machine.plane.links()
    for _ in range(2):
        machine.plane.delete_link(machine.va, THERE)
    assert (None, {}) == (machine.plane.probe_record(machine.va, THERE), machine.plane.links())


def test_probes_are_answered_and_recorded(machine: Machine) -> None:
    """Answers are noted by sequence, a missing one as a gap, a repeated one once; both ends count."""
    attach(machine)
    machine.plane.put_link(machine.va, THERE, HERE)
    machine.plane.put_link(machine.vb, HERE, THERE)
    for sequence in (1, 2, 4, 4, 5):
        machine.send(HERE, THERE, machine.request(SESSION, sequence))
    assert machine.settled(lambda: record(machine).sequence_last == 5)
    found = record(machine)
    assert (0b11011, 4, 5, SESSION) == (
        found.received,
        found.replies_received,
        found.peer_requests_received,
        found.session,
    )
    assert 0 < found.rtt_last_ns < found.rtt_sum_ns
    far = machine.plane.probe_record(machine.vb, HERE)
    assert far is not None
    assert (SESSION, 5) == (far.peer_session, far.requests_received)
    assert {
        (machine.vb, "answered"): 5,
        (machine.va, "accepted"): 4,
        (machine.va, "duplicate"): 1,
    } == events(machine)
    machine.plane.put_link(machine.va, THERE, HERE)
    assert found == record(machine), "an adopted record stays"


def test_strangers_and_former_sessions_are_not_heard(machine: Machine) -> None:
    """A probe of nobody we know is not answered, and an answer to another life's probe is not recorded."""
    attach(machine)
    machine.plane.put_link(machine.va, THERE, HERE)
    machine.plane.put_link(machine.vb, HERE, THERE)
    machine.send(STRANGER, THERE, machine.request(SESSION, 1))
    machine.send(HERE, THERE, machine.request(SESSION + 1, 1))
    expected = {(machine.vb, "stranger"): 1, (machine.vb, "answered"): 1, (machine.va, "session_stale"): 1}
    assert machine.settled(lambda: expected == events(machine))
    assert 0 == record(machine).replies_received


def test_new_session_of_the_peer_is_counted_anew(machine: Machine) -> None:
    """A neighbour that has restarted has its requests counted from one again."""
    attach(machine)
    machine.plane.put_link(machine.vb, HERE, THERE)
    for session in (1, 1, 2):
        machine.send(HERE, THERE, machine.request(session, 1))
    assert machine.settled(lambda: (machine.plane.probe_record(machine.vb, HERE) or ProbeRecord()).peer_session == 2)
    far = machine.plane.probe_record(machine.vb, HERE)
    assert far is not None
    assert 1 == far.requests_received


def test_what_is_gone_is_collected(machine: Machine) -> None:
    """Interfaces that no longer exist are forgotten with their neighbours; the others keep everything."""
    attach(machine)
    machine.plane.put_link(machine.va, THERE, HERE)
    machine.plane.put_link(machine.vb, HERE, THERE)
    machine.wait(lambda: machine.plane.collect(frozenset({machine.vb})))
    assert frozenset({machine.vb}) == machine.plane.attached_ifindexes()
    assert {(machine.vb, HERE): THERE} == machine.plane.links()


def test_foreign_program_is_left_alone(machine: Machine) -> None:
    """An interface that somebody else's program holds is refused by name, and stays theirs."""
    machine.occupy("va")
    with pytest.raises(ForeignProgram) as refused:
        machine.wait(lambda: machine.plane.attach("va", machine.va))
    assert "va" == refused.value.interface
    assert refused.value.errno in {errno.EBUSY, errno.EEXIST}, "by the mode that the other one has taken"
    assert frozenset() == machine.plane.attached_ifindexes()


def test_detached_interfaces_are_counted_no_longer(machine: Machine) -> None:
    """What was counted of an interface goes with it, and that of the others stays."""
    attach(machine)
    machine.plane.put_link(machine.va, THERE, HERE)
    machine.plane.put_link(machine.vb, HERE, THERE)
    machine.send(HERE, THERE, machine.request(SESSION, 1))
    assert machine.settled(lambda: len(events(machine)) == 2)
    sample = machine.plane.sample()
    reflected = {
        (c.verdict, c.packets) for c in sample.packets if (c.ifindex, c.protocol_class) == (machine.vb, "probe")
    }
    assert {("reflect", 1)} == reflected
    machine.wait(lambda: machine.plane.detach(machine.vb))
    later = machine.plane.sample()
    assert {machine.va} == {c.ifindex for c in later.packets} == {c.ifindex for c in later.probes}
    assert sample.at_ns <= later.at_ns


def test_everything_can_be_removed_and_opened_again(machine: Machine) -> None:
    """After ``detach_all`` nothing is there to be read, and what would need it is refused until ``open``."""
    attach(machine)
    machine.plane.put_link(machine.va, THERE, HERE)
    for _ in range(2):
        machine.wait(machine.plane.detach_all)
    assert frozenset() == machine.plane.attached_ifindexes()
    assert ({}, None) == (machine.plane.links(), machine.plane.probe_record(machine.va, THERE))
    for left in (machine.plane.programs(), machine.plane.maps(), machine.plane.objects()):
        assert 0 == len(left)
    assert ([], []) == (list(machine.plane.sample().packets), list(machine.plane.sample().probes))
    with pytest.raises(PinMissing):
        machine.wait(lambda: machine.plane.attach("va", machine.va))
    with pytest.raises(PinMissing):
        machine.wait(machine.plane.upgrade)
    with pytest.raises(PinMissing):
        machine.plane.put_link(machine.va, THERE, HERE)
    machine.plane.delete_link(machine.va, THERE)
    machine.wait(lambda: machine.plane.detach(machine.va))
    for _ in range(2):
        machine.wait(machine.plane.open)
    assert not machine.wait(lambda: machine.plane.attach("va", machine.va)).adopted
    assert {} == machine.plane.links()


def test_what_is_loaded_is_told(machine: Machine) -> None:
    """The root comes first and every stage after it; each loaded program has an id; an upgrade to the same is none."""
    loaded = [program for program in machine.plane.programs() if program.state == "loaded"]
    assert ["root", *["stage"] * len(layout.STAGES)] == [program.kind for program in loaded]
    assert {"xdp"} == {program.object_name for program in loaded}
    assert all(program.program_id for program in loaded)
    assert "x0d_config" in {row.name for row in machine.plane.maps()}
    assert [layout.LAYOUT_VERSION] == [row.layout_version for row in machine.plane.objects()]
    assert () == machine.wait(machine.plane.upgrade).replaced


def test_shortfall_tells_whether_anything_is_enforced(machine: Machine) -> None:
    """Every stage falls short while we are on no interface; none where its programs run; all once they are gone."""
    assert all("on no interface" in machine.plane.shortfall(stage) for stage in layout.STAGES)
    attach(machine)
    assert [""] * len(layout.STAGES) == [machine.plane.shortfall(stage) for stage in layout.STAGES]
    machine.wait(machine.plane.detach_all)
    assert all("everything is detached" in machine.plane.shortfall(stage) for stage in layout.STAGES)


def test_syns_beyond_the_burst_are_dropped(machine: Machine) -> None:
    """A source may send its burst to our ports together; other sources and ports are free, and so are all at rate 0."""
    attach(machine)
    assert 0 == machine.guard.limited()
    machine.guard.set_limit((9470, 9471), rate_pps=1, burst=3)
    for port in (9470, 9471, 9470, 9470, 9471):
        machine.send_syn(THERE, port)
    assert machine.settled(lambda: machine.guard.limited() == 2)
    for port in (22, 9472, 22, 9472):
        machine.send_syn(THERE, port)
    for _ in range(3):
        machine.send_syn(STRANGER, 9470)
    machine.send_syn(STRANGER, 9470)
    assert machine.settled(lambda: machine.guard.limited() == 3), "all but the last have passed"
    assert 3 == machine.plane.sample().syn_limited
    machine.guard.set_limit((9470, 9471), rate_pps=0, burst=3)
    machine.send_syn(THERE, 9470)
    machine.guard.set_limit((9472,), rate_pps=1, burst=3)
    machine.send_syn(THERE, 9472)
    assert machine.settled(lambda: machine.guard.limited() == 4), "who has spent all has spent it for other ports too"


def test_syn_limit_goes_with_everything(machine: Machine) -> None:
    """After ``detach_all`` there is no limit and no count; ``open`` brings neither back, ``set_limit`` does."""
    attach(machine)
    machine.guard.set_limit((9470,), rate_pps=1, burst=1)
    machine.send_syn(THERE, 9470)
    machine.send_syn(THERE, 9470)
    assert machine.settled(lambda: machine.guard.limited() == 1)
    machine.wait(machine.plane.detach_all)
    assert (0, 0) == (machine.guard.limited(), machine.plane.sample().syn_limited)
    with pytest.raises(PinMissing):
        machine.guard.set_limit((9470,), rate_pps=1, burst=1)
    machine.wait(machine.plane.open)
    attach(machine)
    assert 0 == machine.guard.limited()
    machine.guard.set_limit((9470,), rate_pps=1, burst=1)
    machine.send_syn(THERE, 9470)
    machine.send_syn(THERE, 9470)
    assert machine.settled(lambda: machine.guard.limited() == 1)
