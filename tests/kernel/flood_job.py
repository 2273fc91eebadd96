"""Frames sent out of an interface until the standard input closes, as a process that takes no turns of the test's.

Arguments: interface, frame in hexadecimal, frames at a time, pause between them in seconds.  Prints ``ready``, and at
the end how many were sent.  Runs in the namespace that it is started in.
"""

import select
import socket
import sys


def main(interface: str, frame: str, burst: str, pause_s: str) -> None:
    """Send until told to stop."""
    content, sent = bytes.fromhex(frame), 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], float(pause_s))[0]:
            for _ in range(int(burst)):
                try:
                    raw.send(content)
                except OSError:  # ENOBUFS: the device has not taken it
                    continue
                sent += 1
    print(sent, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
