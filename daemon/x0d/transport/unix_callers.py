"""Callers on the unix control socket: the front says which process, the bindings say which roles.

What does not come through the front is nobody, even under the daemon's own uid.  Refusals are told in full here:
whoever can open the socket is on this host and may know what is missing.
"""

import contextlib
from collections.abc import Callable
from typing import Any, Final

from grpc import aio

from x0d.errors import IdentityRefused
from x0d.identity.model import Principal, Reason
from x0d.identity.roles import Role
from x0d.transport.access import METHODS, Caller, UnixRoles
from x0d.transport.accounts import user_name
from x0d.transport.front import Standing

NAMES_MAX: Final = 512
"""Of accounts, held."""
LOOK_UP_S_MAX: Final = 1.0
"""A connection waits for its account's name."""

_ORDER: Final = (Role.VIEWER, Role.OPERATOR, Role.ADMIN, Role.PEER, Role.JOINER)


class UnixCallers:
    """Who calls over a front; ``roles`` may be replaced at any time."""

    def __init__(self, roles: UnixRoles, viewer_group: str) -> None:
        self.caller_of: Callable[[str], Caller | None] = _nobody
        """The front's, once there is one."""
        self._viewer_group = viewer_group
        self._names: dict[int, str] = {}
        self.roles = roles

    def authenticate(self, context: "aio.ServicerContext[Any, Any]") -> Principal:
        """Who makes this call.

        Raises:
            IdentityRefused: it does not come through the front.
        """
        caller = self.caller_of(context.peer())
        if caller is None:
            raise IdentityRefused(Reason.FOREIGN_PROCESS, "call through the control socket x0d.sock")
        name = self._names.get(caller.uid)
        shown = f"uid {caller.uid} ({name})" if name else f"uid {caller.uid}"
        return Principal(shown, self.roles.of(caller), uid=caller.uid, groups=caller.groups)

    async def learn(self, caller: Caller) -> None:
        """Look up the name of whoever connects, for people; where nobody can say it in time its number must do."""
        if caller.uid in self._names:
            return
        if len(self._names) >= NAMES_MAX:
            self._names.clear()
        with contextlib.suppress(TimeoutError):  # asked again at the next connection
            self._names[caller.uid] = await user_name(caller.uid, LOOK_UP_S_MAX) or ""

    def standing_of(self, caller: Caller) -> Standing:
        """Anyone may connect; admins have room of their own."""
        return Standing.PRIVILEGED if Role.ADMIN in self.roles.of(caller) else Standing.ORDINARY

    def explain(self, method: str, principal: Principal) -> str:
        """Say why this caller may not call."""
        needed = METHODS.get(method, frozenset({Role.ADMIN}))
        who = " or ".join(role.value for role in _ORDER if role in needed)
        if principal.roles:
            return f"{principal.name} may not call {method}: it needs the role {who}"
        ways = f"root is admin, group {self._viewer_group} viewer, [[identity.bindings]] give more"
        return f"{principal.name} has no role here, and {method} needs the role {who}; {ways}"

    def judge(self, principal: Principal, method: str) -> None:
        """Look again whether the caller of a stream may go on with it, with the roles of now.

        Raises:
            IdentityRefused: it may not.
        """
        assert principal.uid is not None
        if not METHODS.get(method, frozenset()) & self.roles.of(Caller(0, principal.uid, principal.groups)):
            raise IdentityRefused(Reason.POLICY, f"{principal.name} has lost the role for {method}")


def _nobody(_peer: str) -> None:
    """No connection is known before there is a front."""
