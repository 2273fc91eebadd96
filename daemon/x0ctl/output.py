"""What commands print: protobuf's JSON, or tables and lines for people.

Tables are plain and as wide as they need to be when stdout is no terminal, so that nothing is cut
when it is piped.
"""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import click
from google.protobuf.message import Message

PIPED_WIDTH: Final = 4096


def print_json(message: Message, *, one_line: bool = False) -> None:
    """Print with the proto's own field names and with default values."""
    from google.protobuf.json_format import MessageToJson  # noqa: PLC0415 - start-up time

    indent = None if one_line else 2
    text = MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=indent
    )
    print_line(text)


def print_line(text: str) -> None:
    """Print and flush: whoever follows a stream sees it at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def clean(value: object) -> str:
    """Text without control characters: what other nodes say reaches this terminal."""
    return "".join(character if character.isprintable() else "?" for character in str(value))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print a table; ``empty`` instead when it has no row.  Cells fold, they are never cut."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - only for tables: start-up time
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    cells = [[clean(value) for value in row] for row in rows]
    if not cells:
        print_line(empty)
        return
    terminal = sys.stdout.isatty()
    table = Table(box=SIMPLE_HEAD if terminal else None, show_edge=False, pad_edge=False, header_style="bold")
    for column, header in enumerate(headers):
        numbers = all(_is_number(row[column]) for row in cells)
        table.add_column(header, justify="right" if numbers else "left", overflow="fold", no_wrap=not terminal)
    for row in cells:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console(width=None if terminal else PIPED_WIDTH, highlight=False).print(table)


def print_fields(rows: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one a line."""
    pairs = [(name, clean(value)) for name, value in rows]
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        print_line(
            f"{click.style(name.ljust(width), bold=True) if sys.stdout.isatty() else name.ljust(width)}  {value}"
        )


def instant(unix_ms: int) -> str:
    """Local time with milliseconds; ``-`` for 0."""
    if unix_ms == 0:
        return "-"
    local = datetime.fromtimestamp(unix_ms / 1000, tz=UTC).astimezone()
    return local.strftime("%Y-%m-%d %H:%M:%S.") + f"{unix_ms % 1000:03}"


def duration(seconds: float) -> str:
    """Such as ``4.2 s``, ``3 min 10 s`` or ``2 d 5 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest_s} s"


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).replace("%", "").strip().isdigit()


_STYLES: Final = {
    "up": "green",
    "attached": "green",
    "ok": "green",
    "closed": "green",
    "down": "red",
    "blocked": "red",
    "failed": "red",
    "escalated": "red",
    "degraded": "yellow",
    "control_gone": "yellow",
    "warning": "yellow",
}
"""Colour of a cell that is exactly this word."""
