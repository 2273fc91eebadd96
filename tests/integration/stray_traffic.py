"""Datagrams of stray sources, sent from one namespace of a pair to the other's end of ``e1``."""

import json
import sys
from typing import Final

from integration.lone_daemon import Life, Pair

STRAY: Final = "198.51.100.7"
OTHER: Final = "203.0.113.9"
_SEND = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.bind((sys.argv[1], 0))
    for _ in range(int(sys.argv[2])):
        sender.sendto(b"x" * 32, ("10.9.1.0", 9))
"""


def add_strays(pair: Pair) -> None:
    """Give n2's namespace two stray addresses, for as long as it exists."""
    for address in (STRAY, OTHER):
        pair.n2.place.ip(f"addr add {address}/32 dev lo")


def send(pair: Pair, source: str, count: int) -> None:
    """Send datagrams from a stray address to n1, to a port where nobody listens."""
    pair.n2.place.run(sys.executable, "-c", _SEND, source, str(count))


def done(life: Life, *arguments: str) -> str:
    """Run x0ctl, which must succeed, and return what it printed."""
    ended = life.x0ctl(*arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def counted(life: Life, verdict: str) -> int:
    """UDP packets with this verdict on e1."""
    stats = json.loads(done(life, "-o", "json", "ebpf", "stats"))
    return sum(
        int(each["packets"])
        for each in stats["counters"]
        if (each["interface"], each["protocol_class"], each["verdict"]) == ("e1", "udp", verdict)
    )
