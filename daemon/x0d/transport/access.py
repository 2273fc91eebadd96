"""Who may call what on the control socket.

The front binds each relayed connection to a name that says who opened it, such as
``u1000-g998-17``: uid, the groups that roles are bound to, and a number.  gRPC shows that name as
the peer of a call; here it becomes a ``Caller``, and one table says which role a method needs.  A
method that the table does not name is refused to everybody.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final
from urllib.parse import unquote


class Role(IntEnum):
    """What a caller may do; a higher role includes the lower ones."""

    NOBODY = 0
    VIEWER = 1
    """Members of the viewer group: may read."""
    ADMIN = 2
    """uid 0 and the daemon's own uid: may change things."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The process at the other end of a control connection."""

    uid: int
    groups: frozenset[int]
    """Those of its groups that a role is bound to; the others are not carried."""

    def __str__(self) -> str:
        return f"uid {self.uid}"


METHODS: Final[dict[str, Role]] = {
    "/grpc.health.v1.Health/Check": Role.VIEWER,
    "/grpc.health.v1.Health/List": Role.VIEWER,
    "/grpc.health.v1.Health/Watch": Role.VIEWER,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Role.VIEWER,
    "/x0d.v1.DataplaneService/AddDeny": Role.ADMIN,
    "/x0d.v1.DataplaneService/AddLimit": Role.ADMIN,
    "/x0d.v1.DataplaneService/Attach": Role.ADMIN,
    "/x0d.v1.DataplaneService/Detach": Role.ADMIN,
    "/x0d.v1.DataplaneService/GetStats": Role.VIEWER,
    "/x0d.v1.DataplaneService/ListDeny": Role.VIEWER,
    "/x0d.v1.DataplaneService/ListLimits": Role.VIEWER,
    "/x0d.v1.DataplaneService/ListPrograms": Role.VIEWER,
    "/x0d.v1.DataplaneService/LoadDeny": Role.ADMIN,
    "/x0d.v1.DataplaneService/RemoveDeny": Role.ADMIN,
    "/x0d.v1.DataplaneService/RemoveLimit": Role.ADMIN,
    "/x0d.v1.DataplaneService/Trace": Role.ADMIN,
    "/x0d.v1.DataplaneService/Upgrade": Role.ADMIN,
    "/x0d.v1.DataplaneService/WatchEvents": Role.VIEWER,
    "/x0d.v1.DataplaneService/WatchStats": Role.VIEWER,
    "/x0d.v1.DataplaneService/WatchTop": Role.VIEWER,
    "/x0d.v1.IncidentService/GetIncident": Role.VIEWER,
    "/x0d.v1.IncidentService/ListIncidents": Role.VIEWER,
    "/x0d.v1.IncidentService/WatchIncidents": Role.VIEWER,
    "/x0d.v1.MeshService/ListLinks": Role.VIEWER,
    "/x0d.v1.MeshService/ListNodes": Role.VIEWER,
    "/x0d.v1.MeshService/ListRoutes": Role.VIEWER,
    "/x0d.v1.NodeService/GetStatus": Role.VIEWER,
    "/x0d.v1.NodeService/Reload": Role.ADMIN,
    "/x0d.v1.NodeService/RunDoctor": Role.VIEWER,
}
"""Method to the least role that may call it."""

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
