"""The limit on SYNs to our ports around the programs: real connections, restarts, objects of before."""

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from kernel.namespaces import Namespace, namespace
from kernel.plane_objects import build, put
from kernel.plane_world import PlaneWorld, new_plane_world, udp_counted
from kernel.waiting import wait_until
from kernel.xdp_frames import TCP, ipv6, syn
from x0d.errors import PinMissing
from x0d.kernel.dataplane import OBJECT_FILE, XdpDataPlane
from x0d.service.alerts import Alerts
from x0d.service.refused_programs import judge_programs

pytestmark = pytest.mark.kernel

PORTS = (9470, 9471, 9472, 9476)
OURS, OTHER_PORT = "10.9.0.1", 9480
HOSTILE, HONEST = "10.9.0.2", "10.9.0.3"
RATE_PPS, BURST = 10, 50
SYNS = 200
ANSWER_S, SILENCE_S = 5.0, 0.3
"""A SYN that is let through is answered at once; one that is dropped is sent again after a second."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[PlaneWorld]:
    """A namespace of the test's own."""
    with new_plane_world(tmp_path) as made:
        yield made


class Host:
    """A host with programs on its interface va, and beside it one with two addresses on vb."""

    def __init__(self, world: PlaneWorld, beside: Namespace, resources: ExitStack) -> None:
        self.world = world
        self._beside = beside
        self._resources = resources
        peer = ("peer", "name", "vb", "index", "42", "netns", beside.name)
        world.world.command("ip", "link", "add", "va", "index", "41", "type", "veth", *peer)
        world.world.command("ip", "addr", "add", f"{OURS}/24", "dev", "va")
        world.world.command("ip", "link", "set", "va", "up")
        for address in (HOSTILE, HONEST):
            beside.ip(f"addr add {address}/24 dev vb")
        beside.ip("link set vb up")
        self.plane = world.open()
        resources.callback(self.plane.close)
        world.attach(self.plane, "va")
        self.listening = {port: self._listen(port) for port in (9470, OTHER_PORT)}

    def _listen(self, port: int) -> socket.socket:
        made: socket.socket = self.world.world.run(
            lambda: socket.create_server((OURS, port), backlog=SYNS, reuse_port=False)
        )
        return self._resources.enter_context(made)

    def add_link_local(self, ours: str, theirs: Sequence[str]) -> None:
        """Give both hosts link-local addresses and listen on ours, at 9470."""
        self.world.world.command("ip", "addr", "add", f"{ours}/64", "dev", "va", "nodad")
        for address in theirs:
            self._beside.ip(f"addr add {address}/64 dev vb nodad")
        self._resources.enter_context(
            self.world.world.run(
                lambda: socket.create_server((ours, 9470, 0, 41), family=socket.AF_INET6, backlog=SYNS)
            )
        )

    def connect(self, source: str, port: int, within_s: float = ANSWER_S) -> socket.socket:
        """Connect from beside; raises TimeoutError."""

        def connect() -> socket.socket:
            return socket.create_connection((OURS, port), timeout=within_s, source_address=(source, 0))

        return self._resources.enter_context(self._beside.call(connect))

    def connect_link_local(self, source: str, target: str) -> socket.socket:
        """Connect from beside to 9470; raises TimeoutError."""

        def connect() -> socket.socket:
            made = self._resources.enter_context(socket.socket(socket.AF_INET6))
            made.settimeout(SILENCE_S)
            made.bind((source, 0, 0, 42))
            made.connect((target, 9470, 0, 42))
            return made

        return self._beside.call(connect)

    def flood(self, source: str, count: int) -> tuple[int, float]:
        """Send SYNs of one source out of vb at once; how many came through, and the seconds it took."""
        return self.send([syn(IPv4Address(source), 9470, IPv4Address(OURS))] * count)

    def send(self, frames: Sequence[bytes]) -> tuple[int, float]:
        """Send TCP frames out of vb at once; how many came through, and the seconds it took."""

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind(("vb", 0))
                for frame in frames:
                    raw.send(frame)

        before, started_s = self.tcp(), time.monotonic()
        self._beside.call(send)
        assert wait_until(lambda: sum(self.tcp()) - sum(before) == len(frames))
        return self.tcp()[0] - before[0], time.monotonic() - started_s

    def tcp(self) -> tuple[int, int]:
        """TCP packets that have passed and that were dropped by a limit."""
        rows = [row for row in self.plane.sample().packets if row.protocol_class == "tcp"]
        passed, limited = (sum(row.packets for row in rows if row.verdict == verdict) for verdict in ("pass", "limit"))
        return passed, limited


@pytest.fixture
def host(world: PlaneWorld) -> Iterator[Host]:
    """Two hosts, the limit in force on ours."""
    with namespace("synb") as beside, ExitStack() as resources:
        made = Host(world, beside, resources)
        made.plane.set_limit(PORTS, RATE_PPS, BURST)
        yield made


def test_flood_of_one_source(host: Host) -> None:
    """Of 200 SYNs about the burst pass; others still connect, connections and other ports do not notice."""
    client = host.connect(HOSTILE, 9470)
    server, _address = host.listening[9470].accept()
    passed, took_s = host.flood(HOSTILE, SYNS)
    print(f"{passed} of {SYNS} SYNs passed in {took_s * 1000:.0f} ms")
    assert BURST - 1 <= passed <= BURST + RATE_PPS * took_s
    assert SYNS - passed == host.plane.limited() == host.plane.sample().syn_limited
    with pytest.raises(TimeoutError):
        host.connect(HOSTILE, 9470, within_s=SILENCE_S)
    assert host.plane.limited() > SYNS - passed
    host.connect(HONEST, 9470)
    host.connect(HOSTILE, OTHER_PORT)
    with server:
        for text in (b"there", b"and back"):
            client.sendall(text)
            assert text == server.recv(64)
            server.sendall(text)
            assert text == client.recv(64)


def test_refused_source_gets_through_later(host: Host) -> None:
    """Who is over the rate waits for the next token, not for ever: its TCP asks again by itself."""
    host.flood(HOSTILE, SYNS)
    host.connect(HOSTILE, 9470)


def test_limit_is_switched_off(host: Host) -> None:
    """With rate 0 everything passes at once, from a source that was over the rate too."""
    host.flood(HOSTILE, SYNS)
    host.plane.set_limit(PORTS, 0, BURST)
    assert SYNS == host.flood(HOSTILE, SYNS)[0]
    host.connect(HOSTILE, 9470)


def test_answers_to_our_own_connections_pass(host: Host) -> None:
    """A source that has spent its SYNs may still answer ours, from the same ports as well."""
    beside, world = host._beside, host.world.world
    host.flood(HOSTILE, SYNS)
    with beside.call(lambda: socket.create_server((HOSTILE, 9470))):
        world.run(
            lambda: socket.create_connection((HOSTILE, 9470), timeout=SILENCE_S, source_address=(OURS, 9476))
        ).close()


def link_local_frames(count: int) -> list[bytes]:
    """SYNs of so many link-local addresses, one of each."""
    plain = syn(IPv4Address(HOSTILE), 9470)[34:]
    return [ipv6(TCP, plain, source=IPv6Address(f"fe80::bad:{host:x}")) for host in range(count)]


def test_link_local_strangers_do_not_reach_a_neighbour(host: Host) -> None:
    """Who takes 200 link-local addresses may begin what one source may; the link's neighbour connects meanwhile."""
    ours, neighbour, stranger = "fe80::1", "fe80::2", "fe80::3"
    host.add_link_local(ours, (neighbour, stranger))
    host.plane.put_link(41, IPv6Address(neighbour), IPv6Address(ours))
    host.plane.set_limit(PORTS, 1, BURST)
    passed, took_s = host.send(link_local_frames(SYNS))
    print(f"{passed} SYNs of {SYNS} link-local addresses passed in {took_s * 1000:.0f} ms")
    assert BURST - 1 <= passed <= BURST + took_s
    with pytest.raises(TimeoutError):
        host.connect_link_local(stranger, ours)
    for _ in range(BURST):
        host.connect_link_local(neighbour, ours)
    host.connect(HONEST, 9470)


# ---- lives and objects ----


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Directories of objects by what is changed in them."""
    directory = tmp_path_factory.mktemp("objects")
    return {
        "shipped": OBJECT_FILE.parent,
        "before": build(directory / "before", before_syn=True),
        "broken": build(directory / "broken", broken=["syn"]),
        "deny broken": build(directory / "deny", broken=["deny"]),
        "root broken": build(directory / "root", broken=["root"]),
    }


class Lives:
    """Lives of a data plane, one after the other, each with the object that is installed then; va is attached."""

    def __init__(self, world: PlaneWorld, objects: Mapping[str, Path], directory: Path) -> None:
        self.world = world
        self._objects = objects
        self._directory = directory
        self.index = world.world.add_veth("va", "vb")
        self.plane: XdpDataPlane | None = None

    def begin(self, installed: str) -> XdpDataPlane:
        """End the life before and open with this object."""
        self.end()
        self.install(installed)
        self.plane = self.world.open(objects_dir=self._directory)
        self.world.attach(self.plane, "va")
        return self.plane

    def install(self, name: str) -> None:
        """Put another object where the next opening or upgrade finds it."""
        put(self._objects[name], self._directory)

    def end(self) -> None:
        """Let go of everything; what is pinned goes on."""
        if self.plane is not None:
            self.plane.close()

    def passed(self, source: str, count: int = 5) -> int:
        """Send SYNs; how many pass."""
        assert self.plane is not None
        before = self._tcp()
        self.world.send("vb", count, syn(IPv4Address(source), 9470))
        after = self._tcp()
        assert count == sum(after.values()) - sum(before.values())
        return after.get("pass", 0) - before.get("pass", 0)

    def _tcp(self) -> dict[str, int]:
        assert self.plane is not None
        return {row.verdict: row.packets for row in self.plane.sample().packets if row.protocol_class == "tcp"}


@pytest.fixture
def lives(world: PlaneWorld, objects: Mapping[str, Path], tmp_path: Path) -> Iterator[Lives]:
    """A world in which nothing has been attached yet."""
    made = Lives(world, objects, tmp_path / "installed")
    try:
        yield made
    finally:
        made.end()


def told(plane: XdpDataPlane) -> str:
    """The alert that an operator sees; empty if there is none."""
    alerts = Alerts()
    judge_programs(alerts, plane.programs())
    return next(iter(alerts.texts()), "")


def state(plane: XdpDataPlane) -> str:
    """Of the SYN stage."""
    return next(row.state for row in plane.programs() if row.name == "x0d_syn_frags")


def test_limit_outlives_the_daemon(lives: Lives) -> None:
    """While no daemon runs, and in the next life before it has set anything, limit, buckets and count go on."""
    lives.begin("shipped").set_limit(PORTS, 1, 3)
    assert 3 == lives.passed(HOSTILE)
    lives.end()
    lives.world.send("vb", 4, syn(IPv4Address(HOSTILE), 9470))
    next_life = lives.begin("shipped")
    assert (6, 0) == (next_life.limited(), lives.passed(HOSTILE, 1))
    next_life.set_limit(PORTS, 1, 3)
    assert (7, 3) == (next_life.limited(), lives.passed(HONEST))


def test_objects_of_before(lives: Lives) -> None:
    """An object without the stage serves as it did and says so; after an upgrade there is a limit to set."""
    plane = lives.begin("before")
    with pytest.raises(PinMissing, match="earlier version"):
        plane.set_limit(PORTS, 1, 3)
    assert ("refused", 0, 5) == (state(plane), plane.limited(), lives.passed(HOSTILE))
    assert "x0d_syn_frags is refused: ENOENT" in told(plane)
    assert "SYNs to x0d's own ports are not limited" in told(plane)
    assert "earlier version" in plane.shortfall("syn")
    lives.world.send("vb", 7)
    lives.install("shipped")
    assert "x0d_syn_frags" in lives.world.world.wait(plane.upgrade).replaced
    plane.set_limit(PORTS, 1, 3)
    assert ("loaded", "", "", 3) == (state(plane), told(plane), plane.shortfall("syn"), lives.passed(HOSTILE))
    assert 7 == udp_counted(plane, lives.index)


def test_restart_after_a_version_of_before(lives: Lives) -> None:
    """The attachment of a version without the stage is adopted with its counters, and nothing is moved aside."""
    lives.begin("before")
    lives.world.send("vb", 7)
    maps_before = {path.name for path in lives.world.directory.joinpath("maps").iterdir()}
    plane = lives.begin("shipped")
    assert 7 == udp_counted(plane, lives.index)
    maps_after = {path.name for path in plane.maps_dir.iterdir()}
    assert {"x0d_syn_config", "x0d_syn_sources", "x0d_syn_drops"} == maps_after - maps_before
    assert [] == list(lives.world.directory.glob("layout-*"))
    plane.set_limit(PORTS, 1, 3)
    assert 3 == lives.passed(HOSTILE)


@pytest.mark.parametrize("installed", ["deny broken", "root broken"])
def test_programs_of_before_stand_in(lives: Lives, installed: str) -> None:
    """Programs without the stage go on where others of the new object are refused: the maps they lack do not hinder."""
    lives.begin("before")
    plane = lives.begin(installed)
    assert all(row.is_former for row in plane.programs() if row.state == "loaded")
    assert "off" == state(plane)
    assert "not among the programs of an earlier life" in plane.shortfall("syn")
    assert 5 == lives.passed(HOSTILE)


@pytest.mark.parametrize("installed", ["before", "broken"])
def test_restart_keeps_what_limits(lives: Lives, installed: str) -> None:
    """A restart with an object whose stage is missing or refused leaves the programs that limit in force."""
    lives.begin("shipped").set_limit(PORTS, 1, 3)
    plane = lives.begin(installed)
    assert all(row.is_former for row in plane.programs() if row.state == "loaded")
    plane.set_limit(PORTS, 1, 2)
    assert (2, "") == (lives.passed(HOSTILE), plane.shortfall("syn"))


def test_refused_stage(lives: Lives) -> None:
    """Where the kernel refuses the stage, everything else works, SYNs pass, and an operator is told."""
    plane = lives.begin("broken")
    plane.set_limit(PORTS, 1, 3)
    assert ("refused", 5, 0) == (state(plane), lives.passed(HOSTILE), plane.limited())
    assert "SYNs to x0d's own ports are not limited" in told(plane)
    lives.install("shipped")
    lives.world.world.wait(plane.upgrade)
    assert ("", 3) == (told(plane), lives.passed(HOSTILE))
