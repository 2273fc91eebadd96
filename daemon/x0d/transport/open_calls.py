"""Calls under way, so that whoever may look cannot keep out who must act.

A call costs memory and a place from its headers on, whether or not its request ever comes.  So it is counted when the
gate knows whose it is, and refused when its principal has too many, or all together have.  Who is not an admin shares
less than half of the room, and no admin can fill the rest alone.  Strangers are refused before they are counted.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from x0d.identity.model import Principal
from x0d.identity.roles import Role

CALLS_MAX: Final = 1024
"""Under way at a time on one listener, streams among them."""
CALLS_OTHERS_MAX: Final = 448
"""Of these, for all who are not admins together."""
CALLS_PER_PRINCIPAL_MAX: Final = 64
"""Of one who is not an admin: a SPIFFE ID, or a uid."""
CALLS_PER_ADMIN_MAX: Final = 256
"""Of one admin: a program of theirs that hangs leaves room for another."""


class OpenCalls:
    """Every call of one server that holds a place."""

    def __init__(self) -> None:
        self._by_name: Counter[str] = Counter()
        self._total = 0
        self._others = 0

    def __len__(self) -> int:
        return self._total

    def excess(self, principal: Principal) -> str:
        """Say why this principal's next call is one too many; empty when it is not."""
        is_admin = Role.ADMIN in principal.roles
        own, own_max = self._by_name[principal.name], CALLS_PER_ADMIN_MAX if is_admin else CALLS_PER_PRINCIPAL_MAX
        if own >= own_max:
            return f"{own} calls of yours are under way, the most that are allowed"
        if self._total >= CALLS_MAX or (not is_admin and self._others >= CALLS_OTHERS_MAX):
            return "too many calls are under way; try again"
        return ""

    @contextmanager
    def hold(self, principal: Principal) -> Iterator[None]:
        """Count one call while the block lasts."""
        other = Role.ADMIN not in principal.roles
        self._by_name[principal.name] += 1
        self._total += 1
        self._others += other
        try:
            yield
        finally:
            self._others -= other
            self._total -= 1
            self._by_name[principal.name] -= 1
            if not self._by_name[principal.name]:
                del self._by_name[principal.name]
