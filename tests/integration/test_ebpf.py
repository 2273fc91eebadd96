"""Programs in the kernel as an operator handles them: listed, upgraded, detached, traced, watched."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from integration.lone_daemon import ENVIRONMENT, Life, Pair
from integration.mesh_lab import expect
from integration.stray_traffic import OTHER, STRAY, add_strays, counted, done, send
from lab.nodes import ROOT

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(60)]

OBJECTS = ROOT / "daemon" / "x0d" / "kernel" / "objects"
STAGES = {"x0d_root_frags", "x0d_deny_frags", "x0d_limit_frags", "x0d_probe_frags", "x0d_syn_frags"}
LIMIT = "PROGRAM(x0d_limit, run_limit(ctx), run_limit(ctx))"
DENY = "PROGRAM(x0d_deny, run_deny(ctx), run_deny(ctx))"
UNCHECKED_DENY = "PROGRAM(x0d_deny, *(int *)(long)ctx->data, *(int *)(long)ctx->data)"
UNCHECKED = "PROGRAM(x0d_limit, *(int *)(long)ctx->data, *(int *)(long)ctx->data)"


def own_objects(pair: Pair) -> Path:
    """Have n1 load its programs from a directory of its own."""
    objects = pair.n1.directory / "objects"
    shutil.copytree(OBJECTS, objects, ignore=shutil.ignore_patterns("*.tmp"))
    pair.n1.write({"ebpf": {"objects_dir": str(objects)}})
    return objects


def compile_changed(pair: Pair, objects: Path, old: str, new: str) -> None:
    """Compile the programs with a change of the XDP source."""
    sources = pair.n1.directory / "sources"
    shutil.copytree(ROOT / "ebpf", sources)
    source = sources / "xdp.bpf.c"
    assert old in source.read_text()
    source.write_text(source.read_text().replace(old, new))
    subprocess.run(["make", "-s", "-C", str(sources), f"OBJECTS_DIR={objects}"], check=True)


def listed(life: Life) -> dict[str, dict[str, object]]:
    """Programs that are not off, by name."""
    programs = json.loads(done(life, "-o", "json", "ebpf", "list"))["programs"]
    return {each["name"]: each for each in programs if each["state"] != "off"}


def test_list(pair: Pair) -> None:
    """Programs, maps with their memory, objects and attachments are told."""
    with pair.n1.living() as life:
        told = json.loads(done(life, "-o", "json", "ebpf", "list"))
        loaded = {each["name"] for each in told["programs"] if each["state"] == "loaded"}
        assert STAGES | {"x0d_t_drop", "x0d_t_state"} <= loaded
        memory = {each["name"]: int(each["memory_bytes"]) for each in told["maps"]}
        assert memory["x0d_sources"] > 65536 * 40
        assert {"xdp.bpf.o", "trace.bpf.o"} <= {Path(each["path"]).name for each in told["objects"]}
        assert {"e1": ("attached", "native", True)} == {
            each["interface"]: (each["state"], each["mode"], each["frags"]) for each in told["attachments"]
        }
        assert "x0d_deny_frags" in done(life, "ebpf", "list")


@pytest.mark.parametrize("kind", ["rejected", "not-elf", "missing"])
def test_refused_upgrade(pair: Pair, kind: str) -> None:
    """Programs that cannot be loaded leave the old ones in force, and the answer says why."""
    objects = own_objects(pair)
    add_strays(pair)
    with pair.n1.living() as life:
        before = listed(life)
        done(life, "deny", "add", STRAY)
        target, word = objects / "xdp.bpf.o", "xdp.bpf.o"
        target.unlink()
        if kind == "rejected":
            compile_changed(pair, objects, LIMIT, UNCHECKED)
            word = "invalid access to packet"
        elif kind == "not-elf":
            target.write_bytes(b"#!/bin/sh\n" * 50)
        refused = life.x0ctl("ebpf", "upgrade")
        assert (1, True) == (refused.returncode, word in refused.stderr), refused.stderr
        assert {name: each["id"] for name, each in before.items()} == {
            name: each["id"] for name, each in listed(life).items()
        }
        send(pair, STRAY, 9)
        assert 9 == counted(life, "deny")


def test_upgrade(pair: Pair) -> None:
    """A changed object is put in force; what is counted and denied goes on; the same object changes nothing."""
    objects = own_objects(pair)
    add_strays(pair)
    with pair.n1.living() as life:
        done(life, "deny", "add", STRAY)
        send(pair, STRAY, 5)
        assert [] == json.loads(done(life, "-o", "json", "ebpf", "upgrade"))["replaced"]
        compile_changed(pair, objects, LIMIT, "PROGRAM(x0d_limit, run_probe(ctx), run_probe(ctx))")
        assert ["x0d_limit_frags"] == json.loads(done(life, "-o", "json", "ebpf", "upgrade"))["replaced"]
        send(pair, STRAY, 6)
        assert 11 == counted(life, "deny")
        assert "attached" == life.interface("e1").state


def test_upgrade_of_tracepoints(pair: Pair) -> None:
    """Tracepoint programs are replaced with their object; a bad object of either kind leaves all as it was."""
    objects = own_objects(pair)
    trace, good = objects / "trace.bpf.o", (objects / "trace.bpf.o").read_bytes()
    with pair.n1.living() as life:
        before = {name: each["id"] for name, each in listed(life).items()}
        trace.write_bytes(good[:900])
        compile_changed(pair, objects, LIMIT, "PROGRAM(x0d_limit, run_probe(ctx), run_probe(ctx))")
        trace.write_bytes(good[:900])
        refused = life.x0ctl("ebpf", "upgrade")
        assert (1, True) == (refused.returncode, str(trace) in refused.stderr), refused.stderr
        assert "what was loaded before is still in force" in refused.stderr
        assert before == {name: each["id"] for name, each in listed(life).items()}
        trace.write_bytes(good + bytes(8))
        upgraded = json.loads(done(life, "-o", "json", "ebpf", "upgrade"))
        assert {"x0d_limit_frags", "x0d_t_drop", "x0d_t_state"} <= set(upgraded["replaced"])
        assert {str(objects / "xdp.bpf.o"), str(trace)} == set(upgraded["objects_changed"])
        assert [] == json.loads(done(life, "-o", "json", "ebpf", "upgrade"))["objects_changed"]


def alerts(life: Life) -> list[str]:
    """What x0ctl status says of refused programs."""
    told: list[str] = json.loads(done(life, "-o", "json", "status"))["alerts"]
    return [alert for alert in told if alert.startswith("programs_refused: ")]


def test_restart_with_refused_programs(pair: Pair) -> None:
    """Programs of before go on where those on disk are refused: deny holds, an alert says so until an upgrade."""
    objects = own_objects(pair)
    good = (objects / "xdp.bpf.o").read_bytes()
    add_strays(pair)
    with pair.n1.living() as life:
        done(life, "deny", "add", STRAY)
        send(pair, STRAY, 5)
        assert (5, []) == (counted(life, "deny"), alerts(life))
    compile_changed(pair, objects, DENY, UNCHECKED_DENY)
    with pair.n1.living() as life:
        send(pair, STRAY, 6)
        assert 11 == counted(life, "deny")
        assert "the programs of before go on" in alerts(life)[0]
        assert "x0d_deny_frags is refused: EACCES" in alerts(life)[0]
        assert "programs_refused" in done(life, "status")
        (objects / "xdp.bpf.o").write_bytes(good)
        done(life, "ebpf", "upgrade")
        assert [] == alerts(life)
        send(pair, STRAY, 4)
        assert 15 == counted(life, "deny")


def test_start_with_refused_programs(pair: Pair) -> None:
    """Where no programs of before are attached, the alert says what is not enforced."""
    compile_changed(pair, own_objects(pair), DENY, UNCHECKED_DENY)
    with pair.n1.living() as life:
        assert "the deny-list is not enforced" in alerts(life)[0]
        assert "refused" == listed(life)["x0d_deny_frags"]["state"]


def test_detach_and_attach(pair: Pair) -> None:
    """A detached interface has no program and is not taken up by itself; attached again it is whole."""
    pair.write()
    with pair.n2.living() as other, pair.n1.living() as life:
        expect("the link up", lambda: life.link("n2").state == other.link("n1").state == "up")
        done(life, "ebpf", "detach", "e1")
        assert "prog/xdp" not in pair.n1.place.ip("link show e1")
        expect("the link blocked", lambda: life.link("n2").state == "blocked")
        assert "detached" == life.interface("e1").state
        assert 1 == life.x0ctl("ebpf", "detach", "e9").returncode
        done(life, "ebpf", "attach", "e1")
        expect("the link up again", lambda: life.link("n2").state == "up")


def bpf_descriptors(life: Life) -> list[str]:
    """What the daemon holds of BPF: maps, programs, links."""
    links = [descriptor.readlink() for descriptor in Path(f"/proc/{life.process.pid}/fd").iterdir()]
    return [str(link) for link in links if "bpf-" in str(link)]


def test_everything_detached(pair: Pair) -> None:
    """Detaching all leaves no program, map or pin, with a daemon or without; attaching brings the lists back."""
    add_strays(pair)
    with pair.n1.living() as life:
        done(life, "deny", "add", OTHER)
        send(pair, OTHER, 3)
        done(life, "ebpf", "detach", "--all")
        assert [] == bpf_descriptors(life)
        file = pair.n1.directory / "list"
        file.write_text(f"{STRAY}\n{OTHER}\n")
        for change in (("load", str(file)), ("add", STRAY)):
            changed = life.x0ctl("deny", *change)
            assert (0, True) == (changed.returncode, "everything is detached" in changed.stderr), changed.stderr
        assert "0" == json.loads(done(life, "-o", "json", "deny", "list", OTHER))["entries"][0]["hits"]
        done(life, "deny", "remove", OTHER)
        assert [] == bpf_descriptors(life)
        assert "prog/xdp" not in pair.n1.place.ip("link show e1")
        assert [] == [path for path in pair.n1.bpffs.rglob("*") if path.is_file()]
        for command in (("ebpf", "stats"), ("ebpf", "list"), ("deny", "list"), ("top", "--once"), ("status",)):
            done(life, *command)
        done(life, "ebpf", "attach", "--all")
        send(pair, STRAY, 8)
        send(pair, OTHER, 8)
        assert 8 == counted(life, "deny")
    detached = pair.n1.run("--detach-all")
    assert (0, []) == (detached.returncode, list(pair.n1.bpffs.rglob("*")))
    assert "nothing of x0d's" in pair.n1.run("--detach-all").stdout


def test_detach_all_beside_a_daemon(pair: Pair) -> None:
    """x0d --detach-all refuses while a daemon runs, and says whom to ask."""
    with pair.n1.living() as life:
        refused = pair.n1.run("--detach-all")
        assert (1, True) == (refused.returncode, "x0ctl ebpf detach --all" in refused.stderr)
        assert "attached" == life.interface("e1").state


def test_trace(pair: Pair) -> None:
    """A measurement of system calls ends by itself and tells latencies; a second one at a time is refused."""
    with pair.n1.living() as life:
        command = [sys.executable, "-m", "x0ctl", "--endpoint", f"unix://{life.socket}", "-o", "json"]
        first = subprocess.Popen(
            [*command, "ebpf", "trace", "syscalls", "--for", "2s", "--every", "1"],
            stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )  # fmt: skip
        assert first.stdout is not None
        lines = [first.stdout.readline()]
        assert 1 == life.x0ctl("ebpf", "trace", "syscalls", "--for", "1s").returncode
        lines += first.stdout.read().splitlines()
        assert 0 == first.wait(20)
        last = json.loads(lines[-1])
        assert (True, True) == (last["done"], sum(map(int, last["total"]["counts"])) > 0)
        assert last["syscalls"][0]["name"]


def test_watch(pair: Pair) -> None:
    """Sampled events and counters are shown as they come; nothing is sampled while nobody watches."""
    pair.n1.write({"ebpf": {"event_sample_every": 1}})
    add_strays(pair)
    with pair.n1.living() as life:
        send(pair, STRAY, 5)
        assert "0" == json.loads(done(life, "-o", "json", "ebpf", "stats"))["events_sent"]
        command = [
            sys.executable,
            "-m",
            "x0ctl",
            "--endpoint",
            f"unix://{life.socket}",
            "-o",
            "json",
            "watch",
            "events",
        ]
        done(life, "deny", "add", STRAY)
        with subprocess.Popen(
            [*command, "--verdict", "deny"], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        ) as seen:
            assert seen.stdout is not None
            try:

                def sampling() -> bool:
                    send(pair, STRAY, 3)
                    return int(json.loads(done(life, "-o", "json", "ebpf", "stats"))["events_sent"]) > 0

                expect("an event", sampling)
                events: list[dict[str, object]] = []
                while not events:
                    events = json.loads(seen.stdout.readline())["events"]
            finally:
                seen.terminate()
        assert (STRAY, "10.9.1.0", "deny", "udp", 9, "e1") == (
            events[0]["source"],
            events[0]["destination"],
            events[0]["verdict"],
            events[0]["protocol_class"],
            events[0]["destination_port"],
            events[0]["interface"],
        )
