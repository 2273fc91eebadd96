"""Tables for people, on terminals of any width.

Piped, a table is plain and as wide as it needs to be: nothing is cut.  On a terminal no cell is ever
broken, except that prose wraps between words: ids, causes and states can be copied.  Where a table
is too wide, the columns that do not fit go below their row, indented: short values with their
header, prose as it is.
"""

import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from x0ctl.output import clean, print_line

PIPED_WIDTH: Final = 4096
PROSE_WIDTH_MIN: Final = 36
"""A column of prose that would be narrower goes below the row."""
GAP: Final = "  "
INDENT: Final = "    "

Cells = Sequence[Sequence[str]]


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]], empty: str, *, prose: int = 0) -> None:
    """Print a table; ``empty`` instead when it has no row.  The last ``prose`` columns hold sentences."""
    cells = [[clean(value) for value in row] for row in rows]
    if not cells:
        print_line(empty)
        return
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else PIPED_WIDTH, highlight=False)
    if not terminal:
        with console.capture() as captured:
            console.print(_whole(headers, cells, 0))
        for printed in captured.get().splitlines():
            print_line(printed.rstrip())  # the last column is padded
    elif _fits(headers, cells, prose, console.width):
        console.print(_whole(headers, cells, prose))
    else:
        for line in narrow_lines(headers, cells, prose, console.width):
            console.print(line, no_wrap=True, overflow="ignore", crop=False)


def _widths(headers: Sequence[str], cells: Cells) -> list[int]:
    return [max(cell_len(text) for text in column) for column in zip(headers, *cells, strict=True)]


def _fits(headers: Sequence[str], cells: Cells, prose: int, width: int) -> bool:
    widths = _widths(headers, cells)
    first_prose = len(headers) - prose
    least = widths[:first_prose] + [min(each, PROSE_WIDTH_MIN) for each in widths[first_prose:]]
    return sum(least) + len(GAP) * (len(least) - 1) <= width


def _whole(headers: Sequence[str], cells: Cells, prose: int) -> Table:
    table = Table(box=None, show_edge=False, pad_edge=False, header_style="bold", padding=(0, len(GAP), 0, 0))
    for column, header in enumerate(headers):
        justify = "right" if _is_numeric(cells, column) else "left"
        table.add_column(header, justify=justify, no_wrap=column < len(headers) - prose)  # type: ignore[arg-type]
    for row in cells:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    return table


def narrow_lines(headers: Sequence[str], cells: Cells, prose: int, width: int) -> list[Text]:
    """Lines of at most ``width`` columns, unless one value alone is wider; see the module."""
    widths = _widths(headers, cells)
    shown, taken = 1, widths[0]
    while shown < len(headers) - prose and taken + len(GAP) + widths[shown] <= width:
        taken += len(GAP) + widths[shown]
        shown += 1
    right = [_is_numeric(cells, column) for column in range(shown)]
    lines = [_line([Text(header, style="bold") for header in headers[:shown]], widths, right)]
    for row in cells:
        lines.append(_line([Text(cell, style=_STYLES.get(cell, "")) for cell in row[:shown]], widths, right))
        lines += [Text(line) for line in _below(headers, row, shown, prose, width)]
    return lines


def _line(cells: Sequence[Text], widths: Sequence[int], right: Sequence[bool]) -> Text:
    padded = []
    for cell, width, to_the_right in zip(cells, widths, right, strict=False):
        space = Text(" " * (width - cell.cell_len))
        padded.append(space + cell if to_the_right else cell + space)
    line = Text(GAP).join(padded)
    line.rstrip()
    return line


def _below(headers: Sequence[str], row: Sequence[str], shown: int, prose: int, width: int) -> list[str]:
    first_prose = len(headers) - prose
    lines: list[str] = []
    for header, value in zip(headers[shown:first_prose], row[shown:first_prose], strict=True):
        if not value:
            continue
        named = f"{header.lower()} {value}"
        if lines and cell_len(lines[-1]) + len(GAP) + cell_len(named) <= width:
            lines[-1] += GAP + named
        else:
            lines.append(INDENT + named)
    for text in row[first_prose:]:
        room = max(width - len(INDENT), 1)
        lines += [INDENT + part for part in textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)]
    return lines


class LongTable:
    """A table of too many rows to wait for all of them: its columns are as wide as the first rows need.

    A later value that is wider shifts what stands behind it.  Rows are plain text, which is a hundred
    times quicker than rich's.
    """

    def __init__(self, headers: Sequence[str], first: Cells, *, prose: int) -> None:
        self._headers = headers
        self._prose = prose
        self._width = Console().width if sys.stdout.isatty() else None
        room = self._width or PIPED_WIDTH
        widths = _widths(headers, first)
        self._shown, taken = 1, widths[0]
        while self._shown < len(headers) - prose and taken + len(GAP) + widths[self._shown] <= room:
            taken += len(GAP) + widths[self._shown]
            self._shown += 1
        signs = (">" if _is_numeric(first, column) else "<" for column in range(self._shown))
        self._form = GAP.join(f"{{:{sign}{width}}}" for sign, width in zip(signs, widths, strict=False))

    def header(self) -> str:
        """Names of the columns that stand beside each other."""
        return "\n".join(self.row(self._headers)[:1])

    def row(self, cells: Sequence[str]) -> list[str]:
        """Lines of a row; what does not fit beside its first values goes below them."""
        beside = self._form.format(*cells[: self._shown])
        whole = GAP.join([beside, *cells[self._shown :]]).rstrip()
        if self._shown == len(cells) - self._prose and (self._width is None or cell_len(whole) <= self._width):
            return [whole]
        below = _below(self._headers, cells, self._shown, self._prose, self._width or PIPED_WIDTH)
        return [beside.rstrip(), *below]


def _is_numeric(cells: Cells, column: int) -> bool:
    return all(_NUMBER.fullmatch(row[column]) for row in cells)


_NUMBER: Final = re.compile(r"\s*[\d,]+(\.\d*)?%?( bytes)?\s*")


_STYLES: Final = {
    "up": "green",
    "attached": "green",
    "loaded": "green",
    "ok": "green",
    "closed": "green",
    "authenticated": "green",
    "done": "green",
    "down": "red",
    "unauthenticated": "red",
    "blocked": "red",
    "refused": "red",
    "failed": "red",
    "escalated": "red",
    "degraded": "yellow",
    "control_gone": "yellow",
    "detached": "yellow",
    "warning": "yellow",
}
"""Colour of a cell that is exactly this word."""
