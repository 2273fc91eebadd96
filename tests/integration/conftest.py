"""Labs of the end-to-end tests: one for each module that asks, unique by name, removed whatever happens."""

import os
from collections.abc import Iterator

import pytest
from integration.mesh_lab import QUICK, MeshLab, running_lab

from lab.network import Options


@pytest.fixture(scope="module")
def shared_ring() -> Iterator[MeshLab]:
    """Four nodes in a ring with the dear chord n1-n3; every node runs x0d."""
    with running_lab(f"x0dt-r{os.getpid()}", Options("ring:4+1-3", config=QUICK)) as mesh:
        yield mesh


@pytest.fixture
def ring(shared_ring: MeshLab) -> MeshLab:
    """The ring, with every fault of the tests before healed."""
    shared_ring.settle()
    return shared_ring
