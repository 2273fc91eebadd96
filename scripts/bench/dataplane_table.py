"""Lines of the benchmark's table: ours, theirs, their ratio, and what was promised."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.figures import table

HEAD = ("", "x0d", "xdp-filter", "ratio", "target", "met")


@dataclass(frozen=True, slots=True)
class Target:
    """What a line promises: its median is at most this."""

    limit: float
    of_ratio: bool = False
    """About x0d / xdp-filter, not about x0d's own figure."""
    is_aim: bool = False
    """Worth aiming for, not promised."""
    least: float | None = None
    """Where too little is wrong as well."""

    def text(self, unit: str) -> str:
        """As in ``<= 1.00x``."""
        number = f"{self.limit:.2f}x" if self.of_ratio else f"{self.limit:g} {unit}".rstrip()
        bounds = f"<= {number}" if self.least is None else f"{self.least:g} to {number}"
        return f"aim {bounds}" if self.is_aim else bounds

    def met(self, found: float) -> bool:
        """Whether a median keeps it."""
        return found <= self.limit and (self.least is None or found >= self.least)


@dataclass(frozen=True, slots=True)
class Row:
    """One line; the figures of a round stand at the same place in both lists."""

    what: str
    ours: Sequence[float] = ()
    theirs: Sequence[float] = ()
    target: Target | None = None
    unit: str = "ns"
    digits: int = 0
    paired: bool = True
    """``ours`` and ``theirs`` were measured in turns, so that their ratio is taken round by round."""

    def cells(self) -> list[str]:
        """Text for each column of ``HEAD``."""
        ratios = self.ratios()
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else ""
        target = self.target.text(self.unit) if self.target else ""
        return [self.what, self._text(self.ours), self._text(self.theirs), ratio, target, self._met(ratios)]

    def ratios(self) -> list[float]:
        """Ours / theirs, a value a round."""
        if not (self.ours and self.theirs):
            return []
        return [own / other for own, other in zip(self.ours, self.theirs, strict=True) if other > 0]

    def _met(self, ratios: Sequence[float]) -> str:
        chosen = ratios if self.target and self.target.of_ratio else self.ours
        if not (self.target and chosen):
            return ""
        return "yes" if self.target.met(statistics.median(chosen)) else "no"

    def _text(self, values: Sequence[float]) -> str:
        if not values:
            return ""
        median, least, most = (
            f"{each:.{self.digits}f}" for each in (statistics.median(values), min(values), max(values))
        )
        spread = "" if len(values) == 1 else f" ({least}-{most})"
        return f"{median}{spread} {self.unit}".rstrip()


def render(rows: Iterable[Row]) -> str:
    """The table: medians with (least-most) of the rounds."""
    return table(HEAD, [row.cells() for row in rows])


def unmet(rows: Iterable[Row]) -> list[str]:
    """Lines whose promise, not only aim, is not kept."""
    return [row.what for row in rows if row.target and not row.target.is_aim and row.cells()[-1] == "no"]


def unreached(rows: Iterable[Row]) -> list[str]:
    """Lines whose aim is not reached."""
    return [row.what for row in rows if row.target and row.target.is_aim and row.cells()[-1] == "no"]
