"""How long our own SVID holds, judged at one instant of the wall clock.

Nothing is remembered from one look to the next: a clock that jumps and comes back changes the answer for as long as it
is wrong, and neither opens nor closes anything beyond the next look.

An SVID is renewed at half of its life; when less than a third is left, whoever renews it has missed that for long
enough that somebody should know.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

RENEWED_AT: Final = 1 / 2
"""Share of the life after which an SVID is due for renewal; SPIRE's agents keep to the same."""
LATE_AT: Final = 2 / 3
JITTER: Final = 1 / 10
"""Of the life: nodes that joined together do not renew together."""


class Validity(StrEnum):
    """What an SVID is good for now."""

    VALID = "valid"
    MISSING = "missing"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Look:
    """What holds at one instant."""

    validity: Validity
    left_s: float
    """Until it ends; 0 when it has ended or there is none."""
    due: bool
    """Half of its life is over, or there is nothing that could be used: it is to be renewed."""
    late: bool
    """Less than a third is left, and it should have been renewed long ago."""

    @property
    def usable(self) -> bool:
        """Whether it may be shown to anybody."""
        return self.validity is Validity.VALID


def look(not_before_unix_s: float, not_after_unix_s: float, now_unix_s: float) -> Look:
    """Judge an SVID at an instant of the wall clock.

    Args:
        not_before_unix_s: beginning of its life.
        not_after_unix_s: end of its life, of the chain's earliest certificate; 0: there is no SVID.
        now_unix_s: wall clock.
    """
    if not_after_unix_s == 0:
        return Look(Validity.MISSING, 0.0, due=True, late=False)
    left_s = not_after_unix_s - now_unix_s
    if left_s <= 0:
        return Look(Validity.EXPIRED, 0.0, due=True, late=True)
    if now_unix_s < not_before_unix_s:
        return Look(Validity.NOT_YET_VALID, left_s, due=False, late=False)
    life_s = not_after_unix_s - not_before_unix_s
    spent_s = now_unix_s - not_before_unix_s
    return Look(Validity.VALID, left_s, due=spent_s >= life_s * RENEWED_AT, late=spent_s > life_s * LATE_AT)


def renewal_at(not_before_unix_s: float, not_after_unix_s: float, chance: float) -> float:
    """Choose the instant of renewal: half of the life, a twentieth of it sooner or later.

    Args:
        not_before_unix_s: beginning of the life.
        not_after_unix_s: end of the life.
        chance: 0 to 1, random; the same one for as long as the SVID is the same.
    """
    life_s = max(0.0, not_after_unix_s - not_before_unix_s)
    return not_before_unix_s + life_s * (RENEWED_AT + JITTER * (chance - 0.5))
