"""The lab against the kernel: it carries packets, its faults do what they say, and it leaves nothing behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab import control, machine, network
from lab.__main__ import main as lab_command
from lab.conftest import MakeLab, missing
from lab.machine import LabError, Process
from lab.network import Lab, Options
from lab.traffic import Stream

pytestmark = pytest.mark.kernel
TESTS = Path(__file__).resolve().parents[1]


def pings(lab: Lab, node: str, address: str, *, size: int = 56) -> bool:
    """Whether one of two pings of ``size`` payload bytes is answered."""
    command = lab.command(node, ["ping", "-q", "-c2", "-i0.02", "-W0.2", "-s", str(size), address])
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def has_netem(lab: Lab) -> bool:
    """Whether this kernel has the delaying qdisc."""
    command = lab.command("n1", ["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "0"])
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def carriers(lab: Lab, link: str) -> list[bool]:
    """Carrier at both ends, as the nodes see it."""
    wire = lab.topology.link(link)
    return ["LOWER_UP" in lab.run(node, "ip", "link", "show", wire.interface(node)) for node in wire.ends]


def left_behind(name: str) -> list[str]:
    """Namespaces, mounts and files of a lab."""
    found = [each for each in machine.namespaces() if each.startswith(f"x0d-{name}-")]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if f"/{name}/" in line]
    return found + [str(path) for path in [network.directory_of(name)] if path.exists()]


def test_packets_cross(make_lab: MakeLab) -> None:
    """A packet crosses two wires by the lab's own routes, and each wire counts it."""
    lab = make_lab("ring:4+1-3")
    assert ("n1", "n2", "n3") == lab.path("n1", "n3")
    assert pings(lab, "n1", "10.255.0.3")
    assert lab.wires.count(lab.topology.link("n2-n3"), "n2").packets >= 1


def test_link_local(make_lab: MakeLab) -> None:
    """With link-local neighbours alone, IPv4 between stable addresses is routed via IPv6."""
    lab = make_lab("line:3", link_local=True)
    assert pings(lab, "n2", "fe80::3%to-n3")
    assert pings(lab, "n1", "10.255.0.3")


def test_cut_is_silent(make_lab: MakeLab) -> None:
    """A cut drops everything both ways and leaves carrier; healing ends it."""
    lab = make_lab("line:2")
    assert pings(lab, "n1", "10.255.0.2")  # so that the answer to a later ping waits for no ARP
    lab.cut("n1-n2")
    assert not pings(lab, "n1", "10.255.0.2")
    assert [True, True] == carriers(lab, "n1-n2")
    assert {"n1-n2": "cut"} == lab.faults()
    lab.heal("n2-n1")
    assert pings(lab, "n1", "10.255.0.2")
    assert {} == lab.faults()


def test_oneway_drops_one_way(make_lab: MakeLab) -> None:
    """A one-way fault drops what its first end sends and nothing else."""
    lab = make_lab("line:2")
    assert pings(lab, "n1", "10.255.0.2")  # as above
    wire = lab.topology.link("n1-n2")
    before = [lab.wires.count(wire, node) for node in ("n1", "n2")]
    lab.oneway("n2-n1")
    assert not pings(lab, "n1", "10.255.0.2")
    after = [lab.wires.count(wire, node) for node in ("n1", "n2")]
    assert before[0].dropped == after[0].dropped
    assert after[1].dropped - before[1].dropped == after[1].packets - before[1].packets >= 2


def test_long_frames_only(make_lab: MakeLab) -> None:
    """A fault with a least length lets shorter frames pass."""
    lab = make_lab("line:2")
    lab.loss("n1-n2", 1.0, length_min=300)
    assert pings(lab, "n1", "10.255.0.2")
    assert not pings(lab, "n1", "10.255.0.2", size=400)


def test_loss_is_about_right(make_lab: MakeLab) -> None:
    """A fifth asked is a fifth lost, within five standard deviations of a stream of 1,000."""
    lab = make_lab("line:2")
    lab.loss("n1-n2", 0.2, source="n1", length_min=140)  # the stream alone, no ARP
    with Stream(lab, "n1", "n2", 1.0) as stream:
        stream.wait_end()
        report = stream.report()
    assert report.sent == 1000
    assert 137 <= report.lost <= 263
    assert report.lost == lab.wires.count(lab.topology.link("n1-n2"), "n1").dropped


def test_late_receiver_loses_nothing(make_lab: MakeLab) -> None:
    """A receiver that is not scheduled for a second reads all that came in meanwhile."""
    lab = make_lab("line:2")
    with Stream(lab, "n1", "n2", 1.0) as stream:
        stream._receiver.send_signal(signal.SIGSTOP)
        stream.wait_end()
        stream._receiver.send_signal(signal.SIGCONT)
        assert (1000, 0) == (stream.report().sent, stream.report().lost)


def test_carrier_goes_at_both_ends(make_lab: MakeLab) -> None:
    """Carrier goes at both ends and comes back with the link."""
    lab = make_lab("line:2")
    lab.carrier("n1-n2", up=False)
    assert machine.wait_until(lambda: [False, False] == carriers(lab, "n1-n2"), 2)
    assert {"n1-n2": "no carrier"} == lab.faults()
    lab.heal("n1-n2")
    assert machine.wait_until(lambda: [True, True] == carriers(lab, "n1-n2"), 2)


def test_delay_or_a_clear_refusal(make_lab: MakeLab) -> None:
    """Each packet is late by the delay, or the missing kernel module is named."""
    lab = make_lab("line:2")
    if not has_netem(lab):
        with pytest.raises(LabError, match="sch_netem"):
            lab.delay("n1-n2", 40)
        return
    lab.delay("n1-n2", 40)
    assert "time=8" in lab.run("n1", "ping", "-c1", "-W2", "10.255.0.2")
    lab.heal("n1-n2")
    assert "time=8" not in lab.run("n1", "ping", "-c1", "-W2", "10.255.0.2")


def test_faults_from_another_process(make_lab: MakeLab, lab_name: str) -> None:
    """Whoever opens the lab by name can make faults in it."""
    lab = make_lab("line:2")
    other = Lab.open(lab_name)
    other.cut("n1-n2")
    other.close()
    assert {"n1-n2": "cut"} == lab.faults()


def test_second_of_a_name_is_refused(make_lab: MakeLab, lab_name: str) -> None:
    """A lab of a name that is taken is refused, and the first goes on."""
    lab = make_lab("line:2")
    with pytest.raises(LabError, match="exists already"):
        Lab.create(lab_name, Options("line:2"))
    assert pings(lab, "n1", "10.255.0.2")


def test_nothing_is_left(make_lab: MakeLab, lab_name: str) -> None:
    """Removing a lab ends what runs in it and removes namespaces, mounts and files; a second time is no error."""
    lab = make_lab("line:2")
    sleeper = lab.popen("n1", ["sleep", "600"])
    assert machine.wait_until(lambda: sleeper.pid in machine.pids_in(lab.namespace("n1")), 2)
    lab.remove()
    assert -signal.SIGKILL == sleeper.wait(2)
    assert [] == left_behind(lab_name)
    lab.remove()
    assert not network.remove(lab_name)


def test_half_made_lab_is_removed(lab_name: str) -> None:
    """A lab whose maker was killed at any moment is removed by its name."""
    if os.geteuid() != 0:
        pytest.skip("a lab needs root")
    maker = "import sys; from lab.network import *; Lab.create(sys.argv[1], Options('grid:3x3'))"
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    directory = network.directory_of(lab_name)
    moments = [
        directory,
        directory / "lab.json",
        Path(f"/run/netns/x0d-{lab_name}-n5"),
        directory / "bpf" / "wire",
        directory / "n1",
    ]
    for moment in moments:
        child = subprocess.Popen([sys.executable, "-c", maker, lab_name], env=environment)
        assert machine.wait_until(moment.exists, 10, 0.0005)
        child.kill()
        child.wait()
        network.remove(lab_name)
        assert (moment, []) == (moment, left_behind(lab_name))


def test_failure_while_building_leaves_nothing(lab_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lab that cannot be finished is removed before the error is told."""
    if os.geteuid() != 0:
        pytest.skip("a lab needs root")
    monkeypatch.setattr("lab.wires.PROGRAMS", ("wire_forward", "missing"))
    with pytest.raises(LabError, match="missing"):
        Lab.create(lab_name, Options("line:2"))
    assert [] == left_behind(lab_name)


@pytest.mark.parametrize("words", [("delay", "-4"), ("delay", "nan"), ("loss", "101"), ("bigdrop", "-1")])
def test_numbers_of_faults(
    make_lab: MakeLab, lab_name: str, capsys: pytest.CaptureFixture[str], words: tuple[str, str]
) -> None:
    """A number that a fault cannot have is refused by the lab, in its words; the link stays whole."""
    lab = make_lab("line:2")
    kind, number = words
    assert 1 == lab_command(["fault", "--name", lab_name, kind, "n1-n2", number])
    said = capsys.readouterr().err
    assert said.startswith("lab: ")
    assert number.lstrip("-") in said
    assert "tc " not in said
    assert {} == lab.faults()


def test_start_waits_for_the_answer(make_lab: MakeLab, lab_name: str) -> None:
    """A daemon that was started by hand answers when the command returns."""
    lab = make_lab("line:2")
    assert 0 == lab_command(["fault", "--name", lab_name, "start", "n1"])
    with control.connect(lab, "n1") as client:
        assert "running" == client.status().phase


def test_a_wrong_key_is_told(lab_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A daemon that refuses its configuration is quoted, without a file that is removed with the lab."""
    if lack := missing():
        pytest.skip(f"a lab needs {lack}")
    assert 1 == lab_command(["up", "line:2", "--name", lab_name, "--set", "mesh.foo=3"])
    said = capsys.readouterr().err
    assert "mesh.foo: unknown key" in said
    assert ".log" not in said
    assert [] == left_behind(lab_name)


def test_process_identity() -> None:
    """A process is known by pid and start time; one that has ended is not alive."""
    child = subprocess.Popen(["sleep", "600"])
    process = Process.of(child.pid)
    assert process
    assert process.alive
    assert not Process(process.pid, process.started + 1).alive
    child.kill()
    child.wait()
    assert not process.alive
    assert not process.signal(signal.SIGTERM)
