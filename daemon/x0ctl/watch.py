"""``x0ctl watch`` and ``x0ctl top``: what goes on until Ctrl-C."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from x0ctl.command import Command, Group, Interval, Options

if TYPE_CHECKING:
    from x0d.v1.incident_pb2 import Incident

_TOLD_MAX: Final = 1000
_VERDICTS: Final = ("pass", "drop", "reflect", "consume", "deny", "limit")


@click.group(cls=Group)
def watch() -> None:
    """Follow changes until Ctrl-C."""


@watch.command("incidents")
@click.pass_obj
def watch_incidents(options: Options) -> None:
    """Print open incidents, then each change of one."""
    from x0ctl.incidents import print_change  # noqa: PLC0415 - start-up time
    from x0d.v1 import incident_pb2, incident_pb2_grpc  # noqa: PLC0415

    request = incident_pb2.WatchIncidentsRequest(include_open=True)
    stub = incident_pb2_grpc.IncidentServiceStub
    told: dict[str, tuple[object, ...]] = {}
    for message in options.client().stream(stub, "WatchIncidents", request):
        if options.json(message, one_line=True):
            continue
        shown = _shown(message.incident)
        if told.get(message.incident.id) != shown:
            print_change(message.incident)
        told[message.incident.id] = shown
        if len(told) > _TOLD_MAX:
            del told[next(iter(told))]


def _shown(incident: "Incident") -> tuple[object, ...]:
    """What the line about an incident depends on: a change of anything else is not told again."""
    last = incident.steps[-1] if incident.steps else None
    step = (last.step, last.since_fault_ms) if last else ()
    return (incident.state, incident.cause, incident.explanation, incident.closed_at_unix_ms, *step)


@watch.command("counters")
@click.option("--interval", "interval_ms", type=Interval(100, 60_000), default="1s", help="Such as 500ms or 5s.")
@click.pass_obj
def watch_counters(options: Options, interval_ms: int) -> None:
    """Print the counters, then those that change.

    Those of packets, each change with its rate.

    Example: x0ctl watch counters --interval 5s
    """
    from x0ctl.show_dataplane import CounterLines  # noqa: PLC0415 - start-up time
    from x0d.v1 import dataplane_pb2  # noqa: PLC0415

    request = dataplane_pb2.WatchStatsRequest(interval_ms=interval_ms)
    lines = CounterLines()
    for message in options.dataplane_stream("WatchStats", request):
        if not options.json(message, one_line=True):
            lines.print(message)


@watch.command("events")
@click.option("--verdict", "verdicts", type=click.Choice(_VERDICTS), multiple=True, help="Only these; repeatable.")
@click.pass_obj
def watch_events(options: Options, verdicts: Sequence[str]) -> None:
    """Print sampled packets as XDP sees them.

    One in as many as the configuration says.

    Example: x0ctl watch events --verdict deny --verdict limit
    """
    from x0ctl.show_dataplane import EventLines  # noqa: PLC0415 - start-up time
    from x0d.v1 import dataplane_pb2  # noqa: PLC0415

    lines = EventLines()
    for message in options.dataplane_stream("WatchEvents", dataplane_pb2.WatchEventsRequest(verdicts=verdicts)):
        if not options.json(message, one_line=True):
            lines.print(message)


@click.command(cls=Command)
@click.option("--interval", "interval_ms", type=Interval(200, 60_000), default="1s", help="Such as 500ms or 5s.")
@click.option("--talkers", type=click.IntRange(1, 100), default=10, help="At most this many sources.")
@click.option("--once", is_flag=True, help="Measure over one interval, print, end.")
@click.pass_obj
def top(options: Options, interval_ms: int, talkers: int, *, once: bool) -> None:
    """Show what is busiest.

    Interfaces, verdicts, talkers, and the kernel's drops by reason.

    Live on a terminal until Ctrl-C; elsewhere it measures once.  With -o json: an object a line until
    Ctrl-C.

    Example: x0ctl top --interval 500ms --talkers 20
    """
    from x0ctl import top as screen  # noqa: PLC0415 - start-up time
    from x0d.v1 import dataplane_pb2  # noqa: PLC0415

    request = dataplane_pb2.WatchTopRequest(interval_ms=interval_ms, talkers_max=talkers)
    messages = options.dataplane_stream("WatchTop", request)
    if options.output == "json":
        screen.stream_json(options, messages, once=once)
    elif once or not screen.is_live():
        screen.print_once(messages)
    else:
        screen.show_live(messages)
