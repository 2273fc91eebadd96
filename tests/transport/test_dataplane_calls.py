"""Calls of the data plane through the front to the real server, over fake views."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode, aio

from fakes.audit import FakeAuditor
from fakes.control import Lab, outcome, run, running, stream_outcome, until
from fakes.views_dataplane import packet_event
from x0d.errors import NotPermitted, WouldLockOut
from x0d.policy.model import DenyEntry, parse_prefix
from x0d.service import api_dataplane
from x0d.transport.grpc_server import ControlServer
from x0d.v1 import dataplane_pb2 as pb
from x0d.v1 import dataplane_pb2_grpc


def in_lab(scene: Callable[[Lab, Any], Awaitable[None]]) -> None:
    """Run with a stub of the service."""

    async def whole() -> None:
        async with running() as lab, lab.channel() as channel:
            await scene(lab, dataplane_pb2_grpc.DataplaneServiceStub(channel))

    run(whole())


def test_stats_are_whole() -> None:
    """Every kind of counter is in the answer, the infinite bound included."""

    async def scene(_lab: Lab, stub: Any) -> None:  # noqa: ANN401 - gRPC's stub
        reply = await stub.GetStats(pb.GetStatsRequest())
        assert "no_socket" == reply.drops[0].reason
        assert [1e-6, 2e-6, inf] == list(reply.run_queue_latency.upper_bounds)
        assert (5, 1) == (reply.events_sent, reply.events_lost)
        assert all(field.name in {named.name for named, _ in reply.ListFields()} for field in reply.DESCRIPTOR.fields)

    in_lab(scene)


@pytest.mark.parametrize(
    ("method", "request_", "said"),
    [
        ("WatchStats", pb.WatchStatsRequest(interval_ms=99), "interval_ms is 99; 100 to 60,000 is allowed"),
        ("WatchStats", pb.WatchStatsRequest(interval_ms=60_001), "interval_ms"),
        ("WatchTop", pb.WatchTopRequest(interval_ms=199), "interval_ms is 199; 200 to 60,000 is allowed"),
        ("WatchTop", pb.WatchTopRequest(talkers_max=101), "talkers_max is 101; 1 to 100 is allowed, 0 for 10"),
        ("WatchEvents", pb.WatchEventsRequest(verdicts=["deny", "bogus"]), "verdicts: 'bogus' is none"),
        ("Trace", pb.TraceRequest(program="drops"), "program is 'drops'"),
        ("Trace", pb.TraceRequest(program="syscalls", duration_s=301), "duration_s is 301; 1 to 300 is allowed"),
        ("Trace", pb.TraceRequest(program="syscalls", sample_every=10_001), "sample_every is 10,001"),
        ("ListDeny", pb.ListDenyRequest(match="x"), "'x' is neither an IP address nor a prefix"),
    ],
)
def test_streams_check_their_requests(method: str, request_: Any, said: str) -> None:  # noqa: ANN401 - a message
    """A value out of its range is INVALID_ARGUMENT naming field and range."""

    async def scene(_lab: Lab, stub: Any) -> None:  # noqa: ANN401 - gRPC's stub
        messages, status, details = await stream_outcome(getattr(stub, method)(request_))
        assert ([], StatusCode.INVALID_ARGUMENT) == (messages, status)
        assert said in details

    in_lab(scene)


@pytest.mark.parametrize(
    ("method", "request_", "said"),
    [
        ("Attach", pb.AttachRequest(), "interfaces: name some, or set all"),
        ("Detach", pb.DetachRequest(interfaces=["eth1"], all=True), "interfaces: name some, or set all"),
        ("AddDeny", pb.AddDenyRequest(), "prefixes: name at least one"),
        ("AddDeny", pb.AddDenyRequest(prefixes=["192.0.2.1", "x", "1.2.3.4/33"]), "'1.2.3.4/33': the prefix length"),
        ("AddDeny", pb.AddDenyRequest(prefixes=["192.0.2.1"] * 1001), "load them from a file"),
        ("AddDeny", pb.AddDenyRequest(prefixes=["192.0.2.1"], duration_s=2**63), "duration_s is"),
        ("AddDeny", pb.AddDenyRequest(prefixes=["192.0.2.1"], comment="a\nb"), "comment: at most 200 printable"),
        (
            "AddDeny",
            pb.AddDenyRequest(prefixes=["192.0.2.1"], guard=pb.Guard(caller_addresses=["::1"] * 17)),
            "guard.caller_addresses: at most 16",
        ),
        ("RemoveDeny", pb.RemoveDenyRequest(prefixes=["x"] * 12), "and 2 more"),
        ("AddLimit", pb.AddLimitRequest(prefix="::/0"), "rate_pps is 0; 1 to 10,000,000 is allowed"),
        ("AddLimit", pb.AddLimitRequest(prefix="::/0", rate_pps=1, burst=1_000_001), "burst is 1,000,001"),
        ("AddLimit", pb.AddLimitRequest(prefix="", rate_pps=1), "neither an IP address nor a prefix"),
        ("RemoveLimit", pb.RemoveLimitRequest(), "prefixes: name at least one"),
    ],
)
def test_calls_check_their_requests(method: str, request_: Any, said: str) -> None:  # noqa: ANN401 - a message
    """What is wrong with a request is told before anything is done."""

    async def scene(lab: Lab, stub: Any) -> None:  # noqa: ANN401 - gRPC's stub
        status, details = await outcome(getattr(stub, method)(request_))
        assert StatusCode.INVALID_ARGUMENT == status
        assert said in details
        assert ([], set()) == (lab.policy.asked, lab.dataplane.detached)

    in_lab(scene)


def test_deny_entries() -> None:
    """Entries are added, listed with their hits, found by what covers them, and removed."""

    async def scene(_lab: Lab, stub: Any) -> None:  # noqa: ANN401 - gRPC's stub
        prefixes = ["192.0.2.0/24", "2001:db8::1", "192.0.2.99/24"]
        added = await stub.AddDeny(pb.AddDenyRequest(prefixes=prefixes, duration_s=60, comment="scan"))
        assert ["192.0.2.0/24", "2001:db8::1"] == [entry.prefix for entry in added.entries]
        assert {1_700_000_060_000} == {entry.expires_at_unix_ms for entry in added.entries}
        parts, _, _ = await stream_outcome(stub.ListDeny(pb.ListDenyRequest(match="192.0.2.7")))
        assert [("192.0.2.0/24", 3, "scan")] == [(e.prefix, e.hits, e.comment) for e in parts[0].entries]
        removed = await stub.RemoveDeny(pb.RemoveDenyRequest(prefixes=["192.0.2.0/24", "192.0.2.9"]))
        assert (1, ["192.0.2.9"]) == (removed.removed, list(removed.not_there))
        again = await outcome(stub.RemoveDeny(pb.RemoveDenyRequest(prefixes=["192.0.2.0/24"])))
        assert StatusCode.NOT_FOUND == again[0]

    in_lab(scene)


@pytest.mark.parametrize(("entries", "expected"), [(0, [0]), (500, [500]), (1_001, [500, 500, 1])])
def test_long_lists_come_in_parts(entries: int, expected: list[int]) -> None:
    """No message has more than 500 entries; an empty list is one empty message."""

    async def scene(lab: Lab, stub: Any) -> None:  # noqa: ANN401 - gRPC's stub
        prefixes = [parse_prefix(f"10.0.{number >> 8}.{number & 255}") for number in range(entries)]
        lab.policy.deny = {prefix: DenyEntry(prefix) for prefix in prefixes}
        parts, _, _ = await stream_outcome(stub.ListDeny(pb.ListDenyRequest()))
        assert expected == [len(part.entries) for part in parts]

    in_lab(scene)


def test_limits() -> None:
    """A limit is added, listed with its hits, and removed."""

    async def scene(lab: Lab, stub: Any) -> None:  # noqa: ANN401 - gRPC's stub
        guard = pb.Guard(force=True, caller_addresses=["192.0.2.1"])
        request = pb.AddLimitRequest(prefix="0.0.0.0/0", rate_pps=500, guard=guard)
        assert 10 == (await stub.AddLimit(request)).limit.burst
        assert ("192.0.2.1",) == lab.policy.asked[0]["caller_addresses"]
        listed = await stub.ListLimits(pb.ListLimitsRequest())
        assert [("0.0.0.0/0", 500, 4)] == [(row.prefix, row.rate_pps, row.hits) for row in listed.limits]
        removed = await stub.RemoveLimit(pb.RemoveLimitRequest(prefixes=["::/0", "0.0.0.0/0"]))
        assert (1, ["::/0"]) == (removed.removed, list(removed.not_there))

    in_lab(scene)


def test_lock_out_is_said() -> None:
    """What the guard refuses is FAILED_PRECONDITION with its sentence."""
    error = WouldLockOut(("192.0.2.0/24 covers 192.0.2.7, the caller",))

    async def scene(lab: Lab, stub: Any) -> None:  # noqa: ANN401 - gRPC's stub
        lab.policy.fails = error
        seen = await outcome(stub.AddDeny(pb.AddDenyRequest(prefixes=["192.0.2.0/24"])))
        assert (StatusCode.FAILED_PRECONDITION, str(error)) == seen

    in_lab(scene)


def test_watch_stats_and_top() -> None:
    """Counters and rates come at once and again; the first rates are measured over nothing."""

    async def scene(_lab: Lab, stub: Any) -> None:  # noqa: ANN401 - gRPC's stub
        stats = stub.WatchStats(pb.WatchStatsRequest(interval_ms=100))
        seen = [await stats.read(), await stats.read()]
        assert seen[0].at_unix_ms < seen[1].at_unix_ms
        top = stub.WatchTop(pb.WatchTopRequest(interval_ms=200, talkers_max=5))
        first, second = await top.read(), await top.read()
        assert [0.0, 1.0] == [first.interval_s, second.interval_s]
        assert 5 == len(second.talkers)
        stats.cancel()
        top.cancel()

    in_lab(scene)


def test_events_of_the_wanted_verdicts() -> None:
    """A watcher is told the sampling first, then gets the events it asked for, until it leaves."""

    async def scene(lab: Lab, stub: Any) -> None:  # noqa: ANN401 - gRPC's stub
        lab.dataplane.lost = 7
        call = stub.WatchEvents(pb.WatchEventsRequest(verdicts=["deny"]))
        first = await call.read()
        assert ([], 100, 7) == (list(first.events), first.sample_every, first.events_lost)
        lab.dataplane.subscribers[0]([packet_event("pass"), packet_event("deny", "2001:db8::7")])
        events = (await call.read()).events
        assert [("deny", "2001:db8::7", 53)] == [(e.verdict, e.source, e.source_port) for e in events]
        call.cancel()
        await until(lambda: not lab.dataplane.subscribers)

    in_lab(scene)


def test_slow_watcher_of_events_is_told_what_it_lost() -> None:
    """Events beyond the queue are lost to that watcher and counted beside the kernel's; it goes on."""

    async def scene(lab: Lab, stub: Any) -> None:  # noqa: ANN401 - gRPC's stub
        lab.dataplane.lost = 7
        call = stub.WatchEvents(pb.WatchEventsRequest())
        await call.read()
        put = lab.dataplane.subscribers[0]
        put([packet_event("pass")] * (api_dataplane.EVENTS_QUEUED_MAX + 3))
        put([packet_event("pass")] * 2)
        seen, lost = 0, 0
        while seen < api_dataplane.EVENTS_QUEUED_MAX:
            message = await call.read()
            assert len(message.events) <= api_dataplane.EVENTS_PER_MESSAGE_MAX
            seen += len(message.events)
            lost = message.events_lost
        assert (api_dataplane.EVENTS_QUEUED_MAX, 7 + 5) == (seen, lost)
        put([packet_event("deny")])
        assert "deny" == (await call.read()).events[0].verdict
        call.cancel()

    in_lab(scene)


def test_upgrade_goes_on_without_its_caller() -> None:
    """An upgrade whose caller leaves is done all the same: none is stopped half-way."""

    async def scene(lab: Lab, stub: Any) -> None:  # noqa: ANN401 - gRPC's stub
        under_way, slow_verifier = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            under_way.set()
            await slow_verifier.wait()

        lab.dataplane.before = hold
        call = stub.Upgrade(pb.UpgradeRequest())
        waiting = asyncio.ensure_future(call)
        await under_way.wait()
        call.cancel()
        await asyncio.wait([waiting])
        slow_verifier.set()
        await until(lambda: lab.dataplane.upgrades == 1)

    in_lab(scene)


def test_attach_and_detach() -> None:
    """Interfaces are left and taken up; one that is not configured is NOT_FOUND."""

    async def scene(lab: Lab, stub: Any) -> None:  # noqa: ANN401 - gRPC's stub
        left = await stub.Detach(pb.DetachRequest(interfaces=["eth1"]))
        assert ["detached"] == [row.state for row in left.attachments]
        assert {"eth1"} == lab.dataplane.detached
        taken = await stub.Attach(pb.AttachRequest(all=True))
        assert ["attached"] == [row.state for row in taken.attachments]
        unknown = await outcome(stub.Detach(pb.DetachRequest(interfaces=["eth9"])))
        assert (StatusCode.NOT_FOUND, "eth9 is not in the configuration") == unknown

    in_lab(scene)


def test_trace_ends_with_its_watcher() -> None:
    """A measurement tells how far it is, and ends when nobody waits for it any more."""

    async def scene(lab: Lab, stub: Any) -> None:  # noqa: ANN401 - gRPC's stub
        request = pb.TraceRequest(program="syscalls", duration_s=5)
        whole, status, _ = await stream_outcome(stub.Trace(request))
        assert (StatusCode.OK, [False, True]) == (status, [message.done for message in whole])
        assert [(5.0, 10)] == lab.tracing.asked
        lab.tracing.hold = asyncio.Event()
        call = stub.Trace(request)
        await call.read()
        assert 1 == lab.tracing.running
        call.cancel()
        await until(lambda: not lab.tracing.running)

    in_lab(scene)


def test_the_kernels_refusal_is_not_the_callers() -> None:
    """What x0d itself lacks a capability for has another reason than what the caller may not do."""

    async def scene(lab: Lab, stub: Any) -> None:  # noqa: ANN401 - gRPC's stub
        lab.dataplane.fails = NotPermitted("create map", 1, "CAP_BPF")
        with pytest.raises(aio.AioRpcError) as raised:
            await stub.ListPrograms(pb.ListProgramsRequest())
        assert StatusCode.PERMISSION_DENIED == raised.value.code()
        assert {"x0d-reason": "NotPermitted"} == dict(raised.value.trailing_metadata() or ())

    in_lab(scene)


class _Gathering:
    """A service with a method that takes a stream and answers once; x0d has none of its own yet."""

    names = ()

    def __init__(self) -> None:
        self.called = 0

    def register(self, server: aio.Server) -> None:
        async def gather(requests: AsyncIterator[bytes], _context: Any) -> bytes:  # noqa: ANN401 - gRPC's
            self.called += 1
            return b"".join([part async for part in requests])

        methods: dict[str, Any] = {
            name: grpc.stream_unary_rpc_method_handler(gather) for name in ("AddDeny", "Unlisted")
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("x0d.v1.DataplaneService", methods),))


def test_streams_of_requests_pass_the_same_checks() -> None:
    """A method that takes a stream and answers once is admitted, or refused, as any other."""

    async def scene() -> None:
        lab_dir = Path(tempfile.mkdtemp(prefix="x0dt-"))
        service = _Gathering()
        server = ControlServer(lab_dir, "nogroup", auditor=FakeAuditor())
        server.add(service)
        await server.start()
        try:
            async with aio.insecure_channel(f"unix://{lab_dir}/x0d.sock") as channel:
                listed: Any = channel.stream_unary("/x0d.v1.DataplaneService/AddDeny")
                unlisted: Any = channel.stream_unary("/x0d.v1.DataplaneService/Unlisted")
                assert StatusCode.UNAVAILABLE == (await outcome(listed(iter([b"a"]))))[0]
                server.set_ready()
                assert StatusCode.PERMISSION_DENIED == (await outcome(unlisted(iter([b"a"]))))[0]
                assert 0 == service.called
                assert b"ab" == await listed(iter([b"a", b"b"]))
        finally:
            await server.stop(0.0)
            shutil.rmtree(lab_dir)

    run(scene())
