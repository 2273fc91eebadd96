"""What a node's own Workload API gives out: certificates with their keys, kept fresh, and the bundles.

Two makers: on the issuer ``IssuedSvids`` certifies keys of its own making for whatever ID is asked for, and makes each
anew at about half of its life; on a node that has joined, ``joined.py`` has the one that the issuer has sent.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from x0d.errors import InvalidInput
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.spiffe.authority import Authority
from x0d.spiffe.bundles import Bundles
from x0d.spiffe.certificate import load
from x0d.spiffe.request import key_to_der, make_key, public_key_to_der
from x0d.spiffe.snapshot import Svid

RENEW_FROM: Final = 0.45
"""Part of a certificate's life after which it is made anew, at the earliest; at the latest at RENEW_TO."""
RENEW_TO: Final = 0.5
KNOWN_MAX: Final = 256
"""Certificates kept at a time; one that gives way is made anew when it is asked for."""


class WorkloadSvids(Protocol):
    """Source of a Workload API server."""

    def svid(self, spiffe_id: SpiffeId) -> Svid:
        """Certificate of the moment for an ID that the caller is entitled to.

        Raises:
            NoIdentity: there is none; says why.
        """

    def bundles(self) -> Mapping[TrustDomain, Sequence[bytes]]:
        """Roots (DER) of the own trust domain and of those that are federated."""

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Call back on the event loop after each change."""

    def unsubscribe(self, on_change: Callable[[], None]) -> None:
        """End that."""


def svid_of(spiffe_id: SpiffeId, chain_ders: Sequence[bytes], key_der: bytes) -> Svid:
    """Put an SVID together; ``chain_ders`` leaf first.  Raises IdentityRefused for a leaf that does not parse."""
    leaf = load(chain_ders[0])
    return Svid(
        spiffe_id=spiffe_id,
        leaf_der=chain_ders[0],
        chain_ders=tuple(chain_ders[1:]),
        key_der=key_der,
        not_before_unix_s=leaf.not_valid_before_utc.timestamp(),
        not_after_unix_s=leaf.not_valid_after_utc.timestamp(),
        serial=f"{leaf.serial_number:x}",
    )


class Subscribers:
    """Who wants to be told of changes."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []

    def add(self, on_change: Callable[[], None]) -> None:
        """Tell this one too."""
        self._callbacks.append(on_change)

    def remove(self, on_change: Callable[[], None]) -> None:
        """Tell this one no more."""
        self._callbacks.remove(on_change)

    def tell(self) -> None:
        """Call all."""
        for on_change in tuple(self._callbacks):
            on_change()


class IssuedSvids:
    """The issuer's own host: its node and its operators.  On the event loop only."""

    def __init__(
        self,
        authority: Authority,
        federated: Mapping[TrustDomain, Sequence[bytes]],
        unix_s: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """Check what every node is going to be given: one bad foreign root would have each of them refuse all of it.

        Raises:
            InvalidInput: a foreign bundle holds what is no authority's certificate, or is for our own trust domain.
        """
        if authority.trust_domain in federated:
            raise InvalidInput(f"{authority.trust_domain} is our own trust domain and cannot be federated with")
        Bundles.of(federated)
        self._authority = authority
        self._federated = dict(federated)
        self._unix_s = unix_s
        self._rng = rng
        self._known: dict[SpiffeId, tuple[Svid, float]] = {}
        self._bundle_told = authority.bundle()
        self._subscribers = Subscribers()

    def svid(self, spiffe_id: SpiffeId) -> Svid:
        """Certificate of the moment; made at the first call and then once in about half of its life.

        Raises:
            NoIdentity: the authority cannot sign now.
        """
        now = self._unix_s()
        known = self._known.get(spiffe_id)
        if known is not None and known[0].not_before_unix_s <= now < known[1]:
            return known[0]
        while len(self._known) >= KNOWN_MAX:
            self._known.pop(next(iter(self._known)))
        key = make_key()
        signed = self._authority.issue(spiffe_id, public_key_to_der(key))
        svid = svid_of(spiffe_id, signed.chain_ders, key_to_der(key))
        # Spread, so that a host's certificates do not all come due together.
        part = self._rng.uniform(RENEW_FROM, RENEW_TO)
        self._known[spiffe_id] = svid, now + (svid.not_after_unix_s - now) * part
        return svid

    def bundles(self) -> Mapping[TrustDomain, Sequence[bytes]]:
        """Our roots, and those of the federated trust domains."""
        return {**self._federated, self._authority.trust_domain: self._authority.bundle()}

    def due_unix_s(self, spiffe_id: SpiffeId) -> float:
        """When the certificate of an ID is made anew; 0: there is none."""
        known = self._known.get(spiffe_id)
        return known[1] if known is not None else 0.0

    def refresh(self, now_unix_s: float) -> None:
        """Forget what is past its time, and tell: whoever listens asks again and gets a new one; others get none."""
        due = [
            spiffe_id
            for spiffe_id, (svid, until) in self._known.items()
            if not svid.not_before_unix_s <= now_unix_s < until  # the clock may have been set back
        ]
        for spiffe_id in due:
            del self._known[spiffe_id]
        bundle = self._authority.bundle()
        if due or bundle != self._bundle_told:
            self._bundle_told = bundle
            self._subscribers.tell()

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Call back after each change."""
        self._subscribers.add(on_change)

    def unsubscribe(self, on_change: Callable[[], None]) -> None:
        """End that."""
        self._subscribers.remove(on_change)
