"""The address in a join token: how it is written, and whether whoever joins can get there."""

import re
from ipaddress import ip_address, ip_network
from typing import Any, Final

import click

from x0ctl.command import Options

_WITH_PORT: Final = re.compile(r"(?P<host>\[.*\]|[^:]*):\d*")


class Host(click.ParamType[str]):
    """Host name or address; brackets of an IPv6 address are taken off."""

    name = "host"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401 - click's own
        """Read it; a usage error says that no port belongs here."""
        text = str(value)
        if match := _WITH_PORT.fullmatch(text):
            host = match["host"].strip("[]")
            self.fail(f"{text!r} has a port: write {host}; the token gets the issuer's listen.join_port", param, ctx)
        return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def warn_of_mesh_address(options: Options, address: str) -> None:
    """Say on stderr that a token's address is one of the mesh, to which there is no way before a node has joined.

    The token is made by then: where the nodes cannot be asked nothing is said.
    """
    from x0ctl.failure import Failure  # noqa: PLC0415 - start-up time
    from x0d.v1 import mesh_pb2, mesh_pb2_grpc  # noqa: PLC0415

    try:
        wanted = ip_network(ip_address(address))
    except ValueError:
        return
    try:
        reply = options.client().unary(
            mesh_pb2_grpc.MeshServiceStub, "ListNodes", mesh_pb2.ListNodesRequest(), mesh_pb2.ListNodesResponse
        )
    except Failure:
        return
    for node in reply.nodes:
        if str(wanted) in node.prefixes:
            text = f"{address} is the node.address of {node.node}: a node that has not joined has no route to it"
            click.echo(f"warning: {text}; name an address of a link it shares with the issuer", err=True)
