"""Who may call what: one table, method x role, and what unix users and groups hold.

A method that the table does not name is refused to everybody, and so is one that is not the caller's: deny by default,
on every listener.  ``Caller`` is the process at the other end of a unix socket, as the kernel tells of it; over TCP a
caller is a SPIFFE ID (``tls_callers.py``).
"""

import grp
import os
import pwd
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from x0d.identity.roles import Binding, Role


@dataclass(frozen=True, slots=True)
class Caller:
    """The process at the other end of a unix connection, as it was when it connected."""

    pid: int
    """0: a process of another pid namespace."""
    uid: int
    groups: frozenset[int]
    """Those of its groups that somebody asked for, primary and supplementary; the others are not kept."""

    def __str__(self) -> str:
        return f"uid {self.uid}"


READERS: Final = frozenset({Role.VIEWER, Role.OPERATOR, Role.ADMIN})
CHANGERS: Final = frozenset({Role.OPERATOR, Role.ADMIN})
ADMINS: Final = frozenset({Role.ADMIN})
PEERS: Final = frozenset({Role.PEER})
JOINERS: Final = frozenset({Role.JOINER})

METHODS: Final[dict[str, frozenset[Role]]] = {
    "/grpc.health.v1.Health/Check": READERS,
    "/grpc.health.v1.Health/List": READERS,
    "/grpc.health.v1.Health/Watch": READERS,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": READERS,
    "/x0d.v1.AuditService/ListRecords": CHANGERS,
    "/x0d.v1.DataplaneService/AddDeny": CHANGERS,
    "/x0d.v1.DataplaneService/AddLimit": CHANGERS,
    "/x0d.v1.DataplaneService/Attach": ADMINS,
    "/x0d.v1.DataplaneService/Detach": ADMINS,
    "/x0d.v1.DataplaneService/GetStats": READERS,
    "/x0d.v1.DataplaneService/ListDeny": READERS,
    "/x0d.v1.DataplaneService/ListLimits": READERS,
    "/x0d.v1.DataplaneService/ListPrograms": READERS,
    "/x0d.v1.DataplaneService/LoadDeny": CHANGERS,
    "/x0d.v1.DataplaneService/RemoveDeny": CHANGERS,
    "/x0d.v1.DataplaneService/RemoveLimit": CHANGERS,
    "/x0d.v1.DataplaneService/Trace": CHANGERS,
    "/x0d.v1.DataplaneService/Upgrade": ADMINS,
    "/x0d.v1.DataplaneService/WatchEvents": READERS,
    "/x0d.v1.DataplaneService/WatchStats": READERS,
    "/x0d.v1.DataplaneService/WatchTop": READERS,
    "/x0d.v1.IdentityService/CheckIdentity": READERS,
    "/x0d.v1.IdentityService/CreateToken": ADMINS,
    "/x0d.v1.IdentityService/GetIdentity": READERS,
    "/x0d.v1.IdentityService/ListDescriptors": READERS,
    "/x0d.v1.IdentityService/ListTokens": ADMINS,
    "/x0d.v1.IdentityService/RevokeToken": ADMINS,
    "/x0d.v1.IncidentService/GetIncident": READERS,
    "/x0d.v1.IncidentService/ListIncidents": READERS,
    "/x0d.v1.IncidentService/WatchIncidents": READERS,
    "/x0d.v1.IssuerService/RenewSvid": PEERS,
    "/x0d.v1.JoinService/Join": JOINERS,
    "/x0d.v1.MeshService/ListLinks": READERS,
    "/x0d.v1.MeshService/ListNodes": READERS,
    "/x0d.v1.MeshService/ListRoutes": READERS,
    "/x0d.v1.NodeService/GetStatus": READERS,
    "/x0d.v1.NodeService/Reload": CHANGERS,
    "/x0d.v1.NodeService/RunDoctor": READERS,
    "/x0d.v1.PeerService/AgreeKey": PEERS,
    "/x0d.v1.PeerService/ExchangeDescriptors": PEERS,
}
"""Method to the roles that may call it; a method that is not here is refused to everybody."""

AUDITED: Final = frozenset(
    {
        *(method for method, roles in METHODS.items() if Role.VIEWER not in roles and Role.PEER not in roles),
        "/x0d.v1.IssuerService/RenewSvid",
    }
    - {"/x0d.v1.AuditService/ListRecords", "/x0d.v1.IdentityService/ListTokens"}
)
"""Methods that change something: each call leaves a record, or is refused."""

WHILE_STARTING: Final = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
        "/x0d.v1.NodeService/GetStatus",
    }
)
"""Answered before the node is ready; all others are refused as retryable until then."""


@dataclass(frozen=True, slots=True)
class UnixRoles:
    """Which uids and groups hold which roles on the unix control socket."""

    by_uid: Mapping[int, frozenset[Role]]
    by_gid: Mapping[int, frozenset[Role]]
    unknown: tuple[str, ...] = ()
    """Bound accounts that this host does not have, such as ``operator for user anna``."""

    @classmethod
    def of_bindings(cls, bindings: Iterable[Binding], viewer_group: str) -> "UnixRoles":
        """Root and our own uid are admins, members of ``viewer_group`` viewers; the bindings add to that.

        A user or group that this host does not have holds nothing, until the next reload; ``unknown`` names those that
        somebody has bound.
        """
        by_uid: dict[int, frozenset[Role]] = dict.fromkeys((0, os.geteuid()), frozenset({Role.ADMIN}))
        by_gid: dict[int, frozenset[Role]] = {}
        unknown: dict[str, None] = {}
        built_in = Binding(Role.VIEWER, group=viewer_group)
        for binding in (built_in, *bindings):
            if binding.user:
                held, number, account = by_uid, _uid_of(binding.user), f"user {binding.user}"
            elif binding.group:
                held, number, account = by_gid, gid_of(binding.group), f"group {binding.group}"
            else:
                continue  # a SPIFFE ID, which calls over TCP
            if number is not None:
                held[number] = held.get(number, frozenset()) | {binding.role}
            elif binding is not built_in:
                unknown[f"{binding.role.value} for {account}"] = None
        return cls(by_uid, by_gid, tuple(unknown))

    @property
    def gids(self) -> frozenset[int]:
        """Groups that a role is bound to."""
        return frozenset(self.by_gid)

    def of(self, caller: Caller) -> frozenset[Role]:
        """Every role that the caller holds."""
        nothing: frozenset[Role] = frozenset()
        return self.by_uid.get(caller.uid, nothing).union(*(self.by_gid.get(gid, nothing) for gid in caller.groups))


def _uid_of(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def gid_of(group: str) -> int | None:
    """The group's id; None when there is no such group, and then nobody is a member."""
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None
