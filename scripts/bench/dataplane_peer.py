"""Debian's xdp-filter, loaded by its own command, as what x0d's data plane is measured beside."""

import json
import os
import shutil
import struct
from collections.abc import Sequence

from bench.dataplane_bpf import map_info, maps_of_program, program_by_id, update
from bench.dataplane_world import bpf_filesystem
from lab.machine import LabError, run

ENTRIES = 10_000
"""As many as its address maps hold by default."""
_SOURCE_FLAG = 1
"""Bit of an entry's value: it is about the source address."""


class XdpFilter:
    """The program with all features (``-f all``), attached to an interface of this namespace."""

    def __init__(self, interface: str) -> None:
        """Load and attach it natively, as an operator would.  Its maps are its own: its pins go at once.

        Raises:
            LabError: it is not installed, or refuses.
        """
        if not shutil.which("xdp-filter"):
            raise LabError("xdp-filter is missing: apt-get install xdp-tools (Debian)")
        with bpf_filesystem():  # else it would share the maps of one that is loaded already
            run(["xdp-filter", "load", interface, "-f", "all", "-m", "native"])
        [link] = json.loads(run(["ip", "-j", "-d", "link", "show", "dev", interface]))
        self.program_fd = program_by_id(link["xdp"]["prog"]["id"])
        self.map_fds = maps_of_program(self.program_fd)

    def fill(self, addresses: Sequence[bytes]) -> None:
        """Put source addresses, IPv4 or IPv6, on its deny-list; as ``xdp-filter ip ADDRESS -m src`` does, but fast."""
        for address in addresses:
            fd = self.map_fds["filter_ipv4" if len(address) == 4 else "filter_ipv6"]
            info = map_info(fd)
            update(fd, address, struct.pack("=Q", _SOURCE_FLAG) * (os.cpu_count() or 1))
            assert info.value_size == 8

    @staticmethod
    def version() -> str:
        """Of the package."""
        return run(["dpkg-query", "-W", "-f", "${Version}", "xdp-tools"])
