"""What a caller may call once it has proved who it is: every method, unknown ones, and streams whose trust ends."""

import asyncio
import time
from typing import Any

import pytest
from grpc import StatusCode, aio

from fakes.authority import CA, HOUR_S, Issued
from fakes.control import run, until
from fakes.tls_lab import (
    AGREE,
    DOMAIN,
    FILES,
    FLOOD,
    FOREIGN,
    OPERATOR,
    RELOAD,
    STATUS,
    WATCH,
    Answer,
    TlsLab,
    ask,
    ask_as,
    bound,
    open_watch,
    svid_of,
    tls_port,
    until_still,
)
from x0d.identity.roles import Role
from x0d.transport.access import METHODS

FORBIDDEN = Answer(StatusCode.PERMISSION_DENIED, "not permitted", "role")
UNKNOWN = (
    "/x0d.v1.NodeService/Explode",
    "/x0d.v2.NodeService/GetStatus",
    "/x0d.v1.nodeservice/GetStatus",
    "/grpc.health.v1.Health/Explode",
    "/",
    "/x",
    f"{STATUS}/",
    f"/{STATUS}",
)
HOLDERS = {
    Role.VIEWER: f"spiffe://{DOMAIN}/operator/bob",
    Role.OPERATOR: OPERATOR,
    Role.ADMIN: f"spiffe://{DOMAIN}/operator/root",
    Role.PEER: f"spiffe://{DOMAIN}/node/n1",
}
"""An ID that the lab's bindings give this role; the operator and the admin are viewers, too."""


def every_method() -> list[str]:
    """Every method of every proto, health and reflection: those of the table, and those that it might lack."""
    found = {
        f"/{service.full_name}/{method.name}"
        for file in FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    return sorted(found | set(METHODS))


@pytest.mark.parametrize("name", ["control", "peer"])
def test_no_role_no_method(name: str) -> None:
    """A peer that no rule allows gets one and the same answer from every method, existing or not."""

    async def scene() -> None:
        async with tls_port(name=name) as lab, lab.channel(lab.ca.issue(f"spiffe://{DOMAIN}/guest")) as channel:
            answers = {method: await ask(channel, method) for method in (*every_method(), *UNKNOWN)}
            assert {FORBIDDEN} == set(answers.values()), {m: a for m, a in answers.items() if a != FORBIDDEN}
            assert [] == lab.reached.calls
            assert {"policy": len(answers)} == lab.failures_by_reason()

    run(scene())


@pytest.mark.parametrize("role", HOLDERS)
def test_each_role_has_its_methods(role: Role) -> None:
    """A method is answered exactly to those whose role the table names; all others are refused before its handler."""

    async def scene() -> None:
        async with tls_port() as lab, lab.channel(lab.ca.issue(HOLDERS[role])) as channel:
            own = [method for method in every_method() if method.startswith("/x0d.")]
            held = {role} if role in (Role.VIEWER, Role.PEER) else {role, Role.VIEWER}
            for method in own:
                expected = StatusCode.OK if METHODS[method] & held else StatusCode.PERMISSION_DENIED
                assert expected == (await ask(channel, method)).status, method
            assert {m for m in own if METHODS[m] & held} == {method for method, _ in lab.reached.calls}
            assert {HOLDERS[role]} == {caller for _, caller in lab.reached.calls}

    run(scene())


def test_health_and_reflection_are_gated() -> None:
    """Who may read is answered by both; a peer is refused, and the peer port does not offer them."""

    async def scene() -> None:
        health = "/grpc.health.v1.Health/Check"
        reflection = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        async with tls_port() as lab:
            for method in (health, reflection):
                assert StatusCode.OK == (await ask_as(lab, lab.ca.issue(OPERATOR), method)).status
                assert FORBIDDEN == await ask_as(lab, lab.ca.issue(HOLDERS[Role.PEER]), method)
        async with tls_port(name="peer") as lab:
            for method in (health, reflection):
                assert StatusCode.UNIMPLEMENTED == (await ask_as(lab, lab.ca.issue(OPERATOR), method)).status
                assert FORBIDDEN == await ask_as(lab, lab.ca.issue(HOLDERS[Role.PEER]), method)

    run(scene())


def test_refused_before_a_request_is_read() -> None:
    """Who may not call is refused without having sent a request: it cannot hold a place, nor time the answers."""

    async def scene() -> None:
        async with tls_port() as lab, lab.channel(lab.ca.issue(f"spiffe://{DOMAIN}/guest")) as channel:
            for method in (STATUS, WATCH, "/x0d.v1.DataplaneService/LoadDeny", *UNKNOWN[:2]):
                stub: Any = channel.stream_stream(method)
                call = stub()
                async with asyncio.timeout(5):
                    assert StatusCode.PERMISSION_DENIED == await call.code()
                    assert "not permitted" == await call.details()

    run(scene())


def test_unknown_methods_of_admins() -> None:
    """Only who may call everything is told that a method does not exist."""

    async def scene() -> None:
        async with tls_port() as lab:
            for role, spiffe_id in HOLDERS.items():
                async with lab.channel(lab.ca.issue(spiffe_id)) as channel:
                    expected = StatusCode.UNIMPLEMENTED if role is Role.ADMIN else StatusCode.PERMISSION_DENIED
                    assert {expected} == {(await ask(channel, method)).status for method in UNKNOWN[:3]}

    run(scene())


def two_watchers(lab: TlsLab) -> tuple[Issued, Issued]:
    """A local and a federated caller who may both watch."""
    everybody = [bound(Role.VIEWER, f"spiffe://{domain}/*") for domain in (DOMAIN, FOREIGN)]
    lab.server.set_bindings([*everybody, bound(Role.OPERATOR, f"spiffe://{DOMAIN}/*")])
    return lab.ca.issue(OPERATOR), lab.foreign.issue(f"spiffe://{FOREIGN}/ci")


async def ended(call: Any, within_s: float = 1.0) -> tuple[StatusCode, str]:  # noqa: ANN401 - a stream call
    """How a stream ends, within this time."""
    async with asyncio.timeout(within_s):
        try:
            while await call.read() is not aio.EOF:
                pass
        except aio.AioRpcError as error:
            return error.code(), error.details() or ""
    return await call.code(), ""


def test_streams_of_a_removed_authority() -> None:
    """A bundle without the caller's authority cuts its streams within a second; others live on."""

    async def scene() -> None:
        async with tls_port() as lab:
            local, federated = two_watchers(lab)
            async with lab.channel(local) as one, lab.channel(federated) as other:
                kept, cut = await open_watch(lab, one), await open_watch(lab, other)
                conversation: Any = other.stream_stream(WATCH)
                lab.put(lab.ca)
                began = time.monotonic()
                expected = (StatusCode.UNAUTHENTICATED, "not authenticated: show an SVID that this node trusts")
                assert expected == await ended(cut)
                assert time.monotonic() - began < 1
                await until(lambda: lab.reached.streams == {OPERATOR})
                assert 1.0 == lab.counted.registry.get_sample_value("x0d_streams_revoked_total")
                assert not kept.done()
                assert StatusCode.UNAUTHENTICATED == await conversation(iter([b""])).code()
                kept.cancel()

    run(scene())


def test_streams_of_requests_are_cut_too() -> None:
    """A call that streams its requests ends with its caller's trust, and its record says that it failed."""

    async def scene() -> None:
        async with tls_port() as lab:
            lab.server.set_bindings([bound(Role.OPERATOR, f"spiffe://{FOREIGN}/*")])
            async with lab.channel(lab.foreign.issue(f"spiffe://{FOREIGN}/ci")) as channel:
                load: Any = channel.stream_stream("/x0d.v1.DataplaneService/LoadDeny")
                call = load()
                await call.write(b"")
                await call.read()
                lab.put(lab.ca)
                assert StatusCode.UNAUTHENTICATED == (await ended(call))[0]
                await until(lambda: lab.auditor.records[0].outcome == "failed")

    run(scene())


def test_streams_of_who_loses_the_role() -> None:
    """New bindings cut the streams of those whom they do not allow any more, and only theirs."""

    async def scene() -> None:
        async with tls_port() as lab:
            local, federated = two_watchers(lab)
            async with lab.channel(local) as one, lab.channel(federated) as other:
                kept, cut = await open_watch(lab, one), await open_watch(lab, other)
                lab.server.set_bindings([bound(Role.VIEWER, f"spiffe://{DOMAIN}/*")])
                assert (StatusCode.PERMISSION_DENIED, "not permitted") == await ended(cut)
                await until(lambda: lab.reached.streams == {OPERATOR})
                kept.cancel()

    run(scene())


def test_streams_past_expiry() -> None:
    """An operator's stream outlives its SVID by a day at most; a new call does not."""

    async def scene() -> None:
        async with tls_port() as lab, lab.channel(lab.ca.issue(OPERATOR)) as channel:
            call = await open_watch(lab, channel)
            looks = lab.server._streams.look
            lab.source.ahead_s = 20 * HOUR_S
            looks()
            assert StatusCode.UNAUTHENTICATED == (await ask(channel)).status
            assert {OPERATOR} == lab.reached.streams
            lab.source.ahead_s = 26 * HOUR_S
            assert StatusCode.UNAUTHENTICATED == (await ended(call, within_s=2))[0]

    run(scene())


def test_a_client_that_does_not_read_is_cut_too() -> None:
    """A stream whose client takes nothing ends on the server's side all the same."""

    async def scene() -> None:
        async with tls_port() as lab:
            _, federated = two_watchers(lab)
            async with lab.channel(federated) as channel:
                stub: Any = channel.unary_stream(WATCH)
                call = stub(FLOOD)
                await until(lambda: lab.reached.written > 0)
                await until_still(lambda: lab.reached.written)
                lab.put(lab.ca)
                async with asyncio.timeout(3):
                    await until(lambda: not lab.reached.streams)
                call.cancel()

    run(scene())


def test_a_new_root_lets_streams_live() -> None:
    """A second root beside the first, as in a rotation, cuts nobody; the first one's removal cuts who hangs on it."""

    async def scene() -> None:
        async with tls_port() as lab:
            new = CA(DOMAIN, start_unix_s=time.time())
            async with lab.channel(lab.ca.issue(OPERATOR)) as old_channel:
                call = await open_watch(lab, old_channel)
                lab.put(lab.ca, new)
                assert StatusCode.OK == (await ask_as(lab, new.issue(OPERATOR))).status
                assert {OPERATOR} == lab.reached.streams
                lab.source.put(svid_of(lab.own, f"spiffe://{DOMAIN}/node/n0"), new)
                assert StatusCode.UNAUTHENTICATED == (await ended(call))[0]

    run(scene())


def test_changes_leave_records() -> None:
    """Over TCP a change is recorded with ID and address, and refused while it cannot be; what peers say is not."""

    async def scene() -> None:
        async with tls_port() as lab, lab.channel(lab.ca.issue(OPERATOR)) as channel:
            assert StatusCode.OK == (await ask(channel, RELOAD)).status
            [record] = lab.auditor.records
            assert (OPERATOR, RELOAD, "done") == (record.who, record.method, record.outcome)
            assert record.address.startswith("127.0.0.1:")
            lab.auditor.is_full = True
            before = list(lab.reached.calls)
            assert StatusCode.UNAVAILABLE == (await ask(channel, RELOAD)).status
            assert before == lab.reached.calls
            assert StatusCode.OK == (await ask_as(lab, lab.ca.issue(HOLDERS[Role.PEER]), AGREE)).status
            assert 1 == len(lab.auditor.records)

    run(scene())
