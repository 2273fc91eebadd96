"""Link-state database: the newest record of every node, its age, and a digest of all versions.

The origin makes its record anew at least every ``record_max_s / 4``; every holder lets it age (the age
travels with the record), and forgets it at ``record_max_s``.  Holders do not forget at the same
instant, so a record in the last tenth of its life is *faded*: it counts neither in the digest nor in
summaries, and is not learned anew, or two neighbours would hand it back and forth.

The digest is the sum (mod 2^64) of a hash of each version: independent of order, changed in constant
time.  Two neighbours whose digests differ send each other summaries of all their versions, and each
sends what the other lacks: a repair that needs no request.

Limits: 4,096 nodes and 16 MiB of records; past either, unknown origins are refused and counted.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from x0d.mesh.codec import Summary, Version
from x0d.mesh.model import LinkStateRecord

NODES_MAX = 4096
BODY_BYTES_MAX = 16 * 1024 * 1024
FADED_SHARE = 0.9
DIGEST_MODULUS = 2**64


@dataclass(frozen=True, slots=True)
class KnownRecord:
    """A record and its age."""

    record: LinkStateRecord
    body: bytes
    """As it travels."""
    made_at_s: float
    """When the origin made it, by this node's monotonic clock."""

    @property
    def version(self) -> Version:
        """Which record it is."""
        return Version(self.record.origin, self.record.incarnation, self.record.sequence)

    def age_s(self, now_s: float) -> float:
        """Seconds since the origin made it."""
        return max(0.0, now_s - self.made_at_s)


def version_hash(version: Version) -> int:
    """64 bits that stand for one version."""
    numbers = struct.pack("!QQ", version.incarnation, version.sequence)
    return int.from_bytes(hashlib.blake2b(version.origin.encode() + b"\0" + numbers, digest_size=8).digest())


class Database:
    """Newest record by origin."""

    def __init__(self, record_max_s: float) -> None:
        self._record_max_s = record_max_s
        self._known: dict[str, KnownRecord] = {}
        self._current: dict[str, int] = {}
        self._bytes = 0
        self.digest = 0
        """Of all versions that have not faded."""
        self.changes = 0
        """Rises with every change of content."""
        self.refused = 0
        """Records of unknown origins for which there was no room."""

    @property
    def known(self) -> Mapping[str, KnownRecord]:
        """All records, by origin."""
        return self._known

    @property
    def current_count(self) -> int:
        """Records that have not faded: those in the digest."""
        return len(self._current)

    def get(self, origin: str) -> KnownRecord | None:
        """The newest record of a node."""
        return self._known.get(origin)

    def put(self, now_s: float, record: LinkStateRecord, body: bytes, age_s: float, *, own: bool = False) -> bool:
        """Take a record that is newer than the one known; False where it is too old or there is no room.

        There is always room for this node's ``own``.
        """
        old = self._known.get(record.origin)
        assert old is None or old.record.version < record.version
        if age_s >= self._record_max_s * FADED_SHARE:
            return False
        size = self._bytes + len(body) - (len(old.body) if old else 0)
        full = (old is None and len(self._known) >= NODES_MAX) or self._bytes < size > BODY_BYTES_MAX
        if full and not own:
            self.refused += 1
            return False
        self._bytes = size
        known = KnownRecord(record, body, now_s - age_s)
        self._known[record.origin] = known
        self._drop_current(record.origin)
        self._current[record.origin] = version_hash(known.version)
        self.digest = (self.digest + self._current[record.origin]) % DIGEST_MODULUS
        self.changes += 1
        return True

    def age(self, now_s: float) -> tuple[str, ...]:
        """Let records fade; forget those at the end of their life and return their origins."""
        gone = []
        for origin, known in list(self._known.items()):
            age_s = known.age_s(now_s)
            if age_s >= self._record_max_s * FADED_SHARE:
                self._drop_current(origin)
            if age_s >= self._record_max_s:
                del self._known[origin]
                self._bytes -= len(known.body)
                self.changes += 1
                gone.append(origin)
        return tuple(gone)

    def _drop_current(self, origin: str) -> None:
        self.digest = (self.digest - self._current.pop(origin, 0)) % DIGEST_MODULUS

    def versions(self) -> tuple[Version, ...]:
        """All versions that have not faded, by origin."""
        return tuple(self._known[origin].version for origin in sorted(self._current))

    def lacking(self, summary: Summary) -> tuple[str, ...]:
        """Origins in the summary's range of which its sender has an older record than we, or none."""
        theirs = {version.origin: version.number for version in summary.versions}
        return tuple(
            origin
            for origin in sorted(self._current)
            if summary.after < origin
            and (not summary.upto or origin <= summary.upto)
            and theirs.get(origin, (-1, -1)) < self._known[origin].record.version
        )
