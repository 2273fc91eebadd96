"""How long the benchmark of identities measures."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Effort:
    """The same for every section."""

    runs: int
    """Turns of each comparison."""
    seconds: float
    """Of each turn with and without hostile callers; a rotation run takes four times as long."""
    rate: int = 1_000
    """Hostile datagrams, or handshakes, a second."""
    calls: int = 2_000
    """Unary calls a turn."""
    large: int = 60
    """Calls with 1 MiB a turn."""
    connections: int = 40
    """New connections a turn."""
    rotations: int = 100

    @classmethod
    def quick(cls) -> Self:
        """Enough to see that it works."""
        return cls(runs=2, seconds=2.0, calls=200, large=10, connections=5, rotations=20)
