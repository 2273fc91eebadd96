"""x0ctl over mTLS to a real control port: whom it talks to, whom it refuses, and what it says of that."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable

import pytest
from grpc import aio

from fakes.authority import CA
from fakes.control import DAEMON, Finished, run, until, x0ctl
from fakes.remote import DOMAIN, ROOT_ID, SERVER_ID, Remote, remote
from fakes.views import FakeIncidentView

WATCHES = (("watch", "incidents"), ("deny", "list"))


def told(act: Callable[[Remote], Awaitable[Finished]]) -> Finished:
    """What a command says to a port of its own."""

    async def scene() -> Finished:
        async with remote() as there:
            return await act(there)

    return run(scene())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_calls_and_streams(address: str) -> None:
    """Calls and streams work as on the control socket, over IPv4 and IPv6."""

    async def scene() -> tuple[Finished, Finished]:
        async with remote(address) as there:
            status = await x0ctl(there.endpoint, *there.arguments("-o", "json", "status"))
            return status, await x0ctl(there.endpoint, *there.arguments("deny", "list"))

    status, denied = run(scene())
    assert (0, "n1", "") == (status.code, json.loads(status.out)["node"], status.err)
    assert (0, "") == (denied.code, denied.err)


def test_changes_name_their_caller() -> None:
    """What root of the issuer changes is recorded under its SPIFFE ID and address."""

    async def scene() -> tuple[Finished, str, str]:
        async with remote() as there:
            finished = await x0ctl(there.endpoint, *there.arguments("identity", "token", "--for", "n3"))
            return finished, there.auditor.records[0].who, there.auditor.records[0].address

    finished, who, address = run(scene())
    assert (0, "x0d1-token1\n") == (finished.code, finished.out)
    assert ROOT_ID == who
    assert "127.0.0.1" in address


@pytest.mark.parametrize("asked", [f"spiffe://{DOMAIN}/node/n3", f"spiffe://{DOMAIN}/node/N2"], ids=["name", "case"])
def test_somebody_else_answers(asked: str) -> None:
    """Another node of the same cluster is refused, be it by a capital letter; it is said who answered."""
    finished = told(lambda there: x0ctl(there.endpoint, *there.arguments("status", server_id=asked)))
    assert (4, "") == (finished.code, finished.out)
    assert f"it is {SERVER_ID}, not {asked}" in finished.err
    assert "--server-id" in finished.err


def test_another_cluster_answers() -> None:
    """A server of an authority that we do not trust is refused, whatever its ID."""

    async def act(there: Remote) -> Finished:
        there.call_as(ROOT_ID, CA(DOMAIN, start_unix_s=time.time()))
        return await x0ctl(there.endpoint, *there.arguments("status"))

    finished = told(act)
    assert (4, "") == (finished.code, finished.out)
    assert "refused (untrusted)" in finished.err
    assert "compare the roots" in finished.err


def test_we_are_refused() -> None:
    """A server that does not trust our authority ends the handshake: exit 4, and what to look at."""

    async def act(there: Remote) -> Finished:
        there.call_as(ROOT_ID, CA(DOMAIN, start_unix_s=time.time()), there.authority)
        return await x0ctl(there.endpoint, *there.arguments("status"))

    finished = told(act)
    assert (4, "") == (finished.code, finished.out)
    assert "does it trust the roots of your identity?" in finished.err


@pytest.mark.parametrize(
    ("caller", "command"),
    [("operator/anna", ("reload",)), ("node/n3", ("status",)), ("stranger", ("status",)), ("nobody", WATCHES[0])],
)
def test_without_the_role(caller: str, command: tuple[str, ...]) -> None:
    """Who is known and may not make the call is told where roles are given."""

    async def act(there: Remote) -> Finished:
        there.call_as(f"spiffe://{DOMAIN}/{caller}")
        return await x0ctl(there.endpoint, *there.arguments(*command))

    finished = told(act)
    assert 4 == finished.code
    assert "not permitted" in finished.err
    assert "[[identity.bindings]]" in finished.err


@pytest.mark.parametrize("caller", ["operator/root", "operator/anna", "node/n3"])
@pytest.mark.parametrize("command", [("status",), WATCHES[0]], ids=" ".join)
def test_peer_port(caller: str, command: tuple[str, ...]) -> None:
    """Whoever asks a peer port is told that it may be one, and which port is meant: operators, and nodes too."""

    async def scene() -> Finished:
        async with remote(peer_port=True) as there:
            there.call_as(f"spiffe://{DOMAIN}/{caller}")
            return await x0ctl(there.endpoint, *there.arguments(*command))

    finished = run(scene())
    assert (4 if caller == "node/n3" else 1) == finished.code
    assert "the peer port" in finished.err
    assert "listen.control_port there, 9470 by default" in finished.err
    assert "older" not in finished.err


@pytest.mark.parametrize("denied", [True, False], ids=["denied", "nobody there"])
def test_without_an_identity(denied: bool) -> None:
    """Without an SVID nothing is dialled, and it is said where one is to be had."""

    async def act(there: Remote) -> Finished:
        there.agent.deny = denied
        if not denied:
            await there.agent.stop()
        return await x0ctl(there.endpoint, *there.arguments("status"))

    finished = told(act)
    assert (4, "") == (finished.code, finished.out)
    assert "no identity to show: the Workload API at " in finished.err
    assert "run x0ctl on the issuer" in finished.err


@pytest.mark.parametrize(
    "command",
    [("status",), *WATCHES, ("doctor",), ("ebpf", "detach", "--all", "--config", "/nonexistent")],
    ids=" ".join,
)
def test_nobody_there(command: tuple[str, ...]) -> None:
    """A closed port is unreachable; neither the local doctor nor the local programs stand in for the other host's."""

    async def act(there: Remote) -> Finished:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            endpoint = f"dns:///127.0.0.1:{closed.getsockname()[1]}"
            return await x0ctl(endpoint, *there.arguments(*command))

    finished = told(act)
    assert (3, "") == (finished.code, finished.out)
    assert "Connection refused" in finished.err
    assert "running " not in finished.err.replace("is x0d running there", "")


@pytest.mark.parametrize("command", [("status",), *WATCHES], ids=" ".join)
def test_silent_port(command: tuple[str, ...]) -> None:
    """A port that takes connections and says nothing is given up after --timeout, streams included."""

    async def act(there: Remote) -> Finished:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            endpoint = f"dns:///127.0.0.1:{silent.getsockname()[1]}"
            return await x0ctl(endpoint, *there.arguments("--timeout", "0.5", *command))

    finished = told(act)
    assert (3, "") == (finished.code, finished.out)
    assert "within 0.5 s" in finished.err


@pytest.mark.parametrize("command", [("status",), WATCHES[0]], ids=" ".join)
def test_port_without_tls(command: tuple[str, ...]) -> None:
    """A server in plaintext is refused for its handshake, streams included, with what to look at."""

    async def act(there: Remote) -> Finished:
        plain = aio.server()
        port = plain.add_insecure_port("127.0.0.1:0")
        await plain.start()
        try:
            return await x0ctl(f"dns:///127.0.0.1:{port}", *there.arguments(*command))
        finally:
            await plain.stop(None)

    finished = told(act)
    assert (4, "") == (finished.code, finished.out)
    assert "refused (handshake): 127.0.0.1:" in finished.err
    assert "is that the control port of an x0d" in finished.err


async def start_watch(there: Remote) -> asyncio.subprocess.Process:
    """Start ``watch incidents`` by the environment alone, and wait until the server has it."""
    incidents = there.views.incidents
    assert isinstance(incidents, FakeIncidentView)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "x0ctl", "-o", "json", "watch", "incidents"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "X0CTL_ENDPOINT": there.endpoint,
            "X0CTL_SERVER_ID": SERVER_ID,
            "X0CTL_WORKLOAD_SOCKET": str(there.agent.path),
            "PYTHONPATH": str(DAEMON),
        },
    )
    await until(lambda: incidents.subscribers)
    return process


def test_watch_until_ctrl_c() -> None:
    """Ctrl-C ends a watch with 130 and without a word."""

    async def scene() -> None:
        async with remote() as there:
            process = await start_watch(there)
            assert process.stdout is not None
            assert "incident" in json.loads(await process.stdout.readline())
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
            assert (130, b"", b"\n") == (process.returncode, out, err)

    run(scene())


def test_watch_of_a_daemon_that_stops() -> None:
    """A watch ends as unreachable when the other daemon stops."""

    async def scene() -> None:
        async with remote() as there:
            process = await start_watch(there)
            await there.server.stop(0.0)
            _, err = await process.communicate()
            assert (3, True) == (process.returncode, b"systemctl status x0d" in err), err

    run(scene())


def test_ctrl_c_while_connecting() -> None:
    """Ctrl-C ends a command that waits for a silent port, without a word."""

    async def scene() -> None:
        async with remote() as there:
            with socket.create_server(("127.0.0.1", 0)) as silent:
                silent.setblocking(False)
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "x0ctl", "--endpoint", f"dns:///127.0.0.1:{silent.getsockname()[1]}"),
                    *there.arguments("status"),
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": str(DAEMON)},
                )
                accepted, _ = await asyncio.get_running_loop().sock_accept(silent)
                with accepted:
                    process.send_signal(signal.SIGINT)
                    out, err = await process.communicate()
            assert (130, b"", b"\n") == (process.returncode, out, err)

    run(scene())
