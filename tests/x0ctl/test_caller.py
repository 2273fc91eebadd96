"""The address that the operator works from, read out of environments."""

from pathlib import Path

import pytest

from x0ctl.caller import ANCESTORS_MAX, caller_addresses, own_caller_addresses

SSH = {"SSH_CONNECTION": "192.0.2.7 50022 198.51.100.1 22"}


class Processes:
    """A /proc in memory: pid to parent, name and environment; None for one that may not be read."""

    def __init__(self, table: dict[int, tuple[int, str, dict[str, str] | None]]) -> None:
        self.table = table
        self.reads = 0

    def read(self, path: Path) -> bytes:
        self.reads += 1
        pid = int(path.parent.name)
        if pid not in self.table:
            raise FileNotFoundError(path)
        parent, name, environment = self.table[pid]
        if path.name == "stat":
            return f"{pid} ({name}) S {parent} 1 2 3".encode()
        if environment is None:
            raise PermissionError(path)
        return b"".join(f"{key}={value}\0".encode() for key, value in environment.items())


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (SSH, ["192.0.2.7"]),
        ({"SSH_CLIENT": "2001:DB8::7 50022 22"}, ["2001:db8::7"]),
        ({"SSH_CONNECTION": "fe80::1%eth0 50022 fe80::2 22"}, ["fe80::1"]),
        ({"SSH_CONNECTION": "bogus", "SSH_CLIENT": "192.0.2.8 1 22"}, ["192.0.2.8"]),
        ({"SSH_CONNECTION": ""}, []),
        ({}, []),
    ],
    ids=["connection", "client", "zone", "no address", "empty", "none"],
)
def test_own_environment(environment: dict[str, str], expected: list[str]) -> None:
    """The client's address is the first word of what sshd tells."""
    assert expected == caller_addresses(environment, 1, Processes({}).read)


def test_under_sudo() -> None:
    """Where sudo has emptied our environment, that of the nearest ancestor counts."""
    processes = Processes(
        {
            40: (30, "x0ctl", {}),
            30: (20, "sudo", {"HOME": "/root"}),
            20: (10, "ba) S 1 (sh", SSH),
            10: (1, "sshd", {"SSH_CLIENT": "203.0.113.1 1 22"}),
        }
    )
    assert ["192.0.2.7"] == caller_addresses({}, 40, processes.read)


def test_unreadable_ancestors_are_passed_over() -> None:
    """One that belongs to somebody else does not hide those above it."""
    processes = Processes({40: (30, "x0ctl", {}), 30: (20, "sudo", None), 20: (1, "bash", SSH)})
    assert ["192.0.2.7"] == caller_addresses({}, 40, processes.read)


def test_nobody_is_found() -> None:
    """No session, an ancestor that has ended, or a table that goes in circles: no address, and an end."""
    console = Processes({40: (30, "x0ctl", {}), 30: (1, "login", {}), 1: (0, "systemd", {})})
    gone = Processes({40: (30, "x0ctl", {})})
    circle = Processes({40: (30, "a", {}), 30: (40, "b", {})})
    assert [[], [], []] == [caller_addresses({}, 40, each.read) for each in (console, gone, circle)]
    assert circle.reads <= 2 * ANCESTORS_MAX


def test_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in our own environment is found."""
    monkeypatch.setenv("SSH_CONNECTION", SSH["SSH_CONNECTION"])
    assert ["192.0.2.7"] == own_caller_addresses()
