"""How long the benchmark of the data plane measures."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Effort:
    """The same for every section."""

    rounds: int
    repeat: int = 20_000
    """Packets a slice."""
    slices: int = 9
    """Of a round."""
    replacements: int = 200
    """Swaps of a stage, and whole upgrades."""

    @classmethod
    def quick(cls) -> Self:
        """Enough to see that it works."""
        return cls(rounds=3, slices=3, repeat=5_000, replacements=20)
