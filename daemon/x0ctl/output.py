"""What commands print: protobuf's JSON, or lines for people; tables are drawn by ``x0ctl.table``."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import click
from google.protobuf.message import Message


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
    text = str(value)
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "?" for character in text)


def print_fields(rows: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one a line."""
    pairs = [(name, clean(value)) for name, value in rows]
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        print_line(
            f"{click.style(name.ljust(width), bold=True) if sys.stdout.isatty() else name.ljust(width)}  {value}"
        )


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]], empty: str, *, prose: int = 0) -> None:
    """Print a table; see ``x0ctl.table``, which is imported now: it needs rich, which JSON does not."""
    from x0ctl import table  # noqa: PLC0415 - start-up time

    table.print_table(headers, rows, empty, prose=prose)


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
