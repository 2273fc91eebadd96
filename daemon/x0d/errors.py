"""Every error that x0d raises on purpose, with the data that a caller acts on.

Bytes, files and calls from outside raise ``InvalidInput`` or ``ConfigInvalid``; the kernel's and
the disk's refusals have types of their own.  Each family is translated once, at its boundary: to a
gRPC status in ``transport/statuses.py``, to an exit code in ``__main__.py``.
"""

import errno as errno_names
from dataclasses import dataclass


class X0dError(Exception):
    """Base of all errors that x0d raises on purpose; its text is a sentence for the operator."""


class InvalidInput(X0dError):
    """Bytes or values from outside that do not follow their format."""


class WrongSender(InvalidInput):
    """A neighbour that calls itself by another name than the configuration gives it."""

    def __init__(self, sender: str, expected: str) -> None:
        self.sender = sender
        self.expected = expected
        super().__init__(f"datagram of node {sender} where {expected} is configured")


class IdentityRefused(X0dError):
    """A certificate, chain or handshake that proves nobody, or somebody else than was asked for."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        """A word of ``identity.model.Reason``."""
        super().__init__(detail)


class DatagramRefused(InvalidInput):
    """A mesh datagram without a valid MAC; ``reason`` is a word for metrics."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        """A word of ``identity.seal.Refusal``."""
        super().__init__(detail)


class NoIdentity(X0dError):
    """This node has no SVID that it could show; says what to do."""


class PeerUnreachable(X0dError):
    """A peer did not answer, or ended the connection."""


class RefusedByPeer(PeerUnreachable):
    """A peer that is the one meant lets this node in no further, and says so."""


class NotKnownToPeer(RefusedByPeer):
    """A peer that is the one meant has no neighbour of this node's name."""


class TokenRefused(X0dError):
    """A join token that is spent, expired, unknown, or for something else."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing wrong with a configuration file."""

    key: str
    """Dotted, such as ``mesh.probe_interval_ms`` or ``mesh.neighbours[2].cost``; empty: the file."""
    reason: str
    """What is wrong and what is allowed."""

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}" if self.key else self.reason


class ConfigInvalid(X0dError):
    """A configuration file that cannot be used; ``problems`` lists all that is wrong with it."""

    def __init__(self, file: str, problems: tuple[ConfigProblem, ...]) -> None:
        self.file = file
        self.problems = problems
        super().__init__("\n".join(f"{file}: {problem}" for problem in problems))


class NotSupported(X0dError):
    """This kernel, machine or version lacks something; says what and what it needs."""

    def __init__(self, feature: str, reason: str) -> None:
        self.feature = feature
        self.reason = reason
        super().__init__(f"{feature} is not available: {reason}")


class KernelRefused(X0dError):
    """The kernel answered an operation with an errno."""

    def __init__(self, operation: str, errno: int, detail: str = "", log_tail: str = "") -> None:
        self.operation = operation
        self.errno = errno
        self.detail = detail
        self.log_tail = log_tail
        """Last lines of the verifier's log; empty when it has said nothing."""
        text = f"{operation}: {errno_name(errno)}"
        super().__init__(f"{text}: {detail}" if detail else text)


class ProgramRejected(KernelRefused):
    """The verifier refused a program; ``log_tail`` has its last words."""


class ProgramTypeRefused(KernelRefused):
    """This kernel, or what it allows to this process, has no such kind of program."""


class ForeignProgram(KernelRefused):
    """An XDP program that is not ours holds the interface; it is never replaced."""

    def __init__(self, interface: str, errno: int, program_id: int) -> None:
        self.interface = interface
        self.program_id = program_id
        super().__init__(
            f"attach XDP to {interface}",
            errno,
            f"program id {program_id} of somebody else is attached; remove it or leave {interface} out",
        )


class HookChanged(KernelRefused):
    """Somebody else changed what we were about to change; it is to be read again."""


class ForeignGeneration(KernelRefused):
    """A pinned object of another kind or version than ours; it is never detached silently."""


class ModeRefused(KernelRefused):
    """The driver does not attach in this mode; the next one is tried."""


class MtuTooLarge(ModeRefused):
    """Native mode without multi-buffer frames does not take this interface's MTU."""


class DeviceGone(KernelRefused):
    """The interface was removed or moved to another namespace."""


class PinExists(KernelRefused):
    """The name is taken in the bpf filesystem."""


class PinInvalid(KernelRefused):
    """The bpf filesystem takes no such name: a dot in it, or more than 255 bytes."""


class PinMissing(KernelRefused):
    """Nothing is pinned under this name."""


class NotPermitted(KernelRefused):
    """The kernel wants a capability that this process lacks; ``detail`` names it."""


class MapFull(KernelRefused):
    """A map has no room for another entry."""


class MapTooLarge(MapFull):
    """The kernel makes no map of this size, or has no room for it."""


class TooMany(X0dError):
    """More entries than the configuration or the program allows; says which key to raise."""


class WouldLockOut(X0dError):
    """An entry covers what x0d or its operator needs; ``--force`` puts it in force all the same."""

    def __init__(self, reasons: tuple[str, ...]) -> None:
        self.reasons = reasons
        super().__init__("refused, it would lock you out: " + "; ".join(reasons) + "; --force does it all the same")


class NotThere(X0dError):
    """What the call names does not exist."""


class Busy(X0dError):
    """Something is under way that allows only one at a time."""


class StateLocked(X0dError):
    """Another instance holds the state directory."""


class AddressUnavailable(X0dError):
    """A listening address is in use or not of this host."""

    def __init__(self, text: str, *, in_use: bool = False) -> None:
        self.in_use = in_use
        """Somebody else has it: waiting for an address to appear would not help."""
        super().__init__(text)


class StorageFailed(X0dError):
    """A file of the state directory could not be read or written: full, read-only or corrupt."""


def errno_name(number: int) -> str:
    """``EBUSY`` for 16; the number itself where it has no name."""
    if number == errno_names.EOPNOTSUPP:  # ENOTSUP is the same number, and not what the kernel's sources say
        return "EOPNOTSUPP"
    return errno_names.errorcode.get(number, f"errno {number}")
