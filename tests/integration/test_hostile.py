"""What the network and the clients may throw at a daemon: it is counted and changes nothing."""

import random
import signal
import socket
import struct
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import grpc
import pytest

from integration.lone_daemon import Life, Pair
from integration.mesh_lab import expect
from kernel.namespaces import Namespace
from lab.machine import wait_until
from x0d.identity.seal import Refusal
from x0d.kernel.layout import encode_request
from x0d.v1 import dataplane_pb2, dataplane_pb2_grpc, node_pb2, node_pb2_grpc

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(90)]
MESH_PORT, PROBE_PORT = 9473, 9474
VICTIM, NEIGHBOUR, STRANGER = "10.9.1.0", "10.9.1.1", "10.9.9.9"
DATAGRAMS = 4000
GROWTH_KIB_MAX = 16 * 1024
CALLS, CLIENTS = 1000, 20
RETRYABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}


class Attacker:
    """Sends datagrams with any payload, source and hop limit from the neighbour's namespace."""

    def __init__(self, place: Namespace) -> None:
        self._place = place
        place.ip(f"addr add {STRANGER}/32 dev e1")

    def send(self, port: int, payloads: list[bytes], *, source: str = NEIGHBOUR, ttl: int = 255) -> None:
        """Send all of them, from and to ``port``."""

        def work() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"e1\0")
                raw.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
                raw.bind((source, 0))
                for payload in payloads:
                    header = struct.pack("!HHHH", port, port, 8 + len(payload), 0)
                    raw.sendto(header + payload, (VICTIM, 0))

        self._place.call(work)

    def overhear(self, count: int) -> list[bytes]:
        """Mesh datagrams that the neighbour's own daemon sends."""

        def work() -> list[bytes]:
            heard: list[bytes] = []
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap:
                tap.bind(("e1", 3))
                tap.settimeout(10)
                while len(heard) < count:
                    frame, (_, _, direction, _, _) = tap.recvfrom(2048)
                    is_udp = frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_UDP
                    if direction == socket.PACKET_OUTGOING and is_udp and frame[36:38] == struct.pack("!H", MESH_PORT):
                        heard.append(frame[42 : 34 + struct.unpack("!H", frame[38:40])[0]])
            return heard

        return self._place.call(work)


def scrape(place: Namespace) -> str:
    """What the metrics port answers."""

    def work() -> str:
        with urllib.request.urlopen("http://127.0.0.1:9475/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    return place.call(work)


def refused(place: Namespace) -> dict[str, int]:
    """Mesh datagrams refused so far, by reason."""
    lines = [line for line in scrape(place).splitlines() if line.startswith("x0d_mesh_datagrams_refused_total{")]
    return {line.split('"')[1]: int(float(line.rpartition(" ")[2])) for line in lines}


def probe_events(life: Life) -> Counter[str]:
    """Probe packets of e1 by what became of them."""
    with life.channel() as channel:
        stub = dataplane_pb2_grpc.DataplaneServiceStub(channel)
        probes = stub.GetStats(dataplane_pb2.GetStatsRequest(), timeout=5).probes
    return Counter({each.event: each.packets for each in probes if each.interface == "e1"})


def resident_kib(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1])


def spoil(rng: random.Random, heard: list[bytes]) -> bytes:
    """A datagram that was overheard, cut short, lengthened, or with bits turned; or nothing but noise."""
    kind = rng.randrange(4)
    original = bytearray(rng.choice(heard))
    if kind == 0:
        return bytes(original[: rng.randrange(len(original))])
    if kind == 1:
        return bytes(original) + rng.randbytes(rng.randint(1, 64))
    if kind == 2:
        return rng.randbytes(rng.randrange(1233))
    for _ in range(rng.randint(1, 8)):
        original[rng.randrange(len(original))] ^= 1 << rng.randrange(8)
    return bytes(original)


def test_hostile_datagrams(pair: Pair, seed: int) -> None:
    """Spoilt, replayed, oversized and random datagrams are counted by reason; the link stays, memory stays bounded."""
    rng = random.Random(seed)
    pair.write()
    for setting in ("all", "e1"):
        pair.n1.place.run("sh", "-c", f"echo 0 > /proc/sys/net/ipv4/conf/{setting}/rp_filter")
    with pair.n2.living() as second, pair.n1.living() as first:
        expect("the link up", lambda: {"up"} == {first.link("n2").state, second.link("n1").state})
        attacker = Attacker(pair.n2.place)
        heard = attacker.overhear(4)
        before, resident = refused(pair.n1.place), resident_kib(first.process.pid)
        assert {"malformed", "hop_limit", "stranger", "too_long"} <= set(before)
        attacker.send(MESH_PORT, heard * 200)
        for _ in range(DATAGRAMS // 100):
            attacker.send(MESH_PORT, [spoil(rng, heard) for _ in range(100)])
        scrape(pair.n1.place)  # answered between datagrams: the queue is short again

        def rises() -> dict[str, int]:
            return {reason: count - before[reason] for reason, count in refused(pair.n1.place).items()}

        attacker.send(MESH_PORT, heard * 10, ttl=254)
        expect("those of another hop limit to be counted", lambda: rises()["hop_limit"] == 40)
        attacker.send(MESH_PORT, heard * 10, source=STRANGER)
        expect("those of a stranger to be counted", lambda: rises()["stranger"] == 40)
        attacker.send(MESH_PORT, [rng.randbytes(1233), rng.randbytes(1472)] * 10)
        expect("the oversized to be counted", lambda: rises()["too_long"] == 20)
        assert sum(rises()[reason] for reason in Refusal) > DATAGRAMS / 10  # some find the queue full
        assert 0 == rises()["malformed"]  # nothing that is not sealed reaches the decoder
        assert resident_kib(first.process.pid) - resident < GROWTH_KIB_MAX
        expect("the link up as before", lambda: {"up"} == {first.link("n2").state, second.link("n1").state})
        expect("the route as before", lambda: "10.255.9.2" in pair.n1.place.ip("route show proto 120"))
        assert first.process.pid == first.status().pid


@pytest.mark.parametrize("turn", range(3))
def test_stop_under_fire(pair: Pair, turn: int) -> None:
    """SIGTERM ends a daemon within 2 s also while every turn of its event loop is woken by datagrams."""
    pair.write()
    with pair.n2.living(), pair.n1.living() as life:
        expect("the link up", lambda: life.link("n2").state == "up")
        attacker = Attacker(pair.n2.place)
        hello = attacker.overhear(1 + turn)
        stop = threading.Event()

        def fire() -> None:
            while not stop.is_set():
                attacker.send(MESH_PORT, hello * 50)

        gunner = threading.Thread(target=fire)
        gunner.start()
        try:
            life.process.send_signal(signal.SIGTERM)
            assert wait_until(lambda: life.process.poll() is not None, 2.0, 0.01)
        finally:
            stop.set()
            gunner.join()


def test_forged_probes(pair: Pair) -> None:
    """Probes from strangers, through routers or spoilt are counted and neither answered nor believed."""
    pair.write()
    with pair.n2.living() as second, pair.n1.living() as first:
        expect("the link up", lambda: {"up"} == {first.link("n2").state, second.link("n1").state})
        attacker = Attacker(pair.n2.place)
        before = probe_events(first)
        request = encode_request(7, 1, 1)
        attacker.send(PROBE_PORT, [request] * 10, source=STRANGER)
        attacker.send(PROBE_PORT, [request] * 20, ttl=254)
        attacker.send(PROBE_PORT, [request[:-1], b"", request + b"\0"] * 10)
        forged_reply = bytearray(request)
        forged_reply[5] = 2
        attacker.send(PROBE_PORT, [bytes(forged_reply)] * 40)
        expected = {"stranger": 10, "hop_limit_wrong": 20, "malformed": 30}
        expect("all of them counted", lambda: probe_events(first)["malformed"] - before["malformed"] >= 30)
        rise = Counter(probe_events(first))
        rise.subtract(before)
        assert expected == {event: rise[event] for event in expected}, rise
        assert sum(rise[event] for event in rise if event not in {*expected, "answered", "accepted"}) >= 40, rise
        assert {"up"} == {first.link("n2").state, second.link("n1").state}
        assert [] == list(first.status().alerts)


def test_calls_while_starting(pair: Pair) -> None:
    """1,000 calls of 20 clients while the daemon starts are all answered, or refused with a retryable status."""
    pair.write()
    with pair.n1.living(wait=False) as life:
        path = pair.n1.directory / "run" / "x0d.sock"
        assert wait_until(path.exists, 20, 0.001)
        began = time.monotonic()
        channels = [
            grpc.insecure_channel(f"unix://{path}", options=[("grpc.use_local_subchannel_pool", 1)])
            for _ in range(CLIENTS)
        ]
        try:
            stubs = [node_pb2_grpc.NodeServiceStub(channel) for channel in channels]
            calls = [
                stubs[number % CLIENTS].GetStatus.future(node_pb2.GetStatusRequest(), timeout=30)
                for number in range(CALLS)
            ]
            codes = Counter(call.code() for call in calls)
        finally:
            for channel in channels:
                channel.close()
        assert CALLS == codes.total()
        assert set(codes) <= {grpc.StatusCode.OK, *RETRYABLE}, codes
        assert time.monotonic() - began < 20
        life.wait_running()
