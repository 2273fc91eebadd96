"""Which status and which words tell a caller of an error that x0d has raised on purpose."""

from typing import Final

from grpc import StatusCode

from x0d.errors import (
    Busy,
    ConfigInvalid,
    DeviceGone,
    HookChanged,
    IdentityRefused,
    InvalidInput,
    KernelRefused,
    MapFull,
    NoIdentity,
    NotPermitted,
    NotSupported,
    NotThere,
    PeerUnreachable,
    PinExists,
    PinInvalid,
    PinMissing,
    ProgramTypeRefused,
    StorageFailed,
    TokenRefused,
    TooMany,
    X0dError,
)

DETAILS_BYTES_MAX: Final = 7_000
"""Of an error's text as gRPC encodes it; clients take 8 KiB of headers."""
LOG_CHARACTERS_MAX: Final = 4_000
"""Of a verifier's log in an error's text."""

_STATUS: Final[tuple[tuple[type[X0dError], StatusCode], ...]] = (
    (InvalidInput, StatusCode.INVALID_ARGUMENT),
    (ConfigInvalid, StatusCode.INVALID_ARGUMENT),
    (StorageFailed, StatusCode.UNAVAILABLE),
    (Busy, StatusCode.UNAVAILABLE),
    (NotSupported, StatusCode.UNIMPLEMENTED),
    (ProgramTypeRefused, StatusCode.UNIMPLEMENTED),
    (NotThere, StatusCode.NOT_FOUND),
    (DeviceGone, StatusCode.NOT_FOUND),
    (PinMissing, StatusCode.NOT_FOUND),
    (PinExists, StatusCode.ALREADY_EXISTS),
    (PinInvalid, StatusCode.INVALID_ARGUMENT),
    (HookChanged, StatusCode.ABORTED),
    (NotPermitted, StatusCode.PERMISSION_DENIED),
    (IdentityRefused, StatusCode.PERMISSION_DENIED),
    (TokenRefused, StatusCode.PERMISSION_DENIED),
    (NoIdentity, StatusCode.FAILED_PRECONDITION),
    (PeerUnreachable, StatusCode.UNAVAILABLE),
    (MapFull, StatusCode.RESOURCE_EXHAUSTED),
    (TooMany, StatusCode.RESOURCE_EXHAUSTED),
    # the state of the kernel or of the lists is in the way: all other refusals, and WouldLockOut
    (KernelRefused, StatusCode.FAILED_PRECONDITION),
    (X0dError, StatusCode.FAILED_PRECONDITION),
)
"""First match counts.  What the kernel does not permit to x0d is no word about the caller: ``x0d-reason`` tells."""


def status_of(error: X0dError) -> StatusCode:
    """Status that tells a caller of ``error``."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def details_of(error: X0dError) -> str:
    """Sentence for people, and the last of what the verifier has said: that is where it says why."""
    log = error.log_tail.strip() if isinstance(error, KernelRefused) else ""
    return f"{error}\n{log[-LOG_CHARACTERS_MAX:]}" if log else str(error)


def fitting(details: str) -> str:
    """Cut a text to what fits a header, where all but printable ASCII is percent-encoded."""
    room = DETAILS_BYTES_MAX
    for index, character in enumerate(details):
        plain = character.isascii() and character.isprintable() and character != "%"
        room -= 1 if plain else 3 * len(character.encode(errors="replace"))
        if room < 0:
            return details[:index] + " ... (cut)"
    return details
