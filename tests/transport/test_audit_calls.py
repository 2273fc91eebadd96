"""Calls that change something, on the unix socket: each leaves a record, or is refused."""

import asyncio
import json
from typing import Any

import pytest
from grpc import StatusCode, aio

from fakes.control import Lab, outcome, run, running, stream_outcome, until
from fakes.views import starting
from x0d.errors import NotSupported
from x0d.ports.audit import CHANGE, Change, tell_change
from x0d.transport.access import AUDITED
from x0d.transport.audited import WHAT_CHARACTERS_MAX, what_of
from x0d.v1 import dataplane_pb2, dataplane_pb2_grpc, node_pb2, node_pb2_grpc, peer_pb2

RELOAD = "/x0d.v1.NodeService/Reload"
WHO = "uid 0 (root)"


def reload(channel: aio.Channel) -> Any:  # noqa: ANN401 - a unary call
    """A reload, not yet awaited."""
    return node_pb2_grpc.NodeServiceStub(channel).Reload(node_pb2.ReloadRequest())


def record_of(lab: Lab) -> tuple[str, str, str, str]:
    """Who, method, outcome and detail of the only record."""
    [record] = lab.auditor.records
    return record.who, record.method, record.outcome, record.detail


def test_done() -> None:
    """A change that was made is recorded as done, with who and what."""

    async def scene() -> None:
        async with running() as lab, lab.channel() as channel:
            await reload(channel)
            assert (WHO, RELOAD, "done", "") == record_of(lab)
            assert "" == lab.auditor.records[0].address

    run(scene())


def test_refused_without_a_record() -> None:
    """While no record can be written nothing is changed, and the caller is told to come back."""

    async def scene() -> None:
        async with running() as lab, lab.channel() as channel:
            lab.auditor.is_full = True
            assert (StatusCode.UNAVAILABLE, "disk full") == await outcome(reload(channel))
            assert 0 == lab.node.reloads
            lab.server._gate.auditor = None
            status, details = await outcome(reload(channel))
            assert StatusCode.UNAVAILABLE == status
            assert "nothing is changed without a record" in details
            assert 0 == lab.node.reloads

    run(scene())


def test_failed() -> None:
    """A change that was refused on its way is recorded as failed, with the reason."""

    async def scene() -> None:
        async with running() as lab, lab.channel() as channel:
            lab.node.fails = NotSupported("reload", "later")
            await outcome(reload(channel))
            assert (WHO, RELOAD, "failed", "reload is not available: later") == record_of(lab)

    run(scene())


def test_cancelled() -> None:
    """A change whose client leaves is recorded as failed."""

    async def scene() -> None:
        async with running() as lab, lab.channel() as channel:
            held = asyncio.Event()

            async def wait() -> None:
                await held.wait()

            lab.node.before = wait
            call = reload(channel)
            await until(lambda: lab.auditor.records)
            call.cancel()
            await until(lambda: lab.auditor.records[0].outcome == "failed")
            assert "cancelled" == lab.auditor.records[0].detail
            held.set()

    run(scene())


def test_a_stream_of_requests_is_recorded_by_its_first() -> None:
    """A list that is loaded in parts leaves one record, which says what its header says."""

    async def scene() -> None:
        async with running() as lab, lab.channel() as channel:
            request = dataplane_pb2.LoadDenyRequest
            stub: Any = dataplane_pb2_grpc.DataplaneServiceStub(channel)
            call = stub.LoadDeny()
            await call.write(request(header=dataplane_pb2.LoadDenyHeader(name="deny.txt")))
            await call.write(request(lines="203.0.113.9\n"))
            await call.write(request(end=dataplane_pb2.LoadDenyEnd()))
            await call.done_writing()
            _, status, _ = await stream_outcome(call)
            assert StatusCode.OK == status
            [record] = lab.auditor.records
            assert '{"header": {"name": "deny.txt"}}' == record.what
            assert "done" == record.outcome

    run(scene())


def test_reading_leaves_none() -> None:
    """Calls that only read leave no record, and need no disk."""

    async def scene() -> None:
        async with running() as lab, lab.channel() as channel:
            lab.auditor.is_full = True
            await node_pb2_grpc.NodeServiceStub(channel).GetStatus(node_pb2.GetStatusRequest())
            assert [] == lab.auditor.records

    run(scene())


def test_refused_callers_leave_none() -> None:
    """Who may not call changes nothing and fills no disk: the log has it."""

    async def scene() -> None:
        async with running(ready=False) as lab, lab.channel() as channel:
            lab.node.current = starting("load the data plane")
            assert StatusCode.UNAVAILABLE == (await outcome(reload(channel)))[0]
            assert [] == lab.auditor.records

    run(scene())


@pytest.mark.parametrize("method", sorted(AUDITED))
def test_what_is_recorded_is_called_a_change(method: str) -> None:
    """No method that only reads is recorded."""
    assert not method.rpartition("/")[2].startswith(("Get", "List", "Watch"))


def test_secrets_are_not_recorded() -> None:
    """A join's secret is in no record; the rest of the request is."""
    what = what_of(peer_pb2.JoinRequest(secret=b"0123456789abcdef", spiffe_id="spiffe://dev.x0d.test/node/n2"))
    assert '{"secret": "(secret)", "spiffe_id": "spiffe://dev.x0d.test/node/n2"}' == what


def test_certificate_requests_are_told_by_their_size() -> None:
    """What is opaque to people is named and not written out, however large it is."""
    for size in (312, 100_000):
        assert f'{{"csr": "({size} bytes)"}}' == what_of(peer_pb2.RenewSvidRequest(csr=bytes(size)))


def test_long_requests_are_cut() -> None:
    """A record holds no more of a request than its limit."""
    prefixes = [f"10.0.{number >> 8}.{number & 255}/32" for number in range(50_000)]
    guard = dataplane_pb2.Guard(force=True)
    for request in (
        dataplane_pb2.LoadDenyRequest(lines="203.0.113.9\n" * 10_000),
        dataplane_pb2.AddDenyRequest(prefixes=prefixes, duration_s=60, comment="c" * 20_000, guard=guard),
    ):
        what = what_of(request)
        assert WHAT_CHARACTERS_MAX == len(what)
        assert "\n" not in what
        assert len(json.dumps(what)) < 3 * WHAT_CHARACTERS_MAX


def test_tell_change() -> None:
    """What a servicer tells lands in the record of its call, and nowhere outside one."""
    tell_change(before="nothing")
    token = CHANGE.set(Change())
    tell_change(before="a")
    tell_change(after="b")
    assert Change("a", "b") == CHANGE.get()
    CHANGE.reset(token)
