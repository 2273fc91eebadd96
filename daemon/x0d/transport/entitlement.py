"""Who gets which identity from a node's own Workload API, by what the kernel says of the process that connects.

SO_PEERCRED names the process that has called connect().  Its pid is ours only if that process is this one: we live, so
nobody else can have our pid, and the socket is younger than we are.  Other processes are told apart by uid and groups
alone, for a pid may be used again between the look and the answer.
"""

import grp
import os
import pwd
from collections.abc import Callable
from typing import Final

from x0d.errors import InvalidInput
from x0d.identity.spiffe_id import SpiffeId
from x0d.transport.access import Caller

Entitlement = Callable[[Caller], SpiffeId | None]
"""The ID that a process may have; None: nothing is for it here."""

ROOT: Final = "root"


def issuer_entitlement(own_id: SpiffeId, viewer_group: str) -> Entitlement:
    """On the issuer: the daemon is the node, uid 0 is operator ``root``, members of the group are operators by name."""

    def entitle(caller: Caller) -> SpiffeId | None:
        if caller.pid == os.getpid():
            return own_id
        if caller.uid == 0:
            return _operator(own_id, ROOT)
        if caller.groups & gids_of(viewer_group):
            name = _user_name(caller.uid)
            # a second account of that name, with another uid, is not root
            return None if name in {None, ROOT} else _operator(own_id, str(name))
        return None

    return entitle


def joined_entitlement(own_id: SpiffeId) -> Entitlement:
    """On a node that has joined: the daemon and uid 0 are the node; there are no operators to vouch for."""

    def entitle(caller: Caller) -> SpiffeId | None:
        return own_id if caller.pid == os.getpid() or caller.uid == 0 else None

    return entitle


def gids_of(group: str) -> frozenset[int]:
    """The group's id as a set; empty when this host has no such group, and then nobody is a member."""
    try:
        return frozenset({grp.getgrnam(group).gr_gid})
    except KeyError:
        return frozenset()


def _user_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _operator(own_id: SpiffeId, name: str) -> SpiffeId | None:
    """``/operator/NAME``; None for an account whose name cannot be part of an ID."""
    try:
        return SpiffeId.parse(f"spiffe://{own_id.trust_domain}/operator/{name}")
    except InvalidInput:
        return None
