"""A deny-list's way through the conversation LoadDeny: whole, or not at all."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from grpc import StatusCode, aio

from fakes.control import Lab, run, running, stream_outcome, until
from x0d.errors import TooMany, WouldLockOut
from x0d.policy.model import DenyEntry, parse_prefix
from x0d.service import api_policy
from x0d.transport import gate
from x0d.v1 import dataplane_pb2, dataplane_pb2_grpc

Request = dataplane_pb2.LoadDenyRequest
OLD = {parse_prefix("203.0.113.9"): DenyEntry(parse_prefix("203.0.113.9"))}
HEADER = Request(header=dataplane_pb2.LoadDenyHeader(name="deny.txt"))
END = Request(end=dataplane_pb2.LoadDenyEnd())


def lines(text: str) -> Request:
    """A part of the file."""
    return Request(lines=text)


def load(channel: aio.Channel) -> Any:  # noqa: ANN401 - a stream call
    """A load, not yet begun."""
    stub: Any = dataplane_pb2_grpc.DataplaneServiceStub(channel)
    return stub.LoadDeny()


async def send(call: Any, *parts: Request, done: bool = True) -> None:  # noqa: ANN401 - a stream call
    """Send parts; with ``done`` there are no more."""
    for part in parts:
        await call.write(part)
    if done:
        await call.done_writing()


def in_lab(scene: Callable[[Lab, aio.Channel], Awaitable[None]]) -> None:
    """Run with the list ``OLD`` in force."""

    async def whole() -> None:
        async with running() as lab, lab.channel() as channel:
            lab.policy.deny = dict(OLD)
            await scene(lab, channel)

    run(whole())


def test_load() -> None:
    """Each part is answered by how far the reading is, the end by what has changed."""

    async def scene(lab: Lab, channel: aio.Channel) -> None:
        call = load(channel)
        await send(call, HEADER, lines("192.0.2.1\n192.0.2.1\n"), lines("2001:db8::/32"), END)
        told, status, _ = await stream_outcome(call)
        assert StatusCode.OK == status
        expected = [("reading", 2, 1), ("reading", 3, 2), ("building", 3, 2), ("done", 3, 2)]
        assert expected == [(item.phase, item.lines, item.entries) for item in told]
        assert (2, 1, 1) == (told[-1].added, told[-1].removed, told[-1].duplicates)
        assert {"192.0.2.1", "2001:db8::/32"} == {str(prefix) for prefix in lab.policy.deny}

    in_lab(scene)


def test_guard_and_dry_run_are_handed_on() -> None:
    """The header's wishes reach the service, and what was forced is told."""
    guard = dataplane_pb2.Guard(force=True, caller_addresses=["198.51.100.7"])

    async def scene(lab: Lab, channel: aio.Channel) -> None:
        call = load(channel)
        await send(call, Request(header=dataplane_pb2.LoadDenyHeader(name="x", guard=guard, dry_run=True)), END)
        told, _, _ = await stream_outcome(call)
        asked = {"name": "x", "force": True, "caller_addresses": ("198.51.100.7",), "dry_run": True}
        assert [asked] == lab.policy.asked
        assert ["10.0.0.1 covers neighbour n2"] == list(told[-1].warnings)
        assert OLD == lab.policy.deny

    in_lab(scene)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((), "starts with its header"),
        ((lines("192.0.2.1\n"),), "starts with its header"),
        ((HEADER, HEADER), "after the header come lines"),
        ((HEADER, lines("192.0.2.1\n")), "broke off before its end"),
        ((HEADER, Request()), "after the header come lines"),
        ((HEADER, lines("192.0.2.1\n192.0.2.999\n"), END), "line 2: "),
        ((HEADER, lines("\n" * (513 << 10)), END), "at most 524,288 are allowed"),
        ((Request(header=dataplane_pb2.LoadDenyHeader(name="x" * 256)),), "name has 256 characters"),
    ],
    ids=["nothing", "no header", "two headers", "broken off", "empty part", "bad line", "large part", "long name"],
)
def test_what_is_no_list_changes_nothing(parts: tuple[Request, ...], said: str) -> None:
    """A conversation that is none is INVALID_ARGUMENT, leaves the old list, and no load behind."""

    async def scene(lab: Lab, channel: aio.Channel) -> None:
        call = load(channel)
        await send(call, *parts)
        _, status, details = await stream_outcome(call)
        assert StatusCode.INVALID_ARGUMENT == status
        assert said in details
        assert (OLD, None) == (lab.policy.deny, lab.policy.loading)

    in_lab(scene)


def test_client_that_leaves_before_the_end() -> None:
    """A load whose client is gone is abandoned, and nothing has changed."""

    async def scene(lab: Lab, channel: aio.Channel) -> None:
        call = load(channel)
        await send(call, HEADER, lines("192.0.2.1\n"), done=False)
        await call.read()
        call.cancel()
        await until(lambda: lab.policy.abandoned == 1)
        assert (OLD, None) == (lab.policy.deny, lab.policy.loading)

    in_lab(scene)


def test_client_that_leaves_after_the_end() -> None:
    """Once the end was sent the list is put in force, whether its client waits or not."""

    async def scene(lab: Lab, channel: aio.Channel) -> None:
        slow_kernel = asyncio.Event()
        held = asyncio.Event()

        async def hold() -> None:
            held.set()
            await slow_kernel.wait()

        lab.policy.before = hold
        call = load(channel)
        await send(call, HEADER, lines("192.0.2.1\n"), END)
        await held.wait()
        call.cancel()
        await channel.close()
        slow_kernel.set()
        await until(lambda: lab.policy.loading is None)
        assert ["192.0.2.1"] == [str(prefix) for prefix in lab.policy.deny]
        assert 0 == lab.policy.abandoned

    in_lab(scene)


def test_silent_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends nothing for too long loses its load: it would keep others from theirs."""
    monkeypatch.setattr(api_policy, "LOAD_IDLE_S", 0.05)

    async def scene(lab: Lab, channel: aio.Channel) -> None:
        call = load(channel)
        await send(call, HEADER, done=False)
        _, status, details = await stream_outcome(call)
        assert (StatusCode.DEADLINE_EXCEEDED, "no part of the list came within 0.05 s; nothing has changed") == (
            status,
            details,
        )
        assert (OLD, 1) == (lab.policy.deny, lab.policy.abandoned)

    in_lab(scene)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (WouldLockOut(("10.0.0.1 covers neighbour n2",)), StatusCode.FAILED_PRECONDITION),
        (TooMany("the deny-list may have 1,024 entries"), StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_refused_load(error: Exception, status: StatusCode) -> None:
    """An error of the service has its status in a conversation as in any call."""

    async def scene(lab: Lab, channel: aio.Channel) -> None:
        async def refuse() -> None:
            raise error

        lab.policy.before = refuse
        call = load(channel)
        await send(call, HEADER, END)
        _, seen, details = await stream_outcome(call)
        assert (status, str(error)) == (seen, details)
        assert OLD == lab.policy.deny

    in_lab(scene)


def test_loads_count_as_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversation takes one of the places for streams, and gives it back."""
    monkeypatch.setattr(gate, "STREAMS_MAX", 1)

    async def scene(lab: Lab, channel: aio.Channel) -> None:
        first = load(channel)
        await send(first, HEADER, lines("192.0.2.1\n"), done=False)
        await first.read()
        second = load(channel)
        _, status, details = await stream_outcome(second)
        assert (StatusCode.RESOURCE_EXHAUSTED, "1 streams are open") == (status, details)
        first.cancel()
        await until(lambda: lab.policy.abandoned == 1)
        third = load(channel)
        await send(third, HEADER, END)
        assert StatusCode.OK == (await stream_outcome(third))[1]

    in_lab(scene)


def test_loads_wait_until_the_node_is_ready() -> None:
    """While the node starts a load is refused as retryable."""

    async def scene() -> tuple[StatusCode, str]:
        async with running(ready=False) as lab, lab.channel() as channel:
            lab.server.set_starting("load the data plane")
            _, status, details = await stream_outcome(load(channel))
            return status, details

    assert (StatusCode.UNAVAILABLE, "starting: load the data plane") == run(scene())


def test_deadline_of_the_client() -> None:
    """A conversation ends with its client's deadline, and what it had begun with it."""

    async def scene(lab: Lab, channel: aio.Channel) -> None:
        stub: Any = dataplane_pb2_grpc.DataplaneServiceStub(channel)
        call = stub.LoadDeny(timeout=0.2)
        await send(call, HEADER, done=False)
        _, status, _ = await stream_outcome(call)
        assert StatusCode.DEADLINE_EXCEEDED == status
        await until(lambda: lab.policy.abandoned == 1)

    in_lab(scene)


def test_bytes_that_are_no_message() -> None:
    """Whoever sends them is told so, in one call or in a stream, and nothing has changed."""

    async def scene(lab: Lab, channel: aio.Channel) -> None:
        raw: Any = channel  # bytes in place of messages
        service = "/x0d.v1.DataplaneService/"
        whole = raw.unary_unary(service + "AddDeny")(b"\xff\xff")
        streamed = raw.unary_stream(service + "WatchTop")(b"\xff\xff")
        parts = raw.stream_stream(service + "LoadDeny")()
        await parts.write(b"\xff\xff")
        for call in (whole, streamed, parts):
            assert StatusCode.INVALID_ARGUMENT == await call.code()
            assert "not the message" in await call.details()
        assert OLD == lab.policy.deny

    in_lab(scene)
