"""Versions of this node's own record: incarnation and sequence, above all that others hold of us."""

from x0d.errors import InvalidInput
from x0d.mesh.codec import NUMBER_MAX, Version

OUTBID_INTERVAL_S = 1.0
INCARNATION_AHEAD_MAX_NS = 80 * 365 * 86_400 * 10**9


class OwnVersion:
    """The version of our latest record, and when it may be raised above somebody else's."""

    def __init__(self, name: str, incarnation: int) -> None:
        self._name = name
        self.incarnation = incarnation
        self.sequence = 0
        self._outbid_at_s = float("-inf")
        self._due = False
        self._born_ns = incarnation
        self._started_at_s = 0.0

    def start(self, now_s: float) -> None:
        """Begin to count time: it is the first incarnation's instant now."""
        self._started_at_s = now_s

    def check(self, now_s: float, incarnation: int) -> None:
        """Refuse what is decades ahead of our clock, so that a node can always rise above a forged record of its own.

        The bound moves with the time: a number just below it is exceeded by one that is accepted a moment later.
        Hosts whose clock begins in 1970 accept those whose clock is right.

        Raises:
            InvalidInput: it is.
        """
        now_ns = self._born_ns + int((now_s - self._started_at_s) * 1e9)
        if incarnation > now_ns + INCARNATION_AHEAD_MAX_NS:
            raise InvalidInput(f"incarnation {incarnation} is more than 80 years ahead of this node's clock")

    def next(self) -> tuple[int, int]:
        """Incarnation and sequence of the record to be made now."""
        self.sequence += 1
        return (self.incarnation, self.sequence)

    def rise_above(self, version: Version) -> None:
        """Make our next record newer than this one of ours.

        Raises:
            InvalidInput: no version is newer than that.
        """
        if version.number <= (self.incarnation, self.sequence):
            return
        if version.incarnation < NUMBER_MAX:
            self.incarnation = version.incarnation + 1
            self.sequence = 0
        elif version.sequence < NUMBER_MAX:
            self.incarnation = version.incarnation
            self.sequence = version.sequence
        else:
            raise InvalidInput(f"record of this node {self._name} with the last version there is")

    def outbid(self, now_s: float) -> bool:
        """Whether to flood our record now; False: later, see ``outbid_due_s``."""
        if now_s - self._outbid_at_s < OUTBID_INTERVAL_S:
            self._due = True
            return False
        self._outbid_at_s = now_s
        self._due = False
        return True

    @property
    def outbid_due_s(self) -> float:
        """When to ask ``outbid`` again; infinity: not asked for."""
        return self._outbid_at_s + OUTBID_INTERVAL_S if self._due else float("inf")
