"""TLS of the join port, the server's side on pyOpenSSL: what it shows, and a connection whose every byte is counted.

TLS 1.3 and ``h2`` alone, no certificate of the caller's, nothing to resume.  OpenSSL works on memory, not on the
socket, so that what a stranger sends is counted before any of it is looked at, the handshake's bytes included.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key
from OpenSSL import SSL

from x0d.errors import IdentityRefused, NoIdentity
from x0d.identity.model import Reason
from x0d.ports.issuer import join_id
from x0d.spiffe.authority import Authority
from x0d.spiffe.local_svids import svid_of
from x0d.spiffe.request import key_to_der, make_key, public_key_to_der
from x0d.spiffe.snapshot import Svid
from x0d.transport.connector_tls import ALPN, library_text

CERTIFICATE_TTL_S: Final = 3_600
"""Of what the port shows; renewed at half of it, or of what the configuration gives certificates at most."""
READ_BYTES: Final = 16_384
NO_H2: Final = "the caller does not speak h2"


class ShownCertificate:
    """What one opening of the port shows; asked for at each handshake."""

    def __init__(self, authority: Authority, root_sha256: bytes, unix_s: Callable[[], float]) -> None:
        """Make the first certificate.

        Raises:
            NoIdentity: no root can sign now.
        """
        self._authority = authority
        self._root_sha256 = root_sha256
        self._unix_s = unix_s
        self._svid, self._context = self._make()

    def context(self) -> SSL.Context:
        """Give the context of now, the root last in its chain; a new one when half of the certificate's life is over.

        While no root can sign it stays the old one: joiners see it expire, and the issuer's alerts say why.
        """
        svid, now = self._svid, self._unix_s()
        if not svid.not_before_unix_s <= now < (svid.not_before_unix_s + svid.not_after_unix_s) / 2:
            with contextlib.suppress(NoIdentity):
                self._svid, self._context = self._make()
        return self._context

    def _make(self) -> tuple[Svid, SSL.Context]:
        spiffe_id = join_id(self._authority.trust_domain)
        key = make_key()
        public = public_key_to_der(key)
        signed = self._authority.issue(spiffe_id, public, CERTIFICATE_TTL_S, root_sha256=self._root_sha256)
        svid = svid_of(spiffe_id, signed.chain_ders, key_to_der(key))
        root = self._authority.root_der(self._root_sha256)
        return svid, _context_of(svid, svid.chain_ders if root is None else (*svid.chain_ders, root))


def _context_of(svid: Svid, above_ders: Sequence[bytes]) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_alpn_select_callback(_choose)
    key = load_der_private_key(svid.key_der, password=None)
    assert isinstance(key, EllipticCurvePrivateKey), "our own keys are P-256"
    context.use_certificate(x509.load_der_x509_certificate(svid.leaf_der))
    for der in above_ders:
        context.add_extra_chain_cert(x509.load_der_x509_certificate(der))
    context.use_privatekey(key)
    context.check_privatekey()
    return context


def _choose(_: SSL.Connection, offered: list[bytes]) -> bytes:
    if ALPN not in offered:
        raise IdentityRefused(Reason.ALPN, NO_H2)  # pyOpenSSL lets it out of the handshake, after an alert
    return ALPN


class Secured:
    """One accepted connection; ``tcp`` does not block, and is closed by whoever gave it."""

    def __init__(self, tcp: socket.socket, context: SSL.Context, bytes_max: int) -> None:
        """``bytes_max``: what the caller may send in the connection's life, on the wire."""
        self._loop = asyncio.get_running_loop()
        self._tcp = tcp
        self._tls = SSL.Connection(context, None)
        self._tls.set_accept_state()
        self._bytes_max = bytes_max
        self._bytes_left = bytes_max
        self._writing = asyncio.Lock()

    async def shake_hands(self) -> None:
        """Bring TLS up.

        Raises:
            IdentityRefused: the caller speaks no TLS 1.3, no ``h2``, too much, or is gone.
            OSError: the connection is lost.
        """
        while True:
            try:
                self._tls.do_handshake()
            except SSL.WantReadError:
                await self._flush()
                if not await self._fill():
                    raise IdentityRefused(Reason.HANDSHAKE, "the caller left before TLS was up") from None
            except SSL.Error as error:
                await self._flush()  # the alert
                raise IdentityRefused(Reason.HANDSHAKE, library_text(error)) from error
            except IdentityRefused:
                await self._flush()
                raise
            else:
                break
        await self._flush()
        if self._tls.get_alpn_proto_negotiated() != ALPN:
            raise IdentityRefused(Reason.ALPN, NO_H2)

    async def received(self) -> AsyncIterator[bytes]:
        """Yield what the caller sends, until it says goodbye or is gone.

        Raises:
            IdentityRefused: it sends too much, or what is no TLS.
            OSError: the connection is lost.
        """
        while True:
            try:
                yield self._tls.recv(READ_BYTES)
            except SSL.WantReadError:
                await self._flush()  # answers that TLS itself owes
                if not await self._fill():
                    return
            except SSL.ZeroReturnError:
                return
            except SSL.Error as error:
                raise IdentityRefused(Reason.HANDSHAKE, library_text(error)) from error

    async def send(self, data: bytes) -> None:
        """Send; returns when the kernel has taken it.  Raises OSError."""
        try:
            self._tls.sendall(data)
        except SSL.Error as error:
            raise ConnectionAbortedError(library_text(error)) from error
        await self._flush()

    async def say_goodbye(self) -> None:
        """Tell the caller that nothing follows.  Raises OSError."""
        try:
            self._tls.shutdown()
        except SSL.Error:
            return  # TLS has failed before: closing tells the rest
        await self._flush()

    async def _fill(self) -> bool:
        """Give TLS what has come; false at the end of the stream."""
        data = await self._loop.sock_recv(self._tcp, READ_BYTES)
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise IdentityRefused(Reason.POLICY, f"the caller sends more than {self._bytes_max} bytes")
        if data:
            self._tls.bio_write(data)
        return bool(data)

    async def _flush(self) -> None:
        """Send what TLS has made; one at a time, or records would change places."""
        async with self._writing:
            while True:
                try:
                    data = self._tls.bio_read(READ_BYTES)
                except SSL.WantReadError:
                    return
                await self._loop.sock_sendall(self._tcp, data)
