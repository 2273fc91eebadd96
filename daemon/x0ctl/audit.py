"""``x0ctl audit``: what was changed, by whom."""

import click

from x0ctl.command import Group, Options


@click.group(cls=Group)
def audit() -> None:
    """What was changed, by whom."""


@audit.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, help="At most this many, newest first.")
@click.pass_obj
def audit_list(options: Options, limit: int) -> None:
    """List the calls that changed something.

    Newest first, with what held before and after.  The table cuts long texts; -o json has them whole.

    Example: x0ctl audit list --limit 20
    """
    from x0ctl import show_audit  # noqa: PLC0415 - start-up time
    from x0d.v1 import audit_pb2, audit_pb2_grpc  # noqa: PLC0415

    request = audit_pb2.ListRecordsRequest(limit=limit)
    stub = audit_pb2_grpc.AuditServiceStub
    reply = options.client().unary(stub, "ListRecords", request, audit_pb2.ListRecordsResponse)
    if not options.json(reply):
        show_audit.records(reply)
