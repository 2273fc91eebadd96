"""gRPC to a server that proves exactly one SPIFFE ID: a private unix socket in front of TLS of our own.

gRPC dials ``target``, a unix socket that only this process may use.  For each such connection the connector dials the
peer, shakes hands and judges (``connector_dial``, ``connector_tls``); until the verdict it reads nothing from gRPC, and
a refused peer sees no byte of the application.  Then bytes are relayed (``connector_relay``).  Every new connection
uses the newest SVID and bundles, so a rotation re-creates no channel; open connections are judged again twice a second
and cut when what they have proved is not trusted any more.

gRPC tells its callers "Socket closed" whatever the reason was: ``last_error`` has it.
"""

import asyncio
import errno
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from x0d.errors import AddressUnavailable, IdentityRefused, PeerUnreachable
from x0d.identity.model import Proof, Reason
from x0d.spiffe.unix_socket import PATH_BYTES_MAX, credentials
from x0d.transport.connector_dial import DEADLINE_S, Dialer, HandshakeTimeout
from x0d.transport.connector_relay import Relay
from x0d.transport.connector_tls import Expect

UNREACHABLE: Final = "unreachable"
"""Reason of a DialError where nobody answered: no word of ``identity.model.Reason``, for nobody was refused."""
JUDGE_INTERVAL_S: Final = 0.5
"""Between two looks at an open connection; a cached verdict costs microseconds."""
EXPIRED_S_MAX: Final = 86_400.0
"""An open connection outlives the peer's certificate by this: expired is not revoked, and peers rotate by new ones."""
REST_S: Final = 0.1
"""Pause in which connections wait where no descriptor is free."""

_NOT_THE_PEERS_FAULT: Final = frozenset(
    {UNREACHABLE, Reason.TIMEOUT, Reason.HANDSHAKE, Reason.NO_OWN_SVID, Reason.OWN_SVID_EXPIRED}
)
"""Nobody was told from somebody else: the dial is worth another try later."""
_BACKLOG: Final = 16
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.default_authority", "x0d.internal"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # What gRPC gives one attempt, whatever its name says; less than our own deadline would cut slow handshakes.
    ("grpc.min_reconnect_backoff_ms", int(DEADLINE_S * 1000) + 1000),
)


@dataclass(frozen=True, slots=True)
class DialError:
    """Why the last dial or connection failed."""

    reason: str
    """A word of ``identity.model.Reason``, or ``unreachable``."""
    detail: str

    def as_error(self) -> IdentityRefused | PeerUnreachable:
        """Refused is who proved to be somebody else, or nobody; who proved nothing either way was not reached."""
        if self.reason in _NOT_THE_PEERS_FAULT:
            return PeerUnreachable(self.detail)
        return IdentityRefused(self.reason, self.detail)


class Connector:
    """One endpoint and who must answer there; ``target`` is for gRPC channels of this process."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        interface: str,
        expect: Expect,
        directory: Path,
        unix_s: Callable[[], float],
        on_handshake: Callable[[Proof], None] | None = None,
        on_refusal: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare; nothing is opened before ``start``.

        Args:
            host: address or name; an IPv6 one may carry its zone.
            port: of TCP.
            interface: the device to leave by; empty: as the routes say.
            expect: who must answer.
            directory: where the private socket's own directory is made; created if missing.
            unix_s: the wall clock.
            on_handshake: told of each accepted peer.
            on_refusal: told each reason of refusal; never of a peer that just does not answer.
        """
        self._dialer = Dialer(host, port, interface, expect, unix_s)
        self._directory = directory
        self._unix_s = unix_s
        self._on_handshake = on_handshake
        self._on_refusal = on_refusal
        self._private: Path | None = None
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._relays: dict[Relay, Proof] = {}
        self._judging: asyncio.TimerHandle | None = None
        self.last_error: DialError | None = None
        """Of the newest dial; None once one has succeeded."""
        self.last_proof: Proof | None = None
        """What the newest accepted peer has proved."""

    @property
    def target(self) -> str:
        """For ``grpc.insecure_channel``: what is insecure about it is one private socket long."""
        assert self._private is not None, "started"
        return f"unix:{self._private / 's'}"

    @property
    def channel_options(self) -> list[tuple[str, int | str]]:
        """For the channel to ``target``; callers add their own."""
        return list(_OPTIONS)

    @property
    def connections(self) -> int:
        """Relayed now."""
        return len(self._relays)

    async def start(self) -> None:
        """Open the private socket; the peer is dialled when gRPC dials it.

        Raises:
            AddressUnavailable: no directory or socket can be made there.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._private = Path(tempfile.mkdtemp(prefix="x0d-", dir=self._directory))  # 0700
            self._listener = _listen(self._private / "s")
        except OSError as error:
            self._remove()
            raise AddressUnavailable(f"{self._directory}: {error.strerror}") from error
        self._watch(self._listener)

    async def stop(self) -> None:
        """End all connections and remove the socket; a second call does nothing."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        if self._judging is not None:
            self._judging.cancel()
            self._judging = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._remove()

    def _remove(self) -> None:
        if self._private is not None:
            shutil.rmtree(self._private, ignore_errors=True)

    def _accept(self) -> None:
        assert self._listener is not None, "watched only while it is open"
        try:
            inner, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._rest(self._listener)
            return  # or it left before we looked: gRPC tries again
        inner.setblocking(False)
        pid, _, _ = credentials(inner)
        if pid != os.getpid():
            inner.close()
            self._refuse(Reason.FOREIGN_PROCESS, f"process {pid} dialled a private socket of this one")
            return
        task = asyncio.get_running_loop().create_task(self._serve(inner))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _rest(self, listener: socket.socket) -> None:
        """Leave the listener alone for a moment, so that lack of descriptors is no busy loop."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.fileno())
        loop.call_later(REST_S, self._watch, listener)

    def _watch(self, listener: socket.socket) -> None:
        if self._listener is listener:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    async def _serve(self, inner: socket.socket) -> None:
        """Dial for one connection of gRPC's, and relay it until its end."""
        try:
            try:
                session = await self._dialer.dial()
            except IdentityRefused as refused:
                self._refuse(refused.reason, str(refused))
                return
            except HandshakeTimeout as error:
                self._refuse(Reason.TIMEOUT, str(error))
                return
            except PeerUnreachable as error:
                self.last_error = DialError(UNREACHABLE, str(error))
                return
            try:
                self.last_error, self.last_proof = None, session.proof
                if self._on_handshake is not None:
                    self._on_handshake(session.proof)
                await self._relay(Relay(inner, session), session.proof)
            finally:
                session.close()
        finally:
            inner.close()

    async def _relay(self, relay: Relay, proof: Proof) -> None:
        self._relays[relay] = proof
        if self._judging is None:
            self._judge_later()
        try:
            said = await relay.run()
        finally:
            del self._relays[relay]
        if said:
            self._refuse(Reason.HANDSHAKE, f"{self._dialer.where}: {said}")

    def _judge_later(self) -> None:
        self._judging = asyncio.get_running_loop().call_later(JUDGE_INTERVAL_S, self._judge_again)

    def _judge_again(self) -> None:
        """Cut what is not trusted any more; come back while anything is open."""
        self._judging = None
        for relay, proof in list(self._relays.items()):
            try:
                self._dialer.contexts.judge_again(proof)
            except IdentityRefused as refused:
                if refused.reason == Reason.EXPIRED and self._unix_s() < proof.not_after_unix_s + EXPIRED_S_MAX:
                    continue
                self._refuse(refused.reason, f"{self._dialer.where}: not trusted any more: {refused}")
                relay.cut()
        if self._relays:
            self._judge_later()

    def _refuse(self, reason: str, detail: str) -> None:
        self.last_error = DialError(str(reason), detail)
        if self._on_refusal is not None:
            self._on_refusal(str(reason))


def _listen(path: Path) -> socket.socket:
    size = len(os.fsencode(path))
    if size > PATH_BYTES_MAX:
        raise OSError(errno.ENAMETOOLONG, f"a socket path has at most {PATH_BYTES_MAX} bytes, {path} has {size}")
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.setblocking(False)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
