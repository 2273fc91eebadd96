"""Where this node's identity comes from: its cluster's issuer here, a join, or SPIRE.

In a development cluster the node serves the Workload API itself, on ``<runtime_dir>/workload.sock``, and the daemon
takes its own SVID from there like everybody else on this host.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from x0d import telemetry
from x0d.config import Config
from x0d.errors import InvalidInput, NoIdentity, StorageFailed
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.kernel.clock import SystemClock
from x0d.ports import Auditor
from x0d.service.alerts import Alerts
from x0d.service.api_issuer import JoinServicers
from x0d.service.issuer import Issuer, IssuerTerms
from x0d.service.renewal import Renewal
from x0d.spiffe import joined
from x0d.spiffe.authority import Authority
from x0d.spiffe.joined import JoinedIdentity
from x0d.spiffe.local_svids import IssuedSvids, WorkloadSvids
from x0d.spiffe.snapshot import SnapshotSource
from x0d.store.tokens import Tokens
from x0d.transport.entitlement import Entitlement, IssuerEntitlement, JoinedEntitlement
from x0d.transport.join_client import RenewalClient
from x0d.transport.join_server import JoinServer
from x0d.transport.workload_server import WorkloadServer

TOKENS_ALERT = "tokens_moved_aside"
NEW_ROOT_ALERT = "issuer_root_new"


class IdentitySource:
    """What gives this node its SVID; ``issuer`` and ``held`` tell which of the development cluster's parts it plays."""

    def __init__(self, config: Config, clock: SystemClock, counted: telemetry.Telemetry, alerts: Alerts) -> None:
        self._config = config
        self._clock = clock
        self._counted = counted
        self._alerts = alerts
        self._listener: JoinServer | None = None
        self._served: WorkloadServer | None = None
        self.directory = config.node.state_dir / joined.DIRECTORY
        self.issuer: Issuer | None = None
        self.held: JoinedIdentity | None = None
        self.renewal: Renewal | None = None

    @property
    def kind(self) -> str:
        """``issuer``, ``joined`` or ``spire``."""
        if self._config.identity.mode == "spire":
            return "spire"
        return "issuer" if self._config.identity.issuer else "joined"

    def unix_s(self) -> float:
        """Wall-clock seconds."""
        return self._clock.unix_ms() / 1e3

    async def open(
        self,
        stack: AsyncExitStack,
        viewer_group: str,
        choose_address: Callable[[SpiffeId], str | None],
        snapshots: SnapshotSource,
        dials: Path,
    ) -> None:
        """Take up the identity of this node.

        An issuer that has lost its roots goes on with a new one, and an alert says what that means.

        Args:
            stack: undoes it at the stop.
            viewer_group: whose members are operators, on the issuer.
            choose_address: host for the token of a node, where this one can tell.
            snapshots: our SVID, for renewals.
            dials: private directory for the sockets of our dials.

        Raises:
            NoIdentity: it has none and issues none, or has joined and is to issue; says what to do.
            StorageFailed: what is kept of it cannot be read.
        """
        config = self._config
        if config.identity.mode == "spire":
            return
        if config.identity.issuer:
            svids: WorkloadSvids = await self._open_issuer(stack, choose_address)
            entitle: Entitlement = IssuerEntitlement(config.spiffe_id)
        else:
            svids = self.held = await self._open_joined()
            self.renewal = self._renewal(self.held, snapshots, dials)
            entitle = JoinedEntitlement(config.spiffe_id)
        served = WorkloadServer(config.node.runtime_dir, svids=svids, entitle=entitle, viewer_group=viewer_group)
        await served.start()
        stack.push_async_callback(served.stop)
        self._served = served

    async def look_up_accounts(self) -> None:
        """Ask the host again whose members are operators, at a reload."""
        if self._served is not None:
            await self._served.look_up_group()

    async def _open_issuer(
        self, stack: AsyncExitStack, choose_address: Callable[[SpiffeId], str | None]
    ) -> IssuedSvids:
        config, identity = self._config, self._config.identity
        await self._refuse_if_joined()
        authority = await asyncio.to_thread(
            Authority.open, self.directory, identity.trust_domain, identity.root_ttl_s, identity.svid_ttl_s, self.unix_s
        )
        federated = {
            each.trust_domain: await asyncio.to_thread(read_bundle, each.bundle_file)
            for each in identity.federation
            if each.bundle_file is not None
        }
        tokens = Tokens(config.node.state_dir / "tokens.db")
        report = await tokens.open()
        stack.push_async_callback(tokens.close)
        if report.moved_aside is not None:
            text = f"tokens.db was not readable ({report.reason}) and was moved to {report.moved_aside}"
            self._alerts.raise_alert(TOKENS_ALERT, text)
        if authority.is_new and (not report.is_new or report.moved_aside is not None):
            self._alerts.raise_alert(
                NEW_ROOT_ALERT,
                f"{self.directory} held no authority although this node has been an issuer before, and a new root was "
                f"made: every node has to join again (x0ctl identity token here, x0d --join there); or stop x0d, put "
                "the old directory back from a backup, and start it",
            )
        svids = IssuedSvids(authority, federated, self.unix_s, random.Random())
        self._listener = JoinServer(
            address=config.listen.address,
            port=config.listen.join_port,
            directory=config.node.runtime_dir,
            authority=authority,
            counted=self._counted,
            handshake_timeout_ms=config.listen.handshake_timeout_ms,
            unix_s=self.unix_s,
        )
        self.issuer = Issuer(
            terms=issuer_terms(config, federated),
            authority=authority,
            tokens=tokens,
            listener=self._listener,
            svids=svids,
            choose_address=choose_address,
            clock=self._clock,
            alerts=self._alerts,
        )
        self._listener.add(JoinServicers(self.issuer))
        await self.issuer.start()
        return svids

    async def _refuse_if_joined(self) -> None:
        """A node that has joined one issuer must not become another one unseen.  Raises NoIdentity, StorageFailed."""
        found = await asyncio.to_thread(joined.read, self.directory)
        if found is not None:
            raise NoIdentity(
                f"identity.issuer is true, and {self.directory / joined.FILE_NAME} says that this node has joined the "
                f"cluster of {found.issuer_id}: set identity.issuer = false; or move that file away if this node is to "
                "issue identities itself, with a root of its own, which every other node then has to join"
            )

    async def _open_joined(self) -> JoinedIdentity:
        config = self._config
        found = await asyncio.to_thread(joined.read, self.directory)
        if found is None:
            raise NoIdentity(
                f"this node has no identity: on the issuer run x0ctl identity token --for {config.node.name}, here "
                f"x0d --join TOKEN --config {config.file}; or set identity.issuer = true if this node is to issue them"
            )
        if found.svid.spiffe_id != config.spiffe_id:
            raise NoIdentity(
                f"{self.directory / joined.FILE_NAME} is the identity of {found.svid.spiffe_id}, and the configuration "
                f"says {config.spiffe_id}: change the configuration, or move that file away and join again"
            )
        return JoinedIdentity(self.directory, found, self.unix_s)

    def _renewal(self, held: JoinedIdentity, snapshots: SnapshotSource, dials: Path) -> Renewal:
        channel = RenewalClient(
            endpoint=held.renewal_endpoint,
            issuer_id=held.issuer_id,
            source=snapshots,
            require_pq=self._config.identity.require_pq,
            directory=dials,
            unix_s=self.unix_s,
        )
        return Renewal(held, channel, self._clock, random.Random(), self._alerts)

    def set_auditor(self, auditor: Auditor) -> None:
        """Record joins from now on."""
        if self._listener is not None:
            self._listener.auditor = auditor

    def tasks(self) -> tuple[tuple[str, Coroutine[Any, Any, None]], ...]:
        """What runs as long as the daemon does."""
        if self.issuer is not None:
            return (("issuer", self.issuer.run()),)
        if self.renewal is not None:
            return (("renewal", self.renewal.run()),)
        return ()


def issuer_terms(config: Config, federated: Mapping[TrustDomain, tuple[bytes, ...]]) -> IssuerTerms:
    """What the configuration says about issuing."""
    address = str(config.node.address.network_address)
    host = f"[{address}]" if ip_address(address).version == 6 else address
    return IssuerTerms(
        own_id=config.spiffe_id,
        join_port=config.listen.join_port,
        renewal_endpoint=f"{host}:{config.listen.peer_port}",
        federated=federated,
    )


def read_bundle(file: Path) -> tuple[bytes, ...]:
    """Roots of a foreign trust domain, DER, from a PEM file.

    Raises:
        InvalidInput: it holds none, or something else.
        StorageFailed: it cannot be read.
    """
    try:
        certificates = x509.load_pem_x509_certificates(file.read_bytes())
    except OSError as error:
        raise StorageFailed(f"identity.federation: {file}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInput(f"identity.federation: {file}: no PEM certificates: {error}") from error
    return tuple(each.public_bytes(serialization.Encoding.DER) for each in certificates)
