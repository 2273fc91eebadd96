"""A numbered stream of UDP packets between two nodes, and what became of each packet.

Sender and receiver are two processes (this file, run as a program) inside the namespaces.  Each writes one
CLOCK_MONOTONIC stamp per packet into a file that the lab's process maps too: slot n of the one says when packet n
was sent, slot n of the other when it came in; 0 means not (yet).  A packet that has not come in some time after its
sending (``lost_after_s``) is lost.  The sender keeps to its timetable: a late wake-up is followed by a burst, not by
a gap.
"""

import argparse
import itertools
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from lab.network import Lab

LOST_AFTER_S = 0.25  # the receiver may be late to read, too: longer on an emulated processor
INTERVAL_S = 0.001
PAYLOAD_BYTES = 100
PORT_FIRST = 40000
READY_S = 10.0
SO_RCVBUFFORCE = 33  # Linux; not in the socket module
RECEIVE_BYTES = 16 << 20
NUMBER = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the packets sent in a span of time."""

    sent: int
    lost: int
    first_lost_ns: int | None
    """CLOCK_MONOTONIC at the sending of the first lost packet; None if none was lost."""
    last_lost_ns: int | None
    longest_gap_ms: float
    """Longest time between two packets that came in, one after the other."""

    @property
    def outage_ms(self) -> float:
        """From the sending of the first lost packet to that of the last, both included."""
        if self.first_lost_ns is None or self.last_lost_ns is None:
            return 0.0
        return (self.last_lost_ns - self.first_lost_ns) / 1e6 + INTERVAL_S * 1e3

    def sentence(self) -> str:
        """For people."""
        if not self.lost:
            return f"{self.sent} packets sent, none lost (longest gap {self.longest_gap_ms:.1f} ms)"
        return (
            f"{self.sent} packets sent, {self.lost} lost within {self.outage_ms:.0f} ms"
            f" (longest gap {self.longest_gap_ms:.1f} ms)"
        )


def judge(sent: Sequence[int], received: Sequence[int], since_ns: int, until_ns: int) -> Report:
    """Judge the packets sent from ``since_ns`` up to ``until_ns``; each sequence has a stamp a packet, 0 for none."""
    chosen = [(at, came) for at, came in zip(sent, received, strict=True) if at and since_ns <= at < until_ns]
    lost = [at for at, came in chosen if not came]
    arrivals = sorted(came for _, came in chosen if came)
    gap = max((after - before for before, after in itertools.pairwise(arrivals)), default=0)
    return Report(len(chosen), len(lost), lost[0] if lost else None, lost[-1] if lost else None, gap / 1e6)


class Stream:
    """A stream that runs; use it as a context manager, so that its processes end."""

    _ports = itertools.count(PORT_FIRST)

    def __init__(
        self,
        lab: "Lab",
        source: str,
        target: str,
        duration_s: float,
        *,
        interval_s: float = INTERVAL_S,
        lost_after_s: float = LOST_AFTER_S,
    ) -> None:
        """Start to send from one node's stable address to another's, for at most ``duration_s``.

        Args:
            lab: where both nodes are.
            source: node that sends.
            target: node that receives.
            duration_s: the sender ends after it.
            interval_s: between two packets.
            lost_after_s: a packet that has not come in by then is lost.

        Raises:
            LabError: sender or receiver does not start.
        """
        self._lost_after_s = lost_after_s
        port = next(self._ports)
        count = round(duration_s / interval_s)
        directory = lab.directory / "traffic"
        directory.mkdir(exist_ok=True)
        stem = f"{source}-{target}-{os.getpid()}-{port}"
        addresses = lab.topology.address(source), lab.topology.address(target)
        self._stamps = [_Stamps(directory / f"{stem}.{side}", count, create=True) for side in ("sent", "received")]
        limit = str(duration_s + 60)
        self._receiver = self._spawn(lab, target, "receive", addresses, port, self._stamps[1].path, limit)
        self._sender = self._spawn(lab, source, "send", addresses, port, self._stamps[0].path, str(interval_s))

    def _spawn(
        self, lab: "Lab", node: str, verb: str, addresses: tuple[str, str], port: int, stamps: Path, value: str
    ) -> "subprocess.Popen[bytes]":
        from lab.machine import LabError  # noqa: PLC0415 - this file is also a program of its own, without the package

        command = [sys.executable, "-I", __file__, verb, *addresses, str(port), str(stamps), value]
        child = lab.popen(node, command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
        assert child.stdout is not None
        if child.stdout.readline() != b"ready\n":
            child.kill()
            child.wait()
            self.close()
            raise LabError(f"the traffic on {node} does not start")
        return child

    def __enter__(self) -> Self:
        """Hand out the stream."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        """End its processes."""
        self.close()

    def close(self) -> None:
        """End sender and receiver."""
        for child in (getattr(self, "_sender", None), getattr(self, "_receiver", None)):
            if child is not None:
                child.kill()
                child.wait()
                child.stdout.close()
        for stamps in self._stamps:
            stamps.close()

    def wait_end(self) -> None:
        """Wait until the sender has sent all it was to send."""
        self._sender.wait()

    def stop(self) -> None:
        """Let the sender end early."""
        self._sender.send_signal(signal.SIGTERM)
        self._sender.wait()

    @property
    def running(self) -> bool:
        """Whether the sender still sends."""
        return self._sender.poll() is None

    def report(self, since_ns: int = 0, until_ns: int | None = None) -> Report:
        """Judge the packets sent in a span (up to now); waits until the last of them has come in or is lost.

        Args:
            since_ns: CLOCK_MONOTONIC.
            until_ns: CLOCK_MONOTONIC; None means now.
        """
        until_ns = time.monotonic_ns() if until_ns is None else until_ns
        rest_s = self._lost_after_s - (time.monotonic_ns() - until_ns) / 1e9
        if rest_s > 0:
            time.sleep(rest_s)
        return judge(self._stamps[0].read(), self._stamps[1].read(), since_ns, until_ns)

    def lost_lately(self, window_s: float) -> int:
        """Lost packets among those sent in the window that ended ``lost_after_s`` ago; does not wait."""
        until_ns = time.monotonic_ns() - round(self._lost_after_s * 1e9)
        return self.report(until_ns - round(window_s * 1e9), until_ns).lost


class _Stamps:
    """A file of one u64 a packet, mapped."""

    def __init__(self, path: Path, count: int = 0, *, create: bool = False) -> None:
        self.path = path
        if create:
            with path.open("wb") as file:
                file.truncate(8 * count)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._view = memoryview(self._map).cast("Q")

    def __len__(self) -> int:
        return len(self._view)

    def __setitem__(self, index: int, value: int) -> None:
        self._view[index] = value

    def __getitem__(self, index: int) -> int:
        return self._view[index]

    def read(self) -> Sequence[int]:
        return self._view.tolist()

    def close(self) -> None:
        self._view.release()
        self._map.close()


# ---- the two programs ----


def _send(source: str, target: str, port: int, stamps: _Stamps, interval_s: float) -> None:
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.bind((source, 0))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        begun = time.monotonic()
        for number in range(len(stamps)):
            rest = begun + number * interval_s - time.monotonic()
            if rest > 0:
                time.sleep(rest)
            if stopped:
                return
            stamps[number] = time.monotonic_ns()
            try:
                link.sendto(NUMBER.pack(number).ljust(PAYLOAD_BYTES, b"."), (target, port))
            except OSError:
                continue  # no route at this moment: the packet is lost, and the report will say so


def _receive(target: str, port: int, stamps: _Stamps, limit_s: float) -> None:
    end = time.monotonic() + limit_s
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        # What waits while the receiver is not scheduled must not overflow: a frame that passed XDP on a veth counts as
        # a whole page, so the usual limit of 208 KiB holds fewer than 100 packets.
        link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
        link.settimeout(1.0)
        link.bind((target, port))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while time.monotonic() < end:
            try:
                packet = link.recv(PAYLOAD_BYTES)
            except TimeoutError:
                continue
            number = NUMBER.unpack_from(packet)[0]
            if number < len(stamps) and not stamps[number]:
                stamps[number] = time.monotonic_ns()


def main(argv: Sequence[str]) -> None:
    """Be the sender or the receiver."""
    parser = argparse.ArgumentParser("traffic")
    parser.add_argument("verb", choices=("send", "receive"))
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("port", type=int)
    parser.add_argument("stamps", type=Path)
    parser.add_argument("value", type=float, help="send: interval; receive: time limit; in seconds")
    asked = parser.parse_args(argv)
    stamps = _Stamps(asked.stamps)
    if asked.verb == "send":
        _send(asked.source, asked.target, asked.port, stamps, asked.value)
    else:
        _receive(asked.target, asked.port, stamps, asked.value)


if __name__ == "__main__":
    main(sys.argv[1:])
