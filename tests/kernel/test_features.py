"""What the kernel lets us do, tried for real."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.xdp_world import World, new_world
from x0d.errors import KernelRefused
from x0d.kernel import bpf, features
from x0d.kernel.features import Trial

pytestmark = pytest.mark.kernel


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A namespace of the test's own."""
    with new_world(tmp_path) as made:
        yield made


def test_programs_load() -> None:
    """Each program type is tried, and an XDP program loads where this test runs."""
    trials = {trial.name: trial for trial in features.try_programs()}
    assert ["xdp", "xdp_frags", "sched_cls", "raw_tp", "tp_btf"] == list(trials)
    assert trials["xdp"] == Trial("xdp", 0)


def test_details_work() -> None:
    """All that the stages and tracing need works on the kernel under test."""
    trials = features.try_details()
    assert {trial.name: 0 for trial in trials} == {trial.name: trial.errno for trial in trials}
    assert list(features.DETAILS) == [trial.name for trial in trials]


def test_trials_leave_no_descriptors() -> None:
    """What was tried is closed again."""
    features.try_details()  # libraries are open now
    before = sorted(Path("/proc/self/fd").iterdir())
    for make in (*features.PROGRAMS.values(), *features.DETAILS.values()):
        os.close(make())
    assert before == sorted(Path("/proc/self/fd").iterdir())


def test_a_trial_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second question makes no system call; a refusal that may pass is not remembered."""
    answers = iter([errno.ENOMEM, errno.EINVAL, 0])

    def load() -> int:
        number = next(answers)
        raise KernelRefused("load a program", number)

    monkeypatch.setitem(features.DETAILS, "of_the_test", load)
    seen = [features.trial("of_the_test").errno for _again in range(3)]
    assert [errno.ENOMEM, errno.EINVAL, errno.EINVAL] == seen


def test_modes_attach_and_nothing_stays(world: World) -> None:
    """A veth pair has native and skb mode and no hardware mode, and is gone afterwards."""
    before = world.run(socket.if_nameindex)
    trials = {trial.name: trial.errno for trial in world.run(features.try_xdp_modes)}
    assert trials == {"hardware": errno.EINVAL, "native": 0, "skb": 0}
    assert before == world.run(socket.if_nameindex)


def test_pair_is_removed_after_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The devices go even when a trial breaks."""

    def explode(*_arguments: object) -> int:
        raise MemoryError

    monkeypatch.setattr(bpf, "create_xdp_link", explode)
    before = world.run(socket.if_nameindex)
    with pytest.raises(MemoryError):
        world.run(features.try_xdp_modes)
    assert before == world.run(socket.if_nameindex)
