"""Whose socket the Workload API's is: what is dialled in production, and what is refused before it is."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from x0d.errors import NoIdentity
from x0d.spiffe.agent_socket import prove_socket

OWN_UID = os.geteuid()
NOBODY = 65_534
LISTEN = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
if sys.argv[2] != str(os.geteuid()):
    os.setuid(int(sys.argv[2]))  # whoever calls listen is shown to those that connect
listener.listen(8)
print("listening", flush=True)
sys.stdin.read()
"""
needs_root = pytest.mark.skipif(OWN_UID != 0, reason="gives files to others")


@contextmanager
def served(path: Path, uid: int = OWN_UID) -> Iterator[Path]:
    """Let another process listen."""
    command = [sys.executable, "-c", LISTEN, str(path), str(uid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert b"listening\n" == process.stdout.readline()
            yield path
        finally:
            process.kill()
            with suppress(FileNotFoundError):
                path.unlink()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory that only we may write to, on whatever umask."""
    tmp_path.chmod(0o700)
    return tmp_path


def refusal_of(path: Path) -> str:
    with pytest.raises(NoIdentity) as refused:
        prove_socket(path, OWN_UID)
    return str(refused.value)


def test_agents_socket_is_dialled_by_its_resolved_path(directory: Path) -> None:
    """Another process of the right uid, behind a symbolic link: what was proved is what is dialled."""
    with served(directory / "agent.sock") as path:
        assert path.resolve() == prove_socket(path, OWN_UID)
        link = directory / "link.sock"
        link.symlink_to(path)
        assert path.resolve() == prove_socket(link, OWN_UID)


def test_what_is_not_there_says_so(directory: Path) -> None:
    """No file, no socket and a socket without a server are refused, each with its sentence."""
    assert "No such file" in refusal_of(directory / "agent.sock")
    (directory / "file").write_text("")
    assert "is no socket: set identity.workload_socket" in refusal_of(directory / "file")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(directory / "silent.sock"))
    assert "Connection refused" in refusal_of(directory / "silent.sock")


def test_our_own_process_cannot_say_who_we_are(directory: Path) -> None:
    """A socket that this process serves is refused."""
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(directory / "own.sock"))
        own.listen()
        assert "served by x0d itself" in refusal_of(directory / "own.sock")


@pytest.mark.parametrize(("mode", "refused"), [(0o777, True), (0o1777, False), (0o755, False)])
def test_directory_that_others_write_to_is_refused(directory: Path, mode: int, *, refused: bool) -> None:
    """Who can write to a directory above can put another socket there, unless it is sticky."""
    below = directory / "run"
    below.mkdir()
    with served(below / "agent.sock") as path:
        below.chmod(mode)
        if refused:
            assert f"they may write to {below.resolve()}" in refusal_of(path)
        else:
            assert path.resolve() == prove_socket(path, OWN_UID)
        below.chmod(0o700)


@needs_root
def test_directory_of_a_foreign_group_is_refused(directory: Path) -> None:
    """A directory that root's group writes to is root's; that of another group is others'."""
    below = directory / "run"
    below.mkdir()
    with served(below / "agent.sock") as path:
        below.chmod(0o775)
        assert path.resolve() == prove_socket(path, OWN_UID)
        os.chown(below, 0, NOBODY)
        assert "they may write to" in refusal_of(path)


@needs_root
def test_somebody_elses_socket_and_server_are_refused(directory: Path) -> None:
    """The file's owner, the directory's owner and the listening process must be root or the configured uid."""
    with served(directory / "agent.sock") as path:
        os.chown(path, NOBODY, -1)
        assert "belongs to uid 65534" in refusal_of(path)
        assert path.resolve() == prove_socket(path, NOBODY)
    below = directory / "run"
    below.mkdir()
    with served(below / "agent.sock") as path:
        os.chown(below, NOBODY, -1)
        assert "they may write to" in refusal_of(path)
    with served(directory / "theirs.sock", uid=NOBODY) as path:
        assert "is served by uid 65534" in refusal_of(path)
        assert path.resolve() == prove_socket(path, NOBODY)
