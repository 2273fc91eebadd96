"""A daemon's data plane alone, as a process that a test can kill: attaches, adopts, says so, waits.

Arguments: bpffs_dir, session, interface names.
"""

import asyncio
import socket
import sys
from pathlib import Path

from x0d.kernel.dataplane import PlaneSettings, XdpDataPlane


async def main(bpffs_dir: str, session: str, *interfaces: str) -> None:
    """Attach to each interface, print one line for each, then sleep for ever."""
    settings = PlaneSettings(
        allow_skb_mode=False, probe_port=9474, probe_rate_pps=1000, probe_burst=100, session=int(session)
    )
    plane = XdpDataPlane(Path(bpffs_dir), settings)
    await plane.open()
    for interface in interfaces:
        attachment = await plane.attach(interface, socket.if_nametoindex(interface))
        print(interface, attachment.adopted, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
