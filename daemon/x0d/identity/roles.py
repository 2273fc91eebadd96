"""Who holds which role: bindings of SPIFFE IDs, unix users and groups.

Deny by default: who is bound to nothing holds no role.  A pattern is an exact ID, or one that ends with ``/*`` and
stands for whole segments below its path: ``.../node/*`` matches ``.../node/n1`` and neither ``.../node`` nor
``.../nodeX``.  A ``*`` anywhere else is refused: partial wildcards are how others were entered (CVE-2020-15104).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from x0d.errors import InvalidInput
from x0d.identity.spiffe_id import SpiffeId, TrustDomain


class Role(StrEnum):
    """What a caller may do; see ``transport/access.py`` for the methods."""

    VIEWER = "viewer"
    """Reads."""
    OPERATOR = "operator"
    """Reads, and changes what ends by itself or is undone with one command: lists, limits, reload."""
    ADMIN = "admin"
    """Everything that people may do."""
    PEER = "peer"
    """Another node's daemon: keys for the mesh, descriptors, renewal.  No method for people."""
    JOINER = "joiner"
    """Whoever calls the join port: a token is the proof there."""


BINDABLE: Final = (Role.VIEWER, Role.OPERATOR, Role.ADMIN, Role.PEER)
"""Roles that the configuration may give."""


@dataclass(frozen=True, slots=True)
class IdPattern:
    """One ID, or all IDs below a path."""

    trust_domain: TrustDomain
    path: str
    """``/node/n1``; of a subtree what stands before its ``/*``, so empty for a whole trust domain."""
    is_subtree: bool

    @classmethod
    def parse(cls, text: str) -> "IdPattern":
        """Read a pattern.

        Raises:
            InvalidInput: no SPIFFE ID is left without a final ``/*``, or there is another ``*``.
        """
        head, star, tail = text.partition("/*")
        if tail or "*" in head:
            raise InvalidInput(f"{text[:70]!r}: '*' stands only at the end, after a slash")
        if not star:
            exact = SpiffeId.parse(text)
            return cls(exact.trust_domain, exact.path, is_subtree=False)
        if "/" not in head.removeprefix("spiffe://"):
            if not head.startswith("spiffe://"):
                raise InvalidInput(f"{text[:70]!r} is no pattern: it begins with spiffe://")
            return cls(TrustDomain.parse(head), "", is_subtree=True)
        below = SpiffeId.parse(head)
        return cls(below.trust_domain, below.path, is_subtree=True)

    def matches(self, spiffe_id: SpiffeId) -> bool:
        """Whether the ID is the one, or lies below the path."""
        if spiffe_id.trust_domain != self.trust_domain:
            return False
        if self.is_subtree:
            return spiffe_id.path.startswith(f"{self.path}/")
        return spiffe_id.path == self.path

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}{'/*' if self.is_subtree else ''}"


@dataclass(frozen=True, slots=True)
class Binding:
    """One role for whoever matches; exactly one of ``pattern``, ``user`` and ``group`` is set."""

    role: Role
    pattern: IdPattern | None = None
    user: str = ""
    """Name of a unix user, on the control socket."""
    group: str = ""
    """Name of a unix group, on the control socket; supplementary groups count."""


def default_bindings(trust_domain: TrustDomain) -> tuple[Binding, ...]:
    """What holds without a word in the configuration: nodes are peers, root of the issuer rules, operators look."""
    return (
        Binding(Role.PEER, IdPattern(trust_domain, "/node", is_subtree=True)),
        Binding(Role.ADMIN, IdPattern(trust_domain, "/operator/root", is_subtree=False)),
        Binding(Role.VIEWER, IdPattern(trust_domain, "/operator", is_subtree=True)),
    )


def roles_of(spiffe_id: SpiffeId, bindings: Iterable[Binding]) -> frozenset[Role]:
    """Every role that the bindings give to an ID."""
    return frozenset(b.role for b in bindings if b.pattern is not None and b.pattern.matches(spiffe_id))
