"""``x0d --join``: what it writes, for whom, and that whatever is refused leaves the host as it was."""

import asyncio
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from transport.issuer_world import TD, issuer_world, play, until
from x0d import config
from x0d.errors import IdentityRefused, InvalidInput, PeerUnreachable, StateLocked, TokenRefused, X0dError
from x0d.identity.spiffe_id import node_id
from x0d.identity.token import JoinToken
from x0d.node import join
from x0d.spiffe.joined import DIRECTORY, FILE_NAME, read
from x0d.store.lock import StateLock

NOBODY = 65_534
CONFIG = """
[node]
name = "{name}"
address = "10.255.0.2/32"
production = false
state_dir = "{state_dir}"
runtime_dir = "/run/x0d-test"

[identity]
trust_domain = "{trust_domain}"
issuer = {issuer}

[mesh]
interfaces = ["eth7"]

[[mesh.neighbours]]
node = "n1"
interface = "eth1"
address = "fe80::1"
"""


def config_in(directory: Path, name: str = "n2", trust_domain: str = TD.name, *, issuer: bool = False) -> config.Config:
    """A node's configuration, with its state below ``directory``."""
    file = directory / "x0d.toml"
    state_dir, is_issuer = directory / "state", str(issuer).lower()
    text = CONFIG.format(name=name, state_dir=state_dir, trust_domain=trust_domain, issuer=is_issuer)
    file.write_text(text)
    return config.load(file)


async def joining(loaded: config.Config, token: JoinToken | str) -> str:
    """Run it as the program does, with a loop of its own in a thread."""
    return await asyncio.to_thread(join.run, loaded, token if isinstance(token, str) else token.encode())


async def program(loaded: config.Config, token: JoinToken) -> subprocess.CompletedProcess[str]:
    """Run ``x0d --join`` to its end."""
    command = [sys.executable, "-m", "x0d", "--join", token.encode(), "--config", str(loaded.file)]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": "daemon"})

    return await asyncio.to_thread(run)


def test_the_program_joins(tmp_path: Path) -> None:
    """The command spends the token, writes the identity for the daemon alone, and says what to do next."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            loaded = config_in(tmp_path)
            token, _ = await world.token(), await world.token("n3")  # the other one keeps the port open
            done = await program(loaded, token)
            assert (0, "") == (done.returncode, done.stderr)
            assert f"joined as {node_id(TD, 'n2')}; certificate until 20" in done.stdout
            joined = read(tmp_path / "state" / DIRECTORY)
            assert joined is not None
            assert (node_id(TD, "n2"), "10.255.0.1:9471") == (joined.svid.spiffe_id, joined.renewal_endpoint)
            again = await program(loaded, token)
            assert 1 == again.returncode
            assert "the issuer says: this token is spent" in again.stderr
            assert joined == read(tmp_path / "state" / DIRECTORY)

    play(scenario)


@pytest.mark.kernel
def test_the_files_belong_to_the_daemon(tmp_path: Path) -> None:
    """Run as root, everything that it makes goes to the owner of the state directory, even when the join fails."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            loaded = config_in(tmp_path)
            loaded.node.state_dir.mkdir(mode=0o700)
            os.chown(loaded.node.state_dir, NOBODY, NOBODY)
            token = await world.token()
            with pytest.raises(TokenRefused):
                await joining(loaded, replace(token, secret=bytes(16)))
            assert {"lock": (NOBODY, 0o600)} == owners(loaded.node.state_dir)
            await joining(loaded, token)
            expected = {"lock": (NOBODY, 0o600), DIRECTORY: (NOBODY, 0o700), FILE_NAME: (NOBODY, 0o600)}
            assert expected == owners(loaded.node.state_dir)

    play(scenario)


def owners(directory: Path) -> dict[str, tuple[int, int]]:
    """Owner and mode of everything below a directory."""
    found = {path.name: path.stat() for path in directory.rglob("*")}
    return {name: (status.st_uid, stat.S_IMODE(status.st_mode)) for name, status in found.items()}


def another_node(token: JoinToken, directory: Path) -> tuple[config.Config, str]:
    return config_in(directory, "n3"), token.encode()


def another_domain(token: JoinToken, directory: Path) -> tuple[config.Config, str]:
    return config_in(directory, "n2", "other.test"), token.encode()


def an_issuer(token: JoinToken, directory: Path) -> tuple[config.Config, str]:
    return config_in(directory, issuer=True), token.encode()


def cut(token: JoinToken, directory: Path) -> tuple[config.Config, str]:
    return config_in(directory), token.encode()[:-3]


def garbage(_: JoinToken, directory: Path) -> tuple[config.Config, str]:
    return config_in(directory), "x0d1-"


def expired(token: JoinToken, directory: Path) -> tuple[config.Config, str]:
    return config_in(directory), replace(token, expires_unix_s=token.expires_unix_s - 601).encode()


def another_root(token: JoinToken, directory: Path) -> tuple[config.Config, str]:
    return config_in(directory), replace(token, root_sha256=bytes(32)).encode()


def nobody_there(token: JoinToken, directory: Path) -> tuple[config.Config, str]:
    return config_in(directory), replace(token, endpoint="127.0.0.1:1").encode()


@pytest.mark.parametrize(
    ("spoil", "error", "text"),
    [
        (another_node, TokenRefused, "makes this node spiffe://dev.x0d.test/node/n3"),
        (another_domain, TokenRefused, "of trust domain dev.x0d.test"),
        (an_issuer, InvalidInput, "identity.issuer is true"),
        (cut, InvalidInput, "cut or damaged"),
        (garbage, InvalidInput, "cut or damaged"),
        (expired, TokenRefused, "has expired"),
        (another_root, IdentityRefused, "another cluster answers"),
        (nobody_there, PeerUnreachable, "127.0.0.1:1"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    tmp_path: Path,
    spoil: Callable[[JoinToken, Path], tuple[config.Config, str]],
    error: type[X0dError],
    text: str,
) -> None:
    """Each wrong token or configuration is told in a sentence; no identity is written and the token stays unspent."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token = await world.token()
            loaded, word = spoil(token, tmp_path)
            with pytest.raises(error, match=text):
                await joining(loaded, word)
            assert not (tmp_path / "state" / DIRECTORY).exists()
            await joining(config_in(tmp_path), token)

    play(scenario)


@pytest.mark.parametrize("behind_s", [300, 7200])
def test_a_slow_clock_is_told(tmp_path: Path, behind_s: int) -> None:
    """With a clock behind the issuer's it is said by how much at least, and the token is good once it is set."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token, loaded = await world.token(), config_in(tmp_path)
            slow = lambda: world.clock.unix_s() - behind_s  # noqa: E731
            with pytest.raises(IdentityRefused, match="is behind the issuer's by at least") as refused:
                await asyncio.to_thread(join.run, loaded, token.encode(), slow)
            (least_s,) = map(
                int, re.findall(r"at least (\d+) s: set it, then join again with this", str(refused.value))
            )
            assert behind_s - 10 < least_s <= behind_s
            await joining(loaded, token)

    play(scenario)


def test_a_clock_that_is_set_back_while_joining_is_told(tmp_path: Path) -> None:
    """Where only the new certificate is not valid yet, the token is spent, and that is said."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token, loaded = await world.token(), config_in(tmp_path)

            def clock() -> float:
                return time.time() - (0 if world.issuer.status().open_tokens else 7200)

            with pytest.raises(IdentityRefused, match="join again with another token: this one is spent"):
                await asyncio.to_thread(join.run, loaded, token.encode(), clock)
            assert not (tmp_path / "state" / DIRECTORY).exists()

    play(scenario)


def test_a_node_joins_anew(tmp_path: Path) -> None:
    """A second join for the same ID replaces the identity, expired or not; one for another ID is refused unspent."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            loaded = config_in(tmp_path)
            await joining(loaded, await world.token())
            first = read(tmp_path / "state" / DIRECTORY)
            await joining(loaded, await world.token())
            second = read(tmp_path / "state" / DIRECTORY)
            assert first is not None
            assert second is not None
            assert first.svid.serial != second.svid.serial
            with pytest.raises(InvalidInput, match="move it away to become that"):
                await joining(config_in(tmp_path, "n3"), await world.token("n3"))
            assert second == read(tmp_path / "state" / DIRECTORY)
            await until(lambda: world.issuer.status().open_tokens == 1)

    play(scenario)


def test_a_running_daemon_is_left_alone(tmp_path: Path) -> None:
    """While another instance holds the state directory nothing is sent and nothing written."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            token, loaded = await world.token(), config_in(tmp_path)
            with StateLock(loaded.node.state_dir), pytest.raises(StateLocked, match="in use by another x0d"):
                await joining(loaded, token)
            await joining(loaded, token)

    play(scenario)


def test_a_link_local_address_is_sought_where_it_may_be(tmp_path: Path) -> None:
    """A neighbour's address goes by that neighbour's interface, another one by every interface of the mesh."""
    loaded = config_in(tmp_path)
    token = JoinToken("[fe80::1]:9476", bytes(32), bytes(16), node_id(TD, "n2"), 0)
    assert ("eth1",) == join.interfaces_of(loaded, token)
    assert ("eth7", "eth1") == join.interfaces_of(loaded, replace(token, endpoint="[fe80::9]:9476"))
