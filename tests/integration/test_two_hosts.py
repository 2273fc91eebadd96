"""The README's way from nothing to two hosts that know each other: issuer, token, join, calls by mutual TLS."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from integration.lone_daemon import END_S, ENVIRONMENT, Life, LoneDaemon
from integration.mesh_lab import expect
from kernel.namespaces import namespace, run, veth

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]
N1, N2 = "spiffe://lab.x0d.test/node/n1", "spiffe://lab.x0d.test/node/n2"
Done = subprocess.CompletedProcess[str]


class TwoHosts:
    """n1, which issues, and n2, which has nothing yet; joined by ``e1`` with IPv6 link-local addresses alone."""

    def __init__(self, n1: LoneDaemon, n2: LoneDaemon) -> None:
        self.n1 = n1
        self.n2 = n2
        n1.write({}, [("n2", "e1", "fe80::2")])
        n2.write({"identity": {"issuer": False}}, [("n1", "e1", "fe80::1")])

    def token(self, life: Life) -> str:
        """What the operator copies from the issuer."""
        done = life.x0ctl("identity", "token", "--for", "n2")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def x0ctl(self, host: LoneDaemon, *arguments: str, prefix: tuple[str, ...] = ()) -> Done:
        """Run x0ctl on a host, with that host's Workload API."""
        socket = host.directory / "run" / "workload.sock"
        enter = ["nsenter", f"--net={host.place.path}", "--", *prefix]
        command = [*enter, sys.executable, "-m", "x0ctl", "--workload-socket", str(socket), *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=ENVIRONMENT, timeout=END_S)


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    """Two namespaces and a cable."""
    with made() as both:
        yield both


@contextmanager
def made() -> Iterator[TwoHosts]:
    """Make them; remove them at the end."""
    with tempfile.TemporaryDirectory(prefix="x0dt-") as place, namespace("one") as one, namespace("two") as two:
        directory = Path(place)
        directory.chmod(0o755)
        bpffs = directory / "bpf"
        bpffs.mkdir()
        run("mount", "-t", "bpf", "x0dt-bpf", str(bpffs))
        try:
            veth(one, two, ("e1", "e1"), (11, 12))
            for number, where in enumerate((one, two), 1):
                where.ip("link set lo up")
                where.ip(f"addr add fe80::{number}/64 dev e1 nodad")
            yield TwoHosts(LoneDaemon("n1", one, directory, bpffs), LoneDaemon("n2", two, directory, bpffs))
        finally:
            run("umount", "-l", str(bpffs))


def test_from_nothing_to_two_hosts(hosts: TwoHosts) -> None:
    """A token makes a second node; both then route, are known by their IDs, and answer calls from the issuer."""
    n1, n2 = hosts.n1, hosts.n2
    with n1.living() as issuer:
        token = hosts.token(issuer)
        joined = n2.run("--join", token)
        assert (0, "") == (joined.returncode, joined.stderr)
        assert f"joined as {N2}" in joined.stdout
        again = n2.run("--join", token)
        assert 1 == again.returncode
        assert "spent" in again.stderr
        with n2.living() as second:
            expect("both nodes to know each other", lambda: second.status().nodes_known == 2)
            expect("the route to n2", lambda: issuer.status().routes_installed == 1)
            shown = json.loads(second.x0ctl("-o", "json", "identity", "show").stdout)
            assert (N2, "joined") == (shown["spiffe_id"], shown["source"])
            peer = shown["peers"][0]
            assert (N1, "authenticated", "X25519MLKEM768") == (peer["spiffe_id"], peer["state"], peer["group"])
            endpoint = ("--endpoint", "dns:///10.255.9.2:9470", "-o", "json")
            status = hosts.x0ctl(n1, *endpoint, "--server-id", N2, "status")
            assert (0, "n2") == (status.returncode, json.loads(status.stdout or "{}").get("node")), status.stderr
            changed = hosts.x0ctl(n1, *endpoint, "--server-id", N2, "deny", "add", "198.51.100.7", "--for", "10m")
            assert 0 == changed.returncode, changed.stderr
            records = json.loads(second.x0ctl("-o", "json", "audit", "list").stdout)["records"]
            assert ["spiffe://lab.x0d.test/operator/root"] == [record["who"] for record in records]
            wrong = hosts.x0ctl(n1, *endpoint, "--server-id", N1, "status")
            assert 4 == wrong.returncode
            assert N2 in wrong.stderr
            peers = hosts.x0ctl(n2, "--endpoint", "dns:///10.255.9.1:9470", "--server-id", N1, "status")
            assert 4 == peers.returncode  # a node is a peer, and no operator
    log = (n1.directory / "log").read_text()
    assert token not in log


def test_no_start_without_an_identity(hosts: TwoHosts) -> None:
    """A node that neither issues nor has joined does not start, and says how it gets an identity."""
    done = hosts.n2.run()
    assert 78 == done.returncode
    assert "x0ctl identity token --for n2" in done.stderr
    assert "--join" in done.stderr


def test_join_without_the_issuer(hosts: TwoHosts) -> None:
    """A join that nobody answers ends with a sentence and leaves nothing behind; the token can be used later."""
    with hosts.n1.living() as issuer:
        token = hosts.token(issuer)
        hosts.n1.place.ip("link set e1 down")
        refused = hosts.n2.run("--join", token)
        assert 1 == refused.returncode
        assert not (hosts.n2.state / "identity").exists()
        hosts.n1.place.ip("link set e1 up")
        hosts.n1.place.ip("addr replace fe80::1/64 dev e1 nodad")
        expect("the address", lambda: "tentative" not in hosts.n1.place.ip("-6 addr show dev e1"))
        assert 0 == hosts.n2.run("--join", token).returncode
    assert "Traceback" not in refused.stderr
