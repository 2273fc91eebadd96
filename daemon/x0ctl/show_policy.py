"""Deny-list and limits as tables and lines."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import click

from x0ctl.output import clean, instant, print_line, print_table
from x0d.v1.dataplane_pb2 import (
    AddDenyResponse,
    AddLimitResponse,
    DenyEntry,
    ListDenyResponse,
    ListLimitsResponse,
    LoadDenyResponse,
    RemoveDenyResponse,
    RemoveLimitResponse,
)

if TYPE_CHECKING:
    from x0ctl.table import LongTable

TABLE_ROWS_MAX = 2_000
"""Longer lists are printed as they come: a table has to see its last row before the first."""


def _until(expires_at_unix_ms: int) -> str:
    return f"until {instant(expires_at_unix_ms)}" if expires_at_unix_ms else "for ever"


def _warn(warnings: Sequence[str]) -> None:
    """Tell what was forced, and what keeps it from working, where a pipe's reader does not take it for an answer."""
    for warning in warnings:
        click.echo(f"x0ctl: warning: {clean(warning)}", err=True)


def denied(reply: AddDenyResponse) -> None:
    """Print what is in force now."""
    for entry in reply.entries:
        print_line(clean(f"denied  {entry.prefix}  {_until(entry.expires_at_unix_ms)}"))
    _warn(reply.warnings)


def removed(reply: RemoveDenyResponse | RemoveLimitResponse) -> None:
    """Print how many there were, and which were not."""
    missing = f"; not there: {', '.join(reply.not_there)}" if reply.not_there else ""
    print_line(clean(f"removed {reply.removed}{missing}"))


def deny_entries(parts: Iterable[ListDenyResponse]) -> None:
    """Print entries: a short list as a table, a long one row by row, in columns as its first rows need them."""
    headers = ("PREFIX", "EXPIRES", "PACKETS DROPPED", "COMMENT")
    waiting: list[tuple[str, str, str, str]] = []
    long: LongTable | None = None
    for part in parts:
        waiting.extend(map(_cells, part.entries))
        if len(waiting) > TABLE_ROWS_MAX and long is None:
            long = _long_table(headers, waiting)
            print_line(long.header())
        if long is not None:
            print_line("\n".join(chain.from_iterable(map(long.row, waiting))))
            waiting.clear()
    if long is None:
        print_table(headers, waiting, "no entries", prose=1)


def _long_table(headers: Sequence[str], first: Sequence[Sequence[str]]) -> "LongTable":
    from x0ctl.table import LongTable  # noqa: PLC0415 - start-up time

    return LongTable(headers, first, prose=1)


def _cells(entry: DenyEntry) -> tuple[str, str, str, str]:
    return (clean(entry.prefix), instant(entry.expires_at_unix_ms), str(entry.hits), clean(entry.comment))


def loaded(reply: LoadDenyResponse, *, dry_run: bool) -> None:
    """Print what the new list has changed, or would change."""
    said = "checked, nothing was changed" if dry_run else "in force"
    print_line(
        f"{said}: {reply.entries} entries of {reply.lines} lines in {reply.took_ms:.0f} ms; "
        f"{reply.added} added, {reply.removed} removed, {reply.duplicates} duplicates"
    )
    _warn(reply.warnings)


def limited(reply: AddLimitResponse) -> None:
    """Print what is in force now."""
    limit = reply.limit
    print_line(
        clean(
            f"limited  {limit.prefix}  each source to {limit.rate_pps} packets/s, burst {limit.burst}  "
            f"{_until(limit.expires_at_unix_ms)}"
        )
    )
    _warn(reply.warnings)


def limits(reply: ListLimitsResponse) -> None:
    """Print the limits."""
    rows = [
        (row.prefix, row.rate_pps, row.burst, instant(row.expires_at_unix_ms), row.hits, row.comment)
        for row in reply.limits
    ]
    headers = ("PREFIX", "PACKETS/S", "BURST", "EXPIRES", "PACKETS DROPPED", "COMMENT")
    print_table(headers, rows, "no limits", prose=1)
