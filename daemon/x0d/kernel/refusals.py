"""What a refusal of the kernel means: one table from (operation, errno) to a typed error with advice.

The kernel answers EINVAL to a program of another generation, to a mode that the driver lacks and to
a device that has just gone; only the operation tells which.  Adapters raise ``KernelRefused`` with
the bare errno and hand it to ``refine`` with what they know.  A pair that is not in the table stays
``KernelRefused``.

EPERM is said of two things: a capability that is missing, which is looked up and named, and, to
those who have them all, what the table says.
"""

import errno
import re
import socket
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from x0d.capabilities import name_of
from x0d.errors import (
    DeviceGone,
    ForeignGeneration,
    ForeignProgram,
    HookChanged,
    KernelRefused,
    MapFull,
    MapTooLarge,
    ModeRefused,
    MtuTooLarge,
    NotPermitted,
    NotSupported,
    PinExists,
    PinInvalid,
    PinMissing,
    ProgramRejected,
    ProgramTypeRefused,
    X0dError,
)

PROC_STATUS: Final = Path("/proc/thread-self/status")
ENOTSUPP: Final = 524
"""The kernel's own, which it lets out now and then."""
_STATISTICS: Final = ("processed ", "verification time ", "stack depth ")
_NET_ADMIN, _SYS_ADMIN, _PERFMON, _BPF = 12, 21, 38, 39


class Operation(Enum):
    """What the kernel was asked to do."""

    LOAD = "load a program"
    MAP_CREATE = "make a map"
    MAP_UPDATE = "write a map entry"
    LINK_CREATE = "attach"
    LINK_UPDATE = "replace the program of a link"
    LINK_DETACH = "detach a link"
    TRACE_ATTACH = "attach to a tracepoint"
    PIN = "pin"
    OPEN_PIN = "open a pin"
    NETLINK_XDP = "set XDP by netlink"


@dataclass(frozen=True, slots=True)
class Meaning:
    """A row of the table."""

    error: type[KernelRefused]
    advice: str
    """A clause that says what it means and what to do."""


_OP = Operation
_FOREIGN = Meaning(ForeignProgram, "")
_MODE = Meaning(ModeRefused, "the driver does not attach in this mode; the next one is tried")
_MTU = Meaning(
    MtuTooLarge, "the MTU is too large for native mode without multi-buffer frames; lower it or use Linux 5.18"
)
_GONE = Meaning(DeviceGone, "the interface was removed or moved away; it is attached again when it returns")
_CHANGED = Meaning(HookChanged, "somebody else has changed the hook meanwhile; it is read again")
_GENERATION = Meaning(
    ForeignGeneration,
    "what is pinned is of another kind or generation and stays as it is; "
    "run x0ctl ebpf detach with the version that made it, or remove its pins",
)
_TYPE = Meaning(ProgramTypeRefused, "this kernel, or what it allows here, has no such program, hook or map")
_SIZE = Meaning(MapTooLarge, "a map or program is larger than the kernel allows or has memory for; lower its size")
_FULL = Meaning(MapFull, "the map has no room for another entry; raise its size in the configuration")
_NAME = Meaning(
    PinInvalid, "the name has a dot or more than 255 bytes, or its directory is not in a bpf filesystem: use another"
)
_CAPABILITY = Meaning(NotPermitted, "x0d needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root")
_DIRECTORY = Meaning(NotPermitted, "the directory in the bpf filesystem must belong to x0d's user")

TABLE: Final[dict[tuple[Operation, int], Meaning]] = {
    # A verifier's refusal, whatever its errno, is told by its log and not by this table.
    (_OP.LOAD, errno.EPERM): _TYPE,
    (_OP.LOAD, errno.EACCES): _TYPE,
    (_OP.LOAD, errno.EINVAL): _TYPE,
    (_OP.LOAD, errno.EOPNOTSUPP): _TYPE,
    (_OP.LOAD, ENOTSUPP): _TYPE,
    (_OP.LOAD, errno.ESRCH): _TYPE,  # no such tracepoint in the kernel's BTF
    (_OP.LOAD, errno.ENOENT): _TYPE,
    (_OP.LOAD, errno.E2BIG): _SIZE,
    (_OP.LOAD, errno.ENOMEM): _SIZE,
    (_OP.MAP_CREATE, errno.EPERM): _CAPABILITY,
    (_OP.MAP_CREATE, errno.EINVAL): _TYPE,
    (_OP.MAP_CREATE, errno.EOPNOTSUPP): _TYPE,
    (_OP.MAP_CREATE, ENOTSUPP): _TYPE,
    (_OP.MAP_CREATE, errno.E2BIG): _SIZE,
    (_OP.MAP_CREATE, errno.ENOMEM): _SIZE,
    (_OP.MAP_UPDATE, errno.EPERM): Meaning(NotPermitted, "the map is frozen, or x0d lacks CAP_BPF"),
    (_OP.MAP_UPDATE, errno.EINVAL): _GENERATION,  # a program for an array of others
    (_OP.MAP_UPDATE, errno.E2BIG): _FULL,  # a hash
    (_OP.MAP_UPDATE, errno.ENOSPC): _FULL,  # a trie
    (_OP.MAP_UPDATE, errno.ENOMEM): _FULL,
    (_OP.LINK_CREATE, errno.EBUSY): _FOREIGN,
    (_OP.LINK_CREATE, errno.EEXIST): _FOREIGN,  # in another mode
    (_OP.LINK_CREATE, errno.EINVAL): _MODE,
    (_OP.LINK_CREATE, errno.EOPNOTSUPP): _MODE,
    (_OP.LINK_CREATE, errno.ERANGE): _MTU,
    (_OP.LINK_CREATE, errno.ENODEV): _GONE,
    (_OP.LINK_CREATE, errno.EPERM): _CAPABILITY,
    (_OP.LINK_UPDATE, errno.EPERM): _CHANGED,
    (_OP.LINK_UPDATE, errno.EINVAL): _GENERATION,
    (_OP.LINK_UPDATE, errno.ERANGE): _MTU,
    (_OP.LINK_UPDATE, errno.ENOLINK): _GONE,
    (_OP.LINK_DETACH, errno.EOPNOTSUPP): _GENERATION,
    (_OP.LINK_DETACH, errno.EPERM): _CAPABILITY,
    (_OP.TRACE_ATTACH, errno.EPERM): _CAPABILITY,
    (_OP.TRACE_ATTACH, errno.EACCES): _TYPE,  # tracefs is root's
    (_OP.TRACE_ATTACH, errno.EINVAL): _TYPE,
    (_OP.TRACE_ATTACH, ENOTSUPP): _TYPE,
    (_OP.TRACE_ATTACH, errno.ENOENT): _TYPE,
    (_OP.PIN, errno.EEXIST): Meaning(PinExists, "the name is taken in the bpf filesystem"),
    (_OP.PIN, errno.EPERM): _NAME,
    (_OP.PIN, errno.ENAMETOOLONG): _NAME,
    (_OP.PIN, errno.ENOENT): Meaning(PinMissing, "the directory for the pin does not exist"),
    (_OP.PIN, errno.EACCES): _DIRECTORY,
    (_OP.OPEN_PIN, errno.ENOENT): Meaning(PinMissing, "nothing is pinned under this name"),
    (_OP.OPEN_PIN, errno.ENAMETOOLONG): _NAME,
    (_OP.OPEN_PIN, errno.EACCES): _DIRECTORY,  # or a file that is no pin
    (_OP.OPEN_PIN, errno.EPERM): _CAPABILITY,
    (_OP.NETLINK_XDP, errno.EBUSY): _CHANGED,
    (_OP.NETLINK_XDP, errno.EEXIST): _CHANGED,
    (_OP.NETLINK_XDP, errno.EINVAL): _MODE,
    (_OP.NETLINK_XDP, errno.EOPNOTSUPP): _MODE,
    (_OP.NETLINK_XDP, errno.ERANGE): _MTU,
    (_OP.NETLINK_XDP, errno.ENODEV): _GONE,
    (_OP.NETLINK_XDP, errno.EPERM): _CAPABILITY,
}
"""TCX has rows of its own when it comes."""


def refine(
    operation: Operation,
    refusal: KernelRefused,
    *,
    interface: str = "",
    ifindex: int = 0,
    program_id: int = 0,
) -> KernelRefused:
    """Return the typed error for a refusal; the refusal itself if it is typed already or not in the table.

    ``interface`` and ``program_id`` (of the program that holds the hook) go into ``ForeignProgram``.  With
    ``ifindex``, an EINVAL is looked into: if the calling thread's namespace has no such interface, it is
    ``DeviceGone``.  Raise it ``from`` the refusal.
    """
    if type(refusal) is not KernelRefused:
        return refusal
    if operation is Operation.LOAD and refusal.log_tail:
        return _typed(ProgramRejected, refusal, _words_of_verifier(refusal.log_tail) + _hint_of_missing())
    if refusal.errno == errno.EPERM and (missing := missing_capabilities()):
        return _typed(NotPermitted, refusal, f"this process lacks {' and '.join(missing)}")
    meaning = TABLE.get((operation, refusal.errno))
    if meaning is None:
        return refusal
    if meaning is _FOREIGN:
        return ForeignProgram(interface, refusal.errno, program_id)
    if meaning is _MODE and refusal.errno == errno.EINVAL and ifindex and not _exists(ifindex):
        meaning = _GONE
    return _typed(meaning.error, refusal, meaning.advice)


def reason_beside_errno(program: str, refusal: KernelRefused) -> str:
    """Say why a program is refused where its name and the errno are shown beside."""
    if refusal.operation == f"load program {program}":
        return refusal.detail
    return f"{refusal.operation}: {refusal.detail}" if refusal.detail else refusal.operation


def with_rest_in_force(error: X0dError) -> X0dError:
    """The same error of an upgrade, which says that nothing has changed; raise it ``from`` the first."""
    clause = "what was loaded before is still in force"
    if isinstance(error, NotSupported):
        return NotSupported(error.feature, f"{error.reason}; {clause}")
    if isinstance(error, KernelRefused):
        detail = f"{error.detail}; {clause}" if error.detail else clause
        return type(error)(error.operation, error.errno, detail, error.log_tail)
    return type(error)(f"{error}; {clause}")


def missing_capabilities() -> tuple[str, ...]:
    """Those of the three that x0d needs and the calling thread lacks; CAP_SYS_ADMIN stands for two of them."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", PROC_STATUS.read_text(), re.MULTILINE)
    bits = int(found[1], 16) if found else 0
    if bits >> _SYS_ADMIN & 1:
        bits |= 1 << _PERFMON | 1 << _BPF
    return tuple(name_of(bit) for bit in (_BPF, _NET_ADMIN, _PERFMON) if not bits >> bit & 1)


def _words_of_verifier(log_tail: str) -> str:
    """Its reason is the last line before its statistics."""
    lines = [line.strip() for line in log_tail.splitlines() if not line.startswith(_STATISTICS)]
    return f"the verifier refuses it: {lines[-1]}" if lines else "the verifier refuses it"


def _hint_of_missing() -> str:
    missing = missing_capabilities()
    return f"; this process lacks {' and '.join(missing)}, without which it is stricter" if missing else ""


def _typed(error: type[KernelRefused], refusal: KernelRefused, advice: str) -> KernelRefused:
    detail = f"{refusal.detail}; {advice}" if refusal.detail else advice
    return error(refusal.operation, refusal.errno, detail, refusal.log_tail)


def _exists(ifindex: int) -> bool:
    try:
        socket.if_indextoname(ifindex)
    except OSError:
        return False
    return True
