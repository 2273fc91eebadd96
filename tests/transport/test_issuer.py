"""The issuer's own doings: tokens that it makes, addresses that it chooses, and what it says when the host refuses."""

import asyncio
import os
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from transport.issuer_world import N2, TD, issuer_world, play, until
from x0d.errors import AddressUnavailable, InvalidInput, NotThere, StorageFailed, TokenRefused, TooMany
from x0d.identity.spiffe_id import node_id
from x0d.identity.token import JoinToken, secret_hash
from x0d.service.issuer import JOIN_ALERT, ROOT_ALERT, TOKEN_ALERT, TOKEN_TTL_S, TOKENS_MAX
from x0d.spiffe import authority as authority_module
from x0d.spiffe.rotation import SLACK_S


def test_a_token_names_the_address_on_the_link(tmp_path: Path) -> None:
    """Without --address the issuer's own choice for that node is taken; where there is none, it asks for one."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            world.choices[N2] = "fe80::1"
            created = await world.issuer.create_token("n2", "")
            made = JoinToken.parse(created.token)
            assert ("[fe80::1]:9476", "fe80::1") == (made.endpoint, created.address)
            assert (str(N2), N2) == (created.spiffe_id, made.spiffe_id)
            assert made.expires_unix_s * 1000 == created.expires_at_unix_ms
            assert 0 <= made.expires_unix_s - (world.clock.unix_s() + TOKEN_TTL_S) + 1 <= 2
            created = await world.issuer.create_token(str(N2), "issuer.example")
            assert "issuer.example:9476" == JoinToken.parse(created.token).endpoint
            with pytest.raises(InvalidInput, match="say with --address"):
                await world.issuer.create_token("n3", "")

    play(scenario)


@pytest.mark.parametrize("address", ["a b", "fe80::1%eth0", "10.0.0.1:80", "[::1]", "x" * 300, "-", "é.example"])
def test_an_address_that_is_none_opens_nothing(tmp_path: Path, address: str) -> None:
    """What cannot be dialled is refused before a token exists or a port is open."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            with pytest.raises(InvalidInput):
                await world.issuer.create_token("n2", address)
            assert (0, False) == (world.issuer.status().open_tokens, world.listener.is_open)

    play(scenario)


def test_there_is_a_limit_to_open_tokens(tmp_path: Path) -> None:
    """The next one is refused until one is spent or expires."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            for number in range(TOKENS_MAX):
                await world.issuer.create_token(f"m{number}", "127.0.0.1")
            with pytest.raises(TooMany):
                await world.issuer.create_token("n2", "127.0.0.1")
            world.clock.advance(TOKEN_TTL_S + 1)
            await world.issuer.create_token("n2", "127.0.0.1")
            assert 1 == world.issuer.status().open_tokens

    play(scenario)


def test_many_tokens_at_once_open_one_port(tmp_path: Path) -> None:
    """Calls that come together each get a token of their own, and they all work."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            tokens = await asyncio.gather(*(world.token(f"m{number}") for number in range(4)))
            assert 4 == len({token.secret for token in tokens})
            assert 1 == len({token.port for token in tokens})
            await asyncio.gather(*(world.join(token) for token in tokens))

    play(scenario)


def test_a_secret_is_not_kept(tmp_path: Path) -> None:
    """Neither the token's file nor the log holds what a joiner has to show."""

    async def scenario() -> bytes:
        async with issuer_world(tmp_path) as world:
            return (await world.token()).secret

    secret = asyncio.run(scenario())
    assert [] == [path.name for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_a_port_in_use_makes_no_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """When the join port cannot be bound the call says so, and nothing is kept."""

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            async with issuer_world(tmp_path, join_port=port) as world:
                said = f"join port 127.0.0.1:{port}: .* in use; change listen.address or listen.join_port"
                with pytest.raises(AddressUnavailable, match=said):
                    await world.issuer.create_token("n2", "127.0.0.1")
                assert (0, False) == (world.issuer.status().open_tokens, world.listener.is_open)
                assert [] == list(await world.tokens.unspent())

    play(scenario)
    assert "x0d1-" not in capsys.readouterr().out


def test_a_port_in_use_after_a_restart_is_an_alert(tmp_path: Path) -> None:
    """Tokens of an earlier life wait for the port: an alert says why nobody can join, until they can."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            await world.token()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            async with issuer_world(tmp_path, join_port=taken.getsockname()[1]) as world:
                await until(lambda: world.alerts.names() == (JOIN_ALERT,))
                taken.close()
                await until(lambda: world.listener.is_open)
                assert () == world.alerts.names()

    play(scenario)


def test_a_disk_that_refuses_a_rotation_is_an_alert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old root goes on, and the rotation is tried again until it succeeds."""

    def full(_: Path, __: bytes) -> None:
        raise StorageFailed(os.strerror(28))

    async def scenario() -> None:
        async with issuer_world(tmp_path, root_ttl_s=8000, svid_ttl_s=1000) as world:
            roots = world.authority.bundle()
            monkeypatch.setattr(authority_module, "write_private", full)
            world.clock.advance(4001)
            await until(lambda: world.alerts.names() == (ROOT_ALERT,))
            assert roots == world.authority.bundle()
            monkeypatch.undo()
            await until(lambda: world.alerts.names() == ())
            assert 2 == len(world.authority.bundle())

    play(scenario)


def test_a_token_that_cannot_be_kept_is_not_given(tmp_path: Path) -> None:
    """With the store locked the call fails, and a port that was opened for it closes again."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            with closing(sqlite3.connect(tmp_path / "tokens.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(StorageFailed, match="locked"):
                    await world.issuer.create_token("n2", "127.0.0.1")
            await until(lambda: not world.listener.is_open)
            assert 0 == world.issuer.status().open_tokens

    play(scenario)


def test_a_store_that_cannot_be_read_is_an_alert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While tokens are open and their file cannot be read, an alert says so; the port stays open for them."""

    async def unreadable() -> list[object]:
        raise StorageFailed("input/output error")

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            monkeypatch.setattr(world.tokens, "unspent", unreadable)
            await until(lambda: world.alerts.names() == (TOKEN_ALERT,))
            assert world.listener.is_open
            monkeypatch.undo()
            await until(lambda: world.alerts.names() == ())
            await world.join(token)

    play(scenario)


def test_a_revoked_token_lets_nobody_in(tmp_path: Path) -> None:
    """By its id one token ends, by ID or name all of a node; with the last one the join port closes."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            tokens = [await world.token(name) for name in ("n2", "n2", "n3", "n4")]
            listed = world.issuer.open_tokens()
            ids = [secret_hash(token.secret).hex()[:8] for token in tokens]
            assert {(id_, str(token.spiffe_id)) for id_, token in zip(ids, tokens, strict=True)} == {
                (each.id, each.spiffe_id) for each in listed
            }
            assert {token.expires_unix_s * 1000 for token in tokens} == {each.expires_at_unix_ms for each in listed}
            assert ids[:1] == [each.id for each in await world.issuer.revoke_tokens(ids[0].upper())]
            with pytest.raises(TokenRefused, match="not known here"):
                await world.join(tokens[0])
            await world.join(tokens[1])
            with pytest.raises(NotThere, match="no open token has the id n2"):
                await world.issuer.revoke_tokens("n2")
            assert ids[2:3] == [each.id for each in await world.issuer.revoke_tokens(str(tokens[2].spiffe_id))]
            assert world.listener.is_open
            assert ids[3:] == [each.id for each in await world.issuer.revoke_tokens("n4")]
            await until(lambda: not world.listener.is_open)
            assert () == world.issuer.open_tokens()

    play(scenario)


@pytest.mark.parametrize("which", ["", "spiffe://other.test/node/n2", "/operator/root", "n1", "x" * 300])
def test_what_names_no_token_revokes_none(tmp_path: Path, which: str) -> None:
    """What can be neither a token's id nor another node of the cluster is refused."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            await world.token()
            with pytest.raises(InvalidInput):
                await world.issuer.revoke_tokens(which)
            assert 1 == world.issuer.status().open_tokens

    play(scenario)


def test_a_token_ends_with_its_root(tmp_path: Path) -> None:
    """Once the root that it pins has left the bundle a token counts no more, and the join port closes."""

    async def scenario() -> None:
        async with issuer_world(tmp_path, root_ttl_s=8000, svid_ttl_s=60) as world:
            created = await world.token()
            assert created.root_sha256 == world.authority.root_sha256
            now = world.clock.unix_s()
            for at_s in (4001, 4062, 4062 + 61 + SLACK_S):
                assert world.authority.rotate(now + at_s)
            assert world.authority.root_der(created.root_sha256) is None
            await until(lambda: not world.listener.is_open)
            assert (0, []) == (world.issuer.status().open_tokens, list(await world.tokens.unspent()))

    play(scenario)


def test_status_tells_the_root(tmp_path: Path) -> None:
    """What status says of the root is what a token names."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token, status = await world.token("n9"), world.issuer.status()
            assert token.root_sha256.hex() == status.root_sha256
            assert world.authority.root_not_after_unix_s == status.root_not_after_unix_s
            assert node_id(TD, "n9") == token.spiffe_id

    play(scenario)
