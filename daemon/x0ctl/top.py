"""What is busiest, as a screen that is drawn anew with each message, or printed once.

The first message of a watch has no rates: there is nothing before it.  A print waits for the second.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from x0ctl.command import Options
from x0ctl.failure import EXIT_UNREACHABLE, Failure
from x0ctl.output import clean, instant, print_line, print_table
from x0ctl.terminal import restored_on_sigterm
from x0d.v1.dataplane_pb2 import WatchTopResponse

Rows = Sequence[Sequence[str]]
Section = tuple[tuple[str, ...], Rows, str]
"""Headers, rows, and what to say where there is no row."""

_PREFIXES: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def is_live() -> bool:
    """Whether there is a terminal to draw on, and not one that only takes lines."""
    return sys.stdout.isatty() and not Console().is_dumb_terminal


def stream_json(options: Options, messages: Iterator[WatchTopResponse], *, once: bool) -> None:
    """Print an object a line; with ``once`` only the first that has rates."""
    for message in [_measured(messages)] if once else messages:
        options.json(message, one_line=True)


def print_once(messages: Iterator[WatchTopResponse]) -> None:
    """Print one measurement as tables."""
    message = _measured(messages)
    print_line(clean(headline(message)))
    for headers, rows, empty in sections(message):
        print_line("")
        print_table(headers, rows, empty)


def show_live(messages: Iterable[WatchTopResponse]) -> None:
    """Draw until the stream ends, Ctrl-C or SIGTERM; the terminal is as before then."""
    console = Console(highlight=False)
    start = Text("measuring ...")
    with restored_on_sigterm(), Live(start, console=console, screen=True, auto_refresh=False) as live:
        for message in messages:
            live.update(_screen(message), refresh=True)


def _measured(messages: Iterator[WatchTopResponse]) -> WatchTopResponse:
    for message in messages:
        if message.interval_s > 0:
            return message
    raise Failure(EXIT_UNREACHABLE, "x0d ended the measurement", "systemctl status x0d")


def _screen(message: WatchTopResponse) -> RenderableType:
    interfaces, verdicts, drops, talkers = (_drawn(section) for section in sections(message))
    beside = Table.grid(padding=(0, 4))
    beside.add_row(verdicts, drops)
    gap = Text("")
    return Group(Text(clean(headline(message)), style="bold"), gap, interfaces, gap, beside, gap, talkers)


def _drawn(section: Section) -> RenderableType:
    headers, rows, empty = section
    if not rows:
        return Text(empty, style="dim")
    table = Table(box=None, show_edge=False, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column, header in enumerate(headers):
        table.add_column(header, justify="left" if column == 0 or header == "MODE" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    return table


def headline(message: WatchTopResponse) -> str:
    """Time, and how full the lists are."""
    return (
        f"{instant(message.at_unix_ms)}  over {message.interval_s:.1f} s   deny entries {message.deny_entries}   "
        f"limits {message.limits}   sources tracked {message.sources_tracked}"
    )


def sections(message: WatchTopResponse) -> tuple[Section, Section, Section, Section]:
    """Interfaces, verdicts, drops, talkers."""
    interfaces = [
        (row.interface, row.mode or "-", rate(row.packets_per_s), rate(row.bits_per_s), rate(row.dropped_per_s))
        for row in message.interfaces
    ]
    verdicts = [(row.verdict, rate(row.packets_per_s), str(row.packets)) for row in message.verdicts]
    drops = [(row.reason, rate(row.packets_per_s), str(row.packets)) for row in message.drops]
    talkers = [
        (row.source, rate(row.packets_per_s), rate(row.bits_per_s), rate(row.limited_per_s), str(row.packets))
        for row in message.talkers
    ]
    return (
        (("INTERFACE", "MODE", "PACKETS/S", "BIT/S", "DROPPED/S"), interfaces, "no interface"),
        (("VERDICT", "PACKETS/S", "PACKETS"), verdicts, "no packet counted"),
        (("KERNEL DROPS", "PACKETS/S", "PACKETS"), drops, "no drop by the kernel seen"),
        (("TALKER", "PACKETS/S", "BIT/S", "LIMITED/S", "PACKETS"), talkers, "no source tracked"),
    )


def rate(value: float) -> str:
    """Such as ``0``, ``4.2``, ``812`` or ``1.35M``."""
    for size, prefix in _PREFIXES:
        if value >= size:
            return f"{value / size:.2f}{prefix}"
    return f"{value:.0f}" if value >= 10 or value == 0 else f"{value:.1f}"
