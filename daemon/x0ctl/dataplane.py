"""``x0ctl ebpf``: programs, attachments, counters, measurements."""

from collections.abc import Sequence

import click

from x0ctl.command import Duration, Group, Options

CONFIG_DEFAULT = "/etc/x0d/x0d.toml"
DETACHING = (
    "Taking x0d's programs off every interface and removing every pin and map. No probe is answered without them:\n"
    "all links go down, the others route around this node, it leaves the mesh. Nothing is counted, denied or limited\n"
    "until x0ctl ebpf attach --all or a restart of x0d."
)
TRACE_S_MAX = 300


@click.group(cls=Group)
def ebpf() -> None:
    """The data plane: programs in this host's kernel."""


@ebpf.command("list")
@click.pass_obj
def ebpf_list(options: Options) -> None:
    """List attachments, programs, maps and object files.

    Example: x0ctl ebpf list
    """
    from x0ctl import show_dataplane  # noqa: PLC0415 - start-up time
    from x0d.v1 import dataplane_pb2  # noqa: PLC0415

    reply = options.dataplane("ListPrograms", dataplane_pb2.ListProgramsRequest(), dataplane_pb2.ListProgramsResponse)
    if not options.json(reply):
        show_dataplane.programs(reply)


@ebpf.command("stats")
@click.pass_obj
def ebpf_stats(options: Options) -> None:
    """Show what the programs count on this host.

    Example: x0ctl ebpf stats
    """
    from x0ctl import show_dataplane  # noqa: PLC0415 - start-up time
    from x0d.v1 import dataplane_pb2  # noqa: PLC0415

    reply = options.dataplane("GetStats", dataplane_pb2.GetStatsRequest(), dataplane_pb2.GetStatsResponse)
    if not options.json(reply):
        show_dataplane.stats(reply)


def _check_named(interfaces: Sequence[str], *, everything: bool) -> None:
    if interfaces and everything:
        raise click.UsageError("name interfaces, or say --all, not both")
    if not interfaces and not everything:
        raise click.UsageError("name interfaces, or say --all")


@ebpf.command("attach")
@click.argument("interfaces", metavar="[INTERFACE]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every interface of the configuration.")
@click.pass_obj
def ebpf_attach(options: Options, interfaces: Sequence[str], *, everything: bool) -> None:
    """Take up interfaces that detach has left.

    Exits 1 when one of them is blocked.

    Example: x0ctl ebpf attach eth1
    """
    from x0ctl import show_dataplane  # noqa: PLC0415 - start-up time
    from x0ctl.failure import EXIT_FAILED, Failure  # noqa: PLC0415
    from x0ctl.output import clean  # noqa: PLC0415
    from x0d.v1 import dataplane_pb2  # noqa: PLC0415

    _check_named(interfaces, everything=everything)
    request = dataplane_pb2.AttachRequest(interfaces=interfaces, all=everything)
    reply = options.dataplane("Attach", request, dataplane_pb2.AttachResponse)
    if not options.json(reply):
        show_dataplane.attachments(reply.attachments)
    blocked = [row for row in reply.attachments if row.state == "blocked"]
    if blocked:
        raise Failure(EXIT_FAILED, "\n".join(clean(f"{row.interface} is blocked: {row.reason}") for row in blocked))


@ebpf.command("detach")
@click.argument("interfaces", metavar="[INTERFACE]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every interface, with every program, pin and map.")
@click.option("--config", default=CONFIG_DEFAULT, help="Of x0d; read when --all finds no daemon running.")
@click.pass_obj
def ebpf_detach(options: Options, interfaces: Sequence[str], config: str, *, everything: bool) -> int:
    """Leave interfaces until attach or a restart of x0d.

    No probe is answered there: the links over them go down, traffic is routed around.  With --all nothing of
    x0d stays in the kernel, and this node leaves the mesh.  Without a daemon, x0d --detach-all is run instead.

    Example: x0ctl ebpf detach eth1
    """
    from x0ctl import offline_detach, show_dataplane  # noqa: PLC0415 - start-up time
    from x0ctl.failure import EXIT_UNREACHABLE, Failure  # noqa: PLC0415
    from x0d.v1 import dataplane_pb2  # noqa: PLC0415

    _check_named(interfaces, everything=everything)
    if everything:
        click.echo(DETACHING, err=True)
    request = dataplane_pb2.DetachRequest(interfaces=interfaces, all=everything)
    try:
        reply = options.dataplane("Detach", request, dataplane_pb2.DetachResponse)
    except Failure as failure:
        if failure.exit_code != EXIT_UNREACHABLE or not everything or not options.is_local:
            raise
        return offline_detach.run(config)
    if not options.json(reply):
        show_dataplane.attachments(reply.attachments)
        if not everything:
            show_dataplane.left(reply.attachments)
    return 0


@ebpf.command("upgrade")
@click.pass_obj
def ebpf_upgrade(options: Options) -> None:
    """Put the compiled objects on disk in force.

    All or nothing; no packet is missed.

    Example: x0ctl ebpf upgrade
    """
    from x0ctl import show_dataplane  # noqa: PLC0415 - start-up time
    from x0d.v1 import dataplane_pb2  # noqa: PLC0415

    reply = options.dataplane("Upgrade", dataplane_pb2.UpgradeRequest(), dataplane_pb2.UpgradeResponse)
    if not options.json(reply):
        show_dataplane.upgraded(reply)


@ebpf.group("trace")
def ebpf_trace() -> None:
    """Measure for a while what costs too much to measure always."""


@ebpf_trace.command("syscalls")
@click.option("--for", "duration_s", type=Duration(TRACE_S_MAX, "5 minutes"), default="10s", help="At most 5m.")
@click.option("--every", type=click.IntRange(1, 10_000), default=10, help="Measure one call in so many.")
@click.pass_obj
def ebpf_trace_syscalls(options: Options, duration_s: int, every: int) -> None:
    """Measure how long system calls take.

    Those of the whole host.  Ctrl-C ends it and shows what was measured so far.

    Example: x0ctl ebpf trace syscalls --for 30s --every 100
    """
    from x0ctl import show_dataplane  # noqa: PLC0415 - start-up time
    from x0ctl.progress import bar  # noqa: PLC0415
    from x0d.v1 import dataplane_pb2  # noqa: PLC0415

    request = dataplane_pb2.TraceRequest(program="syscalls", duration_s=duration_s, sample_every=every)
    last = dataplane_pb2.TraceResponse()
    try:
        with bar(duration_s, shown=options.output != "json") as tell:
            for message in options.dataplane_stream("Trace", request):
                if not options.json(message, one_line=True):
                    last = message
                    tell("measuring", message.elapsed_s)
    except KeyboardInterrupt:
        if options.output != "json":
            show_dataplane.traced(last, every)
        raise
    if options.output != "json":
        show_dataplane.traced(last, every)
