"""``open_connector``: a synchronous program calls a daemon that proves its ID, with an SVID of the Workload API."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import pytest
import structlog

from fakes import agent as fake_agent
from fakes.authority import CA
from fakes.control import DAEMON, until
from fakes.tls_peer import OWN_ID, PEER_ID, new_ca
from fakes.tls_service import ECHO, serving
from x0d.errors import NoIdentity
from x0d.identity.spiffe_id import SpiffeId
from x0d.transport import connector as connector_module
from x0d.transport.connector import DialedChannel, open_connector

WATCHER = """
import asyncio, gc, sys
from pathlib import Path
import grpc
from x0d.identity.spiffe_id import SpiffeId
from x0d.transport import connector
connector.WATCH_AFTER_S = 0.0
loops, make = [], asyncio.new_event_loop
asyncio.new_event_loop = lambda: loops.append(make()) or loops[-1]
try:
    with connector.open_connector(
        "127.0.0.1", int(sys.argv[1]), SpiffeId.parse(sys.argv[2]), Path(sys.argv[3]), 5.0
    ) as dialled:
        for number in dialled.channel.unary_stream("/t.Echo/Count")(b""):
            if number == b"1":
                print("begun", flush=True)
except grpc.RpcError:
    print("lost,", len(asyncio.all_tasks(loops[0])), "tasks left")
gc.collect()
"""
"""Reads a stream to its end, and counts what its event loop has left undone."""


def echo_of(dialled: DialedChannel) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
    return dialled.channel.unary_unary(ECHO)


def beside(
    ca: CA,
    socket: Path,
    use: Callable[[int], None],
    *,
    shown: str = PEER_ID,
    of: CA | None = None,
    federated: Sequence[CA] = (),
) -> None:
    """Run an agent and a service on a loop, and ``use`` with the service's port in a thread of its own.

    ``of`` has made the service's certificate, ``ca`` if not; the agent gives the roots of ``federated`` as well.
    """

    async def scene() -> None:
        async with fake_agent.serving(socket) as agent, serving((of or ca).issue(shown), ca) as service:
            roots = {f"spiffe://{foreign.trust_domain}": foreign.der for foreign in federated}
            agent.push(fake_agent.update_of(ca.issue(OWN_ID), ca, federated=roots))
            await asyncio.to_thread(use, service.port)

    asyncio.run(scene())


def test_program_without_a_loop_calls_a_daemon(tmp_path: Path) -> None:
    """The call is answered over a channel to exactly the expected ID, and its thread is gone afterwards."""
    ca = new_ca()

    def use(port: int) -> None:
        expected = SpiffeId.parse(PEER_ID)
        with open_connector("127.0.0.1", port, expected, tmp_path / "w.sock", 5.0) as dialled:
            echo = echo_of(dialled)
            assert [b"a", b"b"] == [echo(word, timeout=5) for word in (b"a", b"b")]
            assert None is dialled.last_error()
        assert [] == [thread for thread in threading.enumerate() if thread.name == "connector"]

    beside(ca, tmp_path / "w.sock", use)


def test_wrong_server_is_told_to_the_program(tmp_path: Path) -> None:
    """Where another ID answers, the call fails and the channel knows why."""
    ca = new_ca()

    def use(port: int) -> None:
        expected = SpiffeId.parse(PEER_ID)
        with open_connector("127.0.0.1", port, expected, tmp_path / "w.sock", 5.0) as dialled:
            with pytest.raises(grpc.RpcError) as failure:
                echo_of(dialled)(b"", timeout=5)
            assert grpc.StatusCode.UNAVAILABLE == failure.value.code()
            why = dialled.last_error()
            assert why is not None
            assert ("wrong_id", True) == (why.reason, OWN_ID in why.detail)

    beside(ca, tmp_path / "w.sock", use, shown=OWN_ID)


@pytest.mark.parametrize(("maker", "reason"), [("theirs", ""), ("ours", "untrusted"), ("another", "untrusted")])
def test_foreign_server_is_its_own_domains(tmp_path: Path, maker: str, reason: str) -> None:
    """A server of a federated trust domain is vouched for by that domain's roots alone, not by ours or another's."""
    ours, theirs, another = new_ca(), new_ca("their.x0d.test"), new_ca("another.x0d.test")
    their_id = "spiffe://their.x0d.test/node/n7"

    def use(port: int) -> None:
        with open_connector("127.0.0.1", port, SpiffeId.parse(their_id), tmp_path / "w.sock", 5.0) as dialled:
            if not reason:
                assert b"a" == echo_of(dialled)(b"a", timeout=5)
                return
            with pytest.raises(grpc.RpcError):
                echo_of(dialled)(b"a", timeout=5)
            why = dialled.last_error()
            assert why is not None
            assert reason == why.reason

    made_by = {"theirs": theirs, "ours": ours, "another": another}[maker]
    beside(ours, tmp_path / "w.sock", use, shown=their_id, of=made_by, federated=(theirs, another))


def test_dialling_needs_neither_log_nor_metrics() -> None:
    """A command that only dials does not wait for the import of what only daemons and long watches use."""
    code = (
        "import sys, x0ctl.remote; "
        "print(sorted({'structlog', 'prometheus_client', 'rich', 'x0d.telemetry'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(DAEMON)}, capture_output=True, text=True, check=True
    )
    assert "[]\n" == done.stdout


def test_no_workload_api_is_told_before_any_dial(tmp_path: Path) -> None:
    """Without a Workload API there is no identity to call with; it is told at once, and no thread stays."""
    expected = SpiffeId.parse(PEER_ID)
    began = time.monotonic()
    with (
        pytest.raises(NoIdentity),
        open_connector("127.0.0.1", 1, expected, tmp_path / "none.sock", 5.0),
    ):
        pass
    assert time.monotonic() - began < 5.0
    assert [] == [thread for thread in threading.enumerate() if thread.name == "connector"]


def test_long_channel_takes_rotated_identities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A channel that stays open shows the new SVID to the next connection, and the program's output stays its own."""
    structlog.reset_defaults()
    monkeypatch.setattr(connector_module, "WATCH_AFTER_S", 0.0)
    ca = new_ca()

    async def scene() -> None:
        socket = tmp_path / "w.sock"
        async with fake_agent.serving(socket) as agent, serving(ca.issue(PEER_ID), ca, connection_age_ms=30) as service:
            agent.push(fake_agent.update_of(ca.issue(OWN_ID), ca))
            rotated, done = asyncio.Event(), threading.Event()

            def use() -> None:
                expected = SpiffeId.parse(PEER_ID)
                with open_connector("127.0.0.1", service.port, expected, socket, 5.0) as dialled:
                    echo = echo_of(dialled)
                    end_at = time.monotonic() + 10
                    while len(service.clients) < 2 and time.monotonic() < end_at:
                        echo(b"", timeout=5)
                        loop.call_soon_threadsafe(rotated.set)
                done.set()

            loop = asyncio.get_running_loop()
            program = asyncio.create_task(asyncio.to_thread(use))
            await rotated.wait()
            agent.push(fake_agent.update_of(ca.issue(OWN_ID), ca))
            await program
            assert 2 == len(service.clients)

    try:
        asyncio.run(scene())
    finally:
        structlog.reset_defaults()
    assert "" == capsys.readouterr().out


def test_lost_stream_leaves_stderr_alone(tmp_path: Path) -> None:
    """A long stream that is lost leaves no task behind, which would complain on the program's stderr."""
    ca = new_ca()

    async def scene() -> tuple[bytes, bytes]:
        socket = tmp_path / "w.sock"
        async with fake_agent.serving(socket) as agent, serving(ca.issue(PEER_ID), ca) as service:
            agent.push(fake_agent.update_of(ca.issue(OWN_ID), ca))
            program = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", WATCHER, str(service.port), PEER_ID, str(socket)),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"PYTHONPATH": str(DAEMON), "GRPC_VERBOSITY": "ERROR"},
            )
            assert program.stdout is not None
            assert b"begun\n" == await program.stdout.readline()
            await until(lambda: agent.calls == 2 and agent.streams == 1)
            await service.stop()
            return await program.communicate()

    async def bounded() -> tuple[bytes, bytes]:
        async with asyncio.timeout(20):
            return await scene()

    assert (b"lost, 0 tasks left\n", b"") == asyncio.run(bounded())
