"""Where a node's identity comes from, at the start: what an issuer says that has lost its roots, or has joined."""

import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from transport.issuer_world import GROUP, N2, OWN, TD, issuer_world, play, short_directory
from x0d import config
from x0d.errors import NoIdentity
from x0d.kernel.clock import SystemClock
from x0d.node.identity_source import NEW_ROOT_ALERT, IdentitySource
from x0d.service.alerts import Alerts
from x0d.spiffe.authority import FILE_NAME
from x0d.spiffe.joined import KeyRequest, save, take
from x0d.store.tokens import Tokens
from x0d.telemetry import Telemetry

CONFIG = """
[node]
name = "n1"
address = "10.255.0.1/32"
production = false
state_dir = "{state_dir}"
runtime_dir = "{runtime_dir}"

[identity]
trust_domain = "{trust_domain}"
issuer = true

[mesh]
interfaces = ["eth7"]
"""


class NoSvidYet:
    """``SnapshotSource`` that has nothing, as at every start."""

    current = None

    def subscribe(self, on_change: Callable[[], None]) -> None:
        del on_change


async def started(state_dir: Path, look: Callable[[IdentitySource], None] = lambda _: None) -> tuple[str, ...]:
    """Start an issuer's identity on this state, look at it, stop it; alerts that it raised."""
    alerts = Alerts()
    with short_directory() as runtime_dir:
        file = runtime_dir / "x0d.toml"
        file.write_text(CONFIG.format(state_dir=state_dir, runtime_dir=runtime_dir, trust_domain=TD))
        async with AsyncExitStack() as stack:
            source = IdentitySource(config.load(file), SystemClock(), Telemetry(), alerts)
            await source.open(stack, GROUP, lambda _: None, NoSvidYet(), runtime_dir)
            look(source)
    return alerts.texts()


def test_an_issuer_that_lost_its_roots_says_so(tmp_path: Path) -> None:
    """The first start is none of an alert's; one without the roots of an earlier life is, and says what to do."""

    async def scenario() -> None:
        state_dir = tmp_path
        for _ in range(2):
            assert () == await started(state_dir)
        shutil.rmtree(state_dir / "identity")
        [text] = await started(state_dir)
        assert text.startswith(f"{NEW_ROOT_ALERT}: {state_dir}/identity held no authority")
        assert "every node has to join again" in text
        (state_dir / "identity" / FILE_NAME).unlink()
        (state_dir / "tokens.db").write_bytes(b"damaged" * 1000)
        assert [NEW_ROOT_ALERT, "tokens_moved_aside"] == [text.split(":")[0] for text in await started(state_dir)]

    play(scenario)


def test_tokens_of_roots_that_are_gone_hold_no_port_open(tmp_path: Path) -> None:
    """Tokens that pin a lost root are dropped at the start, from the disk too."""

    async def scenario() -> None:
        state_dir = tmp_path
        async with issuer_world(state_dir) as world:
            await world.token()
            await world.token("n3")
        shutil.rmtree(state_dir / "identity")

        def look(source: IdentitySource) -> None:
            assert source.issuer is not None
            assert (0, ()) == (source.issuer.status().open_tokens, source.issuer.open_tokens())

        await started(state_dir, look)
        tokens = Tokens(state_dir / "tokens.db")
        await tokens.open()
        assert [] == list(await tokens.unspent())
        await tokens.close()

    play(scenario)


def test_a_node_that_has_joined_becomes_no_issuer_unseen(tmp_path: Path) -> None:
    """With a joined identity and issuer = true the start is refused, names both ways out, and makes no root."""
    (tmp_path / "n1").mkdir()

    async def scenario() -> None:
        directory = tmp_path / "n1" / "identity"
        async with issuer_world(tmp_path) as world:
            request = KeyRequest.make()
            admission = await world.join(await world.token(), request)
            save(directory, take(N2, request.key, admission, world.clock.unix_s()))
        with pytest.raises(NoIdentity, match=rf"joined the cluster of {OWN}: set identity.issuer = false; or move"):
            await started(directory.parent)
        assert ["joined.json"] == [path.name for path in directory.iterdir()]

    play(scenario)
