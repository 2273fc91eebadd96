"""Median, spread and tables: many trials in a few numbers, never an average alone."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """How measured values are distributed."""

    n: int
    least: float
    quarter: float
    """A quarter of the values are at most this."""
    median: float
    three_quarters: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread | None":
        """The spread of these values; None if there are none."""
        known = sorted(values)
        if not known:
            return None
        quarters = statistics.quantiles(known, n=4, method="inclusive") if len(known) > 1 else known * 3
        return cls(len(known), known[0], quarters[0], quarters[1], quarters[2], known[-1])

    def cells(self, digits: int = 0) -> list[str]:
        """Median, worst, spread and n, for a table; an infinite value, a trial that never recovered, shows as ``-``."""

        def text(value: float) -> str:
            return "-" if value == float("inf") else f"{value:.{digits}f}"

        spread = " / ".join(map(text, (self.least, self.quarter, self.three_quarters, self.most)))
        return [text(self.median), text(self.most), spread, str(self.n)]


SPREAD_HEAD = ("median", "worst", "min / p25 / p75 / max", "n")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(lines[0]), rule, *map(line, lines[1:])])


def ratio(ours: float, theirs: float) -> str:
    """How many times theirs ours is, such as ``1.25``; ``-`` where that has no meaning."""
    if theirs <= 0 or float("inf") in (ours, theirs):
        return "-"
    return f"{ours / theirs:.2f}"
