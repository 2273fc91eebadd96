"""``x0ctl identity``: who this node is, whom it trusts, and how another one joins."""

from typing import TYPE_CHECKING

import click

from x0ctl.command import Group, Options
from x0ctl.token_address import Host, warn_of_mesh_address

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from x0ctl.command import Reply

TOKEN_PREFIX = "x0d1-"  # noqa: S105  how every token begins, which is no secret


@click.group(cls=Group)
def identity() -> None:
    """Who this node is, and whom it trusts."""


def _ask(options: Options, method: str, request: "Message", kind: "type[Reply]") -> "Reply":
    from x0d.v1 import identity_pb2_grpc  # noqa: PLC0415 - start-up time

    return options.client().unary(identity_pb2_grpc.IdentityServiceStub, method, request, kind)


@identity.command("show")
@click.pass_obj
def identity_show(options: Options) -> None:
    """Show identity, roots, neighbours and roles.

    Example: x0ctl identity show
    """
    from x0ctl import show_identity  # noqa: PLC0415 - start-up time
    from x0d.v1 import identity_pb2  # noqa: PLC0415

    reply = _ask(options, "GetIdentity", identity_pb2.GetIdentityRequest(), identity_pb2.GetIdentityResponse)
    if not options.json(reply):
        show_identity.identity(reply)


@identity.command("check")
@click.pass_obj
def identity_check(options: Options) -> int:
    """Try the Workload API and every neighbour.

    Really asks, and shakes hands with each neighbour's daemon.  Exits 1 when a check failed.

    Example: x0ctl identity check
    """
    from x0ctl import show_identity  # noqa: PLC0415 - start-up time
    from x0ctl.failure import EXIT_FAILED  # noqa: PLC0415
    from x0d.v1 import identity_pb2  # noqa: PLC0415

    reply = _ask(options, "CheckIdentity", identity_pb2.CheckIdentityRequest(), identity_pb2.CheckIdentityResponse)
    if not options.json(reply):
        show_identity.checks(reply)
    return EXIT_FAILED if any(check.outcome == "failed" for check in reply.checks) else 0


@identity.command("token")
@click.option("--for", "node", metavar="ID|NAME", required=True, help="SPIFFE ID or name of the node that joins.")
@click.option(
    "--address", type=Host(), metavar="HOST", default="", show_default=False, help="Where it reaches this node."
)
@click.pass_obj
def identity_token(options: Options, node: str, address: str) -> None:
    """Make a token with which one node joins.

    Once, within ten minutes, on the issuer of a development cluster.  The token alone goes to stdout, what to
    do with it to stderr.  Whoever has it can join as that node.

    Example: x0ctl identity token --for n2
    """
    from x0ctl import show_identity  # noqa: PLC0415 - start-up time
    from x0d.v1 import identity_pb2  # noqa: PLC0415

    request = identity_pb2.CreateTokenRequest(spiffe_id=node, address=address)
    reply = _ask(options, "CreateToken", request, identity_pb2.CreateTokenResponse)
    if not options.json(reply):
        show_identity.token(reply)
    if address:
        warn_of_mesh_address(options, address)


@identity.command("tokens")
@click.pass_obj
def identity_tokens(options: Options) -> None:
    """List the join tokens that are open.

    On the issuer of a development cluster.  Nobody can join with what is shown; the ID is for revoke.

    Example: x0ctl identity tokens
    """
    from x0ctl import show_identity  # noqa: PLC0415 - start-up time
    from x0d.v1 import identity_pb2  # noqa: PLC0415

    reply = _ask(options, "ListTokens", identity_pb2.ListTokensRequest(), identity_pb2.ListTokensResponse)
    if not options.json(reply):
        show_identity.tokens(reply.tokens, "no token is open")


@identity.command("revoke")
@click.argument("which", metavar="ID|NODE")
@click.pass_obj
def identity_revoke(options: Options, which: str) -> None:
    """Take a join token out of use.

    By its ID in x0ctl identity tokens, or all of a node by its SPIFFE ID or name.  It does not take back what a
    node has that has joined.

    Example: x0ctl identity revoke n2
    """
    from x0ctl import show_identity  # noqa: PLC0415 - start-up time
    from x0d.v1 import identity_pb2  # noqa: PLC0415

    if which.startswith(TOKEN_PREFIX):
        raise click.UsageError(
            "name the token by its ID in x0ctl identity tokens, or by its node: the audit keeps this"
        )
    request = identity_pb2.RevokeTokenRequest(which=which)
    reply = _ask(options, "RevokeToken", request, identity_pb2.RevokeTokenResponse)
    if not options.json(reply):
        show_identity.tokens(reply.revoked, "nothing was revoked")


@identity.command("descriptors")
@click.pass_obj
def identity_descriptors(options: Options) -> None:
    """List what nodes have signed about themselves.

    Kept for third parties; it grants no trust.  With -o json the signed bytes too.

    Example: x0ctl identity descriptors
    """
    from x0ctl import show_identity  # noqa: PLC0415 - start-up time
    from x0d.v1 import identity_pb2  # noqa: PLC0415

    request = identity_pb2.ListDescriptorsRequest()
    reply = _ask(options, "ListDescriptors", request, identity_pb2.ListDescriptorsResponse)
    if not options.json(reply):
        show_identity.descriptors(reply)
