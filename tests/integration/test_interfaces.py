"""Interfaces that come, go, change or are held by others while the daemon runs, and the file read again."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from integration.lone_daemon import Pair
from integration.mesh_lab import expect
from kernel.namespaces import Namespace, veth
from lab import wires
from lab.nodes import ROOT
from x0d.kernel import bpf

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(60)]


def program_on(place: Namespace, interface: str) -> int:
    """Id of the XDP program on an interface; 0 for none."""
    (shown,) = json.loads(place.ip(f"-j link show {interface}"))
    return int(shown.get("xdp", {}).get("prog", {}).get("id", 0))


def hook_of(pair: Pair) -> Path:
    """Directory of the pins of e1 on n1."""
    (namespace_dir,) = pair.n1.bpffs.iterdir()
    return namespace_dir / "11-xdp"


@pytest.mark.parametrize("how", ["detached", "unpinned"])
def test_attachment_taken_away(pair: Pair, how: str) -> None:
    """Our program, taken off an interface by somebody else, is back within 2 s, with a warning, and so is the link.

    Where only the pins are removed it stays, and they are made again.
    """
    pair.write()
    with pair.n2.living(), pair.n1.living() as life:
        expect("the link up", lambda: life.link("n2").state == "up")
        hook, ours = hook_of(pair), program_on(pair.n1.place, "e1")
        if how == "detached":
            link_fd = bpf.open_pin(hook / "link")
            assert link_fd is not None
            with bpf.closing(link_fd):
                bpf.detach_link(link_fd)
            assert 0 == program_on(pair.n1.place, "e1")
            expect("our program again", lambda: program_on(pair.n1.place, "e1") == ours, 2.0)
            (told,) = life.events("interface_program_lost")
            assert ("e1", "warning", "somebody else detached its XDP link") == (
                told["interface"],
                told["level"],
                told["reason"],
            )
            expect("the link up again", lambda: life.link("n2").state == "up")
        else:
            shutil.rmtree(hook)
            expect("the pins again", lambda: hook.is_dir() and len(list(hook.iterdir())) == 3, 2.0)
            assert ours == program_on(pair.n1.place, "e1")
            assert [] == life.events("interface_program_lost")
            assert "up" == life.link("n2").state
        assert "attached" == life.interface("e1").state


def test_foreign_program(pair: Pair) -> None:
    """An interface with somebody else's XDP program is blocked and names it, the rest runs, and it is left alone.

    Once the program is gone the interface is taken up.
    """
    n1 = pair.n1
    pins = n1.bpffs.parent / "foreign"
    pins.mkdir()
    wires.load(wires.build(ROOT / ".cache"), pins)
    n1.place.ip(f"link set e2 xdpdrv pinned {pins}/wire_accept")
    foreign = program_on(n1.place, "e2")
    n1.write({"mesh": {"interfaces": ["e1", "e2"]}})
    with n1.living() as life:
        blocked = life.interface("e2")
        assert "blocked" == blocked.state
        assert f"program id {foreign} " in blocked.blocked_reason
        assert "attached" == life.interface("e1").state
        assert foreign == program_on(n1.place, "e2") != 0
        n1.place.ip("link set e2 xdpdrv off")
        expect("the interface to be taken up", lambda: life.interface("e2").state == "attached")


@pytest.mark.parametrize("allowed", [False, True])
def test_generic_mode(pair: Pair, *, allowed: bool) -> None:
    """Where a driver has no native XDP, generic mode is used if the file allows it; each refused mode is reported."""
    pair.n1.place.ip("link add br0 type bridge")  # has no native mode
    pair.n1.place.ip("link set br0 up")
    pair.n1.write({"mesh": {"interfaces": ["br0", "e1"]}, "ebpf": {"allow_skb_mode": allowed}})
    with pair.n1.living() as life:
        bridge = life.interface("br0")
        assert ("attached", "skb") == (bridge.state, bridge.mode) if allowed else "blocked" == bridge.state
        assert "native" == life.interface("e1").mode
        if allowed:
            assert {"hardware", "native", "native+frags"} == {refused.mode for refused in bridge.refused_modes}
            assert all(refused.errno for refused in bridge.refused_modes)
        else:
            assert "ebpf.allow_skb_mode" in bridge.blocked_reason


def test_link_made_again(pair: Pair) -> None:
    """A link survives the removal of its devices and others in their place, and both ends set down.

    A new device of the same name needs new sockets and a new attachment.
    """
    pair.write()
    with pair.n2.living() as second, pair.n1.living() as first:
        expect("the link up", lambda: {"up"} == {first.link("n2").state, second.link("n1").state})
        pair.n1.place.ip("link del e1")
        expect("both to wait", lambda: {"waiting"} == {first.link("n2").state, second.link("n1").state})
        assert "removed" in first.link("n2").state_reason
        pair.join((13, 14))
        expect("the link up again", lambda: {"up"} == {first.link("n2").state, second.link("n1").state})
        assert 13 == first.interface("e1").ifindex
        pair.n1.place.ip("link set e1 down")
        expect("the link down", lambda: {"down"} == {first.link("n2").state, second.link("n1").state})
        pair.n1.place.ip("link set e1 up")
        expect("the link up once more", lambda: {"up"} == {first.link("n2").state, second.link("n1").state})
        expect("the route back", lambda: "10.255.9.2" in pair.n1.place.ip("route show proto 120"))


def test_renamed(pair: Pair) -> None:
    """A renamed interface is waited for under its configured name, without our program; one that has it is taken up."""
    pair.write()
    with pair.n2.living(), pair.n1.living() as life:
        expect("the link up", lambda: life.link("n2").state == "up")
        for command in ("link set e1 down", "link set e1 name other", "link set other up"):
            pair.n1.place.ip(command)
        expect("the interface missed", lambda: life.interface("e1").state == "waiting")
        assert "renamed to other" in life.link("n2").state_reason
        expect("our program gone", lambda: program_on(pair.n1.place, "other") == 0)
        for command in ("link set e2 down", "link set e2 name e1", "link set e1 up"):
            pair.n1.place.ip(command)
        expect("the other taken", lambda: life.interface("e1").ifindex == 21)
        for command in ("link set e1 down", "link set e1 name e2"):
            pair.n1.place.ip(command)
        for command in ("link set other down", "link set other name e1", "link set e1 up"):
            pair.n1.place.ip(command)
        expect("the link up again", lambda: life.link("n2").state == "up")
        assert (11, 0) == (life.interface("e1").ifindex, program_on(pair.n1.place, "e2"))


def test_moved_to_another_namespace(pair: Pair) -> None:
    """An interface that goes to another network namespace is told as moved, and leaves our program behind."""
    pair.n1.write()
    with pair.n1.living() as life:
        pair.n1.place.ip(f"link set e1 netns {pair.n2.place.name} name guest")
        expect("the interface missed", lambda: life.interface("e1").state == "waiting")
        (gone,) = life.events("interface_gone")
        assert "was moved to another network namespace" == gone["reason"]
        expect("our program gone", lambda: program_on(pair.n2.place, "guest") == 0)


def test_down_at_the_start(pair: Pair) -> None:
    """An interface that is down when the daemon starts is attached, and its link comes up with it."""
    pair.write()
    pair.n1.place.ip("link set e1 down")
    with pair.n2.living(), pair.n1.living() as life:
        assert "attached" == life.interface("e1").state
        assert "up" != life.link("n2").state
        pair.n1.place.ip("link set e1 up")
        expect("the link up", lambda: life.link("n2").state == "up")


def test_one_address_twice(pair: Pair) -> None:
    """Two nodes with one stable address are named in an alert at each of them, until one has another."""
    pair.write()
    pair.n2.write({"node": {"address": "10.255.9.1/32"}}, [("n1", "e1", "10.9.1.0")])
    told = "duplicate_address: n1 and n2 both have 10.255.9.1/32"
    with pair.n1.living() as first:
        with pair.n2.living() as second:
            expect("n1 to be alerted", lambda: told in " ".join(first.status().alerts))
            expect("n2 to be alerted", lambda: told in " ".join(second.status().alerts))
        pair.write()
        with pair.n2.living():
            expect("the alert to end", lambda: not first.status().alerts)


def test_appearing_later(pair: Pair) -> None:
    """A configured interface that does not exist is waited for and attached when it appears."""
    pair.n1.write({"mesh": {"interfaces": ["e1", "later0"]}})
    with pair.n1.living() as life:
        assert ("waiting", "attached") == (life.interface("later0").state, life.interface("e1").state)
        veth(pair.n1.place, pair.n2.place, ("later0", "later1"), (31, 32))
        expect("the interface attached", lambda: life.interface("later0").state == "attached")


def test_reload(pair: Pair) -> None:
    """Reloaded neighbours are taken up and dropped; what needs a restart is named; a bad file changes nothing."""
    one, two = pair.n1, pair.n2
    pair.write()
    one.write()
    with two.living(), one.living() as life:
        assert 0 == life.status().links_total
        one.write({"log": {"level": "debug"}, "listen": {"metrics_port": 19475}}, [("n2", "e1", "10.9.1.1")])
        done = life.x0ctl("-o", "json", "reload")
        assert 0 == done.returncode, done.stderr
        answer = json.loads(done.stdout)
        assert ["listen.metrics_port"] == answer["needs_restart"]
        assert ["log.level", "mesh.neighbours"] == sorted(answer["applied"])
        expect("the new neighbour's link up", lambda: life.link("n2").state == "up")
        good = one.config.read_text()
        one.config.write_text(good + "[healing]\nmode = 3\n")
        done = life.x0ctl("reload")
        assert 1 == done.returncode
        assert "healing.mode" in done.stderr
        life.process.send_signal(signal.SIGHUP)
        expect("the refusal logged", lambda: len(life.events("reload_refused")) == 2)
        assert "healing.mode" in str(life.events("reload_refused")[-1])
        assert ("auto", "up") == (life.status().healing_mode, life.link("n2").state)
        one.config.write_text(good + '[healing]\nmode = "observe"\n')
        life.process.send_signal(signal.SIGHUP)
        expect("the new mode", lambda: life.status().healing_mode == "observe")
        one.write()
        life.process.send_signal(signal.SIGHUP)
        expect("the neighbour dropped", lambda: life.status().links_total == 0)
        expect("its route dropped", lambda: "10.255.9.2" not in one.place.ip("route show proto 120"))
        assert Path(life.status().config_file) == one.config


def test_unknown_accounts(pair: Pair) -> None:
    """A role bound to a user that this host does not have is an alert, until the name is mended and read again."""
    n1 = pair.n1
    n1.write()
    good = n1.config.read_text()
    n1.config.write_text(good + '[[identity.bindings]]\nrole = "operator"\nuser = "nobdy"\n')
    with n1.living() as life:
        (alert,) = (text for text in life.status().alerts if text.startswith("unknown_account: "))
        assert "operator for user nobdy" in alert
        n1.config.write_text(good + '[[identity.bindings]]\nrole = "operator"\nuser = "nobody"\n')
        assert 0 == life.x0ctl("reload").returncode
        assert not [text for text in life.status().alerts if text.startswith("unknown_account: ")]
