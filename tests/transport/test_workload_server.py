"""The Workload API of our own: who gets what, by the kernel's word, and what is pushed when."""

import asyncio
import grp
import json
import os
import pwd
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from grpc import aio

from transport.issuer_world import GROUP, OWN, TD, MovedClock, World, issuer_world, play, until
from x0d.identity.spiffe_id import SpiffeId, TrustDomain
from x0d.spiffe.authority import Authority
from x0d.spiffe.certificate import split_der
from x0d.spiffe.watcher import Watcher
from x0d.spiffe.workload_api import (
    FETCH_X509_BUNDLES,
    FETCH_X509_SVID,
    SECURITY_HEADER,
    BundlesUpdate,
    SvidUpdate,
)
from x0d.transport import entitlement
from x0d.transport.access import Caller, gid_of
from x0d.transport.entitlement import IssuerEntitlement, JoinedEntitlement

OTHER = """
import asyncio, json, os, sys
from pathlib import Path
from x0d.errors import NoIdentity
from x0d.spiffe.fetch import fetch_once
uid, groups = int(sys.argv[2]), json.loads(sys.argv[3])
os.setgroups(groups)
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
try:
    print(asyncio.run(fetch_once(Path(sys.argv[1]), 5.0)).svid.spiffe_id)
except NoIdentity as error:
    print("refused:", error)
"""


async def identity_of(socket: Path, uid: int, *groups: int) -> str:
    """What another process of this uid and these supplementary groups gets."""
    command = [sys.executable, "-c", OTHER, str(socket), str(uid), json.dumps(groups)]

    def run() -> str:
        return subprocess.run(
            command, env={"PYTHONPATH": "daemon"}, capture_output=True, text=True, check=True
        ).stdout.strip()

    return await asyncio.to_thread(run)


@asynccontextmanager
async def stream(socket: Path, method: str = FETCH_X509_SVID) -> AsyncIterator["aio.UnaryStreamCall[bytes, bytes]"]:
    """A call of this process's own."""
    async with aio.insecure_channel(f"unix:{socket}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        streaming: aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(method)
        call = streaming(b"", metadata=(SECURITY_HEADER,))
        yield call
        call.cancel()


async def update(call: "aio.UnaryStreamCall[bytes, bytes]") -> SvidUpdate:
    """The next message."""
    async with asyncio.timeout(10):
        return SvidUpdate.decode(await call.read())  # type: ignore[arg-type]  # a message, not the end


def serial(message: SvidUpdate) -> int:
    return x509.load_der_x509_certificate(split_der(message.svids[0].certificates)[0]).serial_number


@pytest.mark.kernel
def test_each_process_gets_what_is_its_own(tmp_path: Path) -> None:
    """The daemon is the node, root and the group's members are operators, and everybody else is nobody."""

    async def scenario() -> None:
        group = gid_of(GROUP)
        assert group is not None
        daemon = pwd.getpwnam("daemon").pw_uid
        async with issuer_world(tmp_path) as world:
            async with stream(world.socket) as call:
                assert str(OWN) == (await update(call)).svids[0].spiffe_id
            assert f"spiffe://{TD}/operator/root" == await identity_of(world.socket, 0)
            assert f"spiffe://{TD}/operator/daemon" == await identity_of(world.socket, daemon, 3, group)
            assert 0 == world.workload.strangers_total
            assert f"{world.socket} refuses uid 65534" in await identity_of(world.socket, 65_534)
            assert (await identity_of(world.socket, daemon, 3)).startswith("refused:")
            assert world.workload.strangers_total >= 2

    play(scenario)


def test_entitlement_looks_at_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second account called root is not root, and accounts without a name that an ID can carry get nothing."""
    entitle, group = IssuerEntitlement(OWN), frozenset({7})
    names = {1001: "root", 1002: "..", 1003: "a b", 1004: "Alice.B-1"}

    def entry(uid: int) -> pwd.struct_passwd:
        if uid not in names:
            raise KeyError(uid)
        return pwd.struct_passwd((names[uid], "", uid, uid, "", "", ""))

    async def scenario() -> None:
        got = [await entitle.of(Caller(1, uid, group)) for uid in (*names, 1005)]
        alice = SpiffeId.parse(f"spiffe://{TD}/operator/Alice.B-1")
        assert [None, None, None, alice, None] == got
        assert f"spiffe://{TD}/operator/root" == str(await entitle.of(Caller(1, 0, frozenset())))
        assert OWN == await entitle.of(Caller(os.getpid(), 1002, frozenset()))
        stranger = Caller(0, 1004, frozenset())
        assert (None, False) == (await entitle.of(stranger), entitle.may_ask(stranger))

    monkeypatch.setattr(pwd, "getpwuid", entry)
    play(scenario)


@pytest.mark.kernel
def test_group_is_looked_up_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that the host gets later counts from the next look-up on, which a reload asks for."""

    async def scenario() -> None:
        group, daemon = gid_of(GROUP), pwd.getpwnam("daemon").pw_uid
        assert group is not None
        with monkeypatch.context() as patched:
            patched.setattr(grp, "getgrnam", {}.__getitem__)
            opened = issuer_world(tmp_path)
            world = await opened.__aenter__()
        try:
            assert (await identity_of(world.socket, daemon, group)).startswith("refused:")
            await world.workload.look_up_group()
            assert f"spiffe://{TD}/operator/daemon" == await identity_of(world.socket, daemon, group)
        finally:
            await opened.__aexit__(None, None, None)

    play(scenario)


def test_entitlement_of_a_joined_node() -> None:
    """On a node that has joined the daemon and root are the node; the group's members are nobody there."""

    async def scenario() -> None:
        entitle = JoinedEntitlement(OWN)
        callers = [Caller(pid, uid, frozenset({7})) for pid, uid in ((os.getpid(), 1000), (1, 0), (1, 1000))]
        assert [OWN, OWN, None] == [await entitle.of(caller) for caller in callers]
        assert [True, True, False] == [entitle.may_ask(caller) for caller in callers]

    play(scenario)


@pytest.mark.kernel
def test_directory_of_accounts_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody can say an account's name, its call waits and fails, and everything else goes on."""
    answer = threading.Event()
    monkeypatch.setattr(entitlement, "LOOK_UP_S_MAX", 1.0)

    async def scenario() -> None:
        group, daemon = gid_of(GROUP), pwd.getpwnam("daemon").pw_uid
        assert group is not None
        async with issuer_world(tmp_path) as world:
            monkeypatch.setattr(pwd, "getpwuid", lambda _: answer.wait(20))
            monkeypatch.setattr(grp, "getgrnam", lambda _: answer.wait(20))
            asking = asyncio.create_task(identity_of(world.socket, daemon, group))
            await until(lambda: world.workload.connections == 1)
            async with stream(world.socket) as call:
                assert str(OWN) == (await update(call)).svids[0].spiffe_id
            assert not asking.done()
            assert "directory of accounts does not answer" in await asking

    try:
        play(scenario)
    finally:
        answer.set()


@pytest.mark.parametrize("metadata", [(), (("workload.spiffe.io", "false"),)])
def test_a_call_without_the_header_is_refused(tmp_path: Path, metadata: tuple[tuple[str, str], ...]) -> None:
    """Without the security header nothing is given out (Workload API section 5.1)."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world, aio.insecure_channel(f"unix:{world.socket}") as channel:
            for method in (FETCH_X509_SVID, FETCH_X509_BUNDLES):
                streaming: aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(method)
                call = streaming(b"", metadata=metadata)
                with pytest.raises(aio.AioRpcError) as refused:
                    await call.read()
                assert grpc.StatusCode.INVALID_ARGUMENT == refused.value.code()

    play(scenario)


def test_there_are_no_jwts(tmp_path: Path) -> None:
    """The JWT profile is not offered."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world, stream(world.socket, "/SpiffeWorkloadAPI/FetchJWTSVID") as call:
            with pytest.raises(aio.AioRpcError) as refused:
                await call.read()
            assert grpc.StatusCode.UNIMPLEMENTED == refused.value.code()

    play(scenario)


def test_a_new_certificate_is_pushed_at_half_life(tmp_path: Path) -> None:
    """Open streams get a new certificate with a new key once, at half of the life, and nothing in between."""

    async def scenario() -> None:
        async with issuer_world(tmp_path, svid_ttl_s=1000) as world, stream(world.socket) as call:
            first = await update(call)
            world.clock.advance(440)
            world.svids.refresh(world.clock.unix_s())
            world.svids._subscribers.tell()  # a change of something else
            waiting = asyncio.ensure_future(update(call))
            assert {waiting} == (await asyncio.wait({waiting}, timeout=0.3))[1]
            world.clock.advance(61)
            second = await waiting
            assert (serial(first), first.svids[0].key) != (serial(second), second.svids[0].key)
            assert first.svids[0].bundle == second.svids[0].bundle
            async with stream(world.socket) as another:
                assert second == await update(another)

    play(scenario)


def test_a_rotation_of_the_root_reaches_open_streams(tmp_path: Path) -> None:
    """The new root is in the bundle before anything is signed by it, and the old one goes in the end."""

    async def scenario() -> None:
        async with (
            issuer_world(tmp_path, root_ttl_s=8000, svid_ttl_s=1000) as world,
            stream(world.socket, FETCH_X509_BUNDLES) as call,
        ):
            sizes = []
            for step_s in (0, 4001, 1001, 1130):
                world.clock.advance(step_s)
                if step_s != 1001:  # activation alone changes no bundle
                    async with asyncio.timeout(10):
                        message = BundlesUpdate.decode(await call.read())  # type: ignore[arg-type]  # a message
                    sizes.append(len(split_der(message.bundles[f"spiffe://{TD}"])))
                else:
                    await until(lambda: not world.authority.is_rotation_due(world.clock.unix_s()))
            assert [1, 2, 1] == sizes

    play(scenario)


def test_federated_roots_come_along(tmp_path: Path) -> None:
    """Roots of named foreign trust domains are in both answers, under their own names."""

    async def scenario() -> None:
        foreign = TrustDomain("other.test")
        other = Authority.open(tmp_path / "other", foreign, 8000, 1000, MovedClock().unix_s)
        async with issuer_world(tmp_path, federated={foreign: other.bundle()}) as world:
            async with stream(world.socket) as call:
                assert {"spiffe://other.test": other.bundle()[0]} == (await update(call)).federated
            async with stream(world.socket, FETCH_X509_BUNDLES) as call:
                bundles = BundlesUpdate.decode(await call.read()).bundles  # type: ignore[arg-type]  # a message
                assert {f"spiffe://{TD}", "spiffe://other.test"} == set(bundles)

    play(scenario)


def watcher_of(world: World) -> Watcher:
    return Watcher(
        socket=world.socket,
        own_id=OWN,
        trust_domain=TD,
        federation=frozenset(),
        dev_allowed=True,
        owner_uid=None,
        unix_s=world.clock.unix_s,
        monotonic_ns=world.clock.monotonic_ns,
        rng=random.Random(2),
    )


def test_our_watcher_takes_what_our_server_gives(tmp_path: Path) -> None:
    """The daemon's own watcher accepts every update over many renewals and a rotation of the root."""

    async def scenario() -> None:
        async with issuer_world(tmp_path, root_ttl_s=8000, svid_ttl_s=1000) as world:
            watcher = watcher_of(world)
            running = asyncio.ensure_future(watcher.run())
            await until(lambda: watcher.current is not None)
            serials, first_root = set(), world.authority.bundle()[0]
            for _ in range(14):
                assert watcher.current is not None
                before = watcher.current.svid.serial
                serials.add(before)
                world.clock.advance(501)
                await until(lambda: watcher.current is not None and watcher.current.svid.serial != before)  # noqa: B023
            running.cancel()
            assert 0 == sum(watcher.status().rejected.values())
            assert 14 == len(serials)
            assert first_root not in world.authority.bundle()

    play(scenario)


async def visit(socket: Path, reads: int) -> None:
    """Call, read so many messages, and go; whoever holds the call holds its connection."""
    async with stream(socket) as call:
        for _ in range(reads):
            await update(call)


def test_streams_that_end_leave_nothing(tmp_path: Path) -> None:
    """Callers that come and go, at whatever moment, are forgotten."""

    async def scenario() -> None:
        async with issuer_world(tmp_path) as world:
            for number in range(20):
                await visit(world.socket, reads=number % 2)
            await until(lambda: not world.svids._subscribers._callbacks)
            await until(lambda: world.workload.connections == 0)

    play(scenario)
