"""The audit as a table."""

import re
from typing import Final
from urllib.parse import unquote

from x0ctl.output import instant, print_table
from x0d.v1.audit_pb2 import ListRecordsResponse

TEXT_CHARACTERS_MAX: Final = 60
"""Of each text of a record in the table: one may have 2,000, and a row is to stay a row."""
_PEER: Final = re.compile(r"\bipv[46]:(\S+)")


def records(reply: ListRecordsResponse) -> None:
    """Print what was changed, newest first; long texts are cut, JSON has them whole."""
    headers = ("AT", "WHO", "FROM", "CALL", "OUTCOME", "MS", "WHAT", "CHANGE", "WHY")
    rows = [
        (
            instant(row.at_unix_ms),
            _readable(row.who),
            _readable(row.address) or "here",
            row.method.removeprefix("/x0d.v1.").replace("Service/", "."),
            row.outcome,
            f"{row.took_ms:.1f}",
            _short(row.what),
            f"{_short(row.before)} -> {_short(row.after)}" if row.before or row.after else "",
            _short(row.detail),
        )
        for row in reply.records
    ]
    print_table(headers, rows, "nothing was changed yet", prose=3)


def _readable(text: str) -> str:
    """Write places as people do; records of an earlier x0d have gRPC's ``ipv6:%5Bfd00::7%5D:40000``."""
    return _PEER.sub(lambda match: unquote(match[1]), text)


def _short(text: str) -> str:
    """One line of a text, of which JSON has all."""
    line = ", ".join(part.strip() for part in text.splitlines() if part.strip())
    return line if len(line) <= TEXT_CHARACTERS_MAX else line[: TEXT_CHARACTERS_MAX - 3] + "..."
