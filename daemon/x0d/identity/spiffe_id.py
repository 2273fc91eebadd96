"""SPIFFE IDs: who a peer is, byte for byte.

An ID names a trust domain and a path below it, such as ``spiffe://dev.x0d.test/node/n1``.  Nothing is normalised and
nothing decoded: two IDs are the same if their bytes are, and what does not follow the grammar is refused (SPIFFE-ID
sections 2.1 to 2.4).  ``re.fullmatch`` throughout: ``match`` with ``$`` lets a final newline through.
"""

import re
from dataclasses import dataclass
from typing import Final

from x0d.errors import InvalidInput

ID_BYTES_MAX: Final = 2_048
DEV_SUFFIXES: Final = (".test", ".example", ".invalid")
"""Reserved names (RFC 2606) that no production network can own."""

_PREFIX: Final = "spiffe://"
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """The part of an ID that a root of trust vouches for."""

    name: str

    @classmethod
    def parse(cls, text: str) -> "TrustDomain":
        """Read a name, with or without ``spiffe://``.

        Raises:
            InvalidInput: it is none.
        """
        name = text.removeprefix(_PREFIX)
        if not _TRUST_DOMAIN.fullmatch(name):
            raise InvalidInput(f"{text[:70]!r} is no trust domain: a-z, 0-9, '.', '-' and '_' are allowed, at most 255")
        return cls(name)

    @property
    def is_dev(self) -> bool:
        """Whether the name is one that only development and documentation may use."""
        return f".{self.name}".endswith(DEV_SUFFIXES)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """An ID with a path; one without names a trust domain and no workload."""

    trust_domain: TrustDomain
    path: str
    """Begins with a slash: ``/node/n1``."""

    @classmethod
    def parse(cls, text: str) -> "SpiffeId":
        """Read an ID.

        Raises:
            InvalidInput: it does not follow the grammar, is too long, or has no path.
        """
        shown = repr(text[:70])
        if len(text.encode(errors="replace")) > ID_BYTES_MAX:
            raise InvalidInput(f"{shown} is no SPIFFE ID: longer than {ID_BYTES_MAX} bytes")
        if not text.startswith(_PREFIX):
            raise InvalidInput(f"{shown} is no SPIFFE ID: it begins with {_PREFIX}")
        name, slash, path = text.removeprefix(_PREFIX).partition("/")
        if not _TRUST_DOMAIN.fullmatch(name):
            raise InvalidInput(f"{shown} is no SPIFFE ID: its trust domain has a-z, 0-9, '.', '-' and '_', at most 255")
        if not slash:
            raise InvalidInput(f"{shown} names a trust domain and nobody in it: a path is missing")
        for segment in path.split("/"):
            if segment in {".", ".."} or not _SEGMENT.fullmatch(segment):
                raise InvalidInput(f"{shown} is no SPIFFE ID: {segment[:40]!r} cannot be part of its path")
        return cls(TrustDomain(name), f"/{path}")

    def __str__(self) -> str:
        return f"{_PREFIX}{self.trust_domain}{self.path}"


def node_id(trust_domain: TrustDomain, name: str) -> SpiffeId:
    """ID of the daemon on node ``name``."""
    return SpiffeId.parse(f"{_PREFIX}{trust_domain}/node/{name}")
