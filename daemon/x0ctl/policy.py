"""``x0ctl deny`` and ``x0ctl limit``: whom XDP drops, and how much the others may send."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from x0ctl.command import Duration, Group, Options, guarded

if TYPE_CHECKING:
    from x0d.v1.dataplane_pb2 import Guard, LoadDenyRequest, LoadDenyResponse


@click.group(cls=Group)
def deny() -> None:
    """Sources whose packets XDP drops."""


def _guard(*, force: bool) -> "Guard":
    from x0ctl.caller import own_caller_addresses  # noqa: PLC0415 - start-up time
    from x0d.v1 import dataplane_pb2  # noqa: PLC0415

    return dataplane_pb2.Guard(force=force, caller_addresses=own_caller_addresses())


@deny.command("add")
@click.argument("prefixes", metavar="PREFIX...", nargs=-1, required=True)
@click.option("--for", "duration_s", type=Duration(), help="It ends by itself then, such as 30s, 10m, 2h, 1d.")
@click.option("--comment", default="", help="Why.")
@guarded
@click.pass_obj
def deny_add(options: Options, prefixes: Sequence[str], duration_s: int | None, comment: str, *, force: bool) -> None:
    """Deny addresses and prefixes, all or none.

    Example: x0ctl deny add 192.0.2.7 2001:db8::/32 --for 2h --comment "port scan"
    """
    from x0ctl import show_policy  # noqa: PLC0415 - start-up time
    from x0d.v1 import dataplane_pb2  # noqa: PLC0415

    request = dataplane_pb2.AddDenyRequest(
        prefixes=prefixes, duration_s=duration_s or 0, comment=comment, guard=_guard(force=force)
    )
    reply = options.dataplane("AddDeny", request, dataplane_pb2.AddDenyResponse)
    if not options.json(reply):
        show_policy.denied(reply)


@deny.command("remove")
@click.argument("prefixes", metavar="PREFIX...", nargs=-1, required=True)
@click.pass_obj
def deny_remove(options: Options, prefixes: Sequence[str]) -> None:
    """Remove entries; those that are not there are named.

    Example: x0ctl deny remove 192.0.2.7
    """
    from x0ctl import show_policy  # noqa: PLC0415 - start-up time
    from x0d.v1 import dataplane_pb2  # noqa: PLC0415

    request = dataplane_pb2.RemoveDenyRequest(prefixes=prefixes)
    reply = options.dataplane("RemoveDeny", request, dataplane_pb2.RemoveDenyResponse)
    if not options.json(reply):
        show_policy.removed(reply)


@deny.command("list")
@click.argument("match", default="")
@click.pass_obj
def deny_list(options: Options, match: str) -> None:
    """List the entries, or those that MATCH.

    With MATCH: the entries that cover this address, or lie in this prefix.

    Example: x0ctl deny list 192.0.2.0/24
    """
    from x0ctl import show_policy  # noqa: PLC0415 - start-up time
    from x0d.v1 import dataplane_pb2  # noqa: PLC0415

    request = dataplane_pb2.ListDenyRequest(match=match)
    parts = options.dataplane_stream("ListDeny", request)
    if options.output != "json":
        show_policy.deny_entries(parts)
        return
    for part in parts:
        options.json(part, one_line=True)


@deny.command("load")
@click.argument("file", metavar="FILE|-")
@click.option("--dry-run", is_flag=True, help="Only check.")
@guarded
@click.pass_obj
def deny_load(options: Options, file: str, *, dry_run: bool, force: bool) -> None:
    """Replace the whole list by a file's lines.

    What is in force is the old list or the new one, never half.  A line of the file is an address or a
    prefix, then for=DURATION and a # comment if wanted.

    Example: x0ctl deny load /etc/x0d/deny.txt --dry-run
    """
    from x0ctl import show_policy  # noqa: PLC0415 - start-up time
    from x0ctl.listfile import read_list, whole_lines  # noqa: PLC0415
    from x0ctl.progress import bar  # noqa: PLC0415

    text = read_list(file)
    parts = list(whole_lines(file, text))
    requests = _load_requests(file, iter(parts), dry_run=dry_run, guard=_guard(force=force))
    answered = iter(parts)
    read = 0
    last: LoadDenyResponse | None = None
    with bar(len(text), shown=options.output != "json") as tell:
        tell("reading", read)
        for message in options.dataplane_stream("LoadDeny", requests):
            if options.json(message, one_line=True):
                continue
            last = message
            if message.phase == "reading":
                read += len(next(answered, ""))
                tell("reading", read)
            else:
                tell("checking" if dry_run else "putting in force", None)
    if last is not None:
        show_policy.loaded(last, dry_run=dry_run)


def _load_requests(name: str, parts: Iterator[str], *, dry_run: bool, guard: "Guard") -> "Iterator[LoadDenyRequest]":
    from x0d.v1 import dataplane_pb2  # noqa: PLC0415 - start-up time

    header = dataplane_pb2.LoadDenyHeader(name="stdin" if name == "-" else name[-255:], guard=guard, dry_run=dry_run)
    yield dataplane_pb2.LoadDenyRequest(header=header)
    for lines in parts:
        yield dataplane_pb2.LoadDenyRequest(lines=lines)
    yield dataplane_pb2.LoadDenyRequest(end=dataplane_pb2.LoadDenyEnd())


@click.group(cls=Group)
def limit() -> None:
    """How many packets each source may send."""


@limit.command("add")
@click.argument("prefix")
@click.option("--rate", type=click.IntRange(1, 10_000_000), required=True, help="Packets per second, for each source.")
@click.option("--burst", type=click.IntRange(0, 1_000_000), default=0, help="0: a tenth of a second's, at least 10.")
@click.option("--for", "duration_s", type=Duration(), help="It ends by itself then, such as 30s, 10m, 2h, 1d.")
@click.option("--comment", default="", help="Why.")
@guarded
@click.pass_obj
def limit_add(
    options: Options, prefix: str, rate: int, burst: int, duration_s: int | None, comment: str, *, force: bool
) -> None:
    """Limit each source address in a prefix; the longest prefix counts.

    Example: x0ctl limit add 203.0.113.0/24 --rate 1000 --burst 200
    """
    from x0ctl import show_policy  # noqa: PLC0415 - start-up time
    from x0d.v1 import dataplane_pb2  # noqa: PLC0415

    request = dataplane_pb2.AddLimitRequest(
        prefix=prefix,
        rate_pps=rate,
        burst=burst,
        duration_s=duration_s or 0,
        comment=comment,
        guard=_guard(force=force),
    )
    reply = options.dataplane("AddLimit", request, dataplane_pb2.AddLimitResponse)
    if not options.json(reply):
        show_policy.limited(reply)


@limit.command("remove")
@click.argument("prefixes", metavar="PREFIX...", nargs=-1, required=True)
@click.pass_obj
def limit_remove(options: Options, prefixes: Sequence[str]) -> None:
    """Remove limits; those that are not there are named.

    Example: x0ctl limit remove 203.0.113.0/24
    """
    from x0ctl import show_policy  # noqa: PLC0415 - start-up time
    from x0d.v1 import dataplane_pb2  # noqa: PLC0415

    request = dataplane_pb2.RemoveLimitRequest(prefixes=prefixes)
    reply = options.dataplane("RemoveLimit", request, dataplane_pb2.RemoveLimitResponse)
    if not options.json(reply):
        show_policy.removed(reply)


@limit.command("list")
@click.pass_obj
def limit_list(options: Options) -> None:
    """List the limits and the packets that they have dropped.

    Example: x0ctl limit list
    """
    from x0ctl import show_policy  # noqa: PLC0415 - start-up time
    from x0d.v1 import dataplane_pb2  # noqa: PLC0415

    reply = options.dataplane("ListLimits", dataplane_pb2.ListLimitsRequest(), dataplane_pb2.ListLimitsResponse)
    if not options.json(reply):
        show_policy.limits(reply)
