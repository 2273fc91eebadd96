"""Who gets which identity from a node's own Workload API, by what the kernel says of the process that connects.

SO_PEERCRED names the process that has called connect().  Its pid is ours only if that process is this one: we live, so
nobody else can have our pid, and the socket is younger than we are.  Other processes are told apart by uid and groups
alone, for a pid may be used again between the look and the answer.

Names of accounts come from the host's directories, which may be a server that hangs.  So a connection is judged by
numbers alone, and the name is looked up in a thread, for a call.
"""

import os
from typing import Final, Protocol

from x0d.errors import InvalidInput
from x0d.identity.spiffe_id import SpiffeId
from x0d.transport.access import Caller
from x0d.transport.accounts import ROOT, user_name

LOOK_UP_S_MAX: Final = 5.0
"""For an account's name."""


class Entitlement(Protocol):
    """What is for whom on one node."""

    def may_ask(self, caller: Caller) -> bool:
        """Whether anything can be for this process; without looking anything up."""

    async def of(self, caller: Caller) -> SpiffeId | None:
        """The ID that the process may have; None: nothing is for it here.

        Raises:
            TimeoutError: the account's name could not be looked up in time.
        """


class IssuerEntitlement:
    """On the issuer: the daemon is the node, uid 0 is operator ``root``, members of the group are operators by name."""

    def __init__(self, own_id: SpiffeId) -> None:
        """``own_id`` is the node's; a caller's ``groups`` are none but the operators'."""
        self._own_id = own_id

    def may_ask(self, caller: Caller) -> bool:
        """Whether it is the daemon, root, or a member of the group."""
        return caller.pid == os.getpid() or caller.uid == 0 or bool(caller.groups)

    async def of(self, caller: Caller) -> SpiffeId | None:
        """The node's ID, or an operator's by the name of the account."""
        if caller.pid == os.getpid():
            return self._own_id
        if caller.uid == 0:
            return self._operator(ROOT)
        if not caller.groups:
            return None
        name = await user_name(caller.uid, LOOK_UP_S_MAX)
        # a second account of that name, with another uid, is not root
        return None if name in {None, ROOT} else self._operator(str(name))

    def _operator(self, name: str) -> SpiffeId | None:
        """``/operator/NAME``; None for an account whose name cannot be part of an ID."""
        try:
            return SpiffeId.parse(f"spiffe://{self._own_id.trust_domain}/operator/{name}")
        except InvalidInput:
            return None


class JoinedEntitlement:
    """On a node that has joined: the daemon and uid 0 are the node; there are no operators to vouch for."""

    def __init__(self, own_id: SpiffeId) -> None:
        self._own_id = own_id

    def may_ask(self, caller: Caller) -> bool:
        """Whether it is the daemon or root."""
        return caller.pid == os.getpid() or caller.uid == 0

    async def of(self, caller: Caller) -> SpiffeId | None:
        """The node's ID."""
        return self._own_id if self.may_ask(caller) else None
