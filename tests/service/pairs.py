"""Two nodes and the link between them, and what a test of their peers looks at."""

from collections.abc import Awaitable, Callable

from fakes.clock import FakeClock, passes, run_virtual, until
from service.nodes import FakeMesh, FakeNode
from x0d.identity.seal import Refusal

Scenario = Callable[[FakeMesh, FakeNode, FakeNode], Awaitable[None]]


def play(scenario: Scenario, *, wait_in_step: bool = True) -> tuple[FakeNode, FakeNode]:
    """Run a scenario on two nodes and the link between them."""
    clock = FakeClock()
    mesh = FakeMesh(clock, (("n1", "n2"),))
    n1, n2 = mesh.nodes["n1"], mesh.nodes["n2"]

    async def main() -> None:
        async with n1.alive(), n2.alive():
            if wait_in_step:
                await until(mesh.in_step)
                await passes(1)
            await scenario(mesh, n1, n2)

    run_virtual(clock, main())
    return n1, n2


def state_of(node: FakeNode) -> tuple[str, str]:
    """State and reason of the node's only peer."""
    (row,) = node.peers.rows()
    return (row.state, row.reason)


def unsealed(node: FakeNode) -> int:
    """Datagrams that had no valid MAC, or were not new."""
    return sum(node.mesh.refused[reason] for reason in Refusal)
