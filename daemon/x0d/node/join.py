"""``x0d --join TOKEN``: run once on a new node, before its daemon starts.

Everything is checked before the token is spent, and nothing is written before the whole answer is checked: a join that
fails leaves this host as it was, and the only thing lost with one that fails late is the token.  Run as root, the files
go to whoever owns the state directory, so that the daemon can read them.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from x0d.config import Config
from x0d.errors import IdentityRefused, InvalidInput, PeerUnreachable, StorageFailed, TokenRefused
from x0d.identity.model import Reason
from x0d.identity.token import JoinToken
from x0d.service.issuer import TOKEN_TTL_S
from x0d.spiffe import joined as joined_identity
from x0d.spiffe.joined import KeyRequest
from x0d.store.lock import LOCK_NAME, StateLock
from x0d.transport.join_client import join

UNREACHED = (
    "the issuer's join port is open only while a token is: if this one is spent, make another on the issuer with "
    "x0ctl identity token; else look at the way there (--address says what the token names)"
)


def run(config: Config, token_text: str, unix_s: Callable[[], float] = time.time) -> str:
    """Join; what to tell the operator.  Runs an event loop of its own.

    Raises:
        X0dError: the token, the configuration, the issuer or the disk refuse; this host is as it was.
    """
    token = JoinToken.parse(token_text)
    check(config, token, unix_s())
    state_dir = config.node.state_dir
    directory = state_dir / joined_identity.DIRECTORY
    with StateLock(state_dir), _owned_like(state_dir, directory):
        had = joined_identity.read(directory)
        if had is not None and had.svid.spiffe_id != config.spiffe_id:
            text = f"{directory / joined_identity.FILE_NAME} is the identity of {had.svid.spiffe_id}"
            raise InvalidInput(f"{text}, and the configuration says {config.spiffe_id}; move it away to become that")
        request = KeyRequest.make()
        with tempfile.TemporaryDirectory(prefix="x0d-join-") as private:
            asked = join(token, request.csr_der, interfaces_of(config, token), Path(private), unix_s)
            try:
                with _clock_told(token, unix_s, "join again with this token"):
                    admission = asyncio.run(asked)
            except PeerUnreachable as error:
                raise PeerUnreachable(f"{error}; {UNREACHED}") from error
        with _clock_told(token, unix_s, "join again with another token: this one is spent"):
            taken = joined_identity.take(config.spiffe_id, request.key, admission, unix_s())
        joined_identity.save(directory, taken)
    end = datetime.fromtimestamp(taken.svid.not_after_unix_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return (
        f"joined as {taken.svid.spiffe_id}; certificate until {end}, renewed by {taken.issuer_id} at "
        f"{taken.renewal_endpoint}. Start x0d now."
    )


def check(config: Config, token: JoinToken, now_unix_s: float) -> None:
    """Compare token, configuration and clock.

    Raises:
        InvalidInput: this node's configuration is not one of a node that joins.
        TokenRefused: the token is for somebody else, or over.
    """
    identity = config.identity
    if identity.mode != "dev":
        raise InvalidInput(f'{config.file}: identity.mode is "{identity.mode}"; only nodes with mode "dev" join')
    if identity.issuer:
        raise InvalidInput(f"{config.file}: identity.issuer is true; the issuer has its identity from itself")
    if token.spiffe_id.trust_domain != identity.trust_domain:
        text = f"the token is of trust domain {token.spiffe_id.trust_domain}"
        raise TokenRefused(f"{text}, and identity.trust_domain in {config.file} is {identity.trust_domain}")
    if token.spiffe_id != config.spiffe_id:
        raise TokenRefused(f"the token is for {token.spiffe_id}, and {config.file} makes this node {config.spiffe_id}")
    if now_unix_s >= token.expires_unix_s:
        text = f"the token has expired {now_unix_s - token.expires_unix_s:.0f} s ago by this host's clock"
        raise TokenRefused(f"{text}; make another one on the issuer, or set the clock")


def interfaces_of(config: Config, token: JoinToken) -> tuple[str, ...]:
    """Where a link-local address of the issuer may be: the neighbour's interface, else every one of the mesh."""
    named = tuple(item.interface for item in config.mesh.neighbours if str(item.address) == token.host)
    return named or config.interfaces


@contextmanager
def _clock_told(token: JoinToken, unix_s: Callable[[], float], then: str) -> Iterator[None]:
    """Say of a certificate that is not valid yet that it is our clock which is slow, by how much, and what to do."""
    try:
        yield
    except IdentityRefused as refused:
        if refused.reason != Reason.NOT_YET_VALID:
            raise
        # The token was made by the issuer's clock, and that was before now.
        behind_s = token.expires_unix_s - TOKEN_TTL_S - unix_s()
        by = f" by at least {behind_s:.0f} s" if behind_s >= 1 else ""
        text = f"this host's clock is behind the issuer's{by}: set it, then {then} ({refused})"
        raise IdentityRefused(refused.reason, text) from refused


@contextmanager
def _owned_like(state_dir: Path, directory: Path) -> Iterator[None]:
    """Give what was made to the owner of the state directory, even if the block fails: the lock is made first."""
    try:
        yield
    finally:
        if os.geteuid() == 0:
            try:
                _give_away(state_dir, directory)
            except OSError as error:
                raise StorageFailed(f"{error.filename}: {error.strerror}; it has to belong to the daemon") from error


def _give_away(state_dir: Path, directory: Path) -> None:
    owner = state_dir.stat()
    for path in (state_dir / LOCK_NAME, directory, directory / joined_identity.FILE_NAME):
        if path.exists():
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
