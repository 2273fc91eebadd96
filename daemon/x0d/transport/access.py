"""Who may call what on the control socket.

The front binds each relayed connection to a name that says who opened it, such as
``u1000-g998-17``: uid, the groups that roles are bound to, and a number.  gRPC shows that name as
the peer of a call; here it becomes a ``Caller``, and one table says which role a method needs.  A
method that the table does not name is refused to everybody.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from x0d.identity.roles import Role


@dataclass(frozen=True, slots=True)
class Caller:
    """The process at the other end of a control connection."""

    uid: int
    groups: frozenset[int]
    """Those of its groups that a role is bound to; the others are not carried."""

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
    - {"/x0d.v1.AuditService/ListRecords"}
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
class Roles:
    """Which uids and groups hold which role."""

    admin_uids: frozenset[int]
    viewer_gids: frozenset[int]

    def of(self, caller: Caller) -> Role:
        """Highest role that the caller holds."""
        if caller.uid in self.admin_uids:
            return Role.ADMIN
        if caller.groups & self.viewer_gids:
            return Role.VIEWER
        return Role.NOBODY


def name_of(caller: Caller, number: int) -> str:
    """File name that carries the caller; ``number`` makes it unique."""
    groups = "".join(f"-g{gid}" for gid in sorted(caller.groups))
    return f"u{caller.uid}{groups}-{number}"


_NAME = re.compile(r"u(\d+)((?:-g\d+)*)-\d+")


def caller_of(peer: str, directory: Path) -> Caller | None:
    """Read the caller out of gRPC's peer text, such as ``unix:/run/x0d/private/u1000-g998-17``.

    None for a peer that is not a name in ``directory``, thus did not come through the front.
    """
    scheme, _, path = peer.partition(":")
    parent, _, name = unquote(path).rpartition("/")
    match = _NAME.fullmatch(name)
    if scheme != "unix" or parent != str(directory) or match is None:
        return None
    return Caller(int(match[1]), frozenset(int(gid) for gid in match[2].split("-g")[1:]))
