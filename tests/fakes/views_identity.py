"""Fake views of identity and audit: answers as set by the test; nobody is really dialled, nothing is on disk."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from x0d.errors import NotThere, X0dError
from x0d.ports import AuditRecord
from x0d.ports.issuer import CreatedToken, OpenToken
from x0d.service.peers_told import PeerRow
from x0d.service.views_identity import (
    Descriptor,
    Identity,
    IdentityCheck,
    Issuer,
    RoleBinding,
    TrustBundle,
)

UNIX_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
OWN = "spiffe://dev.x0d.test/node/n1"

IDENTITY = Identity(
    spiffe_id=OWN,
    source="issuer",
    state="valid",
    reason="",
    serial="5f0a",
    not_before_unix_ms=UNIX_MS,
    not_after_unix_ms=UNIX_MS + 24 * HOUR_MS,
    renewal_due_unix_ms=UNIX_MS + 12 * HOUR_MS,
    workload_socket="/run/x0d/workload.sock",
    workload_connected=True,
    bundle_generation=3,
    updates=4,
    updates_rejected=0,
    require_pq=True,
    bundles=(TrustBundle("dev.x0d.test", own=True, authorities=2, not_after_unix_ms=UNIX_MS + 8760 * HOUR_MS),),
    peers=(
        PeerRow(
            node="n2",
            spiffe_id="spiffe://dev.x0d.test/node/n2",
            link="n1-n2.5c1e",
            state="authenticated",
            reason="",
            group="X25519MLKEM768",
            tls_version="TLSv1.3",
            post_quantum=True,
            svid_not_after_unix_ms=UNIX_MS + 20 * HOUR_MS,
            key_age_s=61.5,
        ),
        PeerRow(
            node="n3",
            spiffe_id="spiffe://dev.x0d.test/node/n3",
            link="n1-n3.77aa",
            state="refused",
            reason="expired: its SVID has expired",
            group="",
            tls_version="",
            post_quantum=False,
            svid_not_after_unix_ms=0,
            key_age_s=0.0,
        ),
    ),
    issuer=Issuer("ab" * 32, UNIX_MS + 8760 * HOUR_MS, open_tokens=1, join_open=True),
    bindings=(
        RoleBinding("peer", id="spiffe://dev.x0d.test/node/*"),
        RoleBinding("viewer", group="x0d"),
    ),
)
CHECKS = (
    IdentityCheck("workload_api", "ok", "/run/x0d/workload.sock answers"),
    IdentityCheck("peer n2 on eth1", "ok", "X25519MLKEM768"),
)
TOKENS = (
    OpenToken("0badcafe", "spiffe://dev.x0d.test/node/n4", UNIX_MS + 300_000),
    OpenToken("5eed5eed", "spiffe://dev.x0d.test/node/n5", UNIX_MS + 600_000),
)
DESCRIPTOR = Descriptor(OWN, "fd00::1", "0123456789abcdef" * 4, "00ff", UNIX_MS, OWN, b"signed")
RECORD = AuditRecord(
    id=7,
    at_unix_ms=UNIX_MS,
    who="uid 0 (root)",
    address="",
    method="/x0d.v1.DataplaneService/AddDeny",
    what='{"prefixes": ["192.0.2.7"]}',
    before="1 entry",
    after="2 entries",
    outcome="done",
    detail="",
    took_ms=1.25,
)


class FakeIdentityView:
    """Identity as in ``current``; each token has a number; an error put in ``fails`` is raised."""

    def __init__(self) -> None:
        self.current = IDENTITY
        self.tokens: Sequence[OpenToken] = TOKENS
        self.checks: Sequence[IdentityCheck] = CHECKS
        self.asked: list[tuple[str, str]] = []
        self.go_on: asyncio.Event | None = None
        """What a token waits for before it is made; None: nothing."""
        self.fails: X0dError | None = None

    def identity(self) -> Identity:
        return self.current

    async def check(self) -> Sequence[IdentityCheck]:
        return self.checks

    async def create_token(self, spiffe_id: str, address: str) -> CreatedToken:
        if self.fails is not None:
            raise self.fails
        self.asked.append((spiffe_id, address))
        if self.go_on is not None:
            await self.go_on.wait()
        full = spiffe_id if "://" in spiffe_id else f"spiffe://dev.x0d.test/node/{spiffe_id}"
        return CreatedToken(f"x0d1-token{len(self.asked)}", full, address or "192.0.2.1", UNIX_MS + 600_000)

    def open_tokens(self) -> Sequence[OpenToken]:
        if self.fails is not None:
            raise self.fails
        return self.tokens

    async def revoke_tokens(self, which: str) -> Sequence[OpenToken]:
        revoked = [each for each in self.tokens if which in (each.id, each.spiffe_id)]
        if not revoked:
            raise NotThere(f"no open token {which}")
        self.tokens = [each for each in self.tokens if each not in revoked]
        return revoked

    async def descriptors(self) -> Sequence[Descriptor]:
        return [DESCRIPTOR]


class FakeAuditView:
    """Records as the test puts them, newest first."""

    def __init__(self) -> None:
        self.records = [
            replace(RECORD, id=8, who=OWN, address="ipv6:%5Bfd00::9%5D:40000", outcome="failed", detail="no"),
            RECORD,
        ]
        self.fails: X0dError | None = None

    async def latest(self, limit: int) -> Sequence[AuditRecord]:
        if self.fails is not None:
            raise self.fails
        return self.records[:limit]
