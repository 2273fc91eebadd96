"""What all commands share: their options, ``-o`` after the name, one call and its printing, durations.

Nothing heavy is imported here: ``--help`` and a usage error answer at once.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from x0ctl.endpoint import is_local

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from x0ctl.client import Client

OUTPUTS: Final = ("table", "json")

Reply = TypeVar("Reply", bound="Message")


@dataclass(frozen=True, slots=True)
class Options:
    """What stands before the command."""

    endpoint: str
    output: str
    timeout_s: float
    server_id: str
    """SPIFFE ID of who must answer at a remote endpoint; empty: nobody was named."""
    workload_socket: str
    """Where this caller's own identity comes from, for a remote endpoint."""

    @property
    def is_local(self) -> bool:
        """Whether the daemon of this host is asked."""
        return is_local(self.endpoint)

    def client(self) -> "Client":
        """Calls to the daemon until the command ends; nothing is sent yet.  Raises Failure."""
        from x0ctl.client import connected  # noqa: PLC0415 - start-up time

        return click.get_current_context().with_resource(connected(self))

    def json(self, message: "Message", *, one_line: bool = False) -> bool:
        """Print as JSON if that was asked for; False: the caller prints for people."""
        if self.output != "json":
            return False
        from x0ctl.output import print_json  # noqa: PLC0415 - start-up time

        print_json(message, one_line=one_line)
        return True

    def dataplane(self, method: str, request: "Message", kind: type[Reply]) -> Reply:
        """Call the data plane and wait for the answer.  Raises Failure."""
        from x0d.v1 import dataplane_pb2_grpc  # noqa: PLC0415 - start-up time

        return self.client().unary(dataplane_pb2_grpc.DataplaneServiceStub, method, request, kind)

    def dataplane_stream(self, method: str, request: "Message | Iterator[Message]") -> Iterator[Any]:
        """Call the data plane and give each message as it comes.  Raises Failure."""
        from x0d.v1 import dataplane_pb2_grpc  # noqa: PLC0415 - start-up time

        return self.client().stream(dataplane_pb2_grpc.DataplaneServiceStub, method, request)


def _put_output(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.obj = replace(context.obj, output=value)


class Command(click.Command):
    """Takes ``-o`` after its name too: that is where people add it.  An example in its help is not wrapped."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(*args, **kwargs)
        if self.help:
            self.help = inspect.cleandoc(self.help).replace("\nExample:", "\n\b\nExample:")
        kind = click.Choice(OUTPUTS)
        self.params.append(
            click.Option(
                ["-o", "--output"],
                type=kind,
                expose_value=False,
                callback=_put_output,
                help="For people or for programs; here or before the command.",
            )
        )


class Group(click.Group):
    """Makes such commands, and groups of them."""

    command_class = Command
    group_class = type


class Duration(click.ParamType[int]):
    """Whole seconds, written such as ``90s``, ``10m``, ``1h30m``, ``7d`` or ``2w``."""

    name = "duration"
    SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}

    def __init__(self, seconds_max: int = 315_360_000, most: str = "10 years") -> None:
        self._seconds_max = seconds_max  # ten years: whoever wants more wants no end
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401 - click's own
        """Read it; a usage error says how it is written."""
        if isinstance(value, int):
            return value
        if not re.fullmatch(r"(?:\d{1,9}[smhdw]){1,5}", value, re.ASCII):
            self.fail(f"{value!r} is no duration: write such as 90s, 10m, 1h30m, 7d or 2w", param, ctx)
        seconds = sum(int(number) * self.SECONDS[unit] for number, unit in re.findall(r"(\d+)(\w)", value, re.ASCII))
        if not 1 <= seconds <= self._seconds_max:
            self.fail(f"{value!r}: a duration is 1 second to {self._most} here", param, ctx)
        return seconds


class Interval(click.ParamType[int]):
    """Milliseconds, written such as ``500ms``, ``1s`` or ``1m``."""

    name = "interval"
    MS: Final = {"ms": 1, "s": 1_000, "m": 60_000}

    def __init__(self, least_ms: int, most_ms: int) -> None:
        self._least_ms = least_ms
        self._most_ms = most_ms

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401 - click's own
        """Read it; a usage error says how it is written."""
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m)", value, re.ASCII)
        if match is None:
            self.fail(f"{value!r} is no interval: write such as 500ms or 2s", param, ctx)
        interval_ms = round(float(match[1]) * self.MS[match[2]])
        if not self._least_ms <= interval_ms <= self._most_ms:
            self.fail(f"{value!r}: an interval is {self._least_ms} to {self._most_ms:,} ms here", param, ctx)
        return interval_ms


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--force`` of what the lock-out guard looks at."""
    text = "Put it in force although it covers what x0d, its neighbours or you need."
    return click.option("--force", is_flag=True, help=text)(command)
