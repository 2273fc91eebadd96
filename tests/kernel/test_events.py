"""Sampled events: from packets through XDP and the ring buffer to a subscriber on the event loop."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace

import pytest

from kernel.xdp_packets import ETHERNET_ARP, OUR_MAC, PEER_MAC, Packet
from kernel.xdp_stages import LO, XdpStages, new_stages
from x0d.errors import NotSupported
from x0d.kernel import bpf, ring
from x0d.kernel.events import EVENTS_AT_ONCE, KernelEvents, decode_event
from x0d.kernel.layout import CONFIG
from x0d.kernel.layout_policy import EVENT
from x0d.ports.policy import PacketEvent

pytestmark = pytest.mark.kernel

BUFFER_BYTES = 65536
EVENT_BYTES = 64  # of the ring buffer, header included
SIZES = {"x0d_deny_hits": 1024, "x0d_sources": 1024, "x0d_events": BUFFER_BYTES}
HERE, THERE = ip_address("10.0.0.1"), ip_address("10.0.0.2")
FRAME = Packet(THERE, HERE, b"x" * 20, source_port=5353, destination_port=53).encode()


@pytest.fixture
def stages() -> Iterator[XdpStages]:
    with new_stages(sizes=SIZES) as loaded:
        yield loaded


def _events(stages: XdpStages, sample_every: int = 1) -> KernelEvents:
    return KernelEvents(lambda: stages.fds, BUFFER_BYTES, sample_every)


def _event_every(stages: XdpStages) -> int:
    value = bpf.lookup(stages.fds["x0d_config"], bytes(4), CONFIG.size)
    assert value is not None
    every: int = CONFIG.unpack(value)[5]
    return every


async def _collect(events: KernelEvents, count: int, send: Callable[[], object]) -> tuple[list[PacketEvent], list[int]]:
    """Subscribe, send, and wait for so many events; also how many came at a time."""
    got, sizes, done = list[PacketEvent](), list[int](), asyncio.Event()

    def on_events(some: Sequence[PacketEvent]) -> None:
        got.extend(some)
        sizes.append(len(some))
        if len(got) >= count:
            done.set()

    unsubscribe = events.subscribe(on_events)
    send()
    async with asyncio.timeout(10):
        await done.wait()
    unsubscribe()
    return got, sizes


def test_a_sampled_packet_is_told_as_it_was(stages: XdpStages) -> None:
    """Addresses, ports, length, class and verdict of the packet; nothing is IP about an ARP packet."""

    async def scenario() -> None:
        events = _events(stages)
        events.open()
        arp = OUR_MAC + PEER_MAC + ETHERNET_ARP.to_bytes(2) + bytes(28)
        got, _sizes = await _collect(events, 2, lambda: (stages.run(FRAME), stages.run(arp)))
        events.close()
        udp, other = got
        expected = PacketEvent(
            udp.at_ns, LO, len(FRAME), THERE.packed, HERE.packed, 5353, 53, socket.IPPROTO_UDP, "udp", "pass", 0
        )
        assert expected == udp
        assert (b"", b"", 0, "arp") == (other.source, other.destination, other.source_port, other.protocol_class)

    asyncio.run(scenario())


def test_a_burst_does_not_hold_the_loop(stages: XdpStages) -> None:
    """More events than fit into one turn all arrive, some at a time, in order."""

    async def scenario() -> None:
        events = _events(stages)
        events.open()
        count = 3 * EVENTS_AT_ONCE
        got, sizes = await _collect(events, count, lambda: [stages.run(FRAME) for _ in range(count)])
        events.close()
        assert count == len(got)
        assert EVENTS_AT_ONCE == max(sizes)
        assert sorted(event.at_ns for event in got) == [event.at_ns for event in got]

    asyncio.run(scenario())


def test_sampling_runs_while_somebody_watches(stages: XdpStages) -> None:
    """XDP samples from the first subscription to the end of the last, and the rest of the configuration stays."""

    async def scenario() -> None:
        before = bpf.lookup(stages.fds["x0d_config"], bytes(4), CONFIG.size)
        events = _events(stages, sample_every=50)
        events.open()
        assert 50 == events.sample_every
        assert 0 == _event_every(stages)
        first, second = events.subscribe(print), events.subscribe(print)
        assert 50 == _event_every(stages)
        first()
        first()  # a second time: nothing happens
        assert 50 == _event_every(stages)
        second()
        assert before == bpf.lookup(stages.fds["x0d_config"], bytes(4), CONFIG.size)
        events.subscribe(print)
        events.close()
        assert before == bpf.lookup(stages.fds["x0d_config"], bytes(4), CONFIG.size)

    asyncio.run(scenario())


def test_an_open_ends_what_a_killed_daemon_left_on(stages: XdpStages) -> None:
    """Nobody is subscribed after a start, so XDP does not sample."""

    async def scenario() -> None:
        events = _events(stages)
        events.open()
        events.subscribe(print)
        later = _events(stages)
        later.open()
        assert 0 == _event_every(stages)
        later.close()
        events.close()

    asyncio.run(scenario())


def _map_descriptors() -> int:
    links = [descriptor.readlink() for descriptor in Path("/proc/self/fd").iterdir() if descriptor.is_symlink()]
    return sum("bpf-map" in str(link) for link in links)


def test_a_subscription_outlives_a_new_plane(stages: XdpStages) -> None:
    """The plane is removed and opened anew with other maps: none is held in between, and new events come."""

    async def scenario() -> None:
        planes = [stages]
        events = KernelEvents(lambda: planes[-1].fds, BUFFER_BYTES, 1)
        with new_stages(sizes=SIZES) as other:
            before = _map_descriptors()
            events.open()

            def change() -> None:
                events.suspend()
                assert before == _map_descriptors()
                planes.append(other)
                events.open()
                other.run(FRAME)

            got, _sizes = await _collect(events, 1, change)
            assert 1 == len(got)
            events.close()

    asyncio.run(scenario())


def test_events_of_before_are_not_told(stages: XdpStages) -> None:
    """What was sampled and not read before a subscription is not handed to it."""

    async def scenario() -> None:
        events = _events(stages)
        events.open()
        events.subscribe(print)()  # on and off
        value = bpf.lookup(stages.fds["x0d_config"], bytes(4), CONFIG.size)
        assert value is not None
        fields = list(CONFIG.unpack(value))
        fields[5] = 1
        bpf.update(stages.fds["x0d_config"], bytes(4), CONFIG.pack(*fields))
        for _ in range(2 * EVENTS_AT_ONCE):
            stages.run(FRAME)
        marked = Packet(THERE, HERE, b"", destination_port=99).encode()
        got, _sizes = await _collect(events, 1, lambda: stages.run(marked))
        events.close()
        assert [99] == [event.destination_port for event in got]

    asyncio.run(scenario())


def test_a_full_ring_is_read_and_goes_on(stages: XdpStages) -> None:
    """Round and round: the ring is filled to the brim several times, and no record is lost, torn or told twice."""

    async def scenario() -> None:
        events = _events(stages)
        events.open()
        brim = BUFFER_BYTES // EVENT_BYTES - 1
        for turn in range(5):
            ports = [turn * 1000 + i % 900 for i in range(brim)]

            def send(ports: Sequence[int] = ports) -> None:
                for port in ports:
                    stages.run(Packet(THERE, HERE, b"", destination_port=port).encode())

            got, _sizes = await _collect(events, brim, send)
            assert ports == [event.destination_port for event in got]
        events.close()

    asyncio.run(scenario())


def test_an_unspecified_source_is_an_address() -> None:
    """IPv6 duplicate address detection sends from ``::``: that is IP, and 16 bytes."""
    record = EVENT.pack(1, 2, 3, bytes(16), b"\xff\2" + bytes(14), b"\0\0", b"\0\0", 58, 4, 0, 0)
    event = decode_event(record)
    assert (bytes(16), b"\xff\2" + bytes(14)) == (event.source, event.destination)


def test_another_machine_is_told_that_it_cannot(stages: XdpStages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python lacks the memory barriers, watching is refused by name; a ring of another size when it is opened."""
    with pytest.raises(NotSupported, match="131072"):
        KernelEvents(lambda: stages.fds, 131072, 1).open()
    monkeypatch.setattr(ring, "platform", SimpleNamespace(machine=lambda: "aarch64"))

    async def scenario() -> None:
        events = _events(stages)
        events.open()
        with pytest.raises(NotSupported, match="memory barriers"):
            events.subscribe(print)
        events.close()

    asyncio.run(scenario())


def test_what_was_missing_once_may_be_there_later(stages: XdpStages, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plane whose events could not be read is opened anew, and now they can: subscriptions are taken and told."""
    before = set(Path("/proc/self/fd").iterdir())

    async def scenario() -> None:
        events = _events(stages)
        events.open()
        with monkeypatch.context() as patch:
            patch.setattr(ring, "platform", SimpleNamespace(machine=lambda: "aarch64"))
            events.open()  # not readable: what the first had open is closed
            with pytest.raises(NotSupported):
                events.subscribe(print)
            events.close()  # nothing is open, and nothing is closed twice
        events.open()
        got, _sizes = await _collect(events, 1, lambda: stages.run(FRAME))
        assert 1 == len(got)
        events.close()

    asyncio.run(scenario())
    assert before == set(Path("/proc/self/fd").iterdir())
