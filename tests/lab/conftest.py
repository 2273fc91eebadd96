"""Labs for tests: unique names, removed whatever happens."""

import os
import shutil
from collections.abc import Iterator
from typing import Protocol

import pytest

from lab.network import Lab, Options


class MakeLab(Protocol):
    """Makes a lab without daemons that the test does not have to remove."""

    def __call__(self, topology: str, *, link_local: bool = False, static_routes: bool = True) -> Lab:
        """Make it."""


def missing() -> str | None:
    """What this machine lacks for a lab; None if nothing."""
    if os.geteuid() != 0:
        return "root"
    return next(
        (f"the command {each}" for each in ("ip", "tc", "nsenter", "clang", "ping") if not shutil.which(each)), None
    )


@pytest.fixture
def lab_name() -> str:
    """A name that no other test run uses."""
    return f"t{os.getpid()}"


@pytest.fixture
def make_lab(lab_name: str) -> Iterator[MakeLab]:
    """Make labs ``tPID``; they are removed after the test."""
    if lack := missing():
        pytest.skip(f"a lab needs {lack}")
    labs: list[Lab] = []

    def make(topology: str, *, link_local: bool = False, static_routes: bool = True) -> Lab:
        labs.append(Lab.create(lab_name, Options(topology, link_local, static_routes)))
        return labs[-1]

    yield make
    for lab in labs:
        lab.remove()
