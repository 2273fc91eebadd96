"""The lock of the state directory."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from x0d.errors import StateLocked, StorageFailed
from x0d.store.lock import StateLock

DAEMON = Path(__file__).parents[2] / "daemon"
HOLDER = """
import sys
from pathlib import Path
from x0d.store.lock import StateLock
StateLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_directory_is_created_for_its_owner_alone(tmp_path: Path) -> None:
    """An absent state directory is made with mode 0700, and the lock names this process."""
    with StateLock(tmp_path / "a" / "state"):
        assert 0o700 == (tmp_path / "a" / "state").stat().st_mode & 0o777
        assert f"{os.getpid()}\n" == (tmp_path / "a" / "state" / "lock").read_text()


def test_second_holder_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    """While it is held, locking again names the holder; after release it works."""
    first, second = StateLock(tmp_path), StateLock(tmp_path)
    first.acquire()
    with pytest.raises(StateLocked, match=f"pid {os.getpid()}$"):
        second.acquire()
    first.release()
    first.release()
    second.acquire()
    second.release()


def test_killed_holder_leaves_no_stale_lock(tmp_path: Path) -> None:
    """A holder that is killed is named while it lives and in nobody's way afterwards."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(DAEMON)},
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert "held\n" == child.stdout.readline()
        with pytest.raises(StateLocked, match=f"pid {child.pid}$"):
            StateLock(tmp_path).acquire()
        child.send_signal(signal.SIGKILL)
        child.wait()
        with StateLock(tmp_path):
            pass


def test_path_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    """A file where the directory should be, and a symlink where the lock should be, are StorageFailed."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageFailed, match="not a directory"):
            StateLock(path).acquire()
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageFailed, match="ELOOP"):
        StateLock(tmp_path).acquire()
    assert not (tmp_path / "elsewhere").exists()
