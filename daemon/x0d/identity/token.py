"""Join tokens: all that a new node needs to find its cluster's issuer and to be let in, as one word to paste.

The word is ``x0d1-`` and base64url of the fields and four bytes of checksum, so that one that was cut while copying is
told as such instead of failing later.  The root's hash is what the joiner trusts, the secret is what the issuer trusts;
whoever reads a token can spend it once, for the ID that it names, until it expires.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass, field
from hashlib import blake2s, sha256
from ipaddress import AddressValueError, IPv6Address
from typing import Final

from x0d.errors import InvalidInput
from x0d.identity.spiffe_id import SpiffeId

PREFIX: Final = "x0d1-"
SECRET_BYTES: Final = 16
ROOT_HASH_BYTES: Final = 32
TOKEN_CHARACTERS_MAX: Final = 4_096
"""Longer words are not looked at; the longest token has 3,161."""

_CHECKSUM_BYTES: Final = 4
_EXPIRES_MAX: Final = 2**48 - 1
_WORD: Final = re.compile(r"[A-Za-z0-9_-]+")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_HASHED: Final = b"x0d-join-secret-v1"


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What the issuer hands out for one node."""

    endpoint: str
    """Of the issuer's join port: ``host:port`` or ``[v6]:port``; a link-local address stands without its zone."""
    root_sha256: bytes
    """SHA-256 of the root's public key (SubjectPublicKeyInfo, DER)."""
    secret: bytes = field(repr=False)
    """16 random bytes."""
    spiffe_id: SpiffeId
    """Whom it makes."""
    expires_unix_s: int

    @property
    def host(self) -> str:
        """Name or address, without brackets."""
        return split_endpoint(self.endpoint)[0]

    @property
    def port(self) -> int:
        """TCP port, 1 to 65535."""
        return split_endpoint(self.endpoint)[1]

    def encode(self) -> str:
        """Write the word."""
        split_endpoint(self.endpoint)
        assert len(self.root_sha256) == ROOT_HASH_BYTES
        assert len(self.secret) == SECRET_BYTES
        assert 0 <= self.expires_unix_s <= _EXPIRES_MAX
        endpoint, name = self.endpoint.encode(), str(self.spiffe_id).encode()
        body = (
            self.expires_unix_s.to_bytes(6, "big")
            + self.root_sha256
            + self.secret
            + len(endpoint).to_bytes(2, "big")
            + endpoint
            + name
        )
        return PREFIX + urlsafe_b64encode(body + _checksum(body)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "JoinToken":
        """Read a word; white space around it is left out.

        Raises:
            InvalidInput: it is no token, or not a whole one.  The text is not shown: it holds a secret.
        """
        word = text.strip()
        if not word.startswith(PREFIX):
            raise InvalidInput(f"this is no join token: one begins with {PREFIX}")
        if len(word) > TOKEN_CHARACTERS_MAX:
            raise InvalidInput(f"this is no join token: longer than {TOKEN_CHARACTERS_MAX} characters")
        body = _unwrap(word.removeprefix(PREFIX))
        expires, root, secret = body[:6], body[6:38], body[38:54]
        size = int.from_bytes(body[54:56], "big")
        endpoint, name = body[56 : 56 + size], body[56 + size :]
        if len(endpoint) != size:
            raise InvalidInput("the join token's address does not fit into it")
        try:
            address, spiffe_id = endpoint.decode("ascii"), SpiffeId.parse(name.decode("ascii"))
        except UnicodeDecodeError as error:
            raise InvalidInput("the join token's address or SPIFFE ID is no ASCII text") from error
        split_endpoint(address)
        return cls(address, root, secret, spiffe_id, int.from_bytes(expires, "big"))


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Take ``host:port`` or ``[v6]:port`` apart.

    Raises:
        InvalidInput: it is neither.
    """
    host, colon, port = endpoint.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > 2**16 - 1:
        raise InvalidInput(f"{endpoint[:70]!r} ends with no port: 'host:port' or '[v6]:port'")
    if host.startswith("[") and host.endswith("]"):
        try:
            address = IPv6Address(host[1:-1])
        except AddressValueError as error:
            raise InvalidInput(f"{host[1:-1][:70]!r} is neither an IPv6 address nor a host without a port") from error
        if address.scope_id is not None:
            raise InvalidInput(f"{endpoint[:70]!r} has a zone, which means nothing on another machine")
        return host[1:-1], int(port)
    if not _HOST.fullmatch(host):
        raise InvalidInput(f"{endpoint[:70]!r} begins with no host: 'host:port' or '[v6]:port'")
    return host, int(port)


def secret_hash(secret: bytes) -> bytes:
    """Hash a secret for keeping: 32 bytes.  It is random, so neither salt nor slowness adds anything."""
    return sha256(_HASHED + secret).digest()


def _unwrap(word: str) -> bytes:
    """Undo base64url and check the sum.  Raises InvalidInput."""
    damaged = "the join token is cut or damaged: copy it whole"
    if not _WORD.fullmatch(word):
        raise InvalidInput(damaged)
    try:
        data = urlsafe_b64decode(word + "=" * (-len(word) % 4))
    except Base64Error as error:
        raise InvalidInput(damaged) from error
    if urlsafe_b64encode(data).decode().rstrip("=") != word:  # spare bits that are set
        raise InvalidInput(damaged)
    body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if len(body) < 6 + ROOT_HASH_BYTES + SECRET_BYTES + 2 or _checksum(body) != checksum:
        raise InvalidInput(damaged)
    return body


def _checksum(body: bytes) -> bytes:
    return blake2s(body, digest_size=_CHECKSUM_BYTES, person=b"x0djoin").digest()
