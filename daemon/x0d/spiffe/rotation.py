"""When an issuer's roots come and go, as a function of the clock.

Three steps, so that at every instant each certificate that is valid verifies with every bundle that is in use:

1. at half of a root's life its successor is *published*: it is in the bundle and signs nothing;
2. one certificate's life later it is *activated*: whoever still has a valid certificate has renewed since step 1, and
   renewing brings the bundle along;
3. one certificate's life after that, and some slack, the old root is *dropped*: nothing it has signed can be valid.

A root that has expired cannot wait for step 2: its successor signs at once, and those who were away must join again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SLACK_S: Final = 120.0
"""Beyond the end of the last certificate of a root before it is dropped: clocks differ between hosts."""


class Step(StrEnum):
    """What is to be done next."""

    NONE = "none"
    PUBLISH = "publish"
    ACTIVATE = "activate"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class RootLife:
    """Instants of one root, Unix seconds."""

    not_before: float
    not_after: float
    published_at: float
    activated_at: float | None
    """None: it has signed nothing yet."""
    leaf_ttl_s_max: int
    """Longest life of a certificate that it has signed or may sign."""


def signer_of(lives: Sequence[RootLife]) -> int | None:
    """Index of the root that signs: the last one that is activated; None if there is none."""
    activated = [index for index, life in enumerate(lives) if life.activated_at is not None]
    return activated[-1] if activated else None


def next_step(lives: Sequence[RootLife], now: float) -> Step:
    """Judge; ``lives`` oldest first.  DROP is about the oldest, ACTIVATE about the newest."""
    signing = signer_of(lives)
    if signing is None:
        return Step.ACTIVATE if lives else Step.PUBLISH
    if signing > 0 and now > _last_use(lives[0], lives[1]) + SLACK_S:
        return Step.DROP
    signer = lives[signing]
    is_over = now >= signer.not_after
    if signing + 1 < len(lives):
        successor = lives[signing + 1]
        is_known = now >= successor.published_at + signer.leaf_ttl_s_max
        return Step.ACTIVATE if now >= successor.not_before and (is_known or is_over) else Step.NONE
    is_half_over = now >= signer.published_at + (signer.not_after - signer.published_at) / 2
    return Step.PUBLISH if is_half_over else Step.NONE


def _last_use(old: RootLife, successor: RootLife) -> float:
    """Instant at which the last certificate of a root ends that another has taken over from."""
    assert successor.activated_at is not None, "roots are activated in their order"
    return min(successor.activated_at + old.leaf_ttl_s_max, old.not_after)
