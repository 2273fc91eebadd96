"""``x0d.systemd`` over a real datagram socket, read as systemd would read it."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from x0d.systemd import STATUS_CHARACTERS_MAX, Notifier, watchdog_interval_s


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Listen where NOTIFY_SOCKET says, as systemd does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def received(systemd: socket.socket) -> dict[str, str]:
    """Read one datagram as systemd does: an assignment a line, in UTF-8."""
    return dict(line.split("=", 1) for line in systemd.recv(4096).decode().splitlines())


def test_ready_carries_its_status(systemd: socket.socket) -> None:
    """READY=1 and the status line travel in one datagram."""
    Notifier().ready("3 links up")
    assert {"READY": "1", "STATUS": "3 links up"} == received(systemd)


def test_status_is_one_assignment_whatever_its_text(systemd: socket.socket) -> None:
    """A line break in a status cannot forge a READY=1, and letters beyond Latin-1 arrive as UTF-8."""
    Notifier().status("config refused:\nREADY=1 n1 \u2192 n2")
    assert {"STATUS": "config refused: READY=1 n1 \u2192 n2"} == received(systemd)


def test_status_is_cut_at_its_limit(systemd: socket.socket) -> None:
    """A status of any length fits one datagram."""
    Notifier().status("x" * 100_000)
    assert {"STATUS": "x" * STATUS_CHARACTERS_MAX} == received(systemd)


def test_reloading_is_stamped_with_the_monotonic_clock(systemd: socket.socket) -> None:
    """RELOADING=1 carries MONOTONIC_USEC of now, which Type=notify-reload insists on."""
    before_us = time.monotonic_ns() // 1_000
    Notifier().reloading()
    words = received(systemd)
    assert "1" == words["RELOADING"]
    assert before_us <= int(words["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1_000


def test_stopping_and_watchdog(systemd: socket.socket) -> None:
    """The other two words are systemd's own."""
    notifier = Notifier()
    notifier.watchdog()
    notifier.stopping()
    assert {"WATCHDOG": "1"} == received(systemd)
    assert {"STOPPING": "1", "STATUS": "stopping"} == received(systemd)


def test_without_a_socket_every_word_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where NOTIFY_SOCKET is not set nobody is told anything, and nothing fails."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    notifier.ready("up")
    notifier.watchdog()
    assert notifier.watchdog_interval_s is None


def test_a_socket_that_nobody_listens_on_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost READY=1 would be a start that hangs: the failure is raised at once."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with pytest.raises(OSError, match="No such file"):
        Notifier()


def test_watchdog_interval_is_half_of_what_the_unit_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """WatchdogSec=5 asks for a ping every 2.5 s."""
    monkeypatch.setenv("WATCHDOG_USEC", "5000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert 2.5 == Notifier().watchdog_interval_s


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "8"},
    ],
)
def test_no_watchdog_for_us(environment: dict[str, str]) -> None:
    """Nothing, nonsense, or the variables of another process: nobody waits for our pings."""
    assert watchdog_interval_s(environment, pid=7) is None
