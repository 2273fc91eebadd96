"""Identity as tables and lines."""

import time
from collections.abc import Iterable, Iterator

import click

from x0ctl.output import clean, duration, instant, print_fields, print_line, print_table
from x0d.v1.identity_pb2 import (
    CheckIdentityResponse,
    CreateTokenResponse,
    GetIdentityResponse,
    ListDescriptorsResponse,
    OpenToken,
    PeerIdentity,
    RoleBinding,
)

SOURCES = {
    "issuer": "this node, which issues the identities of its cluster",
    "joined": "the issuer that this node has joined",
    "spire": "SPIRE",
}


def identity(reply: GetIdentityResponse) -> None:
    """Print who this node is, whom it trusts, its neighbours, and who has which role."""
    print_fields(_own(reply))
    print_line("")
    roots = [
        (row.trust_domain, "own" if row.own else "federated", row.authorities, _until(row.not_after_unix_ms))
        for row in reply.bundles
    ]
    print_table(("TRUST DOMAIN", "WHOSE", "ROOTS", "VALID UNTIL"), roots, "no roots: nobody is trusted")
    print_line("")
    headers = ("NEIGHBOUR", "LINK", "STATE", "SPIFFE ID", "TLS GROUP", "PQ", "KEY AGE", "VALID UNTIL", "REASON")
    print_table(headers, map(_peer, reply.peers), "no neighbours are configured", prose=1)
    print_line("")
    print_table(("ROLE", "WHO"), ((row.role, _who(row)) for row in reply.bindings), "no role is bound to anybody")


def _own(reply: GetIdentityResponse) -> Iterator[tuple[str, object]]:
    yield "identity", reply.spiffe_id or "none"
    yield "state", f"{reply.state}: {reply.reason}" if reply.reason else reply.state
    yield "from", SOURCES.get(reply.source, reply.source)
    if reply.not_after_unix_ms:
        yield "valid until", _until(reply.not_after_unix_ms)
        yield "renewal due", _until(reply.renewal_due_unix_ms)
    connected = "connected" if reply.workload_connected else "NOT connected"
    yield "workload api", f"{reply.workload_socket}, {connected}"
    yield (
        "updates",
        f"{reply.updates} taken, {reply.updates_rejected} rejected; roots of generation {reply.bundle_generation}",
    )
    yield "post-quantum", "required of every peer" if reply.require_pq else "used where the peer can, not required"
    if reply.renewal_endpoint:
        yield "renewed by", reply.renewal_endpoint
    if reply.outage_hurts_unix_ms:
        yield "its absence", f"hurts from {_until(reply.outage_hurts_unix_ms)}"
    if reply.HasField("issuer"):
        issuer = reply.issuer
        yield "root", f"SHA-256 {issuer.root_sha256}"
        yield "root until", _until(issuer.root_not_after_unix_ms)
        yield "join port", f"{'open' if issuer.join_open else 'closed'}; tokens not spent: {issuer.open_tokens}"


def _peer(row: PeerIdentity) -> tuple[object, ...]:
    agreed = row.state == "authenticated"
    return (
        row.node,
        row.link,
        row.state,
        row.spiffe_id,
        row.group or "-",
        ("yes" if row.post_quantum else "no") if row.group else "-",
        duration(row.key_age_s) if agreed else "-",
        instant(row.svid_not_after_unix_ms),
        row.reason,
    )


def _who(row: RoleBinding) -> str:
    if row.user:
        return f"user {row.user}"
    return f"group {row.group}" if row.group else row.id


def _until(unix_ms: int) -> str:
    """Instant, and how far away it is by this host's clock."""
    if not unix_ms:
        return "-"
    left_s = unix_ms / 1000 - time.time()
    return f"{instant(unix_ms)} ({'in ' + duration(left_s) if left_s >= 0 else duration(-left_s) + ' ago'})"


def checks(reply: CheckIdentityResponse) -> None:
    """Print what was tried."""
    rows = [(row.name, row.outcome, row.detail, row.remedy) for row in reply.checks]
    print_table(("CHECK", "OUTCOME", "FOUND", "WHAT TO DO"), rows, "no checks", prose=2)


def token(reply: CreateTokenResponse) -> None:
    """Print the token alone, and beside it, where a script does not take it for the token, what to do with it."""
    click.echo(clean(f"{reply.spiffe_id} joins with it once, until {_until(reply.expires_at_unix_ms)}."), err=True)
    click.echo("On that host, before x0d's first start, with its configuration in FILE:", err=True)
    click.echo("  x0d --join TOKEN --config FILE", err=True)
    print_line(clean(reply.token))


def tokens(rows: Iterable[OpenToken], none: str) -> None:
    """Print tokens without what would let anybody in."""
    shown = [(row.id, row.spiffe_id, _until(row.expires_at_unix_ms)) for row in rows]
    print_table(("ID", "FOR", "EXPIRES"), shown, none)


def descriptors(reply: ListDescriptorsResponse) -> None:
    """Print whose they are, without the signed bytes."""
    headers = ("SPIFFE ID", "ADDRESS", "SIGNED", "KEY", "BOOT", "RECEIVED FROM")
    rows = [
        (row.spiffe_id, row.address, instant(row.signed_at_unix_ms), row.key_id[:16], row.boot_id, row.received_from)
        for row in reply.descriptors
    ]
    print_table(headers, rows, "no descriptors: identity.pqc_beacons is false, or none has come yet")
