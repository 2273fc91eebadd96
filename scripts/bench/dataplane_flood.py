"""Sends UDP frames out of an interface as fast as it can until its input ends; prints how many.

A process of its own, so that what it measures is not slowed by the interpreter's lock.  Argument: the interface.
"""

import select
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.dataplane_lists import frame
from lab.machine import LabError

BURST = 64
"""Frames between two looks at the input."""
SOURCE = bytes((203, 0, 113, 7))


class Flood:
    """A flood that runs; ``sent`` is known once it has ended."""

    sent: int = 0


@contextmanager
def flooding(interface: str) -> Iterator[Flood]:
    """Send out of ``interface`` while the block runs.

    Raises:
        LabError: the sender has failed.
    """
    command = [sys.executable, "-m", "bench.dataplane_flood", interface]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        flood = Flood()
        assert child.stdout is not None
        if child.stdout.readline() != "sending\n":
            raise LabError(f"nothing sends on {interface}")
        try:
            yield flood
        finally:
            output, _ = child.communicate()
        flood.sent = int(output)


def main(argv: Sequence[str]) -> int:
    """Send."""
    content = frame(SOURCE)
    sent = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((argv[0], 0))
        print("sending", flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            for _ in range(BURST):
                try:
                    sent += raw.send(content) == len(content)
                except BlockingIOError:  # ENOBUFS is an OSError of its own: the frame did not leave
                    continue
    print(sent)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
