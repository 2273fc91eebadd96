"""Deny-list and limits from the command line to the packets: in force, expiring, surviving, refused, replaced."""

import json
import signal
from pathlib import Path

import pytest

from integration.lone_daemon import Life, Pair, fill, small_disk
from integration.mesh_lab import expect
from integration.stray_traffic import OTHER, STRAY, add_strays, counted, done, send

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(60)]


def hits(life: Life) -> dict[str, int]:
    """Packets dropped by each entry of the deny-list."""
    pages = [json.loads(line) for line in done(life, "-o", "json", "deny", "list").splitlines()]
    return {entry["prefix"]: int(entry["hits"]) for page in pages for entry in page["entries"]}


def test_denied_and_allowed_again(pair: Pair) -> None:
    """A denied source is dropped and counted packet by packet, others are not, and its removal ends it."""
    add_strays(pair)
    with pair.n1.living() as life:
        done(life, "deny", "add", f"{STRAY}/32", "203.0.113.0/28", "--comment", "test")
        send(pair, STRAY, 30)
        send(pair, OTHER, 20)
        assert {STRAY: 30, "203.0.113.0/28": 20} == hits(life)
        assert 50 == counted(life, "deny")
        done(life, "deny", "remove", STRAY)
        passed = counted(life, "pass")
        send(pair, STRAY, 10)
        assert (50, passed + 10) == (counted(life, "deny"), counted(life, "pass"))
        assert {"203.0.113.0/28": 20} == hits(life)


def test_limit_holds(pair: Pair) -> None:
    """A limited source gets its burst through and little more; the rest is dropped as limit."""
    add_strays(pair)
    with pair.n1.living() as life:
        done(life, "limit", "add", "198.51.100.0/24", "--rate", "10", "--burst", "20")
        send(pair, STRAY, 200)
        send(pair, OTHER, 50)
        limited = counted(life, "limit")
        assert 160 <= limited <= 180
        listed = json.loads(done(life, "-o", "json", "limit", "list"))["limits"]
        assert [("198.51.100.0/24", limited)] == [(each["prefix"], int(each["hits"])) for each in listed]


def test_expires_without_daemon(pair: Pair) -> None:
    """An entry with --for ends by itself while no daemon runs, and a later one does not bring it back."""
    add_strays(pair)
    with pair.n1.living() as life:
        done(life, "deny", "add", STRAY, "--for", "2s")
        done(life, "deny", "add", OTHER)
        life.process.send_signal(signal.SIGKILL)
        life.process.wait()
        life.process.returncode = 0  # it was killed on purpose
    with pair.n1.living() as life:
        expect("the entry to be gone", lambda: {OTHER} == set(hits(life)))
        send(pair, STRAY, 10)
        send(pair, OTHER, 10)
        assert {OTHER: 10} == hits(life)


def test_lists_survive(pair: Pair) -> None:
    """Lists and hits survive a restart, and the lists survive the loss of all that is in the kernel, as at a reboot."""
    add_strays(pair)
    with pair.n1.living() as life:
        done(life, "deny", "add", STRAY)
        done(life, "limit", "add", OTHER, "--rate", "1", "--burst", "1")
        send(pair, STRAY, 5)
    send(pair, STRAY, 6)
    with pair.n1.living() as life:
        assert {STRAY: 11} == hits(life)
    detached = pair.n1.run("--detach-all")
    assert 0 == detached.returncode, detached.stderr
    with pair.n1.living() as life:
        send(pair, STRAY, 4)
        send(pair, OTHER, 40)
        assert {STRAY: 4} == hits(life)
        assert counted(life, "limit") >= 38


def test_lock_out_is_refused(pair: Pair) -> None:
    """Neighbours, own addresses, management prefixes and the caller's SSH client are refused without --force."""
    pair.n1.write({"ebpf": {"management": ["192.0.2.0/24"]}}, [("n2", "e1", "10.9.1.1")])
    with pair.n1.living() as life:
        for prefix, word in (
            ("10.9.1.1", "n2"),
            ("10.0.0.0/8", "n2"),
            ("192.0.2.77", "management"),
            ("10.255.9.1", "own"),
            ("0.0.0.0/0", "10.9.1.1"),
        ):
            for command in (("deny", "add", prefix), ("limit", "add", prefix, "--rate", "5")):
                refused = life.x0ctl(*command)
                assert 1 == refused.returncode, command
                assert (word in refused.stderr, "--force" in refused.stderr) == (True, True), refused.stderr
        assert {} == hits(life)
        forced = life.x0ctl("deny", "add", "192.0.2.77", "--force")
        assert 0 == forced.returncode
        assert "192.0.2.77" in forced.stdout + forced.stderr
        assert {"192.0.2.77"} == set(hits(life))


def test_what_comes_later_is_held_against_the_lists(pair: Pair) -> None:
    """A neighbour that comes by reload, and an address that comes to any interface, are guarded; entries are alerts."""
    with pair.n1.living() as life:
        done(life, "deny", "add", "10.9.1.1")
        pair.n1.write(neighbours=[("n2", "e1", "10.9.1.1")])
        done(life, "reload")
        expect("an alert", lambda: "10.9.1.1, neighbour n2" in " ".join(life.status().alerts))
        done(life, "deny", "remove", "10.9.1.1")
        expect("no alert", lambda: not life.status().alerts)
        done(life, "deny", "add", "192.0.2.9")
        pair.n1.place.ip("addr add 192.0.2.9/24 dev e2")
        expect("an alert", lambda: "192.0.2.9, this node's own address on e2" in " ".join(life.status().alerts))
        refused = life.x0ctl("limit", "add", "192.0.2.9", "--rate", "5")
        assert (1, True) == (refused.returncode, "own address on e2" in refused.stderr), refused.stderr


def test_node_of_the_mesh_is_not_denied_unasked(pair: Pair) -> None:
    """The stable address of a node that the mesh knows is refused without --force."""
    pair.write()
    with pair.n2.living(), pair.n1.living() as life:
        expect("the link", lambda: life.link("n2").state == "up")
        expect("both nodes", lambda: life.status().nodes_known == 2)
        refused = life.x0ctl("deny", "add", "10.255.9.2")
        assert (1, True) == (refused.returncode, "address of node n2" in refused.stderr), refused.stderr


def test_lost_store_keeps_the_kernel(pair: Pair) -> None:
    """With policy.db gone, what the kernel holds stays in force and is written down, and an alert says so."""
    add_strays(pair)
    with pair.n1.living() as life:
        done(life, "deny", "add", STRAY)
    for file in pair.n1.state.glob("policy.db*"):
        file.unlink()
    with pair.n1.living() as life:
        assert "policy_store_lost: policy.db was lost" in " ".join(life.status().alerts)
        send(pair, STRAY, 4)
        assert {STRAY: 4} == hits(life)
    with pair.n1.living() as life:
        assert ([], {STRAY}) == (list(life.status().alerts), set(hits(life)))


def test_empty_file_is_refused(pair: Pair) -> None:
    """A file without an entry does not take the list away unless it is forced."""
    file = pair.n1.directory / "list"
    with pair.n1.living() as life:
        done(life, "deny", "add", STRAY)
        file.write_text("# a failed download\n")
        refused = life.x0ctl("deny", "load", str(file))
        assert (1, True) == (refused.returncode, "this would remove the only entry" in refused.stderr), refused.stderr
        assert {STRAY} == set(hits(life))
        done(life, "deny", "load", "--force", str(file))
        assert {} == hits(life)


def write_list(file: Path, count: int, *extra: str) -> None:
    """Write a list of that many addresses and prefixes, with comments, and these lines."""
    lines = ["# a list"]
    lines += [f"100.{64 + i // 65536 % 64}.{i // 256 % 256}.{i % 256}" for i in range(count // 2)]
    lines += [f"2001:db8:{i // 65536:x}:{i % 65536:x}::/64  # {i}" for i in range(count - count // 2)]
    file.write_text("\n".join([*lines, *extra]) + "\n")


def test_whole_list_or_nothing(pair: Pair) -> None:
    """A list is loaded as a whole; one with a bad line, named, or with what would lock out, changes nothing."""
    file = pair.n1.directory / "list"
    add_strays(pair)
    with pair.n1.living() as life:
        write_list(file, 5000, STRAY)
        done(life, "deny", "load", str(file))
        send(pair, STRAY, 7)
        assert (5001, 7) == (len(hits(life)), hits(life)[STRAY])
        write_list(file, 3000, OTHER, "10.0.0.300")
        refused = life.x0ctl("deny", "load", str(file))
        assert (1, True) == (refused.returncode, "line 3003" in refused.stderr), refused.stderr
        write_list(file, 3000, "0.0.0.0/0")
        assert 1 == life.x0ctl("deny", "load", str(file)).returncode
        write_list(file, 3000, OTHER)
        done(life, "deny", "load", "--dry-run", str(file))
        assert (5001, 7) == (len(hits(life)), hits(life)[STRAY])
        write_list(file, 2000, STRAY, OTHER)
        done(life, "deny", "load", str(file))
        assert (2002, 7) == (len(hits(life)), hits(life)[STRAY])


def test_full_disk_changes_nothing(pair: Pair) -> None:
    """What cannot be kept is not put in force: with a full disk a change is refused and the lists stay."""
    n1 = pair.n1
    with small_disk(n1.state, "600k"), n1.living() as life:
        done(life, "deny", "add", STRAY)
        filler = fill(n1.state)
        file = n1.directory / "list"
        write_list(file, 4000)
        for command in (("deny", "load", str(file)), ("deny", "add", *[f"100.64.1.{i}" for i in range(250)])):
            refused = life.x0ctl(*command)
            assert (1, True) == (refused.returncode, "disk" in refused.stderr), refused.stderr
            assert {STRAY} == set(hits(life))
        assert "audit: calls that change something are refused" in " ".join(life.status().alerts)
        filler.unlink()
        done(life, "deny", "load", str(file))
        assert 4000 == len(hits(life))
        assert [] == list(life.status().alerts)
