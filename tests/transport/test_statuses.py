"""What each of x0d's errors becomes on its way to a caller."""

from errno import E2BIG, EACCES, EBUSY, EEXIST, EINVAL, ENODEV, ENOENT, EOPNOTSUPP, EPERM

import pytest
from grpc import StatusCode

from x0d import errors
from x0d.transport.statuses import DETAILS_BYTES_MAX, details_of, fitting, status_of

STATUSES = [
    (errors.ProgramRejected("load x0d_deny", EACCES), StatusCode.FAILED_PRECONDITION),
    (errors.ProgramTypeRefused("load x", EINVAL), StatusCode.UNIMPLEMENTED),
    (errors.ForeignProgram("eth1", EBUSY, 7), StatusCode.FAILED_PRECONDITION),
    (errors.HookChanged("update link", EINVAL), StatusCode.ABORTED),
    (errors.ForeignGeneration("open pin", EINVAL), StatusCode.FAILED_PRECONDITION),
    (errors.ModeRefused("attach", EOPNOTSUPP), StatusCode.FAILED_PRECONDITION),
    (errors.MtuTooLarge("attach", EINVAL), StatusCode.FAILED_PRECONDITION),
    (errors.DeviceGone("attach", ENODEV), StatusCode.NOT_FOUND),
    (errors.PinExists("pin", EEXIST), StatusCode.ALREADY_EXISTS),
    (errors.PinInvalid("pin", EPERM), StatusCode.INVALID_ARGUMENT),
    (errors.PinMissing("open pin", ENOENT), StatusCode.NOT_FOUND),
    (errors.NotPermitted("create map", EPERM), StatusCode.PERMISSION_DENIED),
    (errors.MapFull("update map", E2BIG), StatusCode.RESOURCE_EXHAUSTED),
    (errors.MapTooLarge("create map", E2BIG), StatusCode.RESOURCE_EXHAUSTED),
    (errors.KernelRefused("any", EINVAL), StatusCode.FAILED_PRECONDITION),
    (errors.TooMany("more than 1,024 limits"), StatusCode.RESOURCE_EXHAUSTED),
    (errors.WouldLockOut(("10.0.0.1 covers neighbour n2",)), StatusCode.FAILED_PRECONDITION),
    (errors.NotThere("eth9"), StatusCode.NOT_FOUND),
    (errors.Busy("an upgrade is under way"), StatusCode.UNAVAILABLE),
    (errors.NotSupported("trace", "no BTF"), StatusCode.UNIMPLEMENTED),
    (errors.IdentityRefused("untrusted", "no"), StatusCode.PERMISSION_DENIED),
    (errors.TokenRefused("spent"), StatusCode.PERMISSION_DENIED),
    (errors.NoIdentity("no SVID"), StatusCode.FAILED_PRECONDITION),
    (errors.PeerUnreachable("n2"), StatusCode.UNAVAILABLE),
    (errors.DatagramRefused("forged", "no"), StatusCode.INVALID_ARGUMENT),
    (errors.InvalidInput("no"), StatusCode.INVALID_ARGUMENT),
    (errors.StorageFailed("disk full"), StatusCode.UNAVAILABLE),
    (errors.StateLocked("locked"), StatusCode.FAILED_PRECONDITION),
]


@pytest.mark.parametrize(("error", "status"), STATUSES, ids=[type(error).__name__ for error, _ in STATUSES])
def test_status(error: errors.X0dError, status: StatusCode) -> None:
    """Each error has the status that tells a program what to do about it."""
    assert status == status_of(error)


def test_every_refusal_of_the_kernel_is_listed() -> None:
    """No error of the kernel's family is left to chance."""

    def below(kind: type[errors.X0dError]) -> set[type[errors.X0dError]]:
        return {kind}.union(*(below(narrower) for narrower in kind.__subclasses__()))

    assert below(errors.KernelRefused) <= {type(error) for error, _ in STATUSES}


def test_verifiers_last_words_reach_the_caller() -> None:
    """The error's text ends with the end of the verifier's log, however long that is, and fits a header."""
    log = "".join(f"{number}: r1 = r2\n" for number in range(10_000)) + "R1 invalid mem access 'scalar'\n"
    details = details_of(errors.ProgramRejected("load x0d_deny", EACCES, "rejected", log))
    assert details.startswith("load x0d_deny: EACCES: rejected\n")
    assert details.endswith("R1 invalid mem access 'scalar'")
    assert details == fitting(details)
    assert len(details) < DETAILS_BYTES_MAX
