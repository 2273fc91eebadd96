"""Identity, in the form that the API shows: built from the services' own state."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from x0d.errors import NotSupported
from x0d.identity.lifetime import RENEWED_AT, Validity
from x0d.identity.roles import Binding
from x0d.ports import SvidStatus
from x0d.ports.issuer import CreatedToken, IssuerView, OpenToken
from x0d.service.identity import IdentityFacts, IdentityService
from x0d.service.identity_checks import IdentityChecks
from x0d.service.peers_told import PeerRow
from x0d.service.views_identity import Descriptor, Identity, IdentityCheck, Issuer, RoleBinding, TrustBundle


class RenewalView(Protocol):
    """How a joined node is renewed; ``service.renewal.Renewal`` satisfies it."""

    @property
    def endpoint(self) -> str:
        """Where the issuer is."""

    @property
    def due_unix_s(self) -> float:
        """When it is asked."""

    @property
    def outage_hurts_unix_s(self) -> float:
        """From when on its absence hurts."""

    @property
    def last_error(self) -> str:
        """Why the last attempt failed; empty when it did not."""


class IdentityOverview:
    """Who this node is, whom it trusts, who may join; satisfies ``IdentityView``."""

    def __init__(
        self,
        *,
        facts: Callable[[], IdentityFacts],
        service: IdentityService,
        checks: IdentityChecks,
        peers: Callable[[], Sequence[PeerRow]],
        issuer: IssuerView | None,
        renewal: RenewalView | None,
        descriptors: Callable[[], Awaitable[Sequence[Descriptor]]],
    ) -> None:
        """``issuer``: where this node is its cluster's issuer; ``renewal``: where it has joined one."""
        self._facts = facts
        self._service = service
        self._checks = checks
        self._peers = peers
        self._issuer = issuer
        self._renewal = renewal
        self._descriptors = descriptors

    def identity(self) -> Identity:
        """Answer from memory."""
        facts = self._facts()
        status, seen = self._service.judge()
        renewal = self._renewal
        reason = status.last_error
        if renewal is not None and renewal.last_error and not reason:
            reason = f"not renewed: {renewal.last_error}"
        if seen.validity is Validity.NOT_YET_VALID:
            reason = "it is not valid yet: is the clock right?"
        return Identity(
            spiffe_id=status.spiffe_id,
            source=facts.source,
            state=seen.validity.value,
            reason=reason,
            serial=status.serial,
            not_before_unix_ms=_ms(status.not_before_unix_s),
            not_after_unix_ms=_ms(status.not_after_unix_s),
            renewal_due_unix_ms=_ms(self._due(status)),
            workload_socket=facts.workload_socket,
            workload_connected=status.connected,
            bundle_generation=status.generation,
            updates=status.updates,
            updates_rejected=sum(status.rejected.values()),
            require_pq=facts.require_pq,
            bundles=tuple(
                TrustBundle(each.trust_domain, each.own, each.authorities, _ms(each.not_after_unix_s))
                for each in status.bundles
            ),
            peers=tuple(self._peers()),
            issuer=self._issuer_now(),
            renewal_endpoint=renewal.endpoint if renewal else "",
            outage_hurts_unix_ms=_ms(renewal.outage_hurts_unix_s) if renewal else 0,
            bindings=tuple(map(_binding, facts.bindings)),
        )

    def _due(self, status: SvidStatus) -> float:
        """When whoever renews it does; for SPIRE's agent half of the life, which is its rule."""
        if self._renewal is not None:
            return self._renewal.due_unix_s
        if self._issuer is not None and (due_unix_s := self._issuer.status().own_renewal_due_unix_s):
            return due_unix_s
        if not status.not_after_unix_s:
            return 0.0
        return status.not_before_unix_s + (status.not_after_unix_s - status.not_before_unix_s) * RENEWED_AT

    def _issuer_now(self) -> Issuer | None:
        if self._issuer is None:
            return None
        now = self._issuer.status()
        return Issuer(now.root_sha256, _ms(now.root_not_after_unix_s), now.open_tokens, now.join_open)

    def brief(self) -> tuple[str, int]:
        """Our ID and its end in Unix milliseconds, for the status; empty and 0 while none may be shown."""
        status, seen = self._service.judge()
        return (status.spiffe_id, _ms(status.not_after_unix_s)) if seen.usable else ("", 0)

    async def check(self) -> Sequence[IdentityCheck]:
        """Really try."""
        return await self._checks.run()

    async def create_token(self, spiffe_id: str, address: str) -> CreatedToken:
        """Make a join token, on the issuer alone."""
        return await self._issues().create_token(spiffe_id, address)

    def open_tokens(self) -> Sequence[OpenToken]:
        """Tokens that could be spent now, on the issuer alone."""
        return self._issues().open_tokens()

    async def revoke_tokens(self, which: str) -> Sequence[OpenToken]:
        """Take tokens out of use, on the issuer alone."""
        return await self._issues().revoke_tokens(which)

    def _issues(self) -> IssuerView:
        """Whoever issues here.  Raises NotSupported where nobody does."""
        if self._issuer is None:
            text = "this node issues no identities; ask the one with identity.issuer = true"
            if self._facts().source == "spire":
                text = "SPIRE issues this node's identities; make an entry for the new node there"
            raise NotSupported("a join token", text)
        return self._issuer

    async def descriptors(self) -> Sequence[Descriptor]:
        """Those that this node keeps."""
        return await self._descriptors()


def _binding(binding: Binding) -> RoleBinding:
    pattern = str(binding.pattern) if binding.pattern else ""
    return RoleBinding(binding.role.value, pattern, binding.user, binding.group)


def _ms(unix_s: float) -> int:
    return round(unix_s * 1000)
