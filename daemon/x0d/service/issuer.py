"""The issuer of a development cluster: tokens, joins, renewals, and the life of its roots.

A token is one way in for one node: 128 random bits that are kept as a hash only, an ID, the root that the joiner is to
accept, ten minutes.  The join port listens while a token is open and not a second longer.  A join is refused before it
costs anything if its ID or request make no sense; then the token is spent, on disk, and only then is the certificate
made: a daemon killed in between has lost the token and nothing else.

Roots rotate when the wall clock says so, and a clock that jumps says nothing until it has gone steadily for a while:
an early rotation cannot be taken back.
"""

import asyncio
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from x0d import telemetry
from x0d.errors import AddressUnavailable, InvalidInput, NoIdentity, NotThere, StorageFailed, TokenRefused, TooMany
from x0d.identity.spiffe_id import SpiffeId, TrustDomain, node_id
from x0d.identity.token import SECRET_BYTES, JoinToken, secret_hash
from x0d.ports import Clock
from x0d.ports.issuer import (
    Admission,
    CreatedToken,
    Grant,
    IssuerStatus,
    JoinListener,
    LocalSvids,
    OpenToken,
    SvidAuthority,
    TokenRecord,
    TokenStore,
)
from x0d.service.alerts import Alerts

TOKEN_TTL_S: Final = 600
TOKENS_MAX: Final = 64
"""Open at a time; the next is refused."""
REMEMBERED_S: Final = 3600
"""For so long after its end a token's holder is told that it has expired or is spent, not that it is unknown."""
TICK_S: Final = 0.5
CLOSE_GRACE_S: Final = 2.0
"""For the answer to whoever has spent the last token."""
JUMP_S: Final = 5.0
"""Wall clock and monotonic clock part by more than this between two ticks: the wall clock was set."""
STEADY_S: Final = 600.0
"""After it was set, roots are left alone for so long."""
JOIN_ALERT: Final = "join_port"
ROOT_ALERT: Final = "issuer_root"
TOKEN_ALERT: Final = "join_tokens"  # noqa: S105  the name of an alert

_NODE_PATH: Final = re.compile(r"/node/[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class IssuerTerms:
    """What the configuration says about issuing."""

    own_id: SpiffeId
    """Of this node, who answers renewals."""
    join_port: int
    renewal_endpoint: str
    """``<node.address>:<listen.peer_port>``, IPv6 in brackets."""
    federated: Mapping[TrustDomain, tuple[bytes, ...]] = field(default_factory=dict)
    """Roots (DER) of foreign trust domains, passed on to every node."""
    token_ttl_s: int = TOKEN_TTL_S


class Issuer:
    """Satisfies ``ports.issuer.IssuerView``; ``start`` once, then ``run``."""

    def __init__(
        self,
        *,
        terms: IssuerTerms,
        authority: SvidAuthority,
        tokens: TokenStore,
        listener: JoinListener,
        svids: LocalSvids,
        choose_address: Callable[[SpiffeId], str | None],
        clock: Clock,
        alerts: Alerts,
    ) -> None:
        """``choose_address`` names the host at which a node reaches this one; None: it cannot tell."""
        self._terms = terms
        self._authority = authority
        self._tokens = tokens
        self._listener = listener
        self._svids = svids
        self._choose_address = choose_address
        self._clock = clock
        self._alerts = alerts
        self._known: dict[bytes, TokenRecord] = {}
        self._is_stale = False
        """Roots have changed since the tokens were read."""
        self._door = asyncio.Lock()
        self._clocks = (self._now(), clock.monotonic_ns())
        self._set_at_ns: int | None = None

    async def start(self) -> None:
        """Take up the tokens of an earlier life.  Raises StorageFailed."""
        await self._recall()

    async def run(self) -> None:
        """Open and close the join port as tokens come and go, renew what this host uses, rotate roots."""
        try:
            while True:
                await self._tick()
                await asyncio.sleep(TICK_S)
        finally:
            await self._listener.close(0.0)

    # ---- IssuerView ----

    async def create_token(self, spiffe_id_text: str, address: str) -> CreatedToken:
        """Make a token for a node, by its ID or its bare name; ``address`` empty: one is chosen."""
        spiffe_id = self._node_of(spiffe_id_text)
        host = address or self._choose_address(spiffe_id)
        if not host:
            raise InvalidInput(
                f"{spiffe_id} is no neighbour of this node and this host has no single address to name: "
                "say with --address how the new node reaches it"
            )
        if len(self._open()) >= TOKENS_MAX:
            raise TooMany(f"{TOKENS_MAX} tokens are open; wait until some are spent or expire")
        secret = secrets.token_bytes(SECRET_BYTES)
        endpoint = f"[{host}]:{self._terms.join_port}" if ":" in host else f"{host}:{self._terms.join_port}"
        expires_unix_s = int(self._now()) + self._terms.token_ttl_s
        made = JoinToken(endpoint, self._authority.root_sha256, secret, spiffe_id, expires_unix_s)
        made.encode()  # refuses an address that cannot be one before anything is opened or kept
        async with self._door:
            await self._open_port()
            made = JoinToken(endpoint, self._listener.root_sha256, secret, spiffe_id, expires_unix_s)
            record = TokenRecord(secret_hash(secret), str(spiffe_id), made.root_sha256, expires_unix_s)
            if self._is_steady():
                await self._tokens.forget(self._now() - REMEMBERED_S)
            await self._tokens.add(record)
            self._known[record.secret_hash] = record
        log.info(telemetry.TOKEN_MADE, spiffe_id=str(spiffe_id), address=host, expires_unix_s=expires_unix_s)
        return CreatedToken(made.encode(), str(spiffe_id), host, expires_unix_s * 1000)

    def open_tokens(self) -> Sequence[OpenToken]:
        """Those that could be spent now, the earliest to expire first.  From memory."""
        return tuple(map(_shown, sorted(self._open(), key=lambda record: record.expires_unix_s)))

    async def revoke_tokens(self, which: str) -> Sequence[OpenToken]:
        """Take tokens out of use: the one with this id, else all of a node; the join port closes with the last one.

        Raises:
            NotThere: there is none.
            InvalidInput: the text can be neither.
            StorageFailed: it could not be written; all stand.
        """
        async with self._door:
            await self._recall()
            chosen = {key: record for key, record in self._known.items() if record.id == which.lower()}
            if not chosen:
                node = str(self._node_of(which))
                chosen = {key: record for key, record in self._known.items() if record.spiffe_id == node}
            removed = await self._tokens.remove(tuple(chosen))
            for key in removed:
                self._known.pop(key, None)
        if not removed:
            raise NotThere(f"no open token has the id {which} or is for such a node; x0ctl identity tokens lists them")
        revoked = tuple(_shown(chosen[key]) for key in removed)
        log.info(telemetry.TOKEN_REVOKED, tokens=[f"{each.id} {each.spiffe_id}" for each in revoked])
        return revoked

    def status(self) -> IssuerStatus:
        """Answer from memory."""
        return IssuerStatus(
            root_sha256=self._authority.root_sha256.hex(),
            root_not_after_unix_s=self._authority.root_not_after_unix_s,
            open_tokens=len(self._open()),
            join_open=self._listener.is_open,
            own_renewal_due_unix_s=self._svids.due_unix_s(self._terms.own_id),
        )

    # ---- who asks for certificates ----

    async def admit(self, secret: bytes, spiffe_id_text: str, csr_der: bytes, source: str) -> Admission:
        """Let a node in.

        Raises:
            InvalidInput: the ID or the request make no sense; the token is not spent.
            TokenRefused: unknown, spent, expired, or for another ID.
            StorageFailed: the token could not be spent.
            NoIdentity: no root can sign now; the token is spent.
        """
        try:
            spiffe_id = self._node_of(spiffe_id_text)
            self._authority.check_request(csr_der)
            hashed = secret_hash(secret)
            await self._tokens.spend(hashed, str(spiffe_id), self._now())
        except (InvalidInput, TokenRefused) as refused:
            log.warning(telemetry.TOKEN_REFUSED, source=source, reason=str(refused))
            raise
        self._known.pop(hashed, None)
        log.info(telemetry.TOKEN_SPENT, spiffe_id=str(spiffe_id), source=source)
        # No await from here on: a token on disk as spent and its certificate are one step of the event loop apart.
        return Admission(self._grant(spiffe_id, csr_der), self._terms.renewal_endpoint, self._terms.own_id)

    def renew(self, caller: SpiffeId, csr_der: bytes) -> Grant:
        """Give a node that is one a new certificate for its own ID.

        Raises:
            InvalidInput: the request is malformed, or the caller is no node of this trust domain.
            NoIdentity: no root can sign now.
        """
        return self._grant(self._node_of(str(caller)), csr_der)

    def _grant(self, spiffe_id: SpiffeId, csr_der: bytes) -> Grant:
        signed = self._authority.issue_for_request(spiffe_id, csr_der)
        log.info(telemetry.SVID_ISSUED, spiffe_id=str(spiffe_id), not_after_unix_s=signed.not_after_unix_s)
        return Grant(signed.chain_ders, self._authority.bundle(), self._terms.federated)

    def _node_of(self, text: str) -> SpiffeId:
        """Read the ID of another node of this trust domain, or its bare name."""
        own = self._terms.own_id
        spiffe_id = SpiffeId.parse(text) if "/" in text or ":" in text else node_id(own.trust_domain, text)
        if spiffe_id.trust_domain != own.trust_domain:
            raise InvalidInput(f"{spiffe_id} is not of this cluster's trust domain, {own.trust_domain}")
        if not _NODE_PATH.fullmatch(spiffe_id.path):
            raise InvalidInput(
                f"{spiffe_id} is no node: certificates are issued for {node_id(own.trust_domain, 'NAME')}, "
                "NAME in lower-case letters, digits and inner hyphens"
            )
        if spiffe_id == own:
            raise InvalidInput(f"{spiffe_id} is the issuer itself")
        return spiffe_id

    # ---- the tick ----

    def _now(self) -> float:
        return self._clock.unix_ms() / 1e3

    def _open(self) -> tuple[TokenRecord, ...]:
        """Tokens that could be spent now.  Those that are over stay beside them: a clock that jumped comes back."""
        now = self._now()
        return tuple(record for record in self._known.values() if record.expires_unix_s > now)

    async def _recall(self) -> None:
        """Read the tokens from disk: a call that was cancelled may have spent one there and not here.

        One that pins a root which is gone lets nobody in, and would hold the join port open: it is removed.
        """
        self._is_stale = False
        known = {record.secret_hash: record for record in await self._tokens.unspent()}
        gone = {root for root in {each.root_sha256 for each in known.values()} if not self._authority.root_der(root)}
        dead = tuple(key for key, record in known.items() if record.root_sha256 in gone)
        if dead:
            await self._tokens.remove(dead)
            log.warning(telemetry.TOKEN_DROPPED, nodes=[known.pop(key).spiffe_id for key in dead], reason="root gone")
        self._known = known

    async def _tick(self) -> None:
        async with self._door:
            if self._listener.is_open or self._is_stale:
                await self._recall_or_alert()
            await self._tend_port()
        await self._rotate()
        self._svids.refresh(self._now())

    async def _recall_or_alert(self) -> None:
        try:
            await self._recall()
        except StorageFailed as error:
            self._is_stale = True
            self._alerts.raise_alert(TOKEN_ALERT, f"the file of the join tokens cannot be read: {error}")
            return
        self._alerts.clear(TOKEN_ALERT)

    async def _tend_port(self) -> None:
        is_wanted = bool(self._open())
        if self._listener.is_open and not is_wanted:
            await self._listener.close(CLOSE_GRACE_S)
            log.info(telemetry.JOIN_CLOSED)
        elif is_wanted:
            try:
                await self._open_port()
            except (AddressUnavailable, NoIdentity) as error:
                self._alerts.raise_alert(JOIN_ALERT, f"tokens are open, and nobody can join: {error}")

    async def _open_port(self) -> None:
        if self._listener.is_open:
            if self._authority.root_der(self._listener.root_sha256) is not None:
                return
            await self._listener.close(0.0)  # its root was dropped: nobody could check what it shows
        pinned = min(self._open(), key=lambda record: record.expires_unix_s, default=None)
        await self._listener.open(b"" if pinned is None else pinned.root_sha256)
        self._alerts.clear(JOIN_ALERT)
        log.info(telemetry.JOIN_OPENED, port=self._terms.join_port)

    async def _rotate(self) -> None:
        now = self._now()
        if not self._is_steady() or not self._authority.is_rotation_due(now):
            return
        try:
            await asyncio.to_thread(self._authority.rotate, now)
        except StorageFailed as error:
            self._alerts.raise_alert(ROOT_ALERT, f"the root could not be rotated, and is tried again: {error}")
            return
        self._alerts.clear(ROOT_ALERT)
        self._is_stale = True
        root = self._authority.root_sha256.hex()
        log.info(telemetry.ROOT_ROTATED, roots=len(self._authority.bundle()), signs=root)

    def _is_steady(self) -> bool:
        """Whether the wall clock has gone like the monotonic one since it was last set."""
        wall, monotonic_ns = self._now(), self._clock.monotonic_ns()
        gone_s = (monotonic_ns - self._clocks[1]) / 1e9
        if abs(wall - self._clocks[0] - gone_s) > JUMP_S:
            self._set_at_ns = monotonic_ns
        self._clocks = (wall, monotonic_ns)
        return self._set_at_ns is None or (monotonic_ns - self._set_at_ns) / 1e9 >= STEADY_S


def _shown(record: TokenRecord) -> OpenToken:
    return OpenToken(record.id, record.spiffe_id, record.expires_unix_s * 1000)
