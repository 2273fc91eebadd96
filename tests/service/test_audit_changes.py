"""What servicers and services tell the audit: what held before a change and what holds after it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from grpc import StatusCode

from fakes.audit_store import FakeAuditStore
from fakes.clock import FakeClock
from fakes.control import Lab, outcome, run, running, stream_outcome, until
from fakes.views_identity import FakeAuditView, FakeIdentityView
from service.policies import REFUSAL, World
from x0d.errors import KernelRefused, NotThere
from x0d.policy.model import Limit, Terms, parse_prefix
from x0d.ports.audit import CHANGE, Change
from x0d.service.alerts import Alerts
from x0d.service.audit import Audit
from x0d.service.policy_told import TOLD_MAX, deny_text, limit_text
from x0d.telemetry import Telemetry
from x0d.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    dataplane_pb2,
    dataplane_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    node_pb2,
    node_pb2_grpc,
)


def play(scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run a scenario in the first life of a daemon."""

    async def run_it() -> None:
        world = World()
        await world.service.start()
        await scenario(world)

    asyncio.run(run_it())


async def told(change: Awaitable[object], error: type[Exception] | None = None) -> tuple[str, str]:
    """What a change tells; with ``error`` it must fail with that."""
    heard = Change()
    CHANGE.set(heard)
    if error is None:
        await change
    else:
        with pytest.raises(error):
            await change
    return heard.before, heard.after


def test_deny_list() -> None:
    """Entries that were there before and are after; of a change that fails only what was there."""

    async def scenario(world: World) -> None:
        service = world.service
        one = parse_prefix("10.1.0.1")
        assert ("none", "10.1.0.1 for ever (spam)") == await told(world.deny("10.1.0.1", comment="spam"))
        until = "until 2023-11-15T00:13:20Z"
        hour = await told(world.deny("10.1.0.1", "2001:db8::/32", for_s=3_600))
        assert ("10.1.0.1 for ever (spam)", f"10.1.0.1 {until}; 2001:db8::/32 {until}") == hour
        world.plane.refusal = REFUSAL
        assert (f"10.1.0.1 {until}", "") == await told(service.remove_deny([one]), KernelRefused)
        world.plane.refusal = None
        assert (f"10.1.0.1 {until}", "none") == await told(service.remove_deny([one, parse_prefix("10.9.9.9")]))
        assert ("", "") == await told(service.remove_deny([one]), NotThere)

    play(scenario)


def test_load() -> None:
    """Of a whole list its size before and after; a trial says that it was one."""

    async def scenario(world: World) -> None:
        await world.deny("10.1.0.1", "10.1.0.2")
        assert ("2 entries", "3 entries: 2 added, 1 removed") == await told(world.load("10.1.0.1\n10.1.0.3\n10.1.0.4"))
        trial = await told(world.load("10.1.0.9", dry_run=True))
        assert ("3 entries", "as before; the list that was tried has 1 entry: 1 more, 3 fewer") == trial

    play(scenario)


def test_limits() -> None:
    """The limit that was there before, and the one that is after."""

    async def scenario(world: World) -> None:
        prefix = parse_prefix("10.1.0.0/16")

        def add(rate_pps: int) -> Awaitable[object]:
            return world.service.add_limit(
                prefix, rate_pps=rate_pps, burst=5, duration_s=0, comment="", force=False, caller_addresses=()
            )

        first, second = "10.1.0.0/16 to 7/s, burst 5, for ever", "10.1.0.0/16 to 8/s, burst 5, for ever"
        assert ("none", first) == await told(add(7))
        assert (first, second) == await told(add(8))
        assert (second, "none") == await told(world.service.remove_limits([prefix]))

    play(scenario)


def test_long_lists() -> None:
    """A thousand entries are told in a few words, and instants beyond all calendars as numbers."""
    prefixes = [parse_prefix(f"10.1.{number // 250}.{number % 250}") for number in range(1_000)]
    text = deny_text(dict.fromkeys(prefixes, Terms(0)))
    assert text.endswith(f"; and {1_000 - TOLD_MAX} more")
    assert len(text) < 1_000
    far = Limit(prefixes[0], 1, 1, 2**62)
    assert f"10.1.0.0 to 1/s, burst 1, until {2**62} ms after 1970" == limit_text([far])


async def _attached(lab: Lab) -> None:
    async with lab.channel() as channel:
        stub = dataplane_pb2_grpc.DataplaneServiceStub(channel)
        await outcome(stub.Attach(dataplane_pb2.AttachRequest(all=True)))
        await outcome(stub.Detach(dataplane_pb2.DetachRequest(all=True)))
        await outcome(stub.Upgrade(dataplane_pb2.UpgradeRequest()))
        await outcome(node_pb2_grpc.NodeServiceStub(channel).Reload(node_pb2.ReloadRequest()))
        await stream_outcome(stub.Trace(dataplane_pb2.TraceRequest(program="syscalls", duration_s=1)))


def test_through_the_gate() -> None:
    """Calls through the real gate have their before and after in the record."""

    async def scene() -> list[tuple[str, str, str, str]]:
        async with running() as lab:
            await _attached(lab)
            return [
                (record.method.rpartition("/")[2], record.outcome, record.change.before, record.change.after)
                for record in lab.auditor.records
            ]

    eth1, both = "eth1 attached native", "eth1 attached skb; eth2 waiting"
    assert [
        ("Attach", "done", both, eth1),
        ("Detach", "done", both, "eth1 detached"),
        ("Upgrade", "done", "", "replaced: x0d_deny"),
        ("Reload", "done", "", "in force: log.level; after a restart: mesh.mesh_port"),
        ("Trace", "done", "", ""),
    ] == run(scene())


@pytest.mark.parametrize("leaves", ["cancels", "deadline"])
def test_caller_that_leaves(leaves: str) -> None:
    """A change whose caller leaves, or whose deadline passes, goes on, and its record says how it ended."""

    async def scene() -> list[tuple[str, str, str]]:
        store, go_on, begun = FakeAuditStore(), asyncio.Event(), asyncio.Event()
        audit = Audit(store, FakeClock(), Alerts(), Telemetry())

        async def slow() -> None:
            begun.set()
            await go_on.wait()

        async with running() as lab, lab.channel() as channel:
            lab.server.auditor = audit
            lab.node.before = slow
            timeout_s = 0.3 if leaves == "deadline" else None
            call = node_pb2_grpc.NodeServiceStub(channel).Reload(node_pb2.ReloadRequest(), timeout=timeout_s)
            waiting = asyncio.ensure_future(outcome(call))
            await begun.wait()
            if leaves == "cancels":
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            else:
                assert StatusCode.DEADLINE_EXCEEDED == (await waiting)[0]
            while not audit._writing:  # noqa: ASYNC110 - a field, not an event
                await asyncio.sleep(0)
            assert ["begun"] == [row.outcome for row in store.rows.values()]
            go_on.set()
            await audit.settle()
            assert 1 == lab.node.reloads
        return [(row.outcome, row.detail, row.after) for row in store.rows.values()]

    assert [("done", "its caller had left", "in force: log.level; after a restart: mesh.mesh_port")] == run(scene())


def test_token_whose_caller_leaves() -> None:
    """A token that is made although its caller has left is in its record: somebody may hold it."""

    async def scene() -> list[tuple[str, str, str]]:
        store, go_on = FakeAuditStore(), asyncio.Event()
        audit = Audit(store, FakeClock(), Alerts(), Telemetry())
        async with running() as lab, lab.channel() as channel:
            lab.server.auditor = audit
            view = lab.views.identity
            assert isinstance(view, FakeIdentityView)
            view.go_on = go_on
            call = identity_pb2_grpc.IdentityServiceStub(channel).CreateToken(
                identity_pb2.CreateTokenRequest(spiffe_id="n2")
            )
            await until(lambda: view.asked)
            call.cancel()
            await until(lambda: audit._writing)
            go_on.set()
            await audit.settle()
        return [(row.outcome, row.detail, row.after) for row in store.rows.values()]

    after = "spiffe://dev.x0d.test/node/n2 may join by 192.0.2.1"
    assert [("done", "its caller had left", after)] == run(scene())


def test_listing() -> None:
    """Records are listed newest first, a hundred of them unless asked otherwise, a thousand at most."""

    async def scene() -> None:
        async with running() as lab, lab.channel() as channel:
            view = lab.views.audit
            assert isinstance(view, FakeAuditView)
            view.records = [replace(view.records[0], id=number) for number in range(1_200, 0, -1)]
            stub = audit_pb2_grpc.AuditServiceStub(channel)
            for limit, expected in ((0, 100), (1, 1), (1_000, 1_000)):
                answer = await stub.ListRecords(audit_pb2.ListRecordsRequest(limit=limit))
                assert list(range(1_200, 1_200 - expected, -1)) == [record.id for record in answer.records]
            refused = await outcome(stub.ListRecords(audit_pb2.ListRecordsRequest(limit=1_001)))
            assert (StatusCode.INVALID_ARGUMENT, "limit is 1,001; 1 to 1,000 is allowed, 0 for 100") == refused
            assert [] == lab.auditor.records

    run(scene())
