"""Callers over TCP: what their handshake has shown, judged anew on every call.

gRPC's TLS library is the first sieve: with all bundles' roots in one pile it refuses unknown authorities and what is
expired, and takes much that must not pass.  So nothing of its verdict counts here but the bytes of the certificates:
exactly the leaf whose key was used (``x509_pem_cert``), and the intermediates beside it.  ``peer_spiffe_id`` and its
like are never read: they are cut at a NUL, and a federated authority could mint our own IDs.

The checks, in this order: TLS and not plaintext, TLS 1.3, a full handshake and not a resumed one, post-quantum where
that is required, one leaf, its rules, the bundle of its own trust domain now, no identity of development in production.
Roles come after: ``gate.py`` asks the table, and then what a caller may cost (``limit``).
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote

from grpc import aio

from x0d.errors import Busy, IdentityRefused, InvalidInput
from x0d.identity.budget import Budgets
from x0d.identity.leaf import CHAIN_BYTES_MAX
from x0d.identity.model import MLKEM, Principal, Proof, Reason, Usage
from x0d.identity.roles import Binding, Role, roles_of
from x0d.identity.spiffe_id import SpiffeId
from x0d.spiffe.certificate import facts_of, from_pem
from x0d.spiffe.snapshot import SnapshotSource
from x0d.telemetry import Telemetry
from x0d.transport.access import METHODS

STREAM_PAST_EXPIRY_S_MAX: Final = 86_400.0
"""How long a stream of an operator goes on after the SVID that opened it has expired: expiry is not distrust."""
TLS_VERSION: Final = "TLSv1.3"
SCARCE: Final = frozenset({"/x0d.v1.IssuerService/RenewSvid"})
"""Each call signs a certificate and leaves a record, and every node may make it."""
SCARCE_RATE_PER_S: Final = 0.05
"""Of each caller; the shortest ``identity.svid_ttl_s``, 60 s, needs one renewal in 27 s."""
SCARCE_BURST: Final = 5

_BEGIN: Final = b"-----BEGIN "
_TIME: Final = frozenset({Reason.EXPIRED, Reason.NOT_YET_VALID})


class TlsCallers:
    """Who calls over one TLS listener; ``bindings`` may be replaced at any time."""

    def __init__(
        self,
        *,
        source: SnapshotSource,
        judge: Callable[[Proof], None],
        bindings: Iterable[Binding],
        require_pq: bool,
        dev_allowed: bool,
        connections_max: int,
        counted: Telemetry,
        unix_s: Callable[[], float],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``judge`` looks again at a proof, with the bundles and the clock of now; it raises IdentityRefused."""
        self._source = source
        self._judge = judge
        self._require_pq = require_pq
        self._dev_allowed = dev_allowed
        self._counted = counted
        self._unix_s = unix_s
        self._monotonic_s = monotonic_s
        self._scarce = Budgets(SCARCE_RATE_PER_S, SCARCE_BURST)
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._seen_max = 2 * connections_max
        self.bindings = tuple(bindings)
        self.connections_seen = 0
        """Connections that have made a call, whatever became of it."""

    def authenticate(self, context: "aio.ServicerContext[Any, Any]") -> Principal:
        """Who makes this call, by what its connection has proved.

        Raises:
            IdentityRefused: it has proved nothing that counts here.
        """
        peer = context.peer()
        is_first = self._note(peer)
        proof = self._prove(context.auth_context(), peer)
        if is_first:
            self._counted.tls_handshakes.labels("server", proof.group, proof.tls_version, _word(proof)).inc()
        roles = roles_of(proof.spiffe_id, self.bindings)
        return Principal(str(proof.spiffe_id), roles, proof, address=peer)

    def limit(self, method: str, principal: Principal) -> None:
        """Spend of what a caller may have of a method that costs more than an answer.

        Raises:
            Busy: it has had it just now.
        """
        if method in SCARCE and not self._scarce.take(principal.name, self._monotonic_s()):
            raise Busy(f"{principal.name} has asked for this too often; try again in {1 / SCARCE_RATE_PER_S:g} s")

    def judge(self, principal: Principal, method: str) -> None:
        """Look again whether the caller of a stream may go on with it.

        Raises:
            IdentityRefused: not trusted any more, expired for too long, or without the role.
        """
        proof = principal.proof
        assert proof is not None
        try:
            self._judge(proof)
        except IdentityRefused as refused:
            past_s = self._unix_s() - proof.not_after_unix_s
            is_peer = Role.PEER in METHODS.get(method, frozenset())
            if refused.reason not in _TIME or is_peer or past_s > STREAM_PAST_EXPIRY_S_MAX:
                raise
        if not METHODS.get(method, frozenset()) & roles_of(proof.spiffe_id, self.bindings):
            raise IdentityRefused(Reason.POLICY, f"{principal.name} has lost the role for {method}")

    def _note(self, peer: str) -> bool:
        """Whether this is the connection's first call; the oldest are forgotten, more than can be open are held."""
        if peer in self._seen:
            self._seen.move_to_end(peer)
            return False
        self._seen[peer] = None
        self.connections_seen += 1
        if len(self._seen) > self._seen_max:
            self._seen.popitem(last=False)
        return True

    def _prove(self, shown: Mapping[str, Iterable[bytes]], peer: str) -> Proof:
        """Check what gRPC tells of the connection from ``peer``."""
        if _one(shown, "transport_security_type") != b"ssl":
            raise IdentityRefused(Reason.NOT_TLS, "the connection is not TLS")
        version = _one(shown, "ssl_tls_version").decode(errors="replace")
        if version != TLS_VERSION:
            raise IdentityRefused(Reason.TLS_VERSION, f"the connection is {version or 'of an unknown version'}")
        if _one(shown, "ssl_session_reused") != b"false":
            raise IdentityRefused(Reason.RESUMED, "the connection resumes an earlier one: no certificate was shown")
        group = _one(shown, "ssl_negotiated_key_exchange_group").decode(errors="replace")
        leaf_pem = _one(shown, "x509_pem_cert")
        if self._require_pq and MLKEM not in group:
            who = f"the caller at {unquote(peer.partition(':')[2])}, which {_claim(leaf_pem)}"
            raise IdentityRefused(Reason.NOT_POST_QUANTUM, f"the key exchange is {group or 'unknown'} of {who}")
        if leaf_pem.count(_BEGIN) != 1:
            raise IdentityRefused(Reason.NO_CERTIFICATE, f"{leaf_pem.count(_BEGIN)} leaf certificates were shown")
        chain_pem = _intermediates(leaf_pem, _one(shown, "x509_pem_cert_chain"))
        snapshot = self._source.current
        if snapshot is None:
            raise IdentityRefused(Reason.NO_OWN_SVID, "this node has no bundle to judge by")
        verified = snapshot.bundles.verify(leaf_pem, chain_pem, Usage.CLIENT, self._unix_s())
        if verified.spiffe_id.trust_domain.is_dev and not self._dev_allowed:
            raise IdentityRefused(Reason.DEV_IDENTITY, f"{verified.spiffe_id} is an identity of development")
        return Proof(
            verified.spiffe_id, Usage.CLIENT, leaf_pem, chain_pem, verified.not_after_unix_s, group, tls_version=version
        )


def _one(shown: Mapping[str, Iterable[bytes]], name: str) -> bytes:
    """The one value of a property; empty where there is none, or more than one."""
    values = tuple(shown.get(name, ()))
    return values[0] if len(values) == 1 else b""


def _claim(leaf_pem: bytes) -> str:
    """Whom a leaf names that nobody has verified: for people who look for the machine, and for nothing else."""
    try:
        (leaf,) = from_pem(leaf_pem[:CHAIN_BYTES_MAX])
        (name,) = facts_of(leaf).uri_sans
        return f"claims to be {SpiffeId.parse(name)}"
    except (ValueError, InvalidInput, IdentityRefused):
        return "names nobody that could be read"


def _intermediates(leaf_pem: bytes, chain_pem: bytes) -> bytes:
    """What was shown beside the leaf.

    gRPC leaves the leaf out of the chain; where another version puts it first, it is taken off again.
    """
    if len(leaf_pem) + len(chain_pem) > CHAIN_BYTES_MAX:
        raise IdentityRefused(Reason.CHAIN_TOO_LONG, f"the chain has {len(leaf_pem) + len(chain_pem)} bytes")
    return chain_pem.removeprefix(leaf_pem)


def _word(proof: Proof) -> str:
    return "true" if proof.is_post_quantum else "false"
