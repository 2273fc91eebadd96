"""The part of the story in which a source is blocked: drops by reason before, XDP's verdict afterwards.

A stray address on one router sends datagrams to a port of another where nobody listens.  The kernel there
drops each and says why; then the address is put on the deny-list, and XDP drops them before the kernel
sees them.  All of it is read with x0ctl.
"""

import json
import sys
from typing import Final

from lab import control
from lab.machine import LabError
from lab.network import Lab
from lab.teller import Teller
from lab.timeline import Json

STRAY: Final = "198.51.100.7"  # TEST-NET-2 of RFC 5737
DATAGRAMS: Final = 200
REASON: Final = "no_socket"

_SEND = """
import socket, sys
source, target, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.bind((source, 0))
    for _ in range(count):
        sender.sendto(b"x" * 64, (target, 9))
"""


class Blocking:
    """One source, one router that refuses it."""

    def __init__(self, lab: Lab, teller: Teller, source: str, target: str) -> None:
        """The stray address is on ``source``; ``target`` refuses it."""
        self._lab = lab
        self._teller = teller
        self._source = source
        self._target = target

    def tell(self) -> list[str]:
        """Tell it and return what did not hold."""
        self._teller.heading(f"A stray source, {STRAY}, sends {DATAGRAMS} datagrams to {self._target}, and is blocked")
        self._lab.run(self._source, "ip", "address", "add", f"{STRAY}/32", "dev", "lo")
        try:
            dropped = self._send()
            failed = self._judge(dropped >= DATAGRAMS, f"the kernel of {self._target} drops them: {REASON} {dropped}")
            self._x0ctl("deny", "add", STRAY, "--for", "10m", "--comment", "seen in the demo")
            self._teller.line(f"  {self._target}: x0ctl deny add {STRAY} --for 10m")
            dropped = self._send()
            hits = self._hits()
            failed += self._judge(hits == DATAGRAMS, f"XDP drops {hits} of {DATAGRAMS} more")
            failed += self._judge(dropped == 0, f"the kernel sees {dropped} of them")
            self._teller.indented(self._x0ctl("top", "--once"))
            self._x0ctl("deny", "remove", STRAY)
        finally:
            self._lab.run(self._source, "ip", "address", "del", f"{STRAY}/32", "dev", "lo")
        return failed

    def _judge(self, holds: bool, what: str) -> list[str]:
        if holds:
            self._teller.held(what)
            return []
        return [what]

    def _send(self) -> int:
        """Send; return how many packets the target's kernel dropped for want of a socket meanwhile."""
        before = self._drops()
        address = self._lab.topology.address(self._target)
        self._lab.run(self._source, sys.executable, "-c", _SEND, STRAY, address, str(DATAGRAMS))
        return self._drops() - before

    def _drops(self) -> int:
        stats = json.loads(self._x0ctl("-o", "json", "ebpf", "stats"))
        return sum(int(each["packets"]) for each in stats["drops"] if each["reason"] == REASON)

    def _hits(self) -> int:
        pages: list[Json] = [json.loads(line) for line in self._x0ctl("-o", "json", "deny", "list").splitlines()]
        return sum(int(entry["hits"]) for page in pages for entry in page["entries"] if entry["prefix"] == STRAY)

    def _x0ctl(self, *arguments: str) -> str:
        done = control.x0ctl(self._lab, self._target, *arguments)
        if done.returncode:
            raise LabError(f"x0ctl {' '.join(arguments)} on {self._target}: exit {done.returncode}: {done.stderr}")
        return done.stdout
