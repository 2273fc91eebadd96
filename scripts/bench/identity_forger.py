"""A child that sends hostile datagrams as a neighbour: its address, its port, hop limit 255, by a raw socket.

Arguments: interface, source, target, port, seed.  What the neighbour's own daemon sends is seen on the interface, and
replayed and altered.
"""

import asyncio
import random
import socket
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from bench.identity_children import Order, obey, run_child
from x0d.identity.seal import HEAD_BYTES, MAC_BYTES, OVERHEAD

ETH_P_ALL = 3
ETHERNET_BYTES, UDP_BYTES = 14, 8
PAYLOAD_BYTES_MAX = 1_232
PERIOD_S = 0.004
SEEN_S = 5.0
SEEN_MIN = 3
_IP = struct.Struct("!BBHHHBBH4s4s")


class Forger:
    """Sends from ``begin`` to ``end``."""

    def __init__(self, interface: str, source: str, target: str, port: int, seed: int) -> None:
        """Open both sockets."""
        self._chance = random.Random(seed)
        self._source, self._target, self._port = ip_address(source), ip_address(target), port
        self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        self._tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._tap.bind((interface, ETH_P_ALL))
        self._tap.setblocking(False)
        self._seen: deque[bytes] = deque(maxlen=64)
        self._enough = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._sent: Counter[str] = Counter()
        self._kinds: dict[str, Callable[[], bytes]] = {
            "forged": self._forged,
            "replayed": self._any_seen,
            "unknown boot": self._unknown_boot,
            "unknown key": self._unknown_key,
            "truncated": self._truncated,
            "noise": lambda: self._chance.randbytes(self._chance.randint(0, PAYLOAD_BYTES_MAX)),
        }

    async def listen(self) -> None:
        """Watch what the neighbour's daemon sends, until a few of its datagrams are known."""
        asyncio.get_running_loop().add_reader(self._tap.fileno(), self._on_frame)
        async with asyncio.timeout(SEEN_S):
            await self._enough.wait()

    async def answer(self, order: Order) -> Order:
        """``begin`` at a rate, or ``end``."""
        if order["do"] == "begin":
            self._sent = Counter()
            self._task = asyncio.create_task(self._send_on(int(order["rate"])))
            return {}
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        return {"sent": dict(self._sent)}

    async def _send_on(self, rate: int) -> None:
        begun = time.monotonic()
        number = 0
        names = list(self._kinds)
        while True:
            due = int((time.monotonic() - begun) * rate)
            while number < due:
                name = names[number % len(names)]
                self._send(self._kinds[name]())
                self._sent[name] += 1
                number += 1
            await asyncio.sleep(PERIOD_S)

    def _send(self, payload: bytes) -> None:
        size = UDP_BYTES + len(payload)
        head = _IP.pack(0x45, 0, _IP.size + size, 0, 0, 255, 17, 0, self._source.packed, self._target.packed)
        udp = struct.pack("!HHHH", self._port, self._port, size, 0)  # IPv4 allows no checksum
        self._raw.sendto(head + udp + payload, (str(self._target), 0))

    def _on_frame(self) -> None:
        """Keep our neighbour's own datagrams, and none of ours."""
        frame = self._tap.recv(2_048)
        ip, udp = frame[ETHERNET_BYTES:], frame[ETHERNET_BYTES + _IP.size :]
        is_udp = len(udp) > UDP_BYTES + OVERHEAD and ip[0] == 0x45 and ip[9] == socket.IPPROTO_UDP
        if self._task is None and is_udp and ip[12:16] == self._source.packed and udp[2:4] == self._port.to_bytes(2):
            self._seen.append(udp[UDP_BYTES:])
            if len(self._seen) >= SEEN_MIN:
                self._enough.set()

    # ---- the kinds ----

    def _any_seen(self) -> bytes:
        return self._chance.choice(self._seen)

    def _forged(self) -> bytes:
        """With a sequence to come, so that only the MAC speaks against it."""
        seen = self._any_seen()
        number = int.from_bytes(seen[8:HEAD_BYTES]) + self._chance.randint(1, 1 << 20)
        return seen[:8] + number.to_bytes(8) + seen[HEAD_BYTES:-MAC_BYTES] + self._chance.randbytes(MAC_BYTES)

    def _unknown_boot(self) -> bytes:
        return self._chance.randbytes(8) + self._any_seen()[8:]

    def _unknown_key(self) -> bytes:
        seen = self._any_seen()
        return seen[:8] + bytes((seen[8] ^ 0x55, seen[9] ^ 0x55)) + seen[10:]

    def _truncated(self) -> bytes:
        seen = self._any_seen()
        return seen[: self._chance.randrange(len(seen))]


async def main(argv: Sequence[str]) -> None:
    """Listen, then send as told."""
    interface, source, target, port, seed = argv
    forger = Forger(interface, source, target, int(port), int(seed))
    await forger.listen()
    await obey(forger.answer)


if __name__ == "__main__":
    run_child(main(sys.argv[1:]))
