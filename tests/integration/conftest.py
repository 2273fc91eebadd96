"""Labs of the end-to-end tests: one for each module that asks, unique by name, removed whatever happens."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.lone_daemon import Pair, new_pair
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


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Namespaces of two nodes and their links, for daemons that the test starts."""
    # tmp_path is too long for a unix socket below it.
    with tempfile.TemporaryDirectory(prefix="x0dt-") as directory, new_pair(Path(directory)) as made:
        yield made
