"""The commands.  Each makes one call, then prints the message as JSON or as tables.

Here are those about the node, its mesh and its incidents; the others have modules of their own.

gRPC, the messages and rich are imported by the command that needs them: ``--help`` and a usage
error answer at once.
"""

import os
from typing import Final

import click

from x0ctl.audit import audit
from x0ctl.command import OUTPUTS, Group, Options
from x0ctl.dataplane import ebpf
from x0ctl.identity import identity
from x0ctl.policy import deny, limit
from x0ctl.watch import top, watch

ENDPOINT_DEFAULT: Final = "unix:///run/x0d/x0d.sock"
WORKLOAD_SOCKET_DEFAULT: Final = "/run/x0d/workload.sock"
TIMEOUT_S_DEFAULT: Final = 10.0


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--endpoint",
    default=ENDPOINT_DEFAULT,
    envvar="X0CTL_ENDPOINT",
    show_envvar=True,
    help="Where x0d answers: a socket of this host, or dns:///HOST:9470.",
)
@click.option(
    "--server-id",
    default="",
    envvar="X0CTL_SERVER_ID",
    show_envvar=True,
    metavar="SPIFFE_ID",
    show_default=False,
    help="Who must answer at dns:///HOST, such as spiffe://dev.x0d.test/node/n2.",
)
@click.option(
    "--workload-socket",
    default=WORKLOAD_SOCKET_DEFAULT,
    envvar="X0CTL_WORKLOAD_SOCKET",
    show_envvar=True,
    metavar="PATH",
    help="Workload API that gives you your own identity, for dns:///HOST.",
)
@click.option("-o", "--output", type=click.Choice(OUTPUTS), default="table", help="For people or for programs.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=TIMEOUT_S_DEFAULT,
    help="Seconds to connect and wait for an answer; streams (watch, top, trace, deny list and load) take their time.",
)
@click.version_option(package_name="x0d")
@click.pass_context
def cli(
    context: click.Context, endpoint: str, server_id: str, workload_socket: str, output: str, timeout: float
) -> None:
    """Ask and steer the x0d of this host, or of another one.

    Exit codes: 0 done, 1 refused or failed, 2 usage, 3 unreachable, 4 not permitted, 130 Ctrl-C.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read when gRPC is imported; our own errors say it in words
    context.obj = Options(endpoint, output, timeout, server_id, workload_socket)


@cli.command()
@click.pass_obj
def status(options: Options) -> None:
    """Show what the daemon is and how it is doing."""
    from x0ctl import show  # noqa: PLC0415 - start-up time
    from x0d.v1 import node_pb2, node_pb2_grpc  # noqa: PLC0415

    request = node_pb2.GetStatusRequest()
    reply = options.client().unary(node_pb2_grpc.NodeServiceStub, "GetStatus", request, node_pb2.GetStatusResponse)
    if not options.json(reply):
        show.status(reply)


@cli.command()
@click.pass_obj
def reload(options: Options) -> None:
    """Let the daemon read its configuration file again."""
    from x0ctl import show  # noqa: PLC0415 - start-up time
    from x0d.v1 import node_pb2, node_pb2_grpc  # noqa: PLC0415

    request = node_pb2.ReloadRequest()
    reply = options.client().unary(node_pb2_grpc.NodeServiceStub, "Reload", request, node_pb2.ReloadResponse)
    if not options.json(reply):
        show.reloaded(reply)


@cli.command()
@click.pass_obj
def doctor(options: Options) -> int:
    """Show what the kernel allows x0d, and what to do about the rest.

    Without a daemon, x0d --doctor is run instead.  Exits 1 when a check failed.
    """
    from x0ctl import offline_doctor, show  # noqa: PLC0415 - start-up time
    from x0ctl.failure import EXIT_FAILED, EXIT_UNREACHABLE, Failure  # noqa: PLC0415
    from x0d.v1 import node_pb2, node_pb2_grpc  # noqa: PLC0415

    request = node_pb2.RunDoctorRequest()
    try:
        reply = options.client().unary(node_pb2_grpc.NodeServiceStub, "RunDoctor", request, node_pb2.RunDoctorResponse)
    except Failure as failure:
        if failure.exit_code != EXIT_UNREACHABLE or not options.is_local:
            raise
        return offline_doctor.run(options.output)
    if not options.json(reply):
        show.doctor(reply)
    return EXIT_FAILED if any(check.outcome == "failed" for check in reply.checks) else 0


@cli.group()
def link() -> None:
    """This node's links."""


@link.command("list")
@click.pass_obj
def link_list(options: Options) -> None:
    """List the links to the configured neighbours."""
    from x0ctl import show  # noqa: PLC0415 - start-up time
    from x0d.v1 import mesh_pb2, mesh_pb2_grpc  # noqa: PLC0415

    request = mesh_pb2.ListLinksRequest()
    reply = options.client().unary(mesh_pb2_grpc.MeshServiceStub, "ListLinks", request, mesh_pb2.ListLinksResponse)
    if not options.json(reply):
        show.links(reply)


@cli.group()
def mesh() -> None:
    """The mesh as this node knows it."""


@mesh.command("nodes")
@click.pass_obj
def mesh_nodes(options: Options) -> None:
    """List the nodes of the mesh and their adjacencies."""
    from x0ctl import show  # noqa: PLC0415 - start-up time
    from x0d.v1 import mesh_pb2, mesh_pb2_grpc  # noqa: PLC0415

    request = mesh_pb2.ListNodesRequest()
    reply = options.client().unary(mesh_pb2_grpc.MeshServiceStub, "ListNodes", request, mesh_pb2.ListNodesResponse)
    if not options.json(reply):
        show.nodes(reply)


@mesh.command("routes")
@click.pass_obj
def mesh_routes(options: Options) -> None:
    """List the computed routes."""
    from x0ctl import show  # noqa: PLC0415 - start-up time
    from x0d.v1 import mesh_pb2, mesh_pb2_grpc  # noqa: PLC0415

    request = mesh_pb2.ListRoutesRequest()
    reply = options.client().unary(mesh_pb2_grpc.MeshServiceStub, "ListRoutes", request, mesh_pb2.ListRoutesResponse)
    if not options.json(reply):
        show.routes(reply)


@cli.group()
def incident() -> None:
    """What went wrong, and what was done about it."""


@incident.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, help="At most this many, newest first.")
@click.option("--open", "open_only", is_flag=True, help="Only those not closed.")
@click.pass_obj
def incident_list(options: Options, limit: int, *, open_only: bool) -> None:
    """List incidents, newest first."""
    from x0ctl import show  # noqa: PLC0415 - start-up time
    from x0d.v1 import incident_pb2, incident_pb2_grpc  # noqa: PLC0415

    request = incident_pb2.ListIncidentsRequest(limit=limit, open_only=open_only)
    stub = incident_pb2_grpc.IncidentServiceStub
    reply = options.client().unary(stub, "ListIncidents", request, incident_pb2.ListIncidentsResponse)
    if not options.json(reply):
        show.incidents(reply)


@incident.command("show")
@click.argument("incident_id", metavar="ID")
@click.pass_obj
def incident_show(options: Options, incident_id: str) -> None:
    """Show one incident as a timeline."""
    from x0ctl.incidents import print_incident  # noqa: PLC0415 - start-up time
    from x0d.v1 import incident_pb2, incident_pb2_grpc  # noqa: PLC0415

    request = incident_pb2.GetIncidentRequest(id=incident_id)
    stub = incident_pb2_grpc.IncidentServiceStub
    reply = options.client().unary(stub, "GetIncident", request, incident_pb2.GetIncidentResponse)
    if not options.json(reply):
        print_incident(reply.incident)


for command in (watch, top, ebpf, deny, limit, identity, audit):
    cli.add_command(command)
