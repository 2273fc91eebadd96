"""Where the operator works from: the address of the SSH client, so that he does not lock himself out.

sshd tells it in the environment of the session.  sudo takes it out of ours, but not out of that of the
shell that ran sudo, so the environments of our ancestors are asked too, the nearest first.
"""

import ipaddress
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

VARIABLES: Final = ("SSH_CONNECTION", "SSH_CLIENT")
"""Both start with the client's address."""
ANCESTORS_MAX: Final = 64


def caller_addresses(environment: Mapping[str, str], pid: int, read: Callable[[Path], bytes]) -> list[str]:
    """Address of the SSH client of process ``pid``; empty if it is in no SSH session that we can see.

    ``environment`` is the process's own; ``read`` reads a file of /proc and raises OSError.
    """
    found = _client_of(environment)
    for _ in range(ANCESTORS_MAX):
        if found or pid <= 1:
            break
        try:
            pid = _parent(read(Path(f"/proc/{pid}/stat")))
            found = _client_of(_environment(read(Path(f"/proc/{pid}/environ"))))
        except PermissionError:  # somebody else's process; those above it may be ours again
            continue
        except OSError:  # it has ended: nobody knows who its parent was
            break
    return [found] if found else []


def own_caller_addresses() -> list[str]:
    """The same for this process."""
    return caller_addresses(os.environ, os.getpid(), Path.read_bytes)


def _client_of(environment: Mapping[str, str]) -> str:
    for variable in VARIABLES:
        first = environment.get(variable, "").partition(" ")[0].partition("%")[0]
        try:
            return str(ipaddress.ip_address(first))
        except ValueError:
            continue
    return ""


def _parent(stat: bytes) -> int:
    """The fourth field of /proc/PID/stat; the second is a name in brackets, which may hold anything."""
    fields = stat.rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _environment(block: bytes) -> dict[str, str]:
    pairs = (item.partition(b"=") for item in block.split(b"\0"))
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, _, value in pairs}
