"""Sealed meshes on virtual time: keys, restarts, renewals and distrust on wires that lose, copy, reorder and replay."""

from collections.abc import Awaitable, Callable

import pytest

from fakes.clock import passes, run_virtual
from simulation.sealed import Rough, SealedMesh

TWO = (("n1", "n2"),)
FOUR = (("n1", "n2"), ("n2", "n3"), ("n3", "n4"), ("n1", "n4"), ("n1", "n3"))
ROUGH = Rough(loss=0.1, copies=0.1, delay_s=0.03, replays=0.2, forgeries=0.1)
SEEDS = range(3)
HAPPENINGS = 6


def play(mesh: SealedMesh, scenario: Callable[[SealedMesh], Awaitable[None]]) -> None:
    """Start all nodes, run a scenario, and end all lives."""

    async def main() -> None:
        for node in mesh.nodes:
            mesh.start(node)
        await scenario(mesh)
        await mesh.stop_all()

    run_virtual(mesh.clock, main())


@pytest.mark.parametrize("pairs", [TWO, FOUR], ids=["two", "four"])
@pytest.mark.parametrize("number", SEEDS)
def test_sealed_mesh_comes_back_from_everything(pairs: tuple[tuple[str, str], ...], number: int, seed: int) -> None:
    """Whatever happens on the worst wires, nothing forged, replayed or distrusted is opened, and all is well again."""

    async def scenario(mesh: SealedMesh) -> None:
        await mesh.settle(10)
        mesh.roughen(ROUGH)
        for _ in range(HAPPENINGS):
            what = await mesh.happen()
            took_s = await mesh.settle(20)
            print(f"{what}: {took_s:.2f} s")
            await passes(mesh.rng.random())
        mesh.roughen(Rough())
        await mesh.settle(5)
        await passes(3)  # the last garbage, and the dial that it was a hint for
        calm = [dict(node.mesh.refused) for node in mesh.nodes]
        dials = sum(len(node.channel.dials) for node in mesh.nodes)
        await passes(10)
        assert calm == [dict(node.mesh.refused) for node in mesh.nodes], "once all is calm nothing is refused"
        assert dials == sum(len(node.channel.dials) for node in mesh.nodes), "and nobody is dialled"

    play(SealedMesh(seed + number, pairs), scenario)


def test_simulation_is_deterministic(seed: int) -> None:
    """One seed gives one run, to the last datagram."""

    def run() -> list[bytes]:
        mesh = SealedMesh(seed, TWO)

        async def scenario(mesh: SealedMesh) -> None:
            mesh.roughen(ROUGH)
            for _ in range(3):
                await mesh.happen()
                await passes(1)

        play(mesh, scenario)
        return sorted(datagram for _, datagram in mesh.opened)

    first = run()
    assert len(first) > 10
    assert first == run()


def test_calm_start_of_four(seed: int) -> None:
    """Four daemons that start together are authenticated within 10 ms and in step before a second is over."""

    async def scenario(mesh: SealedMesh) -> None:
        await passes(0.01)
        assert {"authenticated"} == {row.state for node in mesh.nodes for row in node.peers.rows()}
        assert await mesh.settle(1) < 1
        assert 0 == sum(sum(node.mesh.refused.values()) for node in mesh.nodes)

    play(SealedMesh(seed, FOUR), scenario)
