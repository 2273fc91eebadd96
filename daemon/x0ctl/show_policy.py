"""Deny-list and limits as tables and lines."""

from collections.abc import Iterable, Sequence

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

TABLE_ROWS_MAX = 2_000
"""Longer lists are printed as they come: a table has to see its last row before the first."""


def _until(expires_at_unix_ms: int) -> str:
    return f"until {instant(expires_at_unix_ms)}" if expires_at_unix_ms else "for ever"


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print_line(f"FORCED  {clean(warning)}")


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
    """Print entries: a short list as a table, a long one line by line."""
    headers = ("PREFIX", "EXPIRES", "PACKETS DROPPED", "COMMENT")
    waiting: list[tuple[str, str, str, str]] = []
    is_long = False
    for part in parts:
        waiting.extend(map(_cells, part.entries))
        if len(waiting) > TABLE_ROWS_MAX and not is_long:
            is_long = True
            print_line(_line(headers))
        if is_long:
            print_line("\n".join(map(_line, waiting)))
            waiting.clear()
    if not is_long:
        print_table(headers, waiting, "no entries", prose=1)


def _cells(entry: DenyEntry) -> tuple[str, str, str, str]:
    return (entry.prefix, instant(entry.expires_at_unix_ms), str(entry.hits), entry.comment)


def _line(cells: tuple[str, str, str, str]) -> str:
    prefix, expires, hits, comment = map(clean, cells)
    return f"{prefix:<43}  {expires:<23}  {hits:>15}  {comment}".rstrip()


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
