"""The lock-out guard at work: what is protected now, whom it refused, what was forced."""

from collections.abc import Callable, Collection, Sequence
from ipaddress import ip_address
from typing import Final

from x0d.errors import InvalidInput, WouldLockOut
from x0d.policy.guard import Protected, lock_outs
from x0d.policy.model import PrefixKey, pack, shown
from x0d.service.policy_held import aside

CALLER_ADDRESSES_MAX: Final = 16
COVERED_TOLD_MAX: Final = 5
"""Sentences about a list in an alert."""


class LockOutGuard:
    """Refuses what would lock out, unless it is forced; then it tells of it."""

    def __init__(self, protected: Callable[[], Sequence[Protected]]) -> None:
        self._protected = protected
        self.refused = 0
        """Calls refused so far."""
        self.forced = 0
        """Calls that were forced against it so far."""

    async def judge(
        self, prefixes: Collection[PrefixKey], *, force: bool, caller_addresses: Sequence[str]
    ) -> tuple[str, ...]:
        """Answer what was forced, in sentences.  ``prefixes`` must not change meanwhile.

        Raises:
            WouldLockOut: it was not forced.
            InvalidInput: a caller's address is none.
        """
        protected = (*_callers(caller_addresses), *self._protected())
        reasons = await aside(len(prefixes), lock_outs, prefixes, protected)
        if reasons and not force:
            self.refused += 1
            raise WouldLockOut(reasons)
        self.forced += bool(reasons)
        return reasons

    async def covered(self, prefixes: Collection[PrefixKey]) -> tuple[str, ...]:
        """What these cover, however it came to be.  ``prefixes`` must not change meanwhile."""
        return await aside(len(prefixes), lock_outs, prefixes, tuple(self._protected()), COVERED_TOLD_MAX)


def _callers(texts: Sequence[str]) -> list[Protected]:
    if len(texts) > CALLER_ADDRESSES_MAX:
        raise InvalidInput(f"{len(texts)} addresses of the caller, at most {CALLER_ADDRESSES_MAX} are allowed")
    protected = []
    for text in texts:
        try:
            address = ip_address(text)  # with its zone, which an SSH client on a link-local address has
        except ValueError:
            raise InvalidInput(f"{shown(text)} is no address of a caller") from None
        protected.append(Protected(pack(address), "the address that you call from", overlap=False))
    return protected
